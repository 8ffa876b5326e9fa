//! Learning-rate schedules of classifiers, in epochs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::train::{Schedule, ScheduleKind};

/// The learning rate after the warm-up.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum VisionSchedule {
    /// Half a cosine down to `min_lr_ratio`.
    #[default]
    Cosine,
    /// A straight line down to `min_lr_ratio`.
    Linear,
    /// Unchanged.
    Constant,
    /// Multiplied by `factor` at each of these parts of the epochs: at half and three quarters by 0.1 is usual for CIFAR.
    Milestones {
        /// Parts of all epochs, between 0 and 1.
        #[serde(default = "default_at")]
        at: Vec<f64>,
        /// What the learning rate is multiplied by.
        #[serde(default = "default_factor")]
        factor: f64,
    },
}

fn default_at() -> Vec<f64> {
    vec![0.5, 0.75]
}

fn default_factor() -> f64 {
    0.1
}

impl VisionSchedule {
    /// The multiplier of the learning rate at a step: `warmup` steps from nearly 0 up to 1, then the schedule.
    #[must_use]
    pub fn multiplier(&self, step: u64, total: u64, warmup: u64, min_ratio: f64) -> f64 {
        if step < warmup {
            return (step + 1) as f64 / warmup as f64;
        }
        let kind = match self {
            Self::Milestones { at, factor } => {
                // Compared in whole steps, so that a part of the epochs falls on the step that it names.
                let passed = at.iter().filter(|part| step as f64 + 1e-6 >= **part * total as f64).count();
                return factor.powi(i32::try_from(passed).unwrap_or(i32::MAX));
            }
            Self::Cosine => ScheduleKind::Cosine,
            Self::Linear => ScheduleKind::Linear,
            Self::Constant => ScheduleKind::Constant,
        };
        Schedule { kind, total, warmup, min_ratio }.multiplier(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milestones_fall_on_their_epochs_and_warm_up_ends_at_one() {
        let schedule = VisionSchedule::Milestones { at: default_at(), factor: 0.1 };
        let found = [0, 4, 5, 49, 50, 74, 75, 99].map(|step| schedule.multiplier(step, 100, 5, 0.0));
        for (found, expected) in found.into_iter().zip([0.2, 1.0, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01]) {
            assert!((found - expected).abs() < 1e-12, "{found} instead of {expected}");
        }
        assert_eq!(VisionSchedule::Constant.multiplier(7, 10, 0, 0.0), 1.0);
        assert!(VisionSchedule::Cosine.multiplier(99, 100, 0, 0.0) < 1e-3);
    }
}
