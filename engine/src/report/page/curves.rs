//! The curves of a run: one chart for each metric that was measured step by step.

use std::collections::BTreeMap;

use crate::report::{
    plot::{Axis, Chart, Mark, Series, mean_curve, unit},
    query::direction,
    run_view::RunView,
};

/// Charts beyond this are left to `sepia plot`.
const CHARTS: usize = 8;
/// With more nodes than this, the cells of a stage become a mean with a band.
const LINES: usize = 8;

/// The values of one metric of one node, by step.
type Steps = BTreeMap<u64, f64>;

/// The charts, those about good and bad first, how fast it went after them; and how many there would be.
pub(super) fn charts(view: &RunView) -> (Vec<Chart>, usize) {
    let mut metrics: BTreeMap<String, Vec<(&str, Steps)>> = BTreeMap::new();
    for node in &view.nodes {
        let mut of_node: BTreeMap<&str, Steps> = BTreeMap::new();
        for point in &node.metrics {
            if let Some(step) = point.step {
                of_node.entry(&point.name).or_default().insert(step, point.value);
            }
        }
        for (name, series) in node.record.iter().flat_map(|record| record.metrics.iter()) {
            let points = series.points().filter_map(|(step, value)| Some((step?, value)));
            of_node.entry(name).or_default().extend(points);
        }
        for (name, steps) in of_node.into_iter().filter(|(_, steps)| steps.len() > 1) {
            metrics.entry(name.to_owned()).or_default().push((&node.node, steps));
        }
    }
    let all = metrics.len();
    let mut metrics: Vec<_> = metrics.into_iter().collect();
    let order = |name: &str| (direction(name).is_none(), name.ends_with("_per_second"));
    metrics.sort_by(|(a, _), (b, _)| (order(a), a).cmp(&(order(b), b)));
    metrics.truncate(CHARTS);
    (metrics.into_iter().map(|(name, nodes)| chart(&name, nodes)).collect(), all)
}

fn chart(metric: &str, nodes: Vec<(&str, Steps)>) -> Chart {
    let together = nodes.len() > LINES;
    let mut groups: Vec<(String, Vec<Steps>)> = Vec::new();
    for (node, steps) in nodes {
        let name = if together { node.split('[').next().unwrap_or_default() } else { node };
        match groups.iter_mut().find(|(known, _)| known == name) {
            Some((_, all)) => all.push(steps),
            None => groups.push((name.to_owned(), vec![steps])),
        }
    }
    let mut averaged = 1;
    let series = groups.into_iter().enumerate().map(|(colour, (name, all))| {
        let label = if all.len() > 1 { format!("{name} (n = {})", all.len()) } else { name };
        let mut at_step: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for (step, value) in all.into_iter().flatten() {
            at_step.entry(step).or_default().push(value);
        }
        let (points, size) = mean_curve(&at_step);
        averaged = averaged.max(size);
        Series { label, mark: Mark::Line, points, colour }
    });
    let series = series.collect();
    let x = if averaged > 1 { format!("step (means of {averaged})") } else { "step".to_owned() };
    Chart {
        title: metric.to_owned(),
        x: Axis { title: x, log: false },
        y: Axis { title: unit(metric), log: false },
        series,
        categories: Vec::new(),
    }
}
