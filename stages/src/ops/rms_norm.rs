//! RMSNorm (Zhang and Sennrich 2019).

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::{
    fused::{Fused, Host, Input, applies, apply, host, values},
    kernel::{rows_per_piece, simd, sum_of, sum_of_pairs},
    precision::{cast, widened},
};

/// `weight * x / sqrt(mean(x^2) + eps)`, the mean over each row: `[n, d_model]` and `[d_model]` to `[n, d_model]`.
#[must_use]
pub fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f64) -> Tensor<2> {
    if applies(&x)
        && applies(&weight)
        && let (Some(x), Some(weight)) = (Input::of(x.clone()), Input::of(weight.clone()))
    {
        return apply(FusedRmsNorm { eps: eps as f32 }, [x, weight]);
    }
    plain(x, weight, eps)
}

fn plain(x: Tensor<2>, weight: Tensor<1>, eps: f64) -> Tensor<2> {
    let dtype = x.dtype();
    let x = widened(x);
    let mean = (x.clone() * x.clone()).mean_dim(1); // [n, 1]
    cast(x / mean.add_scalar(eps).sqrt() * widened(weight).unsqueeze(), dtype)
}

#[derive(Debug)]
struct FusedRmsNorm {
    eps: f32,
}

impl FusedRmsNorm {
    /// `1 / sqrt(mean(x^2) + eps)` of one row.
    #[inline(always)]
    fn inverse(&self, row: &[f32]) -> f32 {
        1.0 / (sum_of(row, |x| x * x) / row.len() as f32 + self.eps).sqrt()
    }
}

impl Fused<2> for FusedRmsNorm {
    type Saved = [Host; 2];

    fn forward(&self, [x, weight]: [Host; 2]) -> (Host, Self::Saved) {
        let gain = values(&weight);
        let width = gain.len();
        let mut y = vec![0.0; values(&x).len()];
        let piece = rows_per_piece(width) * width;
        y.par_chunks_mut(piece).zip(values(&x).par_chunks(piece)).for_each(|(y, x)| {
            simd(
                #[inline(always)]
                || {
                    for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                        let inverse = self.inverse(x);
                        for ((y, x), gain) in y.iter_mut().zip(x).zip(gain) {
                            *y = x * inverse * gain;
                        }
                    }
                },
            );
        });
        let rows = y.len() / width;
        (host(y, [rows, width]), [x, weight])
    }

    /// With `s = 1 / rms`: `dx = s (w g - x s^2 mean(w g x))`, `dw = sum over rows of g x s`.
    fn backward(&self, [x, weight]: Self::Saved, mut grad: Host, _: [bool; 2]) -> [Option<Host>; 2] {
        let gain = values(&weight);
        let width = gain.len();
        let piece = rows_per_piece(width) * width;
        let grads = grad.storage_mut::<f32>();
        let parts: Vec<Vec<f32>> = grads
            .par_chunks_mut(piece)
            .zip(values(&x).par_chunks(piece))
            .map(|(g, x)| {
                let mut for_gain = vec![0.0f32; width];
                simd(
                    #[inline(always)]
                    || {
                        for (g, x) in g.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                            let inverse = self.inverse(x);
                            for (((g, x), gain), for_gain) in g.iter_mut().zip(x).zip(gain).zip(&mut for_gain) {
                                *for_gain += *g * x * inverse;
                                *g *= gain;
                            }
                            let along = sum_of_pairs(g, x, |g, x| g * x) * inverse * inverse / width as f32;
                            for (g, x) in g.iter_mut().zip(x) {
                                *g = (*g - x * along) * inverse;
                            }
                        }
                    },
                );
                for_gain
            })
            .collect();
        let mut for_gain = vec![0.0f32; width];
        for part in parts {
            for (sum, value) in for_gain.iter_mut().zip(part) {
                *sum += value;
            }
        }
        [Some(grad), Some(host(for_gain, [width]))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::fused::testing::{assert_same, random};

    #[test]
    fn both_forms_agree() {
        let inputs = [random([300, 40], 1), random([1, 40], 2)];
        assert_same(
            inputs,
            |[x, weight]| rms_norm(x, weight.flatten(0, 1), 1e-6),
            |[x, weight]| plain(x, weight.flatten(0, 1), 1e-6),
        );
    }
}
