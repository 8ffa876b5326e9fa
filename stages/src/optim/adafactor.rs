//! Adafactor on a matrix (Shazeer and Stern 2018), in the form of the public GaLore and Flora code.
//!
//! The second moment is kept as one mean per row and one per column. The learning rate is multiplied in before the
//! optional first moment, as those codes do.

use burn::tensor::{DType, Device, Tensor};
use schemars::JsonSchema;
use sepia_engine::stage::StageError;
use serde::{Deserialize, Serialize};

use crate::{
    ops::{held, mean, widened},
    train::State,
};

/// Constants of Adafactor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdafactorConfig {
    /// Decay of the first moment; 0 keeps none.
    pub beta1: f64,
    /// The second moment decays by `1 - t^decay_exponent`.
    pub decay_exponent: f64,
    /// Added to the squared gradient.
    pub eps: f64,
    /// The update is scaled down to at most this root mean square.
    pub clip_threshold: f64,
}

impl Default for AdafactorConfig {
    fn default() -> Self {
        Self { beta1: 0.9, decay_exponent: -0.8, eps: 1e-30, clip_threshold: 1.0 }
    }
}

/// The factored second moment of a matrix `[m, n]`.
#[derive(Debug, Clone)]
pub struct Factored {
    /// Mean of the squares over each row, `[m, 1]`.
    pub row: Tensor<2>,
    /// Mean of the squares over each column, `[1, n]`.
    pub col: Tensor<2>,
    /// Steps done.
    pub t: u64,
}

impl Factored {
    /// Nothing seen yet.
    #[must_use]
    pub fn new([m, n]: [usize; 2], device: &Device, dtype: DType) -> Self {
        let zeros = |shape| Tensor::zeros(shape, (device, dtype));
        Self { row: zeros([m, 1]), col: zeros([1, n]), t: 0 }
    }

    /// Takes in a gradient `[m, n]` in f32 or f64 and returns it divided by the root of the second moment, not yet clipped.
    #[must_use]
    pub fn normalise(&mut self, gradient: &Tensor<2>, config: &AdafactorConfig) -> Tensor<2> {
        self.t += 1;
        let keep = 1.0 - (self.t as f64).powf(config.decay_exponent);
        let squared = gradient.clone().square().add_scalar(config.eps);
        let (row, col) = (squared.clone().mean_dim(1), squared.mean_dim(0));
        let mixed = |old: Tensor<2>, new: Tensor<2>| {
            let dtype = old.dtype();
            held(widened(old).mul_scalar(keep).add(new.mul_scalar(1.0 - keep)), dtype)
        };
        self.row.inplace(|old| mixed(old, row));
        self.col.inplace(|old| mixed(old, col));
        let (row, col) = (widened(self.row.clone()), widened(self.col.clone()));
        let row = row.clone().div(row.mean_dim(0)).sqrt().recip(); // [m, 1]
        let col = col.sqrt().recip(); // [1, n]
        gradient.clone().mul(row).mul(col)
    }

    /// Floats held: m + n.
    #[must_use]
    pub fn floats(&self) -> usize {
        self.row.shape().num_elements() + self.col.shape().num_elements()
    }

    /// Adds itself to a saved state.
    pub fn save(&self, at: &str, state: &mut State) {
        state.put_tensor(&format!("{at}/row"), self.row.clone());
        state.put_tensor(&format!("{at}/col"), self.col.clone());
        state.put_count(&format!("{at}/t"), self.t);
    }

    /// Takes its values from a saved state.
    ///
    /// # Errors
    /// When they are missing.
    pub fn load(&mut self, at: &str, state: &mut State) -> Result<(), StageError> {
        self.row = state.take_tensor(&format!("{at}/row"))?;
        self.col = state.take_tensor(&format!("{at}/col"))?;
        self.t = state.count(&format!("{at}/t"))?;
        Ok(())
    }
}

/// Scales an update down to a root mean square of at most `threshold`.
#[must_use]
pub fn clip_rms(update: Tensor<2>, threshold: f64) -> Tensor<2> {
    let rms = mean(update.clone().square()).sqrt().reshape([1, 1]);
    update.div(rms.div_scalar(threshold).clamp_min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        testing::test_device,
        vectors::{assert_near, flat, tensor},
    };

    #[test]
    fn a_gradient_of_rank_one_is_normalised_to_signs() {
        let g = tensor(&vec![vec![1.0, -2.0], vec![3.0, -6.0]], DType::F64);
        let mut moment = Factored::new([2, 2], &test_device(), DType::F64);
        let update = moment.normalise(&g, &AdafactorConfig::default());
        for (found, expected) in flat(&update).into_iter().zip([1.0, -1.0, 1.0, -1.0]) {
            assert_near(found, expected, 1e-12);
        }
        assert_eq!((moment.floats(), moment.t), (4, 1));
    }

    #[test]
    fn the_second_step_mixes_with_the_published_decay() {
        let one = tensor(&vec![vec![1.0]], DType::F64);
        let mut moment = Factored::new([1, 1], &test_device(), DType::F64);
        let _ = moment.normalise(&one, &AdafactorConfig::default());
        let _ = moment.normalise(&one.mul_scalar(2.0), &AdafactorConfig::default());
        let mixed = 2.0_f64.powf(-0.8);
        assert_near(flat(&moment.row)[0], (1.0 - mixed) + mixed * 4.0, 1e-12);
    }

    #[test]
    fn clipping_bounds_the_root_mean_square_and_leaves_small_updates() {
        let update = tensor(&vec![vec![3.0, -4.0]], DType::F64);
        let clipped = clip_rms(update.clone(), 1.0);
        assert_near(clipped.square().mean().into_scalar(), 1.0, 1e-12);
        assert_eq!(flat(&clip_rms(update.clone(), 10.0)), flat(&update));
    }
}
