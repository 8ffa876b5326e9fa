//! The operations a decoder is made of.
//!
//! Each file holds one operation: its form in burn's tensor operations, which runs on every device.

mod attention;
mod basic;
mod cross_entropy;

pub use attention::{Heads, Rope, causal_attention};
pub use basic::{embedding, linear, rms_norm, swiglu};
pub use cross_entropy::cross_entropy_sum;
