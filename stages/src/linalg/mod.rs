//! Linear algebra that burn lacks or is slow at.
//!
//! [`svd`] is exact and runs on the host in one thread, so its bits depend on nothing but the matrix. [`subspace`] finds
//! the dominant singular subspace of a gradient with a few matrix products on the device.

pub mod factor;
pub mod host;
pub mod subspace;
pub mod svd;
