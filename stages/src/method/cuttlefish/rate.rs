//! Cuttlefish's learning rate: it rises at the start, and again from the switch on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Multiplies the learning rate of the run's schedule, epoch by epoch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rewarm {
    /// Epochs over which the rate rises, at the start and again from the switch on; 0 for none. It takes the place of the
    /// run's own `warmup_epochs`.
    pub epochs: u64,
    /// The part of the scheduled rate that it rises from.
    pub from: f64,
    /// What the rate is multiplied by from the switch on: 1 for convolutional networks, 1/3 for DeiT.
    pub after: f64,
}

impl Default for Rewarm {
    /// As in the public CIFAR script: from 0.1 to 0.8 in 5 epochs.
    fn default() -> Self {
        Self { epochs: 5, from: 0.125, after: 1.0 }
    }
}

impl Rewarm {
    /// The multiplier of an epoch (from 0) when the switch happened at `switch`.
    #[must_use]
    pub fn multiplier(&self, epoch: u64, switch: Option<u64>) -> f64 {
        let switch = switch.filter(|switch| *switch <= epoch);
        let since = epoch - switch.unwrap_or(0);
        let rising =
            if since < self.epochs { self.from + (1.0 - self.from) * since as f64 / self.epochs as f64 } else { 1.0 };
        rising * switch.map_or(1.0, |_| self.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        train::vision::VisionSchedule,
        vectors::{assert_near, vector},
    };

    #[test]
    fn vector_cuttlefish_lr() {
        let vector = vector("cuttlefish_lr");
        let (base, peak): (f64, f64) = (vector.input("base"), vector.input("multiplier"));
        let rule = Rewarm { epochs: vector.input("warmup"), from: 1.0 / peak, after: 1.0 };
        assert_eq!(rule, Rewarm::default());
        let schedule = VisionSchedule::Milestones { at: vec![0.5, 0.75], factor: 0.1 };
        let (total, switch): (u64, u64) = (vector.input("total"), vector.input("switch"));
        let epochs: Vec<u64> = vector.input("epochs");
        for (epoch, expected) in epochs.into_iter().zip(vector.expected::<Vec<f64>>("lr")) {
            let scheduled = base * peak * schedule.multiplier(epoch, total, 0, 0.0);
            assert_near(scheduled * rule.multiplier(epoch, Some(switch)), expected, vector.tol());
        }
    }

    #[test]
    fn without_a_switch_the_rate_stays_up_and_a_factor_holds_from_the_switch_on() {
        let rule = Rewarm { after: 0.5, ..Rewarm::default() };
        assert_eq!(rule.multiplier(77, None), 1.0);
        assert_eq!([76, 77, 82].map(|epoch| rule.multiplier(epoch, Some(77))), [1.0, 0.0625, 0.5]);
    }
}
