//! The axes of a matrix.

use std::collections::HashMap;
use std::sync::Arc;

use super::budget::Budget;
use super::setting::{Setting, check_path, dotted, split};
use super::{generator, label};
use crate::diagnostic::Diagnostic;
use crate::manifest::field;
use crate::value::{Key, Table, Value, ValueKind};

/// Axes of one stage.
const MAX_AXES: usize = 32;

/// One parameter that is swept.
#[derive(Debug)]
pub(super) struct Axis {
    /// Its dotted name.
    pub(super) key: Key,
    pub(super) path: Vec<Key>,
    pub(super) points: Vec<Point>,
}

/// One value of an axis.
#[derive(Debug)]
pub(super) struct Point {
    pub(super) value: Value,
    pub(super) label: Arc<str>,
    pub(super) setting: Setting,
}

impl Axis {
    pub(super) fn new(path: Vec<Key>) -> Self {
        let span = path.first().map(|key| key.span).unwrap_or_default();
        Self { key: Key { name: dotted(&path), span }, path, points: Vec::new() }
    }

    /// Adds a value; labels come later, with [`label_all`]. `None` after an error.
    pub(super) fn push(&mut self, value: Value, found: &mut Vec<Diagnostic>) -> Option<usize> {
        let setting = Setting::new(&self.path, &value, found)?;
        self.points.push(Point { value, label: Arc::from(""), setting });
        Some(self.points.len() - 1)
    }
}

/// The axes of a `matrix`, in the order of the text; `None` after an error.
pub(super) fn axes(key: &Key, value: Value, budget: &mut Budget, found: &mut Vec<Diagnostic>) -> Option<Vec<Axis>> {
    field::table(key, &value, found)?;
    let ValueKind::Table(table) = value.kind else { return None };
    if table.entries.is_empty() {
        return Some(Vec::new());
    }
    let before = found.len();
    let mut axes: Vec<Axis> = Vec::new();
    flatten(table, &[], &mut axes, budget, found);
    check_number(&axes, found)?;
    for index in 1..axes.len() {
        let (earlier, later) = axes.split_at(index);
        if let Some(later) = later.first()
            && let Some(first) = earlier.iter().find(|one| one.key.name == later.key.name)
        {
            let error =
                Diagnostic::error("manifest::duplicate-name", format!("the axis `{}` is given twice", later.key.name));
            let error = error.label(later.key.span, "a second time here").label(first.key.span, "first here");
            found.push(error.help("remove one of the two"));
        }
    }
    (found.len() == before).then_some(axes)
}

/// Says so where there are too many axes.
pub(super) fn check_number(axes: &[Axis], found: &mut Vec<Diagnostic>) -> Option<()> {
    let Some(first) = axes.get(MAX_AXES) else { return Some(()) };
    let message = format!("a stage is swept along {} axes, and at most {MAX_AXES} can be", axes.len());
    let error = Diagnostic::error("manifest::too-large", message).label(first.key.span, "one too many");
    found.push(error.help("sweep fewer parameters, or whole tables of them"));
    None
}

/// Tables inside a matrix are dotted names, unless they are rules.
fn flatten(table: Table, path: &[Key], axes: &mut Vec<Axis>, budget: &mut Budget, found: &mut Vec<Diagnostic>) {
    for (key, value) in table.entries {
        let path: Vec<Key> = path.iter().cloned().chain(split(&key)).collect();
        match value.kind {
            ValueKind::Table(inner) if !inner.entries.is_empty() && !generator::is_rule(&inner) => {
                flatten(inner, &path, axes, budget, found);
            }
            kind => {
                if !check_path(&path, found) {
                    continue;
                }
                let mut axis = Axis::new(path);
                let values = generator::values(&axis.key, Value { kind, ..value }, budget, found);
                for value in values.unwrap_or_default() {
                    // One wrong value is enough to show what is wrong with an axis.
                    if axis.push(value, found).is_none() {
                        break;
                    }
                }
                axes.push(axis);
            }
        }
    }
}

/// Gives every value its label; two with the same one are an error.
pub(super) fn label_all(axes: &mut [Axis], found: &mut Vec<Diagnostic>) {
    let prefixes: Vec<String> = axes.iter().map(|axis| prefix(axis, axes).to_owned()).collect();
    for (axis, prefix) in axes.iter_mut().zip(prefixes) {
        let mut seen: HashMap<Arc<str>, usize> = HashMap::new();
        for index in 0..axis.points.len() {
            let Some(point) = axis.points.get_mut(index) else { continue };
            point.label = label::label(&prefix, &point.value).into();
            let (label, span) = (Arc::clone(&point.label), point.value.span);
            let Some(first) = seen.insert(Arc::clone(&label), index).and_then(|first| axis.points.get(first)) else {
                continue;
            };
            let message = format!("two values of the axis `{}` are both called `{label}`", axis.key.name);
            found.push(
                Diagnostic::error("manifest::duplicate-label", message)
                    .label(span, "the second")
                    .label(first.value.span, "the first")
                    .help("remove one, give each table a `name` of its own, or sweep what differs as an axis"),
            );
            break;
        }
    }
}

/// The last segment of an axis's name, or all of it where another axis ends in the same.
fn prefix<'a>(axis: &'a Axis, axes: &[Axis]) -> &'a str {
    let last = |axis: &Axis| axis.path.last().map(|key| key.name.clone());
    let shared = axes.iter().filter(|other| last(other) == last(axis)).count() > 1;
    if shared { &axis.key.name } else { axis.path.last().map_or("", |key| &key.name) }
}
