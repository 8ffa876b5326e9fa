//! Learning-rate schedules: the multiplier of the base learning rate at each optimizer update.
//!
//! Updates are counted from 0 and the multiplier of update 0 is 0 when there is a warm-up, as in the public code of
//! GaLore and ReLoRA: the first update then changes no weight, but fills the moments.

use std::f64::consts::PI;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The shape of the schedule after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ScheduleKind {
    /// Half a cosine from 1 down to `min_lr_ratio`, as in GaLore and Fira.
    #[default]
    #[serde(rename = "cosine")]
    Cosine,
    /// The cosine of ReLoRA: to 0 every `every` updates and up again within `restart_warmup`.
    JaggedCosine {
        /// Updates between two restarts; must divide the number of updates.
        every: u64,
        /// Updates of each warm-up but the first.
        restart_warmup: u64,
        /// Shifts the restarts; updates already made before this schedule began.
        #[serde(default)]
        adjust: u64,
    },
    /// A straight line from 1 down to `min_lr_ratio`.
    Linear,
    /// 1 throughout.
    Constant,
    /// Multiplied by `factor` every `every` updates, never below `min_lr_ratio`.
    Step {
        /// Updates between two steps.
        every: u64,
        /// What the multiplier is multiplied by.
        factor: f64,
    },
}

/// A complete schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The shape.
    pub kind: ScheduleKind,
    /// Number of updates.
    pub total: u64,
    /// Updates of linear warm-up from 0.
    pub warmup: u64,
    /// The multiplier at the end.
    pub min_ratio: f64,
}

impl Schedule {
    /// The multiplier at one update, counted from 0.
    #[must_use]
    pub fn multiplier(&self, update: u64) -> f64 {
        match self.kind {
            ScheduleKind::Cosine => self.cosine(update),
            ScheduleKind::JaggedCosine { every, restart_warmup, adjust } => {
                self.jagged(update, every, restart_warmup, adjust)
            }
            _ if update < self.warmup => self.warming(update),
            ScheduleKind::Linear => {
                self.min_ratio + (1.0 - self.min_ratio) * (1.0 - self.progress(update as f64)).max(0.0)
            }
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Step { every, factor } => {
                let steps = (update - self.warmup) / every.max(1);
                factor.powf(steps as f64).max(self.min_ratio)
            }
        }
    }

    fn warming(&self, update: u64) -> f64 {
        update as f64 / self.warmup as f64
    }

    /// 0 at the end of the warm-up, 1 at the end of training.
    fn progress(&self, update: f64) -> f64 {
        (update - self.warmup as f64) / (self.total.saturating_sub(self.warmup).max(1)) as f64
    }

    fn half_cosine(&self, progress: f64) -> f64 {
        self.min_ratio + (1.0 - self.min_ratio) * 0.5 * (1.0 + (PI * progress).cos())
    }

    /// Wraps around after `total` updates. From the second round on, the first two updates get 1e-7 instead of 0, as in
    /// the public code of GaLore.
    fn cosine(&self, update: u64) -> f64 {
        let within = update % self.total.max(1);
        if within >= self.warmup {
            return self.half_cosine(self.progress(within as f64));
        }
        if update != within && within < 2 { 1e-7 } else { self.warming(within) }
    }

    /// The form of the ReLoRA repository, which reaches the cosine at the end of each restart's warm-up; the copy inside
    /// the GaLore repository ramps to another plateau and then jumps.
    fn jagged(&self, update: u64, every: u64, restart_warmup: u64, adjust: u64) -> f64 {
        if update < self.warmup {
            return self.warming(update);
        }
        let shifted = update + adjust;
        let (round, within) = (shifted / every.max(1), shifted % every.max(1));
        if within < restart_warmup && update >= every {
            let target = self.progress((round * every + restart_warmup) as f64);
            within as f64 / restart_warmup as f64 * self.half_cosine(target)
        } else {
            self.half_cosine(self.progress(shifted as f64))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{floats, vector};

    fn assert_vector(id: &str, schedule: impl Fn(&serde_json::Value) -> Schedule) {
        let entry = vector(id);
        let schedule = schedule(&entry["inputs"]);
        let (steps, expected) = (floats(&entry["inputs"]["steps"]), floats(&entry["expected"]["mult"]));
        assert!(!steps.is_empty());
        for (step, expected) in steps.iter().zip(expected) {
            let found = schedule.multiplier(*step as u64);
            assert!((found - expected).abs() < 1e-9, "{id} at {step}: {found} instead of {expected}");
        }
    }

    fn jagged(inputs: &serde_json::Value) -> Schedule {
        let number = |name: &str| inputs[name].as_u64().unwrap();
        Schedule {
            kind: ScheduleKind::JaggedCosine {
                every: number("restart_every"),
                restart_warmup: number("restart_warmup"),
                adjust: number("adjust"),
            },
            total: number("total"),
            warmup: number("warmup"),
            min_ratio: inputs["min_ratio"].as_f64().unwrap(),
        }
    }

    #[test]
    fn the_cosine_is_that_of_galore() {
        assert_vector("lr_cosine_galore", |inputs| Schedule {
            kind: ScheduleKind::Cosine,
            total: inputs["total"].as_u64().unwrap(),
            warmup: inputs["warmup"].as_u64().unwrap(),
            min_ratio: inputs["min_ratio"].as_f64().unwrap(),
        });
    }

    #[test]
    fn the_jagged_cosine_is_that_of_relora() {
        assert_vector("lr_jagged_relora", jagged);
        assert_vector("lr_jagged_small", jagged);
    }

    #[test]
    fn the_others_begin_at_one_after_the_warm_up_and_end_where_they_should() {
        let schedule = |kind| Schedule { kind, total: 110, warmup: 10, min_ratio: 0.2 };
        let kinds = [
            (ScheduleKind::Linear, 0.6, 0.2),
            (ScheduleKind::Constant, 1.0, 1.0),
            (ScheduleKind::Step { every: 50, factor: 0.5 }, 0.5, 0.25),
        ];
        for (kind, middle, end) in kinds {
            let schedule = schedule(kind);
            let found = [0, 5, 10, 60, 110].map(|update| schedule.multiplier(update));
            for (found, expected) in found.into_iter().zip([0.0, 0.5, 1.0, middle, end]) {
                assert!((found - expected).abs() < 1e-12, "{kind:?}: {found} instead of {expected}");
            }
        }
    }
}
