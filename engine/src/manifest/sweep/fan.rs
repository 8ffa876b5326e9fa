//! The cells of a swept stage as another stage takes them: selected, gathered into lists, and joined with those of
//! other inputs.

use std::collections::HashMap;
use std::sync::Arc;

use super::MAX_NODES;
use super::cells::ABSENT;
use crate::diagnostic::nearest;

/// Number of an axis among all axes of a manifest.
pub(super) type AxisId = usize;

/// The cells of a stage, as others see them.
#[derive(Debug, Default)]
pub(super) struct Cells {
    pub(super) axes: Vec<Shown>,
    /// Per cell one index for each axis, or [`ABSENT`].
    pub(super) at: Vec<u32>,
    pub(super) count: usize,
}

/// An axis as a stage shows it.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) id: AxisId,
    /// Its name, with that of the stage it comes from where another axis has the same.
    pub(super) name: Arc<str>,
    /// The labels of its values.
    pub(super) labels: Arc<[Arc<str>]>,
}

impl Cells {
    pub(super) fn cell(&self, index: usize) -> &[u32] {
        let width = self.axes.len();
        self.at.get(index * width..(index + 1) * width).unwrap_or_default()
    }
}

/// The cells of one input, in groups: each group is what one cell of the taking stage gets.
#[derive(Debug, Default)]
pub(super) struct Fan {
    /// The axes that groups differ on.
    pub(super) axes: Vec<AxisId>,
    /// Positions of [`Fan::axes`] among those of the input.
    positions: Vec<usize>,
    /// The cells of each group, in their order; none is empty.
    pub(super) groups: Vec<Vec<usize>>,
}

impl Fan {
    /// All cells, each for itself, or what is selected of them.
    pub(super) fn new(stage: &str, cells: &Cells, select: Option<&[&str]>) -> Result<Self, (String, String)> {
        let Some(select) = select else {
            return Ok(Self {
                axes: cells.axes.iter().map(|axis| axis.id).collect(),
                positions: (0..cells.axes.len()).collect(),
                groups: (0..cells.count).map(|cell| vec![cell]).collect(),
            });
        };
        let chosen = Chosen::new(stage, cells, select)?;
        let positions: Vec<usize> = (0..cells.axes.len()).filter(|at| chosen.is_free(*at)).collect();
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut index: HashMap<Vec<u32>, usize> = HashMap::new();
        for cell in (0..cells.count).filter(|cell| chosen.fits(cells.cell(*cell))) {
            let key: Vec<u32> = positions.iter().map(|at| cells.cell(cell)[*at]).collect();
            let group = *index.entry(key).or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
            groups[group].push(cell);
        }
        if groups.is_empty() {
            let message = format!("no cell of `{stage}` has all of these labels: {}", select.join(", "));
            return Err((message, "each label names one value on one axis".to_owned()));
        }
        let axes = positions.iter().filter_map(|at| cells.axes.get(*at)).map(|axis| axis.id).collect();
        Ok(Self { axes, positions, groups })
    }

    /// Where a group lies on an axis.
    fn at(&self, cells: &Cells, group: usize, axis: usize) -> u32 {
        let cell = self.groups.get(group).and_then(|cells| cells.first()).copied().unwrap_or_default();
        self.positions.get(axis).and_then(|at| cells.cell(cell).get(*at)).copied().unwrap_or(ABSENT)
    }
}

/// What brackets say.
struct Chosen {
    /// Axis and value.
    fixed: Vec<(usize, u32)>,
    gathered: Vec<usize>,
    all: bool,
}

impl Chosen {
    fn new(stage: &str, cells: &Cells, select: &[&str]) -> Result<Self, (String, String)> {
        let mut chosen = Self { fixed: Vec::new(), gathered: Vec::new(), all: false };
        for &one in select {
            if one == "*" {
                chosen.all = true;
            } else if let Some(name) = one.strip_suffix("=*") {
                chosen.gathered.push(axis(stage, cells, name)?);
            } else {
                chosen.fixed.push(label(stage, cells, one)?);
            }
        }
        Ok(chosen)
    }

    fn is_free(&self, axis: usize) -> bool {
        !self.all && !self.gathered.contains(&axis) && self.fixed.iter().all(|(fixed, _)| *fixed != axis)
    }

    fn fits(&self, cell: &[u32]) -> bool {
        self.fixed.iter().all(|(axis, value)| cell.get(*axis) == Some(value))
    }
}

/// The axis of `key=*`, by its name, the last segment of its name, or what its labels begin with.
fn axis(stage: &str, cells: &Cells, name: &str) -> Result<usize, (String, String)> {
    let names: Vec<&str> = cells.axes.iter().map(|axis| &*axis.name).collect();
    let exact = names.iter().position(|one| *one == name);
    let last = || names.iter().position(|one| one.rsplit('.').next() == Some(name));
    exact.or_else(last).ok_or_else(|| {
        let message = format!("`{stage}` has no axis `{name}`");
        (message, suggest(name, &names, "its axes are", "it is not swept"))
    })
}

/// The axis and value of a label.
fn label(stage: &str, cells: &Cells, text: &str) -> Result<(usize, u32), (String, String)> {
    let fits = |label: &str| label == text || same_number(label, text);
    for (at, axis) in cells.axes.iter().enumerate() {
        if let Some(value) = axis.labels.iter().position(|label| fits(label)) {
            return Ok((at, u32::try_from(value).unwrap_or(ABSENT)));
        }
    }
    // A person can name a few values; for thousands the first ones say how they look.
    let labels: Vec<&str> =
        cells.axes.iter().flat_map(|axis| axis.labels.iter().take(20)).map(|label| &**label).collect();
    let message = format!("no cell of `{stage}` has the label `{text}`");
    Err((message, suggest(text, &labels, "its labels are", "it is not swept: leave the brackets out")))
}

/// `lr=3e-3` is `lr=0.003`.
fn same_number(label: &str, text: &str) -> bool {
    let number =
        |text: &str| text.rsplit_once('=').and_then(|(key, value)| Some((key.to_owned(), value.parse::<f64>().ok()?)));
    matches!((number(label), number(text)), (Some(a), Some(b)) if a == b)
}

fn suggest(name: &str, names: &[&str], intro: &str, none: &str) -> String {
    match nearest(name, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if names.is_empty() => none.to_owned(),
        None => {
            let shown: Vec<String> = names.iter().take(12).map(|name| format!("`{name}`")).collect();
            let more = if names.len() > 12 { ", ..." } else { "" };
            format!("{intro} {}{more}", shown.join(", "))
        }
    }
}

/// What the cells of a stage take of each input.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) axes: Vec<AxisId>,
    /// Per combination one index for each axis.
    pub(super) at: Vec<u32>,
    /// Per combination one group for each input.
    pub(super) picks: Vec<usize>,
    pub(super) count: usize,
}

/// Combinations of groups that agree on the axes that they share; `Err` with their number if it is too large.
pub(super) fn join(fans: &[(&Fan, &Cells)]) -> Result<Joined, usize> {
    let mut joined = Joined { axes: Vec::new(), at: Vec::new(), picks: Vec::new(), count: 1 };
    for (done, (fan, cells)) in fans.iter().enumerate() {
        joined = joined.with(done, fan, cells)?;
    }
    Ok(joined)
}

impl Joined {
    /// How many cells of an input a combination takes.
    pub(super) fn gathered<T>(&self, combination: usize, input: usize, fans: &[(Fan, T)]) -> usize {
        let group = self.picks.get(combination * fans.len() + input);
        let group = fans.get(input).and_then(|(fan, _)| fan.groups.get(*group?));
        group.map_or(0, Vec::len)
    }

    fn with(self, done: usize, fan: &Fan, cells: &Cells) -> Result<Self, usize> {
        // Positions of the shared axes here and there, and of the new ones there.
        let here = |id: &AxisId| self.axes.iter().position(|axis| axis == id);
        let shared: Vec<(usize, usize)> =
            fan.axes.iter().enumerate().filter_map(|(there, id)| Some((here(id)?, there))).collect();
        let new: Vec<usize> =
            (0..fan.axes.len()).filter(|there| shared.iter().all(|(_, other)| other != there)).collect();

        let mut groups: HashMap<Vec<u32>, Vec<usize>> = HashMap::new();
        for group in 0..fan.groups.len() {
            let key = shared.iter().map(|(_, there)| fan.at(cells, group, *there)).collect();
            groups.entry(key).or_default().push(group);
        }
        let width = self.axes.len();
        let matching = |one: usize| {
            let at = self.at.get(one * width..(one + 1) * width).unwrap_or_default();
            let key: Vec<u32> = shared.iter().map(|(here, _)| at[*here]).collect();
            (at, groups.get(&key).map_or(&[][..], Vec::as_slice))
        };
        let count = (0..self.count).map(|one| matching(one).1.len()).sum();
        if count > MAX_NODES {
            return Err(count);
        }
        let axes: Vec<AxisId> = self.axes.iter().chain(new.iter().map(|there| &fan.axes[*there])).copied().collect();
        let mut at = Vec::with_capacity(count * axes.len());
        let mut picks = Vec::with_capacity(count * (done + 1));
        for one in 0..self.count {
            let (old, groups) = matching(one);
            for &group in groups {
                at.extend_from_slice(old);
                at.extend(new.iter().map(|there| fan.at(cells, group, *there)));
                picks.extend_from_slice(self.picks.get(one * done..(one + 1) * done).unwrap_or_default());
                picks.push(group);
            }
        }
        Ok(Self { axes, at, picks, count })
    }
}
