//! The stage kinds, one file each, and the registry that lists them.

mod evaluate;
mod pretrain;
mod rank_analysis;
mod rank_table;
#[cfg(test)]
mod tests;
mod text_dataset;

use sepia_engine::stage::{Command, PortType, Registry, StageEntry};

pub use evaluate::Evaluate;
pub use pretrain::Pretrain;
pub use rank_analysis::RankAnalysis;
pub use text_dataset::TextDataset;

/// A folder of tokens, see [`crate::data::TokenFolder`].
pub const TOKENS: PortType = PortType("tokens");
/// A folder with a model, see [`crate::model::save`].
pub const MODEL: PortType = PortType("model");
/// A JSON file with the figures of an evaluation.
pub const EVALUATION: PortType = PortType("evaluation");

/// Every stage kind of this crate, in source order.
pub static REGISTRY: Registry = Registry::new(ENTRIES);

const ENTRIES: &[StageEntry] = &[
    StageEntry::of::<TextDataset>(),
    StageEntry::of::<Pretrain>(),
    StageEntry::of::<RankAnalysis>(),
    StageEntry::of::<Evaluate>(),
    Command::entry(),
];
