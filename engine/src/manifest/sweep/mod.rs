//! Sweeps: one stage table, many nodes.
//!
//! # The matrix
//!
//! ```toml
//! [stages.train.matrix]
//! method = [{ name = "full" }, { name = "galore", rank = 64 }]
//! lr = { logspace = [1e-4, 1e-2, 3] }
//! seed = { count = 5 }
//! ```
//!
//! Every key is an *axis*: a parameter, a knob or one of the reserved keys that concern one node (`seed`, `device`,
//! `dtype`, `resources`, `retries`, `timeout`, `priority`, `checkpoint_every`). A dotted name, quoted or not, sets a
//! value inside a table: `"method.rank" = [32, 64]`. The values are a list, or
//! - `{ linspace = [a, b, n] }`: n numbers from a to b at equal distances,
//! - `{ logspace = [a, b, n] }`: n numbers from a to b (not from 10^a to 10^b) at equal ratios,
//! - `{ from = a, to = b, step = s }`: whole numbers from a up to b, b included; the step is 1 where none is given,
//! - `{ count = n }`: the n whole numbers from 0, or from `from`, `step` apart.
//!
//! Numbers of `linspace` and `logspace` are rounded to 12 significant digits. Each combination is a *cell*; the last
//! axis varies fastest. A value of the matrix replaces the stage's own.
//!
//! # Names
//!
//! A cell is named after its values, in the order of the axes: `train[galore,lr=0.003,seed=1]`. A table goes by its
//! `name`; everything else is written as `key=value` with the last segment of the axis's name (all of it where two
//! axes share it). Characters that mean something in a reference or a path are written as `_`. Two cells with the same
//! name are an error. Names depend on the cell's own values alone, not on how many there are.
//!
//! # `exclude` and `include`
//!
//! Both are lists of tables, as in GitHub Actions. A cell is left out if it has all the values of some table of
//! `exclude`. Then the tables of `include` are taken in order; the keys of each that are axes select, the others are
//! parameters to add:
//! - cells of the matrix that have all the selecting values get the added ones (a table without selecting values is
//!   for all cells); a later `include` wins over an earlier one;
//! - if there is no such cell, the table becomes a cell of its own. On axes that it does not name it has the stage's
//!   own value.
//!
//! A value selects if it is equal (1 and 1.0 are), if it is the `name` or the label of the value, or if it is a table
//! whose entries are all in the value. A stage with `include` and no `matrix` has exactly the included cells, and all
//! their keys are axes.
//!
//! # Wiring
//!
//! A stage that takes a swept stage as an input is swept as well: one cell for each cell of the input, with its axes
//! and labels. Several swept inputs are joined on the axes that they have in common, by origin (`evaluate` of a model
//! with that same model's ranks); without common axes, every combination is made. The stage's own matrix comes last.
//! Brackets select among the cells of an input; each entry between commas is one of
//! - a label: only cells that have it. The axis is not inherited: it is fixed. `"train[full]"` is, for each cell of
//!   the other axes, the one of method `full`;
//! - `key=*`: all along this axis, as a list, one list for each cell of the other axes: `"train[seed=*]"`;
//! - `*`: all along all axes that are not fixed: `"train[*]"`, `"train[galore,*]"` is one list.
//!
//! An inherited axis with the same name as another is written with the stage that it comes from: `train.seed=1`.
//!
//! # Invariants
//!
//! Names are unique; the order is that of the text, then that of the axes; no more than [`MAX_NODES`] nodes are made,
//! which is known before they are.

mod axis;
mod budget;
mod cells;
mod fan;
mod generator;
mod label;
mod nodes;
mod reference;
mod setting;
mod wire;

#[cfg(test)]
mod tests;

use super::StageDecl;
use crate::diagnostic::Diagnostic;
use crate::value::{Key, Value};

/// Nodes that a manifest may have after its sweeps are expanded.
pub const MAX_NODES: usize = 100_000;

/// What a stage table says about sweeping, as written.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    pub(super) matrix: Option<(Key, Value)>,
    pub(super) include: Option<(Key, Value)>,
    pub(super) exclude: Option<(Key, Value)>,
}

impl Sweep {
    fn is_none(&self) -> bool {
        self.matrix.is_none() && self.include.is_none() && self.exclude.is_none()
    }
}

/// Expands all sweeps. Where a stage cannot be expanded, that is reported, and it and what depends on it are left out.
pub(super) fn expand(stages: Vec<(StageDecl, Sweep)>, found: &mut Vec<Diagnostic>) -> Vec<StageDecl> {
    let selects =
        |stage: &StageDecl| stage.inputs.iter().flat_map(|input| &input.from).any(|one| one.text.contains('['));
    if stages.iter().all(|(stage, sweep)| sweep.is_none() && !selects(stage)) {
        return stages.into_iter().map(|(stage, _)| plain(stage)).collect();
    }
    wire::wire(stages, found)
}

/// A stage that is not swept.
fn plain(mut stage: StageDecl) -> StageDecl {
    stage.origin = stage.name.name.as_str().into();
    stage
}
