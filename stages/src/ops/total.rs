//! Sums over all entries whose order of additions is fixed.
//!
//! burn's sum over a whole tensor is tuned on a GPU, and most of the kernels that are tried let blocks add what they found to
//! one number as they finish, in whatever order that is: losses, norms of gradients and all that is computed with them would
//! differ from run to run in the last bit. Sums along a dimension have no such kernels, so this takes those.

use burn::tensor::{Device, Tensor};

use super::precision::widened;
#[cfg(feature = "cuda")]
use super::taped::on_gpu;

/// Entries that are added up to one in a round: few enough for many blocks to work on, and so many that rounds are few.
const ROW: usize = 1024;

/// The sum of all entries, `[1]`.
#[must_use]
pub fn total<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    if x.device() == Device::flex() { x.sum() } else { in_rounds(x) }
}

/// The mean of all entries, `[1]`.
#[must_use]
pub fn mean<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    if x.device() == Device::flex() {
        return x.mean();
    }
    let count = x.shape().num_elements();
    total(x).div_scalar(count as f64)
}

/// The sum of the squares of all entries, `[1]`, in f32 where they are in half precision.
#[must_use]
pub fn total_of_squares(x: Tensor<1>) -> Tensor<1> {
    #[cfg(feature = "cuda")]
    if on_gpu(&x) {
        return sepia_kernels::sum_of_squares(x);
    }
    let x = widened(x);
    total(x.clone() * x)
}

fn in_rounds<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let mut left = x.shape().num_elements();
    let mut x = x.reshape([left]);
    while left > ROW {
        let rows = left / ROW;
        let mut sums = vec![x.clone().narrow(0, 0, rows * ROW).reshape([rows, ROW]).sum_dim(1).reshape([rows])];
        if left > rows * ROW {
            sums.push(in_one(x.narrow(0, rows * ROW, left - rows * ROW)));
        }
        left = rows + sums.len() - 1;
        x = Tensor::cat(sums, 0);
    }
    in_one(x)
}

fn in_one(x: Tensor<1>) -> Tensor<1> {
    let [count] = x.dims();
    if count == 0 {
        return Tensor::zeros([1], (&x.device(), x.dtype()));
    }
    x.reshape([1, count]).sum_dim(1).reshape([1])
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, TensorData};

    use super::*;
    use crate::testing::test_device;

    /// Whatever is left over in a round, nothing is forgotten or added twice: these are exact in f32.
    #[test]
    fn every_entry_is_added_once() {
        for count in [0, 1, 3, ROW - 1, ROW, ROW + 1, 5 * ROW + 7, ROW * ROW + ROW + 1] {
            let values: Vec<f32> = (0..count).map(|k| (k % 5) as f32).collect();
            let expected: f32 = values.iter().sum();
            let x = Tensor::<1>::from_data(TensorData::new(values, [count]), &test_device());
            assert_eq!(in_rounds(x.clone()).into_scalar::<f32>(), expected, "{count}");
            assert_eq!(total(x).into_scalar::<f32>(), expected, "{count}");
        }
    }

    #[test]
    fn squares_are_added_up_whatever_their_number_and_type() {
        for dtype in [DType::F32, DType::BF16] {
            for count in [1, 7, 1000, 4096, 4099, 300_000] {
                let values: Vec<f32> = (0..count).map(|k| (k % 5) as f32).collect();
                let expected: f32 = values.iter().map(|x| x * x).sum();
                let x = Tensor::<1>::from_data(TensorData::new(values, [count]), &test_device());
                assert_eq!(total_of_squares(x.cast(dtype)).into_scalar::<f32>(), expected, "{count}");
            }
        }
    }

    #[test]
    fn its_gradient_is_one_everywhere_and_a_mean_divides() {
        let x = Tensor::<2>::ones([37, 60], (&test_device(), DType::F32)).autodiff().require_grad();
        let mut tape = in_rounds(x.clone().mul_scalar(2.0)).backward();
        let gradient = x.grad_remove(&mut tape).unwrap();
        assert_eq!(gradient.clone().min().into_scalar::<f32>(), 2.0);
        assert_eq!(gradient.max().into_scalar::<f32>(), 2.0);
        assert_eq!(mean(x.mul_scalar(3.0)).into_scalar::<f32>(), 3.0);
    }
}
