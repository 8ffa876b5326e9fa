//! Sepia's stages: data, models, training methods and analyses. The only crate that names burn.

pub mod linalg;
pub mod method;
pub mod metric;
pub mod optim;
pub mod random;
pub mod stage;

#[cfg(test)]
mod vectors;
