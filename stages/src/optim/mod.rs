//! Optimiser arithmetic on plain tensors, shared by the training loop and the methods.

pub mod adam;
