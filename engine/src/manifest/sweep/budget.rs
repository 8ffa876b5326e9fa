//! What expanding sweeps may cost: a few lines can ask for more than any machine has, in values, in comparisons or in
//! wires, while the number of nodes stays small.

use super::MAX_NODES;
use crate::diagnostic::Diagnostic;
use crate::value::Key;

/// Steps for a whole manifest. A sweep of [`MAX_NODES`] nodes with 100 parameters each takes about a third of it.
const MAX_STEPS: usize = 50_000_000;

/// Steps for one wire, which is a text of its own.
pub(super) const WIRE: usize = 25;

/// Steps for one value of a rule, which gets a label and a setting of its own.
pub(super) const VALUE: usize = 120;

/// What is left.
#[derive(Debug)]
pub(super) struct Budget {
    left: usize,
    told: bool,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { left: MAX_STEPS, told: false }
    }

    /// Takes steps for a stage or an axis of it; `None` where they are used up, which is said once.
    pub(super) fn spend(&mut self, steps: usize, what: &Key, found: &mut Vec<Diagnostic>) -> Option<()> {
        if let Some(left) = self.left.checked_sub(steps) {
            self.left = left;
            return Some(());
        }
        if !self.told {
            self.told = true;
            let message = format!(
                "the sweeps of this manifest are too large to expand: `{}` would need {steps} steps more",
                what.name
            );
            let error = Diagnostic::error("manifest::too-large", message).label(what.span, "");
            found.push(error.help(format!(
                "sweep fewer values, or gather fewer cells at a time; a manifest may have {MAX_NODES} nodes"
            )));
        }
        None
    }
}
