//! Classifiers of images whose linear and convolutional layers can be factorised one by one.
//!
//! A [`VisionModel`] is a list of parts; each architecture's file says which. A [`Layer`] is a linear layer or a
//! convolution, and its [`Weight`] one matrix `[out, in * kh * kw]` or two [`Factors`]. A method that changes the model
//! finds its layers with [`VisionModel::layers_mut`] or [`VisionModel::layer_mut`] and works on matrices:
//!
//! ```ignore
//! let layer = model.layer_mut("layer2.0.conv1")?;
//! let (left, right) = spectral_factors(&layer.matrix(Form::Channel), rank, Kept::Values)?;
//! layer.factorize(Form::Channel, left, right, None)?;
//! ```
//!
//! A model holds its values without autodiff. [`VisionModel::tracked`] is a copy for one forward and backward pass, and
//! [`VisionModel::parameters_mut`] gives all values by name, in the same order for both. BatchNorm does not change
//! anything in a forward pass: in [`Mode::Train`] the pass brings back the statistics of the batch, and
//! [`VisionModel::learn_statistics`] moves the running ones.

mod build;
mod config;
mod files;
mod geometry;
mod layer;
mod model;
mod node;
mod norm;
mod parameter;
mod pass;
mod plain;
mod resnet;
#[cfg(test)]
mod tests;
mod vgg;
mod vit;

pub use config::{Architecture, VisionConfig, VisionParams};
pub use files::{load_vision, load_vision_config, save_vision};
pub use geometry::{Form, Geometry};
pub use layer::{FactorError, Factors, Layer, Role, Weight};
pub use model::VisionModel;
pub use norm::{BatchNorm, LayerNorm};
pub use parameter::{Kind, Parameter, Value};
pub use pass::{Mode, Pass, Seen, Statistics};
