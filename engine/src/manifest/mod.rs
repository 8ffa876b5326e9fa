//! From text to [`Manifest`]: typed, spanned, and ignorant of what stages do.
//!
//! This phase knows the reserved keys of a manifest and of a stage table. What is left in a stage table are parameters
//! and knobs, which only the registry can judge: that is the next phase, [`plan`](crate::plan).

mod field;
mod read;
mod stage;
mod units;

#[cfg(test)]
mod tests;

pub use field::value_diagnostic;
pub use stage::RESERVED;

use crate::diagnostic::{Diagnostic, Sources};
use crate::value::{Key, Span, Table, parse_toml};

/// The manifest format that this version reads and writes.
pub const FORMAT: i64 = 1;

/// A parsed manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The experiment's name; the file's stem where it gives none.
    pub name: String,
    /// Seed of every stage that gives none.
    pub seed: u64,
    /// Device of every stage that gives none: `auto`, `cpu`, `cuda`, `cuda:N`.
    pub device: Option<Word>,
    /// Dtype of every stage that gives none.
    pub dtype: Option<Word>,
    /// The stages in the order of the text.
    pub stages: Vec<StageDecl>,
}

impl Manifest {
    /// Reads one text, which gets a place in `sources` under `name`. Warnings come with the manifest.
    ///
    /// # Errors
    /// Everything that is wrong with the text, codes `manifest::...`.
    pub fn parse(sources: &mut Sources, name: &str, text: &str) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        let source = sources.add(name, text);
        let table = parse_toml(source, text)?;
        let whole = Span { source, start: 0, end: u32::try_from(text.len()).unwrap_or(u32::MAX) };
        let mut found = Vec::new();
        let manifest = read::manifest(table, stem(name), whole, &mut found);
        match manifest {
            Some(manifest) if !found.iter().any(Diagnostic::is_error) => Ok((manifest, found)),
            _ => Err(found),
        }
    }
}

/// `quickstart` of `manifests/quickstart.toml`.
fn stem(name: &str) -> &str {
    let file = name.rsplit(['/', '\\']).next().unwrap_or(name);
    match file.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem,
        _ => file,
    }
}

/// A word with its place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Word {
    /// The word.
    pub text: String,
    /// Its place.
    pub span: Span,
}

/// One `[stages.NAME]` table.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StageDecl {
    /// Its name.
    pub name: Key,
    /// Its kind.
    pub kind: Word,
    /// What its author says about it.
    pub description: Option<String>,
    /// Inputs by port, in the order of the text.
    pub inputs: Vec<InputDecl>,
    /// Its own seed.
    pub seed: Option<u64>,
    /// Its own device.
    pub device: Option<Word>,
    /// Its own dtype.
    pub dtype: Option<Word>,
    /// What it needs of the machine.
    pub resources: Resources,
    /// How often a failed attempt is repeated.
    pub retries: u32,
    /// Seconds after which an attempt is stopped.
    pub timeout: Option<f64>,
    /// Seconds between two checkpoints.
    pub checkpoint_every: Option<f64>,
    /// Among nodes that could start, the higher goes first.
    pub priority: i64,
    /// All other keys: parameters and knobs of the kind.
    pub rest: Table,
    /// The whole table's place.
    pub span: Span,
}

impl StageDecl {
    /// Whole seconds between two checkpoints: one minute where it says nothing.
    #[must_use]
    pub fn checkpoint_seconds(&self) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a duration is positive and short")]
        self.checkpoint_every.map_or(60, |seconds| seconds.ceil().max(1.0) as u64)
    }
}

/// The wires into one input port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputDecl {
    /// The port.
    pub port: Key,
    /// The references, `stage` or `stage.port`.
    pub from: Vec<Word>,
}

/// What a stage needs of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resources {
    /// Threads; the kind's own default where it gives none.
    pub threads: Option<usize>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Devices.
    pub device: Option<usize>,
}
