//! When the stable ranks have settled.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Constants;

/// The stable ranks of one layer, one value an epoch.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Trace {
    /// In the order in which they were measured.
    pub values: Vec<f64>,
    /// Whether it has settled; once it has, it stays so.
    pub stable: bool,
}

impl Trace {
    /// Mean of the last `tail` absolute slopes of the smoothed trace, in ranks per epoch; `None` while it is shorter than
    /// two.
    #[must_use]
    pub fn slope(&self, points: usize, tail: usize) -> Option<f64> {
        let slopes = gradient(&smoothed(&self.values, points));
        let last = &slopes[slopes.len().saturating_sub(tail)..];
        (!last.is_empty()).then(|| last.iter().map(|x| x.abs()).sum::<f64>() / last.len() as f64)
    }
}

/// Exponential average of weight `2 / (points + 1)` that starts at the first value.
fn smoothed(values: &[f64], points: usize) -> Vec<f64> {
    let weight = 2.0 / (points as f64 + 1.0);
    let mut average = values.first().copied().unwrap_or(0.0);
    let next = |value: &f64| {
        average += weight * (value - average);
        average
    };
    values.iter().map(next).collect()
}

/// Slopes as numpy's `gradient` has them: one-sided at both ends, central elsewhere; none for fewer than two values.
fn gradient(values: &[f64]) -> Vec<f64> {
    let n = values.len();
    if n < 2 {
        return Vec::new();
    }
    let at = |k: usize| match k {
        0 => values[1] - values[0],
        k if k == n - 1 => values[k] - values[k - 1],
        k => (values[k + 1] - values[k - 1]) / 2.0,
    };
    (0..n).map(at).collect()
}

/// The traces of all tracked layers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Detector {
    /// By layer name.
    pub traces: BTreeMap<String, Trace>,
}

impl Detector {
    /// Adds the stable ranks of one epoch.
    pub fn push(&mut self, ranks: &BTreeMap<String, f64>) {
        for (name, rank) in ranks {
            self.traces.entry(name.clone()).or_default().values.push(*rank);
        }
    }

    /// Layers that have not settled.
    #[must_use]
    pub fn unstable(&self) -> usize {
        self.traces.values().filter(|trace| !trace.stable).count()
    }

    /// Updates which layers have settled after `epoch` (from 0), and says whether all have: the switch is then due at
    /// `epoch + 1`. The threshold depends on how many layers were unstable before this epoch.
    pub fn settle(&mut self, epoch: usize, constants: &Constants) -> bool {
        let threshold = constants.threshold_at(self.unstable());
        if epoch >= constants.min_epoch {
            for trace in self.traces.values_mut().filter(|trace| !trace.stable) {
                let slope = trace.slope(constants.points, constants.tail);
                trace.stable = slope.is_some_and(|slope| slope <= threshold);
            }
        }
        !self.traces.is_empty() && self.unstable() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        method::cuttlefish::Preset,
        vectors::{assert_near, vector},
    };

    fn trace(values: &[f64]) -> Trace {
        Trace { values: values.to_vec(), stable: false }
    }

    /// The epoch after which the switch is due, when `initial` values come before the first epoch.
    fn first_stable(values: &[f64], initial: usize, constants: &Constants) -> Option<usize> {
        let mut detector = Detector::default();
        values.iter().enumerate().find_map(|(index, value)| {
            detector.push(&[("layer".to_owned(), *value)].into());
            let epoch = index.checked_sub(initial)?;
            detector.settle(epoch, constants).then_some(epoch)
        })
    }

    #[test]
    fn vector_cuttlefish_trace_cifar() {
        let vector = vector("cuttlefish_trace_cifar");
        let values: Vec<f64> = vector.input("trace");
        let constants = Constants { relaxations: Vec::new(), ..Preset::Cifar.constants() };
        assert_eq!(constants.points, vector.input::<usize>("points"));
        assert_eq!(constants.tail, vector.input::<usize>("tail"));
        assert_eq!(constants.min_epoch, vector.input::<usize>("min_epoch"));
        assert_eq!(constants.threshold, vector.input::<f64>("threshold"));
        let smooth = smoothed(&values[..5], constants.points);
        for (found, expected) in smooth.iter().zip(vector.expected::<Vec<f64>>("ema_first5")) {
            assert_near(*found, expected, vector.tol());
        }
        for (index, expected) in vector.expected::<Vec<f64>>("stat_from_epoch15").into_iter().enumerate() {
            let found = trace(&values[..=15 + index]).slope(constants.points, constants.tail).unwrap();
            assert_near(found, expected, vector.tol());
        }
        assert_eq!(first_stable(&values, 0, &constants), Some(vector.expected("first_stable_epoch")));
        // With two layers left all along, the threshold is 0.25: the one that settled switches nothing alone.
        let relaxed = Constants { threshold: constants.threshold * 2.5, ..constants };
        let expected = vector.expected::<usize>("first_stable_epoch_if_2_layers_remain_thr_0.25");
        assert_eq!(first_stable(&values, 0, &relaxed), Some(expected));
    }

    #[test]
    fn while_two_layers_are_left_their_threshold_is_relaxed() {
        let vector = vector("cuttlefish_trace_cifar");
        let values: Vec<f64> = vector.input("trace");
        let mut detector = Detector::default();
        let constants = Preset::Cifar.constants();
        let switch = values.iter().enumerate().find_map(|(epoch, value)| {
            detector.push(&[("a".to_owned(), *value), ("b".to_owned(), *value)].into());
            detector.settle(epoch, &constants).then_some(epoch)
        });
        assert_eq!(switch, Some(vector.expected("first_stable_epoch_if_2_layers_remain_thr_0.25")));
    }

    #[test]
    fn vector_cuttlefish_trace_deit() {
        let vector = vector("cuttlefish_trace_deit");
        let values: Vec<f64> = vector.input("trace_from_epoch_minus1");
        let constants = Constants { relaxations: Vec::new(), ..Preset::Transformer.constants() };
        assert_eq!((constants.points, constants.tail), (vector.input("points"), vector.input("tail")));
        assert_eq!((constants.threshold, constants.min_epoch), (vector.input("threshold"), vector.input("min_epoch")));
        let stable: Vec<bool> = vector.expected("stable");
        let looser: Vec<bool> = vector.expected("stable_imagenet_resnet_thr_0.33");
        for (index, expected) in vector.expected::<Vec<f64>>("stat_from_epoch5").into_iter().enumerate() {
            // The value at initialisation comes first: epoch 5 has seven of them.
            let found = trace(&values[..7 + index]).slope(constants.points, constants.tail).unwrap();
            assert_near(found, expected, vector.tol());
            assert_eq!(found <= constants.threshold, stable[index]);
            assert_eq!(found <= Preset::Imagenet.constants().threshold, looser[index]);
        }
        assert_eq!(first_stable(&values, 1, &constants), Some(vector.expected("first_stable_epoch")));
    }

    #[test]
    fn a_layer_that_settled_stays_so() {
        let mut detector = Detector::default();
        let constants = Constants { min_epoch: 0, ..Preset::Cifar.constants() };
        for epoch in 0..3 {
            detector.push(&[("a".to_owned(), 4.0)].into());
            detector.settle(epoch, &constants);
        }
        detector.push(&[("a".to_owned(), 400.0)].into());
        assert!(detector.settle(3, &constants));
    }

    #[test]
    fn nothing_tracked_never_switches() {
        assert!(!Detector::default().settle(100, &Preset::Cifar.constants()));
    }
}
