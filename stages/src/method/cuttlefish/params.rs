//! What a manifest says about Cuttlefish.

use schemars::JsonSchema;
use sepia_engine::stage::Check;
use serde::{Deserialize, Serialize};

use super::{Constants, Preset, Relaxation, Rewarm};

/// Cuttlefish: full-rank epochs until the stable ranks settle, then factors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CuttlefishParams {
    /// The constants of the public code: `cifar`, `imagenet` or `transformer`. The fields below replace single ones.
    pub preset: Preset,
    /// Points of the exponential average of a trace (weight `2 / (points + 1)`): 15, 5, 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub points: Option<usize>,
    /// Epochs over which the slope is averaged: 11, 5, 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail: Option<usize>,
    /// No layer has settled before this epoch, counted from 0: 15, 5, 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_epoch: Option<usize>,
    /// Largest mean slope of a layer that has settled, in ranks per epoch: 0.1, 0.33, 0.411.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// While few layers are unsettled, their threshold is multiplied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relaxations: Option<Vec<Relaxation>>,
    /// Smallest rank as a part of min(m, n): 0, 0.2, 0.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lower: Option<f64>,
    /// Rounds stable ranks down before they are compared and scaled, as the public code does. It is coarse where ranks are
    /// small: a rank of 1 at the start makes every later one full.
    pub integer_ranks: bool,
    /// Multiplies stable ranks by `q / stable rank at the start`, so that a weight that has not changed has full rank. Off,
    /// the stable rank itself is the rank.
    pub scaled: bool,
    /// A rank is at least the count of singular values that make up this share of their sum (0.8 for transformers in the
    /// paper); 0 turns it off.
    pub accumulative: f64,
    /// Which layers are factorised: names or patterns. When left out, all from the first stack of layers on that gets
    /// faster: by the timings of the input `profile`, or by counting multiplications where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<String>>,
    /// How many times faster a stack must be.
    pub min_speedup: f64,
    /// The rank at which multiplications are counted, as a part of min(m, n).
    pub rank_ratio: f64,
    /// Factorises after this many epochs in full instead of when the ranks settle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switch_epoch: Option<u64>,
    /// No switch after this part of all epochs.
    pub latest: f64,
    /// Weight of the Frobenius decay, `lambda / 2 ||U V||_F^2`, in place of weight decay on the factors; `weight_decay` when
    /// left out. 0 turns it off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frobenius_decay: Option<f64>,
    /// Frobenius decay in one of so many steps, with so many times the weight; 1 when left out. At every step it takes
    /// `4 r^2 n` multiplications for an `n x n` matrix of rank r, whatever the batch, where training the factors on B rows
    /// takes `6 B r n`: more, in linear layers of a rank above 1.5 B.
    #[serde(skip_serializing_if = "is_one")]
    pub frobenius_every: u64,
    /// A BatchNorm between the factors of convolutions. It excludes Frobenius decay.
    pub extra_norm: bool,
    /// How the learning rate rises at the start and again from the switch on.
    pub rewarm: Rewarm,
}

/// What stood for itself before it could be said is left out of keys.
fn is_one(number: &u64) -> bool {
    *number == 1
}

impl Default for CuttlefishParams {
    fn default() -> Self {
        Self {
            preset: Preset::default(),
            points: None,
            tail: None,
            min_epoch: None,
            threshold: None,
            relaxations: None,
            lower: None,
            integer_ranks: false,
            scaled: true,
            accumulative: 0.0,
            layers: None,
            min_speedup: 1.5,
            rank_ratio: 0.25,
            switch_epoch: None,
            latest: 0.9,
            frobenius_decay: None,
            frobenius_every: 1,
            extra_norm: false,
            rewarm: Rewarm::default(),
        }
    }
}

impl CuttlefishParams {
    /// The preset's constants with the given ones in their place.
    #[must_use]
    pub fn constants(&self) -> Constants {
        let preset = self.preset.constants();
        Constants {
            points: self.points.unwrap_or(preset.points),
            tail: self.tail.unwrap_or(preset.tail),
            min_epoch: self.min_epoch.unwrap_or(preset.min_epoch),
            threshold: self.threshold.unwrap_or(preset.threshold),
            relaxations: self.relaxations.clone().unwrap_or(preset.relaxations),
            lower: self.lower.unwrap_or(preset.lower),
            after_epoch: preset.after_epoch,
        }
    }

    /// The first epoch (from 0) that may no longer begin with a switch.
    #[must_use]
    pub fn too_late(&self, epochs: u64) -> u64 {
        (self.latest * epochs as f64).ceil() as u64
    }

    /// Reports what cannot work. `prefix` is the parameter's own name.
    pub fn check(&self, prefix: &str, check: &mut Check<'_>) {
        let at = |name: &str| if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        let constants = self.constants();
        for (name, count) in [("points", constants.points), ("tail", constants.tail)] {
            if count == 0 {
                check.problem(at(name), format!("`{name}` must be at least 1"), "");
            }
        }
        let mut range = |name: &str, value: f64, fits: bool, allowed: &str| {
            if !fits {
                check.problem(at(name), format!("`{name}` is {value}, but must be {allowed}"), "");
            }
        };
        let share = |value: f64| value > 0.0 && value <= 1.0;
        range(
            "threshold",
            constants.threshold,
            constants.threshold > 0.0 && constants.threshold.is_finite(),
            "above 0",
        );
        range("lower", constants.lower, (0.0..=1.0).contains(&constants.lower), "between 0 and 1");
        range("accumulative", self.accumulative, (0.0..=1.0).contains(&self.accumulative), "between 0 and 1");
        range("min_speedup", self.min_speedup, self.min_speedup > 0.0 && self.min_speedup.is_finite(), "above 0");
        range("rank_ratio", self.rank_ratio, share(self.rank_ratio), "above 0 and at most 1");
        range("latest", self.latest, share(self.latest), "above 0 and at most 1");
        range("rewarm.from", self.rewarm.from, share(self.rewarm.from), "above 0 and at most 1");
        range("rewarm.after", self.rewarm.after, self.rewarm.after > 0.0 && self.rewarm.after.is_finite(), "above 0");
        let decay = self.frobenius_decay.unwrap_or(0.0);
        range("frobenius_decay", decay, (0.0..1.0).contains(&decay), "at least 0 and below 1");
        let every = self.frobenius_every;
        range("frobenius_every", every as f64, every > 0, "at least 1");
        if self.extra_norm && self.frobenius_decay.is_some_and(|decay| decay > 0.0) {
            check.problem(
                at("extra_norm"),
                "`extra_norm` and `frobenius_decay` exclude each other",
                "the norm undoes the size that the decay presses on; keep one of them",
            );
        }
    }

    /// Reports a switch that cannot happen in a run of this many epochs, or two rises of the learning rate at its start.
    /// `prefix` is the parameter's own name.
    pub fn check_run(&self, prefix: &str, (epochs, warmup_epochs): (u64, u64), check: &mut Check<'_>) {
        if warmup_epochs > 0 && self.rewarm.epochs > 0 {
            let message = format!("`warmup_epochs` and `{prefix}.rewarm` both raise the learning rate at the start");
            check.problem("warmup_epochs", message, "leave `warmup_epochs` out");
        }
        let last = self.too_late(epochs);
        let first = self.switch_epoch.unwrap_or(self.constants().min_epoch as u64 + 1);
        if epochs > 0 && first >= last {
            let name = if self.switch_epoch.is_some() { "switch_epoch" } else { "min_epoch" };
            let message = format!(
                "the switch comes at epoch {first} at the earliest, and at {} at the latest",
                last.saturating_sub(1)
            );
            let help = format!("raise `epochs` ({epochs}), or lower `{name}`");
            check.problem(if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }, message, help);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(value: serde_json::Value, epochs: u64) -> Vec<String> {
        let params: CuttlefishParams = serde_json::from_value(value).unwrap();
        let inputs = [].into();
        let mut check = Check::new(&inputs, camino::Utf8Path::new("."));
        params.check("method", &mut check);
        params.check_run("method", (epochs, 0), &mut check);
        check.finish().1.into_iter().map(|problem| format!("{}: {}", problem.param, problem.message)).collect()
    }

    #[test]
    fn defaults_work_and_what_excludes_each_other_is_refused() {
        assert_eq!(problems(serde_json::json!({}), 300), Vec::<String>::new());
        assert_eq!(problems(serde_json::json!({ "extra_norm": true }), 300), Vec::<String>::new());
        assert_eq!(
            problems(
                serde_json::json!({ "extra_norm": true, "frobenius_decay": 1e-4, "frobenius_every": 0, "tail": 0 }),
                300
            ),
            [
                "method.tail: `tail` must be at least 1",
                "method.frobenius_every: `frobenius_every` is 0, but must be at least 1",
                "method.extra_norm: `extra_norm` and `frobenius_decay` exclude each other"
            ]
        );
    }

    #[test]
    fn a_run_too_short_to_switch_is_refused_before_it_begins() {
        assert_eq!(
            problems(serde_json::json!({}), 10),
            ["method.min_epoch: the switch comes at epoch 16 at the earliest, and at 8 at the latest"]
        );
        assert_eq!(problems(serde_json::json!({ "switch_epoch": 3 }), 10), Vec::<String>::new());
    }
}
