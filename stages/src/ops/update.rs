//! The last passes of an update over a whole weight, for methods whose update is a matrix as large as the weight.

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use super::taped::on_gpu;
use super::{
    fused::{on_host, to_tensor},
    kernel::{PIECE, rows_per_piece, simd, sum_of},
    precision::{held, widened},
    total::total,
};

/// `(weight - rate * update) * keep`: with `keep` below 1 a decoupled weight decay. In place where nobody else holds the
/// weight.
#[must_use]
pub fn subtract(weight: Tensor<2>, update: Tensor<2>, rate: f64, keep: f64) -> Tensor<2> {
    match (on_host(weight), on_host(update)) {
        (Ok(mut weight), Ok(update)) => {
            let (rate, keep) = (rate as f32, keep as f32);
            let updates = update.storage::<f32>().par_chunks(PIECE);
            weight.storage_mut::<f32>().par_chunks_mut(PIECE).zip(updates).for_each(|(weight, update)| {
                simd(
                    #[inline(always)]
                    || {
                        for (w, u) in weight.iter_mut().zip(update) {
                            *w = (*w - rate * u) * keep;
                        }
                    },
                );
            });
            to_tensor(weight)
        }
        (weight, update) => scaled(back(weight).sub(back(update).mul_scalar(rate)), keep),
    }
}

/// `x * factor` for a factor `[1]` in f32; 0 where that is 0, whatever `x` is.
#[must_use]
pub(crate) fn limited(x: Tensor<1>, factor: &Tensor<1>) -> Tensor<1> {
    #[cfg(feature = "cuda")]
    if on_gpu(&x) {
        return sepia_kernels::limited(x, factor.clone());
    }
    let dtype = x.dtype();
    let product = widened(x) * factor.clone();
    // Of zero and what is not finite.
    let not_a_number = product.clone().not_equal(product.clone());
    held(product.mask_fill(not_a_number, 0.0), dtype)
}

/// [`subtract`] of two updates, the second divided by `divisor` `[1, 1]`, which stays on the device.
#[must_use]
pub fn subtract_two(
    weight: Tensor<2>,
    (one, rate_one): (Tensor<2>, f64),
    (two, divisor, rate_two): (Tensor<2>, Option<Tensor<2>>, f64),
    keep: f64,
) -> Tensor<2> {
    #[cfg(feature = "cuda")]
    if on_gpu(&weight) {
        let divisor = divisor.unwrap_or_else(|| Tensor::ones([1, 1], &weight.device()));
        let rates = sepia_kernels::Rates { one: rate_one as f32, two: rate_two as f32, keep: keep as f32 };
        return sepia_kernels::subtract_two(weight, one, two, divisor, rates);
    }
    match (on_host(weight), on_host(one), on_host(two), divisor.map(on_host)) {
        (Ok(mut weight), Ok(one), Ok(two), divisor @ (None | Some(Ok(_)))) => {
            let divisor = divisor.and_then(Result::ok).map_or(1.0, |divisor| divisor.storage::<f32>()[0]);
            let (rate_one, rate_two, keep) = (rate_one as f32, rate_two as f32 / divisor, keep as f32);
            weight
                .storage_mut::<f32>()
                .par_chunks_mut(PIECE)
                .zip(one.storage::<f32>().par_chunks(PIECE))
                .zip(two.storage::<f32>().par_chunks(PIECE))
                .for_each(|((weight, one), two)| {
                    simd(
                        #[inline(always)]
                        || {
                            for ((w, one), two) in weight.iter_mut().zip(one).zip(two) {
                                *w = (*w - (rate_one * one + rate_two * two)) * keep;
                            }
                        },
                    );
                });
            to_tensor(weight)
        }
        (weight, one, two, divisor) => {
            let two = match divisor {
                Some(divisor) => back(two).div(back(divisor)),
                None => back(two),
            };
            scaled(back(weight).sub(back(one).mul_scalar(rate_one).add(two.mul_scalar(rate_two))), keep)
        }
    }
}

/// `(gradient - share * up) * phi`, with phi `[1, n]`, `[m, 1]` or `[1, 1]`, and its Frobenius norm `[1, 1]`.
#[must_use]
pub fn residual(gradient: &Tensor<2>, up: Tensor<2>, share: f64, phi: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    #[cfg(feature = "cuda")]
    if on_gpu(gradient) {
        let (residual, squares) = sepia_kernels::residual(gradient.clone(), up, phi, share as f32);
        return (residual, squares.sqrt().reshape([1, 1]));
    }
    let ([_, columns], [phi_rows, phi_columns], device) = (gradient.dims(), phi.dims(), gradient.device());
    match (on_host(gradient.clone()), on_host(up), on_host(phi)) {
        (Ok(gradient), Ok(mut up), Ok(phi)) => {
            let (share, phi, rows) = (share as f32, phi.storage::<f32>(), rows_per_piece(columns));
            let pieces = up.storage_mut::<f32>().par_chunks_mut(rows * columns).enumerate();
            let sums: Vec<f64> = pieces
                .zip(gradient.storage::<f32>().par_chunks(rows * columns))
                .map(|((piece, up), gradient)| {
                    simd(
                        #[inline(always)]
                        || {
                            let mut sum = 0.0f64;
                            let pairs = up.chunks_exact_mut(columns).zip(gradient.chunks_exact(columns));
                            for (row, (up, gradient)) in pairs.enumerate() {
                                if phi_columns > 1 {
                                    for ((up, g), phi) in up.iter_mut().zip(gradient).zip(phi) {
                                        *up = (g - share * *up) * phi;
                                    }
                                } else {
                                    let phi = phi[if phi_rows > 1 { piece * rows + row } else { 0 }];
                                    for (up, g) in up.iter_mut().zip(gradient) {
                                        *up = (g - share * *up) * phi;
                                    }
                                }
                                sum += f64::from(sum_of(up, |x| x * x));
                            }
                            sum
                        },
                    )
                })
                .collect();
            let norm = sums.iter().sum::<f64>().sqrt() as f32;
            (to_tensor(up), Tensor::from_data(TensorData::new(vec![norm], [1, 1]), &device))
        }
        (gradient, up, phi) => {
            let residual = back(gradient).sub(back(up).mul_scalar(share)).mul(back(phi));
            let norm = total(residual.clone().square()).sqrt().reshape([1, 1]);
            (residual, norm)
        }
    }
}

fn scaled(weight: Tensor<2>, keep: f64) -> Tensor<2> {
    if keep == 1.0 { weight } else { weight.mul_scalar(keep) }
}

fn back(tensor: Result<super::fused::Host, Tensor<2>>) -> Tensor<2> {
    tensor.map_or_else(|tensor| tensor, to_tensor)
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;

    use super::*;
    use crate::ops::fused::testing::random;

    /// The same in f64, where the plain form runs.
    fn wide(tensor: &Tensor<2>) -> Tensor<2> {
        tensor.clone().cast(DType::F64)
    }

    fn assert_near(fused: &Tensor<2>, plain: Tensor<2>) {
        assert_eq!((fused.dtype(), plain.dtype()), (DType::F32, DType::F64));
        let apart = (wide(fused) - plain.clone()).abs().max().into_scalar::<f64>();
        let largest = plain.abs().max().into_scalar::<f64>();
        assert!(apart < 1e-6 * largest, "{apart} of {largest}");
    }

    #[test]
    fn both_forms_of_subtraction_agree() {
        let (weight, one, two) = (random([70, 600], 1), random([70, 600], 2), random([70, 600], 3));
        let plain = subtract(wide(&weight), wide(&one), 0.1, 0.99);
        assert_near(&subtract(weight.clone(), one.clone(), 0.1, 0.99), plain);
        for divisor in [None, Some(random([1, 1], 4).abs() + 1.0)] {
            let run = |wide: &dyn Fn(&Tensor<2>) -> Tensor<2>| {
                let divisor = divisor.as_ref().map(wide);
                subtract_two(wide(&weight), (wide(&one), 0.1), (wide(&two), divisor, 0.2), 0.99)
            };
            assert_near(&run(&Tensor::clone), run(&wide));
        }
    }

    #[test]
    fn both_forms_of_the_residual_agree_for_every_shape_of_phi() {
        let (gradient, up) = (random([70, 600], 1), random([70, 600], 2));
        for shape in [[1, 600], [70, 1], [1, 1]] {
            let phi = random(shape, 3);
            let (plain, plain_norm) = residual(&wide(&gradient), wide(&up), 0.25, wide(&phi));
            let (fused, norm) = residual(&gradient, up.clone(), 0.25, phi);
            assert_near(&fused, plain);
            assert_near(&norm, plain_norm);
        }
    }
}
