//! Half precision: which steps of a model are computed in f32 whatever the rest is computed in.
//!
//! Products of matrices, the gate of the MLP and the residual stream are computed in the model's dtype. Norms, rotary
//! positions, attention's probabilities and the loss are computed in f32: they are sums and exponentials, in which 8 or 11
//! bits are too few. Weights are cast where they are used, if they are held in another type. Nothing here touches f32 and
//! f64 tensors.
//!
//! What a training holds between two updates, weights and optimiser state, may be in bf16: it is [widened] when an update
//! begins, computed with in f32, and rounded to the nearest (ties to even) when it is put away, by [`held`].

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

/// The tensor as it is put away: rounded where `dtype` has 16 bits, any other as it is.
#[must_use]
pub fn held<const D: usize>(tensor: Tensor<D>, dtype: DType) -> Tensor<D> {
    if is_half(dtype) { cast(tensor, dtype) } else { tensor }
}

/// A half-precision tensor in f32, any other as it is.
#[must_use]
pub fn widened<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    if is_half(tensor.dtype()) { tensor.cast(DType::F32) } else { tensor }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;
    use crate::testing::test_device;

    /// bf16 keeps 8 bits: beside 1 it has 1 + 1/128. What lies in the middle goes to the even one of both.
    #[test]
    fn what_is_put_away_is_rounded_to_the_nearest_and_ties_to_even() {
        let step = 1.0 / 128.0_f32;
        let values = vec![1.0 + 0.49 * step, 1.0 + 0.5 * step, 1.0 + 0.51 * step, 1.0 + 1.5 * step, -1.0 - 0.5 * step];
        let tensor = Tensor::<1>::from_data(TensorData::new(values, [5]), &test_device());
        let put_away = held(tensor.clone(), DType::BF16);
        assert_eq!(put_away.dtype(), DType::BF16);
        let back: Vec<f32> = widened(put_away).try_into_vec_as().unwrap();
        assert_eq!(back, [1.0, 1.0, 1.0 + step, 1.0 + 2.0 * step, -1.0]);
        assert_eq!(held(tensor, DType::F32).dtype(), DType::F32);
    }
}
