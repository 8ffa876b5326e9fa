//! End-to-end tests: they start the real program on real manifests.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, which is the point")]

mod command_stage;
mod damage;
mod devices;
mod errors;
mod failures;
mod incremental;
mod interrupts;
mod quickstart;
mod random_graphs;
mod sharing_a_store;
mod support;
