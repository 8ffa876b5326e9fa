//! Mean and standard deviation over seeds.
//!
//! Two executions of one key are one result: only the newest of them counts, or a repeated run would pass for a second
//! seed. The deviation is that of a sample (n - 1).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hasher as _},
};

use sepia_cache::{ParamRef, StoreError};

use super::{Cell, Column, Frame};

/// Rows that have the same values in the grouping columns.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Group {
    pub(crate) kind: String,
    pub(crate) values: Vec<Cell>,
    /// One for each key, in the order of the frame.
    pub(crate) rows: Vec<usize>,
}

/// Of the values that are there and are numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Statistics {
    pub(crate) n: usize,
    pub(crate) mean: f64,
    /// `None` for a single value.
    pub(crate) deviation: Option<f64>,
}

impl Statistics {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        // Welford's way loses no digits where values are large and close to each other.
        let (mut n, mut mean, mut squares) = (0_usize, 0.0, 0.0);
        for value in values {
            n += 1;
            let away = value - mean;
            #[expect(clippy::cast_precision_loss, reason = "counts of executions")]
            {
                mean += away / n as f64;
            }
            squares += away * (value - mean);
        }
        #[expect(clippy::cast_precision_loss, reason = "counts of executions")]
        let deviation = (n > 1).then(|| (squares / (n - 1) as f64).sqrt());
        (n > 0).then_some(Self { n, mean, deviation })
    }
}

/// Groups by stage kind and the values of columns, sorted by these.
pub(crate) fn groups(frame: &Frame<'_>, rows: &[usize], by: &[Column]) -> Vec<Group> {
    let mut newest: HashMap<_, usize> = HashMap::new();
    for row in rows {
        newest.insert(frame.rows[*row].key, *row);
    }
    let mut groups: Vec<Group> = Vec::new();
    let mut places: HashMap<(String, Vec<String>), usize> = HashMap::new();
    for row in rows.iter().filter(|row| newest.get(&frame.rows[**row].key) == Some(row)) {
        let kind = frame.rows[*row].kind.to_string();
        let values: Vec<Cell> = by.iter().map(|column| frame.cell(*row, column).clone()).collect();
        // 8 and 8.0 are one value.
        let name = |value: &Cell| value.number().map_or_else(|| value.text().into_owned(), |number| number.to_string());
        let place = *places.entry((kind.clone(), values.iter().map(name).collect())).or_insert_with(|| {
            groups.push(Group { kind, values, rows: Vec::new() });
            groups.len() - 1
        });
        groups[place].rows.push(*row);
    }
    groups.sort_by(|a, b| {
        let values = a.values.iter().zip(&b.values).map(|(a, b)| a.order(b));
        a.kind.cmp(&b.kind).then_with(|| values.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then))
    });
    groups
}

/// The parameters in which the rows of some group differ, its own or of a stage it builds on: what the mean was taken
/// over, beside seeds.
pub(crate) fn differing_params(frame: &mut Frame<'_>, groups: &[Group]) -> Result<BTreeSet<String>, StoreError> {
    // Each row with all that it builds on.
    let parents = frame.parents()?.to_vec();
    let mut members: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
    for (group, of_group) in groups.iter().enumerate().filter(|(_, group)| group.rows.len() > 1) {
        for row in &of_group.rows {
            let mut seen = BTreeSet::new();
            let mut open = vec![*row];
            while let Some(next) = open.pop() {
                if seen.insert(next) {
                    open.extend(&parents[next]);
                    members.entry(next).or_default().push((group, *row));
                }
            }
        }
    }
    let wanted: BTreeMap<i64, usize> = members.keys().map(|row| (frame.rows[*row].execution, *row)).collect();
    let executions: Vec<i64> = wanted.keys().copied().collect();
    // For each group, stage and parameter: the value that was seen first. Different stages are different things.
    let mut first: HashMap<(usize, u64), u64> = HashMap::new();
    let mut differing: BTreeSet<String> = BTreeSet::new();
    let stages: Vec<u64> = frame.rows.iter().map(|row| hash(row.node.split('[').next().unwrap_or_default())).collect();
    frame.store().each_param(&executions, |execution, name, value| {
        let Some(row) = wanted.get(&execution) else { return };
        let value = match value {
            None => 0,
            Some(ParamRef::Integer(value)) => hash(&("i", value)),
            Some(ParamRef::Real(value)) => hash(&("r", value.to_bits())),
            Some(ParamRef::Text(text)) => hash(&("t", text)),
        };
        let what = hash(&(stages[*row], name));
        let mut last = None;
        for (group, _) in &members[row] {
            if last.replace(*group) == Some(*group) {
                continue;
            }
            if *first.entry((*group, what)).or_insert(value) != value && !differing.contains(name) {
                differing.insert(name.to_owned());
            }
        }
    })?;
    Ok(differing)
}

fn hash(value: &(impl std::hash::Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_value_has_no_deviation_and_none_has_nothing() {
        assert_eq!(Statistics::of([]), None);
        assert_eq!(Statistics::of([3.0]), Some(Statistics { n: 1, mean: 3.0, deviation: None }));
        let two = Statistics::of([1.0, 3.0]).unwrap();
        assert_eq!((two.n, two.mean), (2, 2.0));
        assert!((two.deviation.unwrap() - 2.0_f64.sqrt()).abs() < 1e-15);
        let close = Statistics::of([1e9, 1e9 + 1.0, 1e9 + 2.0]).unwrap();
        assert_eq!(close.deviation, Some(1.0));
    }

    proptest! {
        #[test]
        fn the_mean_lies_among_the_values(values in prop::collection::vec(-1e6..1e6f64, 2..20)) {
            let found = Statistics::of(values.iter().copied()).unwrap();
            let (low, high) = (values.iter().copied().fold(f64::MAX, f64::min), values.iter().copied().fold(f64::MIN, f64::max));
            prop_assert!(found.mean >= low - 1e-6 && found.mean <= high + 1e-6);
            prop_assert!(found.deviation.unwrap() <= (high - low) + 1e-6);
        }
    }
}
