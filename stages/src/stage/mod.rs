//! The stage kinds, one file each, and the registry that lists them.

mod evaluate;
mod rank_analysis;
mod rank_table;
#[cfg(test)]
mod tests;
mod text_dataset;
mod train;

use sepia_engine::stage::{Command, PortType, Registry, StageEntry};

use crate::method::{AnyMethod, FiraParams, GaloreParams, ReloraParams};

pub use evaluate::Evaluate;
pub use rank_analysis::{RankAnalysis, RankAnalysisParams, Ranks, Tolerance, WeightRanks};
pub use text_dataset::TextDataset;
pub use train::{Pretrain, Train};

/// A folder of tokens, see [`crate::data::TokenFolder`].
pub const TOKENS: PortType = PortType("tokens");
/// A folder with a model, see [`crate::model::save`].
pub const MODEL: PortType = PortType("model");
/// A JSON file with the figures of an evaluation.
pub const EVALUATION: PortType = PortType("evaluation");
/// A folder with the ranks of a model's weights, see [`Ranks`].
pub const RANKS: PortType = PortType("ranks");

/// Every stage kind of this crate, in source order.
pub static REGISTRY: Registry = Registry::new(ENTRIES).with_cuda(cfg!(feature = "cuda"));

const ENTRIES: &[StageEntry] = &[
    StageEntry::of::<TextDataset>(),
    StageEntry::of::<Pretrain>(),
    StageEntry::of::<Train<AnyMethod>>(),
    StageEntry::of::<Train<ReloraParams>>(),
    StageEntry::of::<Train<GaloreParams>>(),
    StageEntry::of::<Train<FiraParams>>(),
    StageEntry::of::<Evaluate>(),
    StageEntry::of::<RankAnalysis>(),
    Command::entry(),
];
