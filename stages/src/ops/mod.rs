//! The operations that models are made of, each with forms for several devices.
//!
//! The *fused* form is used on the CPU in f32: a forward and a backward pass over slices, which reads and writes each value
//! once where burn's operations make a tensor for every step between. `fused` is the bridge to burn's autodiff, `kernel` what
//! the fused forms share. They give the same bits whatever the number of threads: work is cut into pieces of a fixed size, and
//! sums over pieces are added in their order.
//!
//! Everywhere else an operation of a language model is `taped`: written in burn's tensor operations, with a backward pass of
//! its own; on a GPU each pass is an operation of `sepia_kernels`, and cuBLAS multiplies where it is installed. What only
//! classifiers need has a *plain* form there, which is left to autodiff. [`precision`](is_half) says what stays in f32 in half
//! precision.
//!
//! Tests hold all forms together; with `SEPIA_TEST_CUDA=1` they run on a GPU.

mod attention;
mod batch_norm;
mod bias;
mod channels;
mod conv2d;
mod cross_entropy;
mod dropout;
mod embedding;
mod fused;
mod kernel;
mod linear;
mod matmul;
mod max_pool;
mod precision;
mod product;
mod relu;
mod rms_norm;
mod swiglu;
mod taped;
mod total;
mod update;

pub use attention::{Heads, Rope, causal_attention};
pub use batch_norm::{Norm, Normalized, batch_norm, batch_norm_train};
pub use bias::add_bias;
pub use conv2d::{Conv, conv2d};
pub use cross_entropy::cross_entropy_sum;
pub use dropout::dropout;
pub use embedding::{Occurrences, embedding};
pub use linear::linear;
pub use max_pool::max_pool;
pub use precision::{cast, held, is_half, widened};
pub use product::{Products, product};
pub use relu::{add_relu, relu};
pub use rms_norm::rms_norm;
pub use swiglu::swiglu;
pub use total::{mean, total, total_of_squares};
pub use update::{residual, subtract, subtract_two};

pub(crate) use fused::{on_host, to_tensor};
pub(crate) use kernel::{PIECE, scale, simd, sum_of_squares};
pub(crate) use taped::backward_from;
#[cfg(feature = "cuda")]
pub(crate) use taped::on_gpu;
pub(crate) use update::limited;
