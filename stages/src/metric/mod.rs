//! Measures: figures about weights, gradients and outputs that no training rule depends on.

pub mod rank;
