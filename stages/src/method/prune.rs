//! Pruning of optimiser moments, ReLoRA's way to restart an optimiser.

use burn::tensor::{Tensor, TensorData};
use schemars::JsonSchema;
use sepia_engine::stage::StageError;
use serde::{Deserialize, Serialize};

use crate::random::Rng;

/// How moments are pruned when the optimiser restarts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerReset {
    /// Everything becomes zero.
    Zero,
    /// Each entry goes with this probability: `random = 0.999` keeps one in a thousand, which is what the
    /// public code calls a reset.
    Random(f64),
    /// The entries above this quantile of the magnitudes are kept: `magnitude = 0.9` keeps a tenth.
    Magnitude(f64),
}

impl Default for OptimizerReset {
    /// As the public code's `reset`.
    fn default() -> Self {
        Self::Random(0.999)
    }
}

impl OptimizerReset {
    /// Why the ratio does not do.
    #[must_use]
    pub fn problem(self) -> Option<String> {
        match self {
            Self::Zero => None,
            Self::Random(ratio) | Self::Magnitude(ratio) if (0.0..=1.0).contains(&ratio) => None,
            Self::Random(ratio) | Self::Magnitude(ratio) => {
                Some(format!("a share of {ratio} cannot be pruned: give 0 to 1"))
            }
        }
    }

    /// The pruned moment. Random pruning draws from `seed`.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn prune<const D: usize>(self, moment: Tensor<D>, seed: u64) -> Result<Tensor<D>, StageError> {
        let count = moment.shape().num_elements();
        let keep: Vec<bool> = match self {
            Self::Zero => return Ok(moment.zeros_like()),
            Self::Random(ratio) => {
                let (mut rng, steps) = (Rng::new(seed), 1_u64 << 53);
                (0..count).map(|_| rng.below(steps) as f64 / steps as f64 > ratio).collect()
            }
            Self::Magnitude(ratio) => {
                let values = moment.try_to_vec_as::<f64>().map_err(unreadable)?;
                let magnitudes: Vec<f64> = values.iter().map(|x| x.abs()).collect();
                let threshold = quantile(&magnitudes, ratio);
                magnitudes.iter().map(|x| *x > threshold).collect()
            }
        };
        let mask: Vec<f32> = keep.into_iter().map(|keep| f32::from(u8::from(keep))).collect();
        let mask = TensorData::new(mask, moment.shape());
        let mask = Tensor::<D>::from_data(mask, (&moment.device(), moment.dtype()));
        Ok(moment.mul(mask))
    }
}

/// The quantile with linear interpolation between neighbours; 0 of nothing.
#[must_use]
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = share.clamp(0.0, 1.0) * last as f64;
    let low = (place.floor() as usize).min(last);
    let high = (low + 1).min(last);
    sorted[low] + (sorted[high] - sorted[low]) * (place - low as f64)
}

pub(super) fn unreadable(error: impl std::fmt::Display) -> StageError {
    StageError::new(format!("moments cannot be read from the device: {error}"))
}

/// How many entries are zero, `[1]`, which stays on the device: what a reset must have raised.
#[must_use]
pub fn zeros<const D: usize>(moment: &Tensor<D>) -> Tensor<1> {
    // As integers: f32 counts exactly up to 2^24 alone.
    moment.clone().equal_elem(0.0).int().sum().float()
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::test_device;
    use crate::vectors::{assert_near, vector};

    fn row(values: &[f64]) -> Tensor<1> {
        Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), (&test_device(), DType::F64))
    }

    #[test]
    fn vector_relora_magnitude_prune() {
        let vector = vector("relora_magnitude_prune");
        let x: Vec<f64> = vector.input("x");
        let magnitudes: Vec<f64> = x.iter().map(|x| x.abs()).collect();
        let thresholds: Vec<f64> = vector.expected("threshold");
        let pruned: Vec<Vec<f64>> = vector.expected("pruned");
        for (index, ratio) in vector.input::<Vec<f64>>("ratios").into_iter().enumerate() {
            assert_near(quantile(&magnitudes, ratio), thresholds[index], vector.tol());
            let found = OptimizerReset::Magnitude(ratio).prune(row(&x), 0).unwrap();
            assert_eq!(found.try_into_vec_as::<f64>().unwrap(), pruned[index]);
        }
    }

    #[test]
    fn random_pruning_keeps_about_the_share_and_depends_on_the_seed() {
        let ones = row(&vec![1.0; 20_000]);
        let zero_share = |moment: &Tensor<1>| f64::from(zeros(moment).into_scalar::<f32>()) / 20_000.0;
        let share = |ratio, seed| zero_share(&OptimizerReset::Random(ratio).prune(ones.clone(), seed).unwrap());
        assert_near(share(0.7, 1), 0.7, 0.02);
        assert_near(share(0.999, 1), 0.999, 0.001);
        assert_ne!(share(0.7, 1), share(0.7, 2));
        assert_eq!(zero_share(&OptimizerReset::Zero.prune(ones, 1).unwrap()), 1.0);
    }

    #[test]
    fn a_share_out_of_range_is_a_problem() {
        assert_eq!(OptimizerReset::Magnitude(0.9).problem(), None);
        insta::assert_snapshot!(OptimizerReset::Random(1.5).problem().unwrap(), @"a share of 1.5 cannot be pruned: give 0 to 1");
    }

    proptest! {
        #[test]
        fn what_is_kept_is_kept_as_it_was(values in prop::collection::vec(-1.0f64..1.0, 1..50), ratio in 0.0f64..1.0) {
            for reset in [OptimizerReset::Random(ratio), OptimizerReset::Magnitude(ratio), OptimizerReset::Zero] {
                let found = reset.prune(row(&values), 5).unwrap().try_into_vec_as::<f64>().unwrap();
                prop_assert!(found.iter().zip(&values).all(|(a, b)| *a == 0.0 || a == b));
            }
        }
    }
}
