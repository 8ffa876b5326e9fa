//! The registry: stage kinds as plain static data.

use std::collections::BTreeMap;

use schemars::{Schema, SchemaGenerator};

use super::{Check, Facts, Port, Problem, Stage, StageContext, StageError};
use crate::value::{Value, ValueError};

/// A stage kind with its types erased: a row of the registry.
#[derive(Clone, Copy)]
pub struct StageEntry {
    /// See [`Stage::KIND`].
    pub kind: &'static str,
    /// See [`Stage::VERSION`].
    pub version: u32,
    /// See [`Stage::INPUTS`].
    pub inputs: &'static [Port],
    /// See [`Stage::OUTPUTS`].
    pub outputs: &'static [Port],
    /// See [`Stage::SEEDED`].
    pub seeded: bool,
    /// See [`Stage::ON_DEVICE`].
    pub on_device: bool,
    /// JSON Schema of the parameters.
    pub params_schema: fn(&mut SchemaGenerator) -> Schema,
    /// JSON Schema of the knobs.
    pub knobs_schema: fn(&mut SchemaGenerator) -> Schema,
    pub(crate) canonical: fn(&Value) -> Result<serde_json::Value, ValueError>,
    pub(crate) canonical_knobs: fn(&Value) -> Result<serde_json::Value, ValueError>,
    pub(crate) check: fn(&serde_json::Value, &mut Check<'_>),
    pub(crate) run: fn(&serde_json::Value, &serde_json::Value, &mut StageContext<'_>) -> Result<(), StageError>,
    /// Set for the kind that runs another program instead of a stage of this binary.
    pub(crate) command: Option<fn(&serde_json::Value) -> Option<CommandLine>>,
}

/// A program to run instead of a stage of this binary, with its placeholders still in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Names of environment variables that are passed through.
    pub env_allow: Vec<String>,
    /// Environment variables that are set.
    pub env: BTreeMap<String, String>,
    /// Output name to the path, relative to the program's working folder, where it appears.
    pub outputs: BTreeMap<String, String>,
}

impl StageEntry {
    /// The row for a stage kind.
    #[must_use]
    pub const fn of<S: Stage>() -> Self {
        Self {
            kind: S::KIND,
            version: S::VERSION,
            inputs: S::INPUTS,
            outputs: S::OUTPUTS,
            seeded: S::SEEDED,
            on_device: S::ON_DEVICE,
            params_schema: |generator| generator.root_schema_for::<S::Params>(),
            knobs_schema: |generator| generator.root_schema_for::<S::Knobs>(),
            canonical: |value| canonical::<S::Params>(value),
            canonical_knobs: |value| canonical::<S::Knobs>(value),
            check: check::<S>,
            run: run::<S>,
            command: None,
        }
    }
}

/// The typed form with its defaults filled in: two ways to write one meaning become equal here.
fn canonical<T: serde::de::DeserializeOwned + serde::Serialize>(
    value: &Value,
) -> Result<serde_json::Value, ValueError> {
    let typed: T = value.decode()?;
    serde_json::to_value(typed).map_err(|error| ValueError::new(value.span, error.to_string()))
}

fn check<S: Stage>(params: &serde_json::Value, check: &mut Check<'_>) {
    if let Ok(params) = serde_json::from_value::<S::Params>(params.clone()) {
        S::check(&params, check);
    }
}

fn run<S: Stage>(
    params: &serde_json::Value,
    knobs: &serde_json::Value,
    ctx: &mut StageContext<'_>,
) -> Result<(), StageError> {
    let unreadable = |error| StageError::new(format!("the job's parameters do not fit this binary: {error}"));
    let params = serde_json::from_value::<S::Params>(params.clone()).map_err(unreadable)?;
    let knobs = serde_json::from_value::<S::Knobs>(knobs.clone()).map_err(unreadable)?;
    S::run(&params, &knobs, ctx)
}

/// All stage kinds of a binary, in source order.
#[derive(Clone, Copy)]
pub struct Registry {
    entries: &'static [StageEntry],
}

impl Registry {
    /// A registry over a static list.
    #[must_use]
    pub const fn new(entries: &'static [StageEntry]) -> Self {
        Self { entries }
    }

    /// The entry of a kind.
    #[must_use]
    pub fn get(&self, kind: &str) -> Option<&'static StageEntry> {
        self.entries.iter().find(|entry| entry.kind == kind)
    }

    /// All kinds, in source order.
    pub fn iter(&self) -> impl Iterator<Item = &'static StageEntry> {
        self.entries.iter()
    }
}

/// What a check of one node found: the facts of its outputs, and the problems.
pub(crate) type Checked = (BTreeMap<String, Facts>, Vec<Problem>);
