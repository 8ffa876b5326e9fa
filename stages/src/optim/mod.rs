//! Optimiser arithmetic on plain tensors, shared by the training loop and the methods.

pub mod adafactor;
pub mod adam;
pub mod matrix;
pub mod quant8;
pub mod state;
