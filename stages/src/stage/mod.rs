//! The stage kinds, one file each, and the registry that lists them.

mod choose_classifier;
mod cuttlefish;
mod cuttlefish_profile;
mod evaluate;
mod evaluate_classifier;
#[cfg(test)]
mod factor_training_tests;
mod factorize;
mod factorize_llama;
mod image_dataset;
mod llama_calibration;
mod rank_activations;
mod rank_analysis;
mod rank_table;
mod reduce_ranks;
#[cfg(test)]
mod tests;
mod text_dataset;
mod train;
mod train_classifier;

use sepia_engine::stage::{Command, MethodInfo, PortType, Registry, StageEntry};

use crate::method::{
    AnyMethod, FiraParams, GaloreParams, METHOD_INFOS, ReloraParams,
    maestro::MaestroParams,
    trp::TrpParams,
    vision::{AnyVisionMethod, VISION_METHOD_INFOS},
};

pub use choose_classifier::ChooseClassifier;
pub use cuttlefish::CuttlefishStage;
pub use cuttlefish_profile::CuttlefishProfile;
pub use evaluate::Evaluate;
pub use evaluate_classifier::EvaluateClassifier;
pub use factorize::{Factorize, FactorizeParams};
pub use image_dataset::{ImageDataset, ImageDatasetParams};
pub use rank_activations::{ActivationParams, Activations, LayerActivations};
pub use rank_analysis::{RankAnalysis, RankAnalysisParams, Ranks, Tolerance, WeightRanks};
pub use reduce_ranks::ReduceRanks;
pub use text_dataset::TextDataset;
pub use train::{Pretrain, Train};
pub use train_classifier::TrainClassifier;

/// A folder of tokens, see [`crate::data::TokenFolder`].
pub const TOKENS: PortType = PortType("tokens");
/// A folder of labelled images, see [`crate::data::ImageFolder`].
pub const IMAGES: PortType = PortType("images");
/// A folder with a model, see [`crate::model::save`].
pub const MODEL: PortType = PortType("model");
/// A JSON file with the figures of an evaluation.
pub const EVALUATION: PortType = PortType("evaluation");
/// A folder with the ranks of a model's weights, see [`Ranks`].
pub const RANKS: PortType = PortType("ranks");

/// A JSON file with the timings of a model's stacks of layers, see [`CuttlefishProfile`].
pub const PROFILE: PortType = PortType("profile");

/// Every stage kind of this crate, in source order.
pub static REGISTRY: Registry = Registry::new(ENTRIES).with_methods(METHODS).with_cuda(cfg!(feature = "cuda"));

const METHODS: &[&[MethodInfo]] = &[METHOD_INFOS, VISION_METHOD_INFOS];

const ENTRIES: &[StageEntry] = &[
    StageEntry::of::<TextDataset>(),
    StageEntry::of::<ImageDataset>(),
    StageEntry::of::<Pretrain>(),
    StageEntry::of::<Train<AnyMethod>>(),
    StageEntry::of::<Train<ReloraParams>>(),
    StageEntry::of::<Train<GaloreParams>>(),
    StageEntry::of::<Train<FiraParams>>(),
    StageEntry::of::<TrainClassifier<AnyVisionMethod>>(),
    StageEntry::of::<CuttlefishProfile>(),
    StageEntry::of::<CuttlefishStage>(),
    StageEntry::of::<TrainClassifier<TrpParams>>(),
    StageEntry::of::<TrainClassifier<MaestroParams>>(),
    StageEntry::of::<ReduceRanks>(),
    StageEntry::of::<ChooseClassifier>(),
    StageEntry::of::<Evaluate>(),
    StageEntry::of::<EvaluateClassifier>(),
    StageEntry::of::<RankAnalysis>(),
    StageEntry::of::<Factorize>(),
    Command::entry(),
];
