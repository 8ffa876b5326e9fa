//! RMSNorm (Zhang and Sennrich 2019).

use burn::tensor::Tensor;
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use super::taped::on_gpu;
use super::{
    fused::{Fused, Host, Input, applies, apply, host, values},
    kernel::{rows_per_piece, simd, sum_of, sum_of_pairs},
    precision::{cast, widened},
    taped::{Taped, run},
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
    run(TapedRmsNorm { eps }, [x, weight.unsqueeze()])
}

#[derive(Debug)]
struct TapedRmsNorm {
    eps: f64,
}

impl Taped<2> for TapedRmsNorm {
    /// Input, gain, and `1 / sqrt(mean(x^2) + eps)` of each row.
    type Saved = [Tensor<2>; 3];

    fn forward(&self, [x, weight]: [Tensor<2>; 2]) -> (Tensor<2>, Self::Saved) {
        #[cfg(feature = "cuda")]
        if on_gpu(&x) {
            let [y, inverse] = sepia_kernels::rms_norm(x.clone(), weight.clone(), self.eps as f32);
            return (y, [x, weight, inverse]);
        }
        let wide = widened(x.clone());
        let inverse = wide.clone().square().mean_dim(1).add_scalar(self.eps).sqrt().recip(); // [n, 1]
        let y = wide * inverse.clone() * widened(weight.clone());
        (cast(y, x.dtype()), [x, weight, inverse])
    }

    /// See [`FusedRmsNorm`].
    fn backward(
        &self,
        [x, weight, inverse]: Self::Saved,
        grad: Tensor<2>,
        wanted: [bool; 2],
    ) -> [Option<Tensor<2>>; 2] {
        let (dtype, held) = (x.dtype(), weight.dtype());
        #[cfg(feature = "cuda")]
        if on_gpu(&x) && x.dims()[1] <= sepia_kernels::WIDEST_NORM {
            let [for_x, for_weight] = sepia_kernels::rms_norm_backward(x, weight, inverse, grad);
            return [Some(for_x), wanted[1].then(|| cast(for_weight, held))];
        }
        let (x, grad) = (widened(x) * inverse.clone(), widened(grad)); // x s
        let for_weight = wanted[1].then(|| cast((grad.clone() * x.clone()).sum_dim(0), held));
        let grad = grad * widened(weight);
        let along = (grad.clone() * x.clone()).mean_dim(1); // s mean(w g x)
        [Some(cast((grad - x * along) * inverse, dtype)), for_weight]
    }
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
    use crate::ops::{
        fused::testing::{assert_same, random},
        taped::testing::assert_as_autodiff,
    };

    fn plain([x, weight]: [Tensor<2>; 2]) -> Tensor<2> {
        let dtype = x.dtype();
        let x = widened(x);
        let mean = (x.clone() * x.clone()).mean_dim(1);
        cast(x / mean.add_scalar(1e-6).sqrt() * widened(weight), dtype)
    }

    #[test]
    fn both_forms_agree() {
        let inputs = [random([300, 40], 1), random([1, 40], 2)];
        assert_same(inputs, |[x, weight]| rms_norm(x, weight.flatten(0, 1), 1e-6), plain);
        let taped = |inputs| run(TapedRmsNorm { eps: 1e-6 }, inputs);
        assert_as_autodiff([[300, 40], [1, 40]], 1e-2, taped, plain);
    }
}
