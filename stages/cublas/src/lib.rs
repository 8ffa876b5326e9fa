//! Products of matrices on NVIDIA GPUs by cuBLAS, where it is installed.
//!
//! burn's products are kernels that CubeCL compiles when they are first needed: dozens of candidates for each shape, of which
//! the fastest stays. What CubeCL 0.11 compiles through LLVM cannot use what a Hopper GPU multiplies fastest with (`wgmma`,
//! which reads its operands from shared memory, and the copies that fill it in the background), and which candidate wins is
//! the clock's decision, so that two tunings may differ in the last bit. cuBLAS is NVIDIA's own, part of every CUDA toolkit
//! and of PyTorch, which calls the same function: products take the time that they take there, nothing has to be compiled
//! or tuned for them, and its choice depends on the shapes and the GPU alone.
//!
//! It is loaded when the process starts to use a GPU (`open`), by hand: nothing is linked, and without it burn's products
//! serve. This is a crate of its own because calling C is unsafe.

#[cfg(feature = "cuda")]
mod bindings;
// Needs no GPU to be tested.
#[cfg(any(feature = "cuda", test))]
mod layout;
#[cfg(feature = "cuda")]
mod product;
#[cfg(feature = "cuda")]
mod queue;

#[cfg(feature = "cuda")]
pub use product::{Exactness, Found, is_open, open, opened, product};
