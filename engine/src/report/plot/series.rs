//! Results into series: means over the executions of a group, step by step; the front of the best.

use std::collections::BTreeMap;

use sepia_cache::{Store, StoreError};

use super::chart::{Mark, Series};
use crate::report::query::{Direction, Statistics};

/// More points than this do not fit into the width of a picture.
const POINTS: usize = 500;

/// Curves, and over how many steps each point is a mean.
#[derive(Debug, Clone, Default)]
pub(crate) struct Curves {
    pub(crate) series: Vec<Series>,
    pub(crate) averaged: usize,
}

/// One curve for each group of executions: the mean at each step with a band of one standard deviation.
pub(crate) fn curves(store: &Store, metric: &str, groups: &[(String, Vec<i64>)]) -> Result<Curves, StoreError> {
    let mut all = Curves { series: Vec::new(), averaged: 1 };
    for (label, executions) in groups {
        let mut at_step: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for execution in executions {
            for (step, value) in store.metric_series(*execution, metric)?.points() {
                if let Some(step) = step {
                    at_step.entry(step).or_default().push(value);
                }
            }
        }
        if at_step.is_empty() {
            continue;
        }
        let (points, averaged) = mean_curve(&at_step);
        all.averaged = all.averaged.max(averaged);
        let label = if executions.len() > 1 { format!("{label} (n = {})", executions.len()) } else { label.clone() };
        all.series.push(Series { label, mark: Mark::Line, points, colour: all.series.len() });
    }
    Ok(all)
}

/// The mean at each step with one standard deviation, means of neighbouring steps where there are too many to be drawn;
/// and of how many.
pub(crate) fn mean_curve(at_step: &BTreeMap<u64, Vec<f64>>) -> (Vec<(f64, f64, f64)>, usize) {
    let points: Vec<(f64, f64, f64)> = at_step
        .iter()
        .filter_map(|(step, values)| {
            let found = Statistics::of(values.iter().copied())?;
            #[expect(clippy::cast_precision_loss, reason = "steps on an axis")]
            Some((*step as f64, found.mean, found.deviation.unwrap_or(0.0)))
        })
        .collect();
    let size = points.len().div_ceil(POINTS).max(1);
    let mean = |points: &[(f64, f64, f64)], part: fn(&(f64, f64, f64)) -> f64| {
        Statistics::of(points.iter().map(part)).map_or(f64::NAN, |found| found.mean)
    };
    let points = points.chunks(size).map(|near| (mean(near, |p| p.0), mean(near, |p| p.1), mean(near, |p| p.2)));
    (points.collect(), size)
}

/// The points that no other one beats in both: a lower x is better, y as its direction says. Sorted by x.
pub(crate) fn front(points: &[(f64, f64)], direction: Direction) -> Vec<(f64, f64)> {
    let mut sorted: Vec<(f64, f64)> = points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let better = |a: f64, b: f64| match direction {
        Direction::Lower => a < b,
        Direction::Higher => a > b,
    };
    let order = |a: f64, b: f64| match direction {
        Direction::Lower => a.total_cmp(&b),
        Direction::Higher => b.total_cmp(&a),
    };
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| order(a.1, b.1)));
    let mut best: Vec<(f64, f64)> = Vec::new();
    for point in sorted {
        if best.last().is_none_or(|last| better(point.1, last.1)) {
            best.push(point);
        }
    }
    best
}

/// A metric's or parameter's name with its unit, as far as the name says it.
pub(crate) fn unit(name: &str) -> String {
    let last = name.rsplit('.').next().unwrap_or(name);
    let unit = match last {
        "step" | "max_steps" | "warmup_steps" => "optimizer steps",
        "lr" => "per step",
        "accuracy" | "val_accuracy" | "test_accuracy" => "share of all",
        "parameters" | "trainable_parameters" => "count",
        "tokens_per_second" => "tokens/s",
        "bits_per_byte" => "bits",
        _ if last.ends_with("_bytes") => "bytes",
        _ if last.ends_with("seconds") => "s",
        _ if last.ends_with("perplexity") => "exp of nats per token",
        _ if last == "loss" || last.ends_with("_loss") => "nats",
        _ => return name.to_owned(),
    };
    format!("{name} ({unit})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn long_curves_are_thinned_to_means() {
        let long: BTreeMap<u64, Vec<f64>> = (0..1000).map(|step| (step, vec![1.0, 3.0])).collect();
        let (points, size) = mean_curve(&long);
        assert_eq!((points.len(), size, points[0]), (500, 2, (0.5, 2.0, 2.0_f64.sqrt())));
        assert_eq!(mean_curve(&BTreeMap::from([(3, vec![f64::NAN])])).1, 1);
    }

    proptest! {
        #[test]
        fn nothing_beats_the_front(points in prop::collection::vec((0..9, 0..9), 1..30), lower in any::<bool>()) {
            let points: Vec<(f64, f64)> = points.into_iter().map(|(x, y)| (f64::from(x), f64::from(y))).collect();
            let direction = if lower { Direction::Lower } else { Direction::Higher };
            let best = front(&points, direction);
            let beats = |a: &(f64, f64), b: &(f64, f64)| {
                let no_worse = if lower { a.1 <= b.1 } else { a.1 >= b.1 };
                a.0 <= b.0 && no_worse && a != b
            };
            prop_assert!(best.iter().all(|one| !points.iter().any(|other| beats(other, one))));
            prop_assert!(points.iter().all(|one| best.contains(one) || best.iter().any(|other| beats(other, one))));
        }
    }
}
