//! The metrics file that a stage writes while it runs.
//!
//! One line a point, `name<TAB>step<TAB>value`, with `-` as the step of a figure that belongs to the whole stage. Text
//! with Rust's shortest round-trip floats: NaN and infinities survive, a torn last line is recognised (it has no
//! newline), and `cut` and `awk` read it while a stage runs.

use std::fmt::Write as _;

/// One figure of one stage.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricPoint {
    /// `loss`, `val_loss`, ...
    pub name: String,
    /// The step it belongs to; `None` for a figure of the whole stage.
    pub step: Option<u64>,
    /// The figure; may be NaN or infinite.
    pub value: f64,
}

impl MetricPoint {
    /// The line of the metrics file, with its newline.
    #[must_use]
    pub fn to_line(&self) -> String {
        let mut line = String::with_capacity(32);
        let _ = match self.step {
            Some(step) => writeln!(line, "{}\t{step}\t{}", self.name, self.value),
            None => writeln!(line, "{}\t-\t{}", self.name, self.value),
        };
        line
    }
}

/// Reads a metrics file; lines that are torn or not of this form are left out.
#[must_use]
pub fn parse_metrics(text: &str) -> Vec<MetricPoint> {
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    whole
        .lines()
        .filter_map(|line| {
            let mut parts = line.split('\t');
            let (name, step, value) = (parts.next()?, parts.next()?, parts.next()?);
            let step = if step == "-" { None } else { Some(step.parse().ok()?) };
            Some(MetricPoint { name: name.to_owned(), step, value: value.parse().ok()? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_survive_a_round_trip_and_a_torn_line_is_dropped() {
        let points = vec![
            MetricPoint { name: "loss".into(), step: Some(3), value: 0.1 + 0.2 },
            MetricPoint { name: "loss".into(), step: Some(4), value: f64::INFINITY },
            MetricPoint { name: "val_loss".into(), step: None, value: 1e-300 },
        ];
        let mut text: String = points.iter().map(MetricPoint::to_line).collect();
        text.push_str("loss\t5\t0.12");
        assert_eq!(parse_metrics(&text), points);
    }
}
