//! BatchNorm of maps (Ioffe and Szegedy 2015), with the ReLU that mostly follows.

use burn::tensor::{Tensor, TensorData, activation, module};
use rayon::prelude::*;

use super::{
    channels::{Maps, per_channel},
    fused::{Fused, Host, Input, applies, apply, host, on_host, to_tensor, values},
    kernel::simd,
};

/// Gain, bias, and what is added to variances.
#[derive(Debug, Clone)]
pub struct Norm {
    /// `[channels]`.
    pub weight: Tensor<1>,
    /// `[channels]`.
    pub bias: Tensor<1>,
    /// Added to variances.
    pub eps: f64,
    /// Whether negative outputs become 0.
    pub relu: bool,
}

/// What BatchNorm makes of a batch, and the statistics it found: without autodiff, `[channels]`.
#[derive(Debug)]
pub struct Normalized {
    /// `[batch, channels, h, w]`.
    pub output: Tensor<4>,
    /// Of each channel.
    pub mean: Tensor<1>,
    /// Biased.
    pub variance: Tensor<1>,
}

/// Maps `[batch, channels, h, w]` by the statistics of the batch itself, through which gradients flow.
#[must_use]
pub fn batch_norm_train(x: Tensor<4>, norm: Norm) -> Normalized {
    let Norm { weight, bias, eps, relu } = norm.clone();
    if applies(&x)
        && applies(&weight)
        && applies(&bias)
        && let (Some(input), Some(weight), Some(bias)) = (Input::of(x.clone()), Input::of(weight), Input::of(bias))
    {
        let device = x.device();
        drop(x);
        let statistics = Statistics::of(&input.host());
        let [mean, variance] = [&statistics.mean, &statistics.variance]
            .map(|values| Tensor::from_data(TensorData::new(values.clone(), [values.len()]), &device));
        let output = apply(FusedBatchNorm { statistics, eps: eps as f32, relu }, [input, weight, bias]);
        return Normalized { output, mean, variance };
    }
    plain_train(x, norm)
}

fn plain_train(x: Tensor<4>, Norm { weight, bias, eps, relu }: Norm) -> Normalized {
    let found = module::batch_norm_train(x, weight, bias, eps);
    let plain = |tensor: Tensor<1>| if tensor.is_autodiff() { tensor.inner() } else { tensor };
    let output = if relu { activation::relu(found.output) } else { found.output };
    Normalized { output, mean: plain(found.mean), variance: plain(found.variance) }
}

/// Maps `[batch, channels, h, w]` by given statistics, `[channels]` each, the variance biased or not.
#[must_use]
pub fn batch_norm(x: Tensor<4>, norm: Norm, mean: Tensor<1>, variance: Tensor<1>) -> Tensor<4> {
    let Norm { weight, bias, eps, relu } = norm;
    let small = [&weight, &bias, &mean, &variance].map(|tensor| on_host(tensor.clone()).ok());
    match (on_host(x), small) {
        (Ok(mut x), [Some(weight), Some(bias), Some(mean), Some(variance)]) => {
            let statistics = Statistics { mean: values(&mean).to_vec(), variance: values(&variance).to_vec() };
            let lines = statistics.lines(values(&weight), values(&bias), eps as f32);
            let maps = Maps::of(&x);
            x.storage_mut::<f32>().par_chunks_mut(maps.image().max(1)).for_each(|image| {
                simd(
                    #[inline(always)]
                    || {
                        for (map, line) in image.chunks_exact_mut(maps.size.max(1)).zip(&lines) {
                            for x in map {
                                *x = line.at(*x, relu);
                            }
                        }
                    },
                );
            });
            to_tensor(x)
        }
        (x, _) => {
            let x = x.map_or_else(|tensor| tensor, to_tensor);
            let y = module::batch_norm(x, weight, bias, mean, variance, eps);
            if relu { activation::relu(y) } else { y }
        }
    }
}

/// Of each channel; the variance biased.
#[derive(Debug, Clone)]
struct Statistics {
    mean: Vec<f32>,
    variance: Vec<f32>,
}

/// What is done to the values of one channel: `(x - mean) * scale + bias`.
#[derive(Debug, Clone, Copy)]
struct Line {
    mean: f32,
    /// `1 / sqrt(variance + eps)`.
    inverse: f32,
    /// `weight * inverse`.
    scale: f32,
    bias: f32,
}

impl Line {
    #[inline(always)]
    fn at(self, x: f32, relu: bool) -> f32 {
        let y = (x - self.mean) * self.scale + self.bias;
        // Not `max`, which would make 0 of NaN.
        if relu && y < 0.0 { 0.0 } else { y }
    }
}

impl Statistics {
    fn of(x: &Host) -> Self {
        let (maps, x) = (Maps::of(x), values(x));
        let count = (maps.batch * maps.size).max(1) as f64;
        let mean = per_channel(maps, x, |_, x| [x, 0.0]);
        let mean: Vec<f32> = mean.into_iter().map(|[sum, _]| (sum / count) as f32).collect();
        let variance = per_channel(maps, x, |channel, x| {
            let apart = x - mean[channel];
            [apart * apart, 0.0]
        });
        let variance = variance.into_iter().map(|[sum, _]| (sum / count) as f32).collect();
        Self { mean, variance }
    }

    fn lines(&self, weight: &[f32], bias: &[f32], eps: f32) -> Vec<Line> {
        let statistics = self.mean.iter().zip(&self.variance);
        let line = |((&mean, variance), (weight, &bias)): ((&f32, &f32), (&f32, &f32))| {
            let inverse = 1.0 / (variance + eps).sqrt();
            Line { mean, inverse, scale: weight * inverse, bias }
        };
        statistics.zip(weight.iter().zip(bias)).map(line).collect()
    }
}

#[derive(Debug)]
struct FusedBatchNorm {
    statistics: Statistics,
    eps: f32,
    relu: bool,
}

impl Fused<3> for FusedBatchNorm {
    /// The input and what was done to its channels.
    type Saved = (Host, Vec<Line>);

    fn forward(&self, [x, weight, bias]: [Host; 3]) -> (Host, Self::Saved) {
        let lines = self.statistics.lines(values(&weight), values(&bias), self.eps);
        let maps = Maps::of(&x);
        let (image, size) = (maps.image().max(1), maps.size.max(1));
        let mut y = vec![0.0f32; values(&x).len()];
        y.par_chunks_mut(image).zip(values(&x).par_chunks(image)).for_each(|(y, x)| {
            simd(
                #[inline(always)]
                || {
                    let channels = y.chunks_exact_mut(size).zip(x.chunks_exact(size));
                    for ((y, x), line) in channels.zip(&lines) {
                        for (y, x) in y.iter_mut().zip(x) {
                            *y = line.at(*x, self.relu);
                        }
                    }
                },
            );
        });
        (host(y, maps.shape()), (x, lines))
    }

    /// With `n` values a channel, `z = (x - mean) / sqrt(variance + eps)`, `s = weight / sqrt(variance + eps)` and `g` the
    /// gradient where the ReLU let something through: `dx = s (g - (sum g + z sum(g z)) / n)`, `dw = sum(g z)`, `db = sum g`.
    fn backward(&self, (x, lines): Self::Saved, mut grad: Host, _: [bool; 3]) -> [Option<Host>; 3] {
        let maps = Maps::of(&x);
        let (image, size) = (maps.image().max(1), maps.size.max(1));
        let relu = self.relu;
        let sums = maps.sums_of_pairs(values(&grad), values(&x), |channel, g, x| {
            let line = lines[channel];
            // As in the forward pass, to the bit; not kept from there, for it is read from memory as fast as made.
            let passes = !relu || line.at(x, false) > 0.0;
            let g = if passes { g } else { 0.0 };
            [g, g * ((x - line.mean) * line.inverse)]
        });
        let count = (maps.batch * maps.size).max(1) as f64;
        let means: Vec<[f32; 2]> = sums.iter().map(|sums| sums.map(|sum| (sum / count) as f32)).collect();
        grad.storage_mut::<f32>().par_chunks_mut(image).zip(values(&x).par_chunks(image)).for_each(|(g, x)| {
            simd(
                #[inline(always)]
                || {
                    let channels = g.chunks_exact_mut(size).zip(x.chunks_exact(size));
                    for ((g, x), (line, [mean, along])) in channels.zip(lines.iter().zip(&means)) {
                        for (g, x) in g.iter_mut().zip(x) {
                            let passes = !relu || line.at(*x, false) > 0.0;
                            let own = if passes { *g } else { 0.0 };
                            *g = (own - (mean + (x - line.mean) * line.inverse * along)) * line.scale;
                        }
                    }
                },
            );
        });
        let channels = lines.len();
        let of = |index: usize| host(sums.iter().map(|sums| sums[index] as f32).collect(), [channels]);
        [Some(grad), Some(of(1)), Some(of(0))]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;

    use super::*;
    use crate::{
        ops::fused::testing::{assert_same, random},
        testing::test_device,
    };

    fn maps(x: Tensor<2>, [batch, channels, h, w]: [usize; 4]) -> Tensor<4> {
        x.reshape([batch, channels, h, w])
    }

    fn norm([weight, bias]: [Tensor<2>; 2], relu: bool) -> Norm {
        Norm { weight: weight.flatten(0, 1), bias: bias.flatten(0, 1), eps: 1e-5, relu }
    }

    #[test]
    fn both_forms_of_training_agree() {
        for (relu, shape) in [(false, [7, 3, 5, 6]), (true, [7, 3, 5, 6]), (true, [5, 4, 1, 1]), (true, [2, 2, 33, 40])]
        {
            let [batch, channels, h, w] = shape;
            let inputs =
                [random([batch, channels * h * w], 1) * 3.0 + 2.0, random([1, channels], 2), random([1, channels], 3)];
            let form = |run: fn(Tensor<4>, Norm) -> Normalized| {
                move |[x, weight, bias]: [Tensor<2>; 3]| {
                    let y = run(maps(x, shape), norm([weight, bias], relu)).output;
                    y.reshape([batch, channels * h * w])
                }
            };
            assert_same(inputs, form(batch_norm_train), form(plain_train));
        }
    }

    #[test]
    fn statistics_are_those_of_the_plain_form() {
        let x = maps(random([6, 4 * 35], 1) * 0.5 + 100.0, [6, 4, 5, 7]);
        let norm = norm([Tensor::ones([1, 4], &test_device()), Tensor::zeros([1, 4], &test_device())], false);
        let wide = |x: Tensor<1>| x.cast(DType::F64);
        let exact = {
            let Norm { weight, bias, eps, relu } = norm.clone();
            let norm = Norm { weight: wide(weight), bias: wide(bias), eps, relu };
            plain_train(x.clone().cast(DType::F64), norm)
        };
        let fused = batch_norm_train(x, norm);
        for (fused, exact) in [(fused.mean, exact.mean), (fused.variance, exact.variance)] {
            let apart = ((wide(fused) - exact.clone()) / exact).abs().max().into_scalar::<f64>();
            assert!(apart < 1e-5, "{apart}");
        }
    }

    #[test]
    fn both_forms_of_evaluation_agree_and_nan_goes_through() {
        for relu in [false, true] {
            let norm = norm([random([1, 3], 2), random([1, 3], 3)], relu);
            let (mean, variance) = (random([1, 3], 4).flatten(0, 1), random([1, 3], 5).flatten(0, 1).abs());
            let x = maps(random([4, 3 * 30], 1), [4, 3, 5, 6]);
            let fused = batch_norm(x.clone(), norm.clone(), mean.clone(), variance.clone());
            // With autodiff the plain form runs.
            let plain = batch_norm(x.clone().autodiff(), norm.clone(), mean.clone(), variance.clone()).inner();
            assert!((fused - plain).abs().max().into_scalar::<f32>() < 1e-5);
            let spoilt = batch_norm(x.mul_scalar(f32::NAN), norm, mean, variance);
            assert!(spoilt.is_nan().all().into_scalar::<bool>());
        }
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let x = maps(random([9, 5 * 30], 1), [9, 5, 5, 6]).autodiff().require_grad();
                let norm = norm([random([1, 5], 2), random([1, 5], 3)], true);
                let y = batch_norm_train(x.clone(), norm).output;
                let mut tape = (y.clone() * y).sum().backward();
                x.grad_remove(&mut tape).unwrap().into_data()
            })
        };
        assert_eq!(run(1), run(3));
    }
}
