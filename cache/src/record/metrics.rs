//! The measurements of one attempt, a pair of columns for each name.

use std::collections::BTreeMap;

use serde::ser::SerializeSeq as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Measurements by name. NaN and infinities are kept; of two values for one step, the later one counts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Metrics(BTreeMap<String, Series>);

/// The values of one metric. Two series are equal if their values are, where NaN equals NaN.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, try_from = "Columns")]
pub struct Series {
    steps: Vec<Option<u64>>,
    #[serde(serialize_with = "write_values")]
    values: Vec<f64>,
}

impl Metrics {
    /// Adds a value; `step` is `None` for a figure of the whole attempt.
    pub fn push(&mut self, name: &str, step: Option<u64>, value: f64) {
        match self.0.get_mut(name) {
            Some(series) => series.push(step, value),
            None => {
                let mut series = Series::default();
                series.push(step, value);
                self.0.insert(name.to_owned(), series);
            }
        }
    }

    /// The series of one metric.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Series> {
        self.0.get(name)
    }

    /// All series, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Series)> {
        self.0.iter().map(|(name, series)| (name.as_str(), series))
    }

    /// Whether nothing was measured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.values().map(|series| series.values.len()).sum()
    }

    pub(crate) fn normalise(&mut self) {
        self.0.retain(|_, series| !series.values.is_empty());
        self.0.values_mut().for_each(Series::normalise);
    }

    pub(crate) fn last_step(&self) -> u64 {
        self.0.values().flat_map(|series| series.steps.iter().flatten()).copied().max().unwrap_or(0)
    }
}

impl Series {
    pub(crate) fn push(&mut self, step: Option<u64>, value: f64) {
        self.steps.push(step);
        self.values.push(value);
    }

    /// The steps, beside [`Series::values`].
    #[must_use]
    pub fn steps(&self) -> &[Option<u64>] {
        &self.steps
    }

    /// The values, beside [`Series::steps`].
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// Step and value, in order.
    pub fn points(&self) -> impl Iterator<Item = (Option<u64>, f64)> {
        self.steps.iter().copied().zip(self.values.iter().copied())
    }

    /// Sorts by step (the whole attempt first), keeps the last value of each step, and writes zero and NaN in one way.
    fn normalise(&mut self) {
        if !self.steps.is_sorted_by(|a, b| a < b) {
            let points: BTreeMap<Option<u64>, f64> = self.points().collect();
            (self.steps, self.values) = points.into_iter().unzip();
        }
        for value in &mut self.values {
            *value = if value.is_nan() { f64::NAN } else { *value + 0.0 };
        }
    }
}

impl PartialEq for Series {
    fn eq(&self, other: &Self) -> bool {
        let same = |(a, b): (&f64, &f64)| a == b || (a.is_nan() && b.is_nan());
        self.steps == other.steps
            && self.values.len() == other.values.len()
            && self.values.iter().zip(&other.values).all(same)
    }
}

fn write_values<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
    let mut seq = serializer.serialize_seq(Some(values.len()))?;
    for value in values {
        // JSON has no word for these.
        if value.is_finite() {
            seq.serialize_element(value)?;
        } else if value.is_nan() {
            seq.serialize_element("nan")?;
        } else {
            seq.serialize_element(if *value > 0.0 { "inf" } else { "-inf" })?;
        }
    }
    seq.end()
}

/// A series as it is read, before its columns are known to be equally long.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Columns {
    steps: Vec<Option<u64>>,
    #[serde(deserialize_with = "read_values")]
    values: Vec<f64>,
}

impl TryFrom<Columns> for Series {
    type Error = String;

    fn try_from(columns: Columns) -> Result<Self, String> {
        let Columns { steps, values } = columns;
        if steps.len() == values.len() {
            Ok(Self { steps, values })
        } else {
            Err(format!("a metric has {} steps and {} values", steps.len(), values.len()))
        }
    }
}

fn read_values<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(f64),
        Word(Word),
    }
    #[derive(Deserialize)]
    enum Word {
        #[serde(rename = "nan")]
        Nan,
        #[serde(rename = "inf")]
        Infinity,
        #[serde(rename = "-inf")]
        MinusInfinity,
    }
    let values = Vec::<Written>::deserialize(deserializer)?;
    Ok(values
        .into_iter()
        .map(|value| match value {
            Written::Number(number) => number,
            Written::Word(Word::Nan) => f64::NAN,
            Written::Word(Word::Infinity) => f64::INFINITY,
            Written::Word(Word::MinusInfinity) => f64::NEG_INFINITY,
        })
        .collect())
}
