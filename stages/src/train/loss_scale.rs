//! Loss scaling for f16, whose smallest normal number is 6e-5: gradients below it would vanish.
//!
//! The loss is multiplied by a power of two before the backward pass and the gradients, which come out in f32, divided by
//! it. An update whose gradients overflow is left out and the factor halved; after a long run without that it is doubled
//! (Micikevicius et al. 2018, section 3.2). f32 and bf16 have the range to do without.
//!
//! Where to read a number is to wait, the factor and the decision stay on the device ([`LossScaleOnDevice`]). The gradients
//! of an update that overflows are zero there, as those of any update that is not finite: moments shrink by their decay
//! and their step counts go on, where an update that is left out on the CPU leaves all as it was.

use burn::tensor::{DType, Device, Tensor, TensorData};
use sepia_engine::stage::StageError;

use super::State;

/// The factor to begin with is two to this.
const FIRST: u64 = 16;
/// The factor never grows beyond two to this.
const LARGEST: u64 = 24;
/// Updates without an overflow after which the factor is doubled.
const PATIENCE: u64 = 2000;

/// The factor, and what it depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LossScale {
    log2: u64,
    /// Updates since it last changed.
    calm: u64,
    /// Updates left out because a gradient overflowed.
    pub(super) overflowed: u64,
}

impl Default for LossScale {
    fn default() -> Self {
        Self { log2: FIRST, calm: 0, overflowed: 0 }
    }
}

impl LossScale {
    /// As far as it goes.
    #[cfg(test)]
    pub(super) fn largest() -> Self {
        Self { log2: LARGEST, ..Self::default() }
    }

    /// What the loss is multiplied by.
    pub(super) fn factor(&self) -> f64 {
        two_to(self.log2)
    }

    /// Takes note of an update that was made.
    pub(super) fn made(&mut self) {
        self.calm += 1;
        if self.calm >= PATIENCE {
            self.log2 = (self.log2 + 1).min(LARGEST);
            self.calm = 0;
        }
    }

    /// Takes note of gradients that are not finite. `false` where a smaller factor cannot help: it is 1 already.
    pub(super) fn overflows(&mut self) -> bool {
        if self.log2 == 0 {
            return false;
        }
        self.log2 -= 1;
        self.calm = 0;
        self.overflowed += 1;
        true
    }

    /// Adds itself to a checkpoint.
    pub(super) fn save(&self, state: &mut State) {
        state.put_count("loss_scale/log2", self.log2);
        state.put_count("loss_scale/calm", self.calm);
        state.put_count("loss_scale/overflowed", self.overflowed);
    }

    /// What a checkpoint holds.
    pub(super) fn load(state: &State) -> Result<Self, StageError> {
        Ok(Self {
            log2: state.count("loss_scale/log2")?,
            calm: state.count("loss_scale/calm")?,
            overflowed: state.count("loss_scale/overflowed")?,
        })
    }
}

/// The same on a device, where nobody reads it: an overflow is found there and decides there about the next update.
#[derive(Debug, Clone)]
pub(super) struct LossScaleOnDevice {
    /// What the loss is multiplied by, `[1]`.
    factor: Tensor<1>,
    /// As in [`LossScale`], `[1]` each: f32 counts exactly up to 2^24.
    calm: Tensor<1>,
    overflowed: Tensor<1>,
}

impl LossScaleOnDevice {
    /// Puts a scale onto a device without autodiff.
    pub(super) fn new(scale: &LossScale, device: &Device) -> Self {
        let one = |value: f64| Tensor::from_data(TensorData::from([value]), (device, DType::F32));
        Self { factor: one(scale.factor()), calm: one(scale.calm as f64), overflowed: one(scale.overflowed as f64) }
    }

    /// What the loss is multiplied by, `[1]`.
    pub(super) fn factor(&self) -> Tensor<1> {
        self.factor.clone()
    }

    /// Takes note of an update by its loss and its gradient's norm, `[1]` each: what [`made`](LossScale::made) and
    /// [`overflows`](LossScale::overflows) do. `[1]`: 1 where the update was left out because of an overflow, else 0.
    pub(super) fn take_note(&mut self, loss: &Tensor<1>, norm: &Tensor<1>) -> Tensor<1> {
        let fine = norm.clone().is_finite().bool_and(loss.clone().is_finite());
        let helps = self.factor.clone().greater_elem(1.0);
        let overflow = fine.clone().bool_not().bool_and(loss.clone().is_finite()).bool_and(helps);
        let calm = self.calm.clone() + fine.float();
        let patient = calm.clone().greater_equal_elem(PATIENCE as f64);
        let doubled = self.factor.clone().mul_scalar(2.0).clamp_max(two_to(LARGEST));
        let factor = self.factor.clone().mask_where(patient.clone(), doubled);
        self.factor = factor.mask_where(overflow.clone(), self.factor.clone().mul_scalar(0.5));
        self.calm = calm.mask_fill(patient.bool_or(overflow.clone()), 0.0);
        let overflow = overflow.float();
        self.overflowed = self.overflowed.clone() + overflow.clone();
        overflow
    }

    /// Reads it, in one transfer.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub(super) fn read(&self) -> Result<LossScale, StageError> {
        let all = Tensor::cat(vec![self.factor.clone(), self.calm.clone(), self.overflowed.clone()], 0);
        let values = all.try_into_vec_as::<f64>();
        let values = values.map_err(|error| StageError::new(format!("the device cannot be read: {error}")))?;
        let [factor, calm, overflowed] = values[..] else { return Ok(LossScale::default()) };
        Ok(LossScale { log2: factor.log2().round() as u64, calm: calm as u64, overflowed: overflowed as u64 })
    }
}

fn two_to(power: u64) -> f64 {
    2.0f64.powi(i32::try_from(power).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test_device;

    #[test]
    fn an_overflow_halves_and_two_thousand_updates_without_one_double() {
        let mut scale = LossScale::default();
        assert_eq!(scale.factor(), 65_536.0);
        assert!(scale.overflows());
        assert_eq!((scale.factor(), scale.overflowed), (32_768.0, 1));
        for _ in 0..PATIENCE - 1 {
            scale.made();
        }
        assert_eq!(scale.factor(), 32_768.0);
        scale.made();
        assert_eq!(scale.factor(), 65_536.0);
    }

    /// Both through the same updates: overflows, losses that are not finite, calm for thousands of updates.
    #[test]
    fn the_scale_on_the_device_goes_the_way_of_the_other() {
        let device = test_device();
        let one = |value: f32| Tensor::<1>::from_floats([value], &device);
        for start in [FIRST, 1, LARGEST - 1] {
            let mut host = LossScale { log2: start, calm: PATIENCE - 3, overflowed: 7 };
            let mut there = LossScaleOnDevice::new(&host, &device);
            for step in 0..PATIENCE + 40 {
                let (loss, norm) = match step {
                    10 | 11 | 13 => (3.0, f32::INFINITY),
                    12 | 20 => (3.0, f32::NAN),
                    14 => (f32::NAN, 1.0),
                    15 => (f32::INFINITY, f32::NAN),
                    _ => (3.0, 1.0),
                };
                let excused = there.take_note(&one(loss), &one(norm)).into_scalar::<f32>();
                let mut overflown = false;
                if loss.is_finite() && norm.is_finite() {
                    host.made();
                } else if loss.is_finite() {
                    overflown = host.overflows();
                }
                assert_eq!(excused == 1.0, overflown, "{start} {step}");
                assert_eq!(there.read().unwrap(), host, "{start} {step}");
                assert_eq!(there.factor().into_scalar::<f32>(), host.factor() as f32);
            }
        }
    }

    #[test]
    fn it_stays_between_one_and_its_bound() {
        let mut scale = LossScale::default();
        for _ in 0..FIRST {
            assert!(scale.overflows());
        }
        assert!(!scale.overflows());
        assert_eq!((scale.factor(), scale.overflowed), (1.0, FIRST));
        for _ in 0..100 * PATIENCE {
            scale.made();
        }
        assert_eq!(scale.factor(), 2.0f64.powi(24));
    }

    #[test]
    fn a_checkpoint_keeps_it() {
        let mut scale = LossScale::default();
        let _ = scale.overflows();
        scale.made();
        let mut state = State::new(&test_device());
        scale.save(&mut state);
        assert_eq!(LossScale::load(&state).unwrap(), scale);
    }
}
