//! The cells of one stage's own matrix, after `exclude` and `include`.

use super::axis::{self, Axis};
use super::budget::Budget;
use super::label::{equal, selects};
use super::setting::{Setting, check_path, dotted, split};
use super::{MAX_NODES, Sweep};
use crate::diagnostic::Diagnostic;
use crate::manifest::{field, merge};
use crate::value::{Key, Span, Value, ValueKind};

/// A cell that has no value on an axis: the stage's own counts.
pub(super) const ABSENT: u32 = u32::MAX;

/// The sweep of one stage. Without one it has a single cell on no axes.
#[derive(Debug, Default)]
pub(super) struct Own {
    pub(super) axes: Vec<Axis>,
    pub(super) cells: Vec<Cell>,
    /// The added values of each table of `include`.
    pub(super) added: Vec<Vec<Setting>>,
}

impl Own {
    /// The most that one cell takes of the values, as [`merge::weight_of`] counts.
    pub(super) fn weight(&self) -> usize {
        let axis = |axis: &Axis| axis.points.iter().map(|point| merge::weight_of(&point.value.kind)).max();
        let added = |setting: &Setting| match setting {
            Setting::Rest(_, value) => merge::weight_of(&value.kind),
            _ => 1,
        };
        self.axes.iter().filter_map(axis).sum::<usize>() + self.added.iter().flatten().map(added).sum::<usize>()
    }
}

#[derive(Debug, Default, Clone)]
pub(super) struct Cell {
    /// For each axis the index of its value, or [`ABSENT`].
    pub(super) at: Vec<u32>,
    /// Indices into [`Own::added`], in order.
    pub(super) added: Vec<u32>,
}

/// The cells of a stage; `None` after an error.
pub(super) fn own(stage: &Key, sweep: Sweep, budget: &mut Budget, found: &mut Vec<Diagnostic>) -> Option<Own> {
    if sweep.is_none() {
        return Some(Own { cells: vec![Cell::default()], ..Own::default() });
    }
    let before = found.len();
    let swept = sweep.matrix.is_some();
    let axes = match sweep.matrix {
        Some((key, value)) => axis::axes(&key, value, budget, found),
        None => Some(Vec::new()),
    };
    let excludes = sweep.exclude.and_then(|(key, value)| tables(&key, value, found));
    let includes = sweep.include.and_then(|(key, value)| tables(&key, value, found));
    let mut own = Own { axes: axes?, ..Own::default() };
    let size = check_size(stage, &own.axes, found)?;
    budget.spend(size * (10 + own.axes.len()), stage, found)?;
    // Labels are needed to select by; those of values that `include` brings follow below.
    axis::label_all(&mut own.axes, found);
    if swept {
        own.cells = product(&own.axes);
    }
    let (excludes, includes) = (excludes.unwrap_or_default(), includes.unwrap_or_default());
    if !swept {
        make_axes(&mut own, &includes, found);
        axis::check_number(&own.axes, found)?;
    }
    // Every table is compared with every value; each may bring a value and a cell of its own.
    let entries = excludes.len() + includes.len();
    let values = own.axes.iter().map(|axis| axis.points.len()).sum::<usize>() + own.axes.len() * includes.len();
    budget.spend(entries * (own.cells.len() + includes.len() + values), stage, found)?;
    exclude(&mut own, excludes, found);
    include(&mut own, includes, swept, found);
    if found.len() == before {
        axis::label_all(&mut own.axes, found);
    }
    if own.cells.is_empty() && found.len() == before {
        let error = Diagnostic::error("manifest::matrix", format!("every cell of `{}` is excluded", stage.name));
        found.push(error.label(stage.span, "").help("exclude less, or remove the stage"));
    }
    (!found.iter().skip(before).any(Diagnostic::is_error)).then_some(own)
}

fn check_size(stage: &Key, axes: &[Axis], found: &mut Vec<Diagnostic>) -> Option<usize> {
    let size = axes.iter().fold(1u128, |size, axis| size.saturating_mul(axis.points.len() as u128));
    if let Some(size) = usize::try_from(size).ok().filter(|size| *size <= MAX_NODES) {
        return Some(size);
    }
    let factors: Vec<String> =
        axes.iter().map(|axis| format!("{} of `{}`", axis.points.len(), axis.key.name)).collect();
    let message = format!(
        "the sweep of `{}` has {size} cells ({}), and a manifest may have {MAX_NODES} nodes in all",
        stage.name,
        factors.join(" x ")
    );
    let error = Diagnostic::error("manifest::too-large", message).label(stage.span, "");
    found.push(error.help("sweep fewer values, or split the manifest"));
    None
}

fn product(axes: &[Axis]) -> Vec<Cell> {
    let mut cells = vec![Cell::default()];
    for axis in axes {
        let indices = 0..u32::try_from(axis.points.len()).unwrap_or(ABSENT);
        cells = cells
            .iter()
            .flat_map(|cell| {
                indices.clone().map(|index| {
                    let mut at = Vec::with_capacity(axes.len());
                    at.extend_from_slice(&cell.at);
                    at.push(index);
                    Cell { at, added: Vec::new() }
                })
            })
            .collect();
    }
    cells
}

/// One table of `include` or `exclude`.
struct Entry {
    span: Span,
    table: Vec<(Key, Value)>,
}

fn tables(key: &Key, value: Value, found: &mut Vec<Diagnostic>) -> Option<Vec<Entry>> {
    let span = value.span;
    let ValueKind::Array(items) = value.kind else {
        let message = format!("`{}`: expected a list of tables, found {}", key.name, value.describe());
        let error = Diagnostic::error("manifest::wrong-type", message).label(span, "expected a list of tables");
        found.push(error.help(format!("write {} = [{{ lr = 0.1, seed = 1 }}]", key.name)));
        return None;
    };
    let mut entries = Vec::new();
    for item in items {
        field::table(key, &item, found)?;
        if let ValueKind::Table(table) = item.kind {
            entries.push(Entry { span: item.span, table: table.entries });
        }
    }
    Some(entries)
}

/// A value of an entry: on an axis, or beside them.
enum Given {
    Axis(usize, Value),
    Beside(Vec<Key>, Value),
}

/// The values of an entry. A table is a value if its key is an axis, and dotted names if an axis begins with its key.
fn given(axes: &[Axis], path: &[Key], entries: Vec<(Key, Value)>, all: &mut Vec<Given>) {
    for (key, value) in entries {
        let path: Vec<Key> = path.iter().cloned().chain(split(&key)).collect();
        let name = dotted(&path);
        let inside = |axis: &Axis| axis.key.name.strip_prefix(&name).is_some_and(|rest| rest.starts_with('.'));
        match value.kind {
            kind if axes.iter().any(|axis| axis.key.name == name) => {
                let at = axes.iter().position(|axis| axis.key.name == name).unwrap_or_default();
                all.push(Given::Axis(at, Value { kind, ..value }));
            }
            ValueKind::Table(table) if axes.iter().any(inside) => given(axes, &path, table.entries, all),
            kind => all.push(Given::Beside(path, Value { kind, ..value })),
        }
    }
}

/// For each axis that a value is given on, which of the axis's values it selects.
fn selection(axes: &[Axis], given: &[Given]) -> Vec<(usize, Vec<bool>)> {
    let on_axis = given.iter().filter_map(|one| match one {
        Given::Axis(at, value) => Some((*at, value)),
        Given::Beside(..) => None,
    });
    on_axis
        .filter_map(|(at, value)| {
            let points = &axes.get(at)?.points;
            Some((at, points.iter().map(|point| selects(value, &point.value, &point.label)).collect()))
        })
        .collect()
}

fn selected(cell: &Cell, selection: &[(usize, Vec<bool>)]) -> bool {
    selection.iter().all(|(axis, which)| {
        let value = cell.at.get(*axis).and_then(|at| which.get(*at as usize));
        value.copied().unwrap_or(false)
    })
}

fn exclude(own: &mut Own, entries: Vec<Entry>, found: &mut Vec<Diagnostic>) {
    for entry in entries {
        let mut all = Vec::new();
        given(&own.axes, &[], entry.table, &mut all);
        let mut known = !all.is_empty();
        for one in &all {
            if let Given::Beside(path, value) = one {
                let name = dotted(path);
                let names: Vec<&str> = own.axes.iter().map(|axis| axis.key.name.as_str()).collect();
                let error = Diagnostic::error("manifest::exclude", format!("`{name}` is not an axis of the matrix"));
                let span = path.first().map_or(value.span, |key| key.span);
                found.push(field::unknown(error.label(span, ""), &name, &names, "the axes are"));
                known = false;
            }
        }
        if !known {
            continue;
        }
        let selection = selection(&own.axes, &all);
        let before = own.cells.len();
        own.cells.retain(|cell| !selected(cell, &selection));
        if own.cells.len() == before {
            let warning =
                Diagnostic::warning("manifest::unused-exclude", "this excludes no cell").label(entry.span, "");
            found.push(warning.help("check the values, or remove it"));
        }
    }
}

fn include(own: &mut Own, entries: Vec<Entry>, swept: bool, found: &mut Vec<Diagnostic>) {
    let originals = if swept { own.cells.len() } else { 0 };
    for entry in entries {
        let mut all = Vec::new();
        given(&own.axes, &[], entry.table, &mut all);
        let selection = selection(&own.axes, &all);
        let (mut settings, mut values) = (Vec::new(), Vec::new());
        for one in all {
            match one {
                Given::Axis(axis, value) => values.push((axis, value)),
                Given::Beside(path, value) => {
                    if check_path(&path, found) {
                        settings.extend(Setting::new(&path, &value, found));
                    }
                }
            }
        }
        let number = u32::try_from(own.added.len()).unwrap_or(ABSENT);
        own.added.push(settings);
        let mut any = false;
        for cell in own.cells.iter_mut().take(originals).filter(|cell| selected(cell, &selection)) {
            cell.added.push(number);
            any = true;
        }
        if any {
            continue;
        }
        let mut cell = Cell { at: vec![ABSENT; own.axes.len()], added: vec![number] };
        for (at, value) in values {
            let Some(axis) = own.axes.get_mut(at) else { continue };
            let named =
                value.as_str().filter(|_| swept && axis.points.iter().all(|point| point.value.as_table().is_some()));
            let same = axis.points.iter().position(|point| {
                equal(&value, &point.value)
                    || matches!(value.kind, ValueKind::String(_)) && selects(&value, &point.value, &point.label)
            });
            if let (Some(name), None) = (named, same) {
                let names: Vec<&str> = axis.points.iter().map(|point| &*point.label).collect();
                let message = format!("no value of the axis `{}` is called `{name}`", axis.key.name);
                let error = Diagnostic::error("manifest::include", message).label(value.span, "");
                found.push(field::unknown(error, name, &names, "it has"));
                continue;
            }
            let index = same.or_else(|| axis.push(value, found)).and_then(|index| u32::try_from(index).ok());
            if let (Some(slot), Some(index)) = (cell.at.get_mut(at), index) {
                *slot = index;
            }
        }
        own.cells.push(cell);
    }
}

/// Without a matrix every key of `include` is an axis.
fn make_axes(own: &mut Own, entries: &[Entry], found: &mut Vec<Diagnostic>) {
    for (key, _) in entries.iter().flat_map(|entry| &entry.table) {
        let path: Vec<Key> = split(key).collect();
        let name = dotted(&path);
        if own.axes.iter().all(|axis| axis.key.name != name) && check_path(&path, found) {
            own.axes.push(Axis::new(path));
        }
    }
}
