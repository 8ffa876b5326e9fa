//! What happens when a loss or a gradient is not a number.

use sepia_engine::stage::StageError;

/// At most one update in this many may be skipped.
const ONE_IN: u64 = 20;

/// Counts updates that were skipped because the loss or a gradient was NaN or infinite.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Guard {
    /// Updates skipped so far.
    pub(super) skipped: u64,
}

impl Guard {
    /// Records that the update of `step` (counted from 1) was skipped because of `place`.
    ///
    /// One skipped update is always let pass; beyond that, no more than 5 % of the updates so far.
    ///
    /// # Errors
    /// When too many were skipped.
    pub(super) fn skip(&mut self, step: u64, place: &str) -> Result<(), StageError> {
        self.skipped += 1;
        if self.skipped <= 1 || self.skipped * ONE_IN <= step {
            return Ok(());
        }
        let skipped = self.skipped;
        Err(StageError::new(format!(
            "training diverged: {skipped} of {step} updates had a loss or gradient that is not finite (more than 5 %), \
             the last at step {step} in {place}"
        ))
        .help("lower `lr`, lengthen `warmup_steps`, or set `grad_clip = 1.0`")
        .param("lr"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_percent_are_let_pass_and_not_more() {
        let mut guard = Guard::default();
        assert!(guard.skip(1, "lm_head.weight").is_ok());
        assert!(guard.skip(40, "lm_head.weight").is_ok());
        let error = guard.skip(59, "model.layers.1.mlp.up_proj.weight").unwrap_err();
        assert_eq!(
            error.to_string(),
            "training diverged: 3 of 59 updates had a loss or gradient that is not finite (more than 5 %), \
             the last at step 59 in model.layers.1.mlp.up_proj.weight"
        );
        let mut guard = Guard { skipped: 2 };
        assert!(guard.skip(60, "lm_head.weight").is_ok());
    }
}
