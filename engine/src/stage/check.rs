//! Checks before anything runs.
//!
//! Besides its own parameters, a check sees the *facts* of its inputs: figures that are known of an output before it
//! exists (how many tokens a text can give at most, how large a vocabulary is). Each stage states the facts of its own
//! outputs, so that a manifest that cannot work is refused when it is read, not after an hour of training.

use std::collections::BTreeMap;

use camino::Utf8PathBuf;

use super::{Dtype, InputFiles};

/// Named figures about an output, known before it exists. `vocab_size`, `train_tokens_max`, ...
pub type Facts = BTreeMap<String, f64>;

/// Something wrong with a parameter, found by a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path of the parameter: `model.n_head`.
    pub param: String,
    /// What is wrong, with the figures.
    pub message: String,
    /// What to change.
    pub help: Option<String>,
}

/// What a [`Stage::check`](super::Stage::check) can look at and report to.
#[derive(Debug)]
pub struct Check<'a> {
    /// By port; of a port that takes several, in the order of the wires.
    inputs: Vec<(&'a str, &'a Facts)>,
    folder: &'a camino::Utf8Path,
    dtype: Dtype,
    sound: bool,
    /// Whether anybody will ask for the facts of its outputs.
    asked: bool,
    outputs: BTreeMap<String, Facts>,
    problems: Vec<Problem>,
}

impl<'a> Check<'a> {
    /// A check of one node, whose inputs have these facts and whose manifest lies in `folder`.
    #[must_use]
    pub fn new(inputs: &'a BTreeMap<String, Vec<Facts>>, folder: &'a camino::Utf8Path) -> Self {
        let each = |(port, all): (&'a String, &'a Vec<Facts>)| all.iter().map(move |facts| (port.as_str(), facts));
        Self::of(inputs.iter().flat_map(each).collect(), folder)
    }

    /// [`new`](Self::new) over facts that are borrowed one by one.
    pub(crate) fn of(inputs: Vec<(&'a str, &'a Facts)>, folder: &'a camino::Utf8Path) -> Self {
        Self {
            inputs,
            folder,
            dtype: Dtype::F32,
            sound: true,
            asked: true,
            outputs: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    /// The same for a node that computes in a dtype.
    #[must_use]
    pub fn computing_in(self, dtype: Dtype) -> Self {
        Self { dtype, ..self }
    }

    /// What the node computes in.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The same where nobody will ask for the facts of the outputs: they are not kept.
    #[must_use]
    pub(crate) fn of_a_leaf(self) -> Self {
        Self { asked: false, ..self }
    }

    /// The same where something else is known to be wrong, so that facts may mean nothing.
    #[must_use]
    pub(crate) fn unsound(self) -> Self {
        Self { sound: false, ..self }
    }

    /// Whether nothing is known to be wrong, with this node or those before it.
    pub(crate) fn is_sound(&self) -> bool {
        self.sound && self.problems.is_empty()
    }

    /// Reports a problem with the parameter at `param` (a dotted path).
    pub fn problem(&mut self, param: impl Into<String>, message: impl Into<String>, help: impl Into<String>) {
        let help = help.into();
        let help = (!help.is_empty()).then_some(help);
        self.problems.push(Problem { param: param.into(), message: message.into(), help });
    }

    /// A fact about what is connected to an input port; `None` where nothing is connected or nothing is known.
    #[must_use]
    pub fn fact(&self, port: &str, name: &str) -> Option<f64> {
        self.first(port)?.get(name).copied()
    }

    /// Whether anything is connected to an input port, be anything known of it or not.
    #[must_use]
    pub fn is_connected(&self, port: &str) -> bool {
        self.first(port).is_some()
    }

    /// All facts of the first thing that is connected to an input port, to pass on to an output.
    #[must_use]
    pub fn facts(&self, port: &str) -> Facts {
        self.first(port).cloned().unwrap_or_default()
    }

    /// States a fact about an output port.
    pub fn state(&mut self, port: &str, name: &str, value: f64) {
        if self.asked {
            self.outputs.entry(port.to_owned()).or_default().insert(name.to_owned(), value);
        }
    }

    fn first(&self, port: &str) -> Option<&'a Facts> {
        self.inputs.iter().find(|(name, _)| *name == port).map(|(_, facts)| *facts)
    }

    /// The sizes in bytes of the files that a parameter names; empty where they cannot be read (that is reported
    /// elsewhere).
    #[must_use]
    pub fn file_sizes(&self, files: &InputFiles) -> Vec<(Utf8PathBuf, u64)> {
        let Ok(found) = files.resolve(self.folder) else { return Vec::new() };
        found
            .into_iter()
            .filter_map(|file| {
                let size = fs_err::metadata(&file.path).ok()?.len();
                Some((file.path, size))
            })
            .collect()
    }

    /// What was found: the facts of the outputs, and the problems.
    #[must_use]
    pub fn finish(self) -> (BTreeMap<String, Facts>, Vec<Problem>) {
        (self.outputs, self.problems)
    }
}
