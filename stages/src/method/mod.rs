//! Low-rank training methods: each file is the complete mathematics of one, on plain tensors in torch layout.
//!
//! Torch layout means `[out, in]`; burn's `Linear` stores the transpose. Which side of a matrix is projected depends on
//! it where the matrix is square, so whoever calls transposes first.

pub mod fira;
pub mod flora;
pub mod galore;
pub mod projection;
pub mod prune;
