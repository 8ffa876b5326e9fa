//! The loss of a language model.

use burn::tensor::{Int, Tensor};
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use super::taped::on_gpu;
use super::{
    fused::{Fused, Host, Input, applies, apply, host},
    kernel::{exp, max_of, rows_per_piece, scale, simd, sum_of},
    precision::{cast, widened},
    taped::{Taped, run},
    total::total,
};

/// Sum over rows of `-log softmax(logits)[target]`, in nats: logits `[n, vocab_size]`, targets `[n]`, result `[1]`.
///
/// Half-precision logits are widened: the result is f32.
/// A sum and not a mean: the caller knows what it is a mean over. Targets must be below `vocab_size`.
#[must_use]
pub fn cross_entropy_sum(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    if !applies(&logits) {
        return taped(logits, targets);
    }
    let data = targets.clone().into_data().convert::<i32>();
    let Ok(host_targets) = data.as_slice::<i32>() else { return taped(logits, targets) };
    let loss = FusedCrossEntropy { targets: host_targets.to_vec(), tracked: logits.is_autodiff() };
    // Not cloned: the logits are this operation's to overwrite.
    match Input::of(logits) {
        Some(logits) => apply(loss, [logits]),
        None => unreachable!("logits are f32 on the CPU"),
    }
}

fn taped(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let [n] = targets.dims();
    // Read by the operation off the tape; integers have none.
    let targets = if targets.is_autodiff() { targets.inner() } else { targets };
    run(TapedCrossEntropy { targets: targets.reshape([n, 1]) }, [logits]).reshape([1])
}

/// Keeps the logits, the largest tensor of a small model, in their own type, and one number a row; probabilities are computed
/// again on the way back.
#[derive(Debug)]
struct TapedCrossEntropy {
    /// `[n, 1]`.
    targets: Tensor<2, Int>,
}

impl Taped<1> for TapedCrossEntropy {
    /// Logits, and the logarithm of each row's sum of exponentials, `[n, 1]`.
    type Saved = [Tensor<2>; 2];

    fn forward(&self, [logits]: [Tensor<2>; 1]) -> (Tensor<2>, Self::Saved) {
        #[cfg(feature = "cuda")]
        if on_gpu(&logits) {
            let [losses, log_sum] = sepia_kernels::cross_entropy(logits.clone(), self.targets.clone());
            return (total(losses).reshape([1, 1]), [logits, log_sum]);
        }
        let wide = widened(logits.clone());
        let max = wide.clone().max_dim(1);
        let sum = (wide - max.clone()).exp().sum_dim(1);
        let log_sum = sum.log() + max;
        let losses = log_sum.clone() - widened(logits.clone().gather(1, self.targets.clone()));
        (total(losses).reshape([1, 1]), [logits, log_sum])
    }

    fn backward(&self, [logits, log_sum]: Self::Saved, grad: Tensor<2>, _: [bool; 1]) -> [Option<Tensor<2>>; 1] {
        #[cfg(feature = "cuda")]
        if on_gpu(&logits) {
            return [Some(sepia_kernels::cross_entropy_backward(logits, self.targets.clone(), log_sum, grad))];
        }
        let [_, vocab_size] = logits.dims();
        let classes = Tensor::<1, Int>::arange(0..vocab_size as i64, &logits.device()).reshape([1, vocab_size]);
        let one_hot = classes.equal(self.targets.clone()).float().cast(log_sum.dtype());
        let probabilities = (widened(logits.clone()) - log_sum).exp();
        [Some(cast((probabilities - one_hot) * grad, logits.dtype()))]
    }
}

/// The gradient `softmax - one_hot(target)` is made in the forward pass, where the logits were: the largest tensor of a
/// small model exists once, and its exponentials are computed once.
#[derive(Debug)]
struct FusedCrossEntropy {
    targets: Vec<i32>,
    tracked: bool,
}

impl Fused<1> for FusedCrossEntropy {
    type Saved = Host;

    fn forward(&self, [mut logits]: [Host; 1]) -> (Host, Self::Saved) {
        let [_, width]: [usize; 2] = logits.layout().shape().dims();
        let rows = rows_per_piece(width);
        let losses: Vec<f64> = logits
            .storage_mut::<f32>()
            .par_chunks_mut(rows * width)
            .zip(self.targets.par_chunks(rows))
            .map(|(logits, targets)| {
                simd(
                    #[inline(always)]
                    || {
                        let mut loss = 0.0f64;
                        for (row, &target) in logits.chunks_exact_mut(width).zip(targets) {
                            let max = max_of(row);
                            let of_target = row[target as usize] - max;
                            for value in row.iter_mut() {
                                *value = exp(*value - max);
                            }
                            let sum = sum_of(row, |value| value);
                            loss += f64::from(sum).ln() - f64::from(of_target);
                            if self.tracked {
                                let inverse = 1.0 / sum;
                                for value in row.iter_mut() {
                                    *value *= inverse;
                                }
                                row[target as usize] -= 1.0;
                            }
                        }
                        loss
                    },
                )
            })
            .collect();
        let total: f64 = losses.iter().sum();
        (host(vec![total as f32], [1]), logits)
    }

    fn backward(&self, mut saved: Self::Saved, grad: Host, _: [bool; 1]) -> [Option<Host>; 1] {
        let factor = grad.storage::<f32>()[0];
        scale(saved.storage_mut::<f32>(), factor);
        [Some(saved)]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{TensorData, activation};

    use super::*;
    use crate::{
        ops::{
            fused::testing::{assert_same, random},
            taped::testing::assert_as_autodiff,
        },
        testing::test_device,
    };

    fn plain(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<2> {
        let [n, _] = logits.dims();
        let log_softmax = activation::log_softmax(widened(logits), 1);
        total(log_softmax.gather(1, targets.reshape([n, 1]))).neg().unsqueeze()
    }

    #[test]
    fn both_forms_agree() {
        let logits = random([130, 500], 1) * 5.0;
        let device = logits.device();
        let targets: Vec<i32> = (0..130).map(|i| i * 37 % 500).collect();
        let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [130]), &device);
        assert_same(
            [logits],
            |[logits]| cross_entropy_sum(logits, targets.clone()).unsqueeze(),
            |[logits]| plain(logits, targets.clone()),
        );
        let taped = |[logits]: [Tensor<2>; 1]| taped(logits, targets.clone()).unsqueeze();
        assert_as_autodiff([[130, 500]], 1e-2, taped, |[logits]| plain(logits, targets.clone()));
    }

    #[test]
    fn equal_logits_cost_the_logarithm_of_their_number() {
        let device = test_device();
        let targets = Tensor::<1, Int>::from_ints([3, 0], &device);
        let loss = cross_entropy_sum(Tensor::zeros([2, 7], &device), targets).into_scalar::<f32>();
        assert!((f64::from(loss) - 2.0 * 7.0f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn a_logit_that_is_not_finite_shows_in_the_loss() {
        let device = test_device();
        for bad in [f32::NAN, f32::INFINITY] {
            let logits = Tensor::<2>::from_floats([[0.0, bad, 1.0]], &device);
            let loss = cross_entropy_sum(logits, Tensor::<1, Int>::from_ints([0], &device)).into_scalar::<f32>();
            assert!(!loss.is_finite(), "{bad}: {loss}");
        }
    }
}
