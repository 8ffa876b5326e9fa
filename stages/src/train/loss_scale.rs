//! Loss scaling for f16, whose smallest normal number is 6e-5: gradients below it would vanish.
//!
//! The loss is multiplied by a power of two before the backward pass and the gradients, which come out in f32, divided by
//! it. An update whose gradients overflow is left out and the factor halved; after a long run without that it is doubled
//! (Micikevicius et al. 2018, section 3.2). f32 and bf16 have the range to do without.

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
    /// What the loss is multiplied by.
    pub(super) fn factor(&self) -> f64 {
        2.0f64.powi(i32::try_from(self.log2).unwrap_or(0))
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

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut state = State::new(&burn::tensor::Device::flex());
        scale.save(&mut state);
        assert_eq!(LossScale::load(&state).unwrap(), scale);
    }
}
