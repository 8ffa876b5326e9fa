//! The constants that Cuttlefish's public code uses for three kinds of networks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A set of constants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// ResNet-18 and VGG-19 on CIFAR and SVHN.
    #[default]
    Cifar,
    /// ResNet-50 on ImageNet.
    Imagenet,
    /// DeiT and ResMLP on ImageNet.
    Transformer,
}

/// While few layers are left unstable, their threshold is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Relaxation {
    /// From this many unstable layers (counted before the epoch) ...
    pub from: usize,
    /// ... to this many.
    pub to: usize,
    /// What the threshold is multiplied by.
    pub factor: f64,
}

/// When the switch happens and which ranks it gives.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Constants {
    /// The trace is smoothed by an exponential average of weight `2 / (points + 1)`.
    pub points: usize,
    /// Epochs over which the slope is averaged.
    pub tail: usize,
    /// No layer is stable before this epoch (from 0).
    pub min_epoch: usize,
    /// Largest mean slope of a stable layer, in ranks per epoch.
    pub threshold: f64,
    /// Relaxations of the threshold.
    pub relaxations: Vec<Relaxation>,
    /// Smallest rank, as a part of min(m, n), rounded down.
    pub lower: f64,
    /// Whether the value measured after an epoch counts for the decision after it. The CIFAR script measures before
    /// epochs, the others after them.
    pub after_epoch: bool,
}

impl Preset {
    /// The constants of this preset.
    #[must_use]
    pub fn constants(self) -> Constants {
        let relax = |from, to, factor| Relaxation { from, to, factor };
        match self {
            Preset::Cifar => Constants {
                points: 15,
                tail: 11,
                min_epoch: 15,
                threshold: 0.1,
                relaxations: vec![relax(2, 2, 2.5), relax(1, 1, 5.0)],
                lower: 0.0,
                after_epoch: false,
            },
            Preset::Imagenet => Constants {
                points: 5,
                tail: 5,
                min_epoch: 5,
                threshold: 0.33,
                relaxations: vec![relax(4, 6, 2.5), relax(1, 3, 5.0)],
                lower: 0.2,
                after_epoch: true,
            },
            Preset::Transformer => Constants {
                points: 5,
                tail: 5,
                min_epoch: 5,
                threshold: 0.411,
                relaxations: vec![relax(5, 9, 2.5), relax(1, 4, 5.0)],
                lower: 0.5,
                after_epoch: true,
            },
        }
    }
}

impl Constants {
    /// The threshold while `unstable` layers are left.
    #[must_use]
    pub fn threshold_at(&self, unstable: usize) -> f64 {
        let found = self.relaxations.iter().find(|relax| (relax.from..=relax.to).contains(&unstable));
        self.threshold * found.map_or(1.0, |relax| relax.factor)
    }

    /// `ceil(now * q / at_init)`, at least `floor(lower * q)` and 1, at most q.
    #[must_use]
    pub fn rank(&self, now: f64, at_init: f64, q: usize) -> usize {
        let scaled = if at_init > 0.0 { now * q as f64 / at_init } else { q as f64 };
        let lower = ((self.lower * q as f64 + 1e-9).floor() as usize).max(1);
        ((scaled - 1e-9).ceil() as usize).clamp(lower.min(q), q)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::vector;

    #[test]
    fn vector_cuttlefish_rank_pick() {
        let vector = vector("cuttlefish_rank_pick");
        let cases: Vec<(f64, f64, usize, Option<f64>)> = vector.input("cases_er_er0_full_lower");
        let found: Vec<usize> = cases
            .into_iter()
            .map(|(now, at_init, q, lower)| {
                Constants { lower: lower.unwrap_or(0.0), ..Preset::Cifar.constants() }.rank(now, at_init, q)
            })
            .collect();
        assert_eq!(found, vector.expected::<Vec<usize>>("rank"));
    }

    #[test]
    fn thresholds_relax_as_the_presets_say() {
        let at = |preset: Preset, unstable| preset.constants().threshold_at(unstable) / preset.constants().threshold;
        assert_eq!([3, 2, 1].map(|n| at(Preset::Cifar, n)), [1.0, 2.5, 5.0]);
        assert_eq!([7, 6, 4, 3, 1].map(|n| at(Preset::Imagenet, n)), [1.0, 2.5, 2.5, 5.0, 5.0]);
        assert_eq!([10, 9, 5, 4, 1].map(|n| at(Preset::Transformer, n)), [1.0, 2.5, 2.5, 5.0, 5.0]);
    }

    #[test]
    fn float_ranks_are_finer_than_truncated_ones() {
        // Truncated, 1.9 counts as 1 and any rank scales to the full one; in floats half the rank is half.
        let constants = Preset::Cifar.constants();
        assert_eq!(constants.rank(1.0, 1.0, 16), 16);
        assert_eq!(constants.rank(1.2, 1.9, 16), 11);
    }
}
