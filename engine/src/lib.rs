//! Sepia's engine: from a manifest to results, each stage run at most once per distinct input.
//!
//! The phases, each of which takes the previous one's type: [`manifest`] (text to `Manifest`), [`plan`] (`Manifest` and
//! registry to `Plan`), [`graph`], [`key`], [`exec`]. Whatever happens is told as a [`event::RunEvent`].

pub mod cli;
pub mod device;
pub mod diagnostic;
mod difference;
pub mod event;
pub mod exec;
pub mod fetch;
pub mod graph;
pub mod key;
mod log_tail;
pub mod manifest;
pub mod plan;
pub mod report;
pub mod schema;
pub mod stage;
#[cfg(test)]
mod test_browser;
#[cfg(test)]
mod test_records;
pub mod value;
mod wide;
mod wildcard;
