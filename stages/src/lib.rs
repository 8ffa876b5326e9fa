//! Sepia's stages: data, models, training methods and analyses. With `sepia-kernels`, the only crate that names burn.
//!
//! [`REGISTRY`] lists the stage kinds, [`method::METHODS`] the training methods. What they are made of lies beside them:
//! [`data`] (texts and tokens), [`model`] (one complete model per file), [`ops`] (the model's operations, with fused forms
//! for the CPU), [`train`] (the training loop and its parts), [`linalg`], [`metric`] and [`optim`].

pub mod data;
pub mod device;
pub mod factor;
pub mod linalg;
pub mod method;
pub mod metric;
pub mod model;
pub mod ops;
pub mod optim;
pub mod random;
pub mod stage;
#[cfg(test)]
mod testing;
pub mod train;
#[cfg(test)]
mod vectors;

pub use stage::REGISTRY;
