//! End-to-end tests: they start the real program on real manifests.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed, which is the point")]

mod command_stage;
mod damage;
mod devices;
mod errors;
mod explaining;
mod factorisation;
mod failures;
mod incremental;
mod interrupts;
mod language;
mod limits;
mod looking;
mod nothing_to_do;
mod parcels;
mod quickstart;
mod random_graphs;
mod sharing;
mod sharing_a_store;
mod sharing_over_ssh;
mod shipped;
mod slots;
mod slurm;
mod support;
