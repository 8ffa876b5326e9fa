//! Measures: figures about weights, gradients and outputs that no training rule depends on.

pub mod jacobian;
pub mod local;
pub mod rank;
pub mod trace;
pub mod utilized;
