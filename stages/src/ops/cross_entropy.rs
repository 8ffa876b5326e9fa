//! The loss of a language model.

use burn::tensor::{Int, Tensor, activation};
use rayon::prelude::*;

use super::{
    fused::{Fused, Host, Input, applies, apply, host},
    kernel::{exp, max_of, rows_per_piece, scale, simd, sum_of},
    precision::widened,
    total::total,
};

/// Sum over rows of `-log softmax(logits)[target]`, in nats: logits `[n, vocab_size]`, targets `[n]`, result `[1]`.
///
/// Half-precision logits are widened: the result is f32.
/// A sum and not a mean: the caller knows what it is a mean over. Targets must be below `vocab_size`.
#[must_use]
pub fn cross_entropy_sum(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    if !applies(&logits) {
        return plain(logits, targets);
    }
    let data = targets.clone().into_data().convert::<i32>();
    let Ok(host_targets) = data.as_slice::<i32>() else { return plain(logits, targets) };
    let loss = FusedCrossEntropy { targets: host_targets.to_vec(), tracked: logits.is_autodiff() };
    // Not cloned: the logits are this operation's to overwrite.
    match Input::of(logits) {
        Some(logits) => apply(loss, [logits]),
        None => unreachable!("logits are f32 on the CPU"),
    }
}

fn plain(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let [n, _] = logits.dims();
    total(activation::log_softmax(widened(logits), 1).gather(1, targets.reshape([n, 1]))).neg()
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
    use burn::tensor::TensorData;

    use super::*;
    use crate::{
        ops::fused::testing::{assert_same, random},
        testing::test_device,
    };

    #[test]
    fn both_forms_agree() {
        let logits = random([130, 500], 1) * 5.0;
        let device = logits.device();
        let targets: Vec<i32> = (0..130).map(|i| i * 37 % 500).collect();
        let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [130]), &device);
        assert_same(
            [logits],
            |[logits]| cross_entropy_sum(logits, targets.clone()).unsqueeze(),
            |[logits]| plain(logits, targets.clone()).unsqueeze(),
        );
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
