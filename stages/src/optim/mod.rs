//! Optimiser arithmetic on matrices, for what runs inside a method. AdamW itself is in [`crate::train`].

mod adafactor;
mod matrix;
mod quant8;

pub use adafactor::{AdafactorConfig, Factored, clip_rms};
pub use matrix::{Direction, MatrixOptimizer, MatrixState};
pub use quant8::{CodeTable, EightBit, Quantised, codes};
