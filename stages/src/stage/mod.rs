//! The stage kinds, one file each, and the registry that lists them.

mod evaluate;
mod pretrain;
#[cfg(test)]
mod tests;
mod text_dataset;

use sepia_engine::stage::{PortType, Registry, StageEntry};

pub use evaluate::Evaluate;
pub use pretrain::Pretrain;
pub use text_dataset::TextDataset;

/// A folder of tokens, see [`crate::data::TokenFolder`].
pub const TOKENS: PortType = PortType("tokens");
/// A folder with a model, see [`crate::model::save`].
pub const MODEL: PortType = PortType("model");
/// A JSON file with the figures of an evaluation.
pub const EVALUATION: PortType = PortType("evaluation");

/// Every stage kind of this crate, in source order.
pub static REGISTRY: Registry = Registry::new(ENTRIES);

const ENTRIES: &[StageEntry] =
    &[StageEntry::of::<TextDataset>(), StageEntry::of::<Pretrain>(), StageEntry::of::<Evaluate>()];
