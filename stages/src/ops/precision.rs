//! Half precision: which steps of a model are computed in f32 whatever the rest is computed in.
//!
//! Products of matrices, the gate of the MLP and the residual stream are computed in the model's dtype. Norms, rotary
//! positions, attention's probabilities and the loss are computed in f32: they are sums and exponentials, in which 8 or 11
//! bits are too few. Weights are held in f32 and cast where they are used. Nothing here touches f32 and f64 tensors.

use burn::tensor::{DType, Tensor};

/// Whether a number of this type has 16 bits.
#[must_use]
pub fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

/// The tensor in a type: itself where it has that type already.
#[must_use]
pub fn cast<const D: usize>(tensor: Tensor<D>, dtype: DType) -> Tensor<D> {
    if tensor.dtype() == dtype { tensor } else { tensor.cast(dtype) }
}

/// A half-precision tensor in f32, any other as it is.
#[must_use]
pub fn widened<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    if is_half(tensor.dtype()) { tensor.cast(DType::F32) } else { tensor }
}
