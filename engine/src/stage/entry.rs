//! The registry: stage kinds as plain static data.

use schemars::{Schema, SchemaGenerator};

use super::{Canonical, Check, Dtype, Estimate, MethodInfo, Port, Stage, StageContext, StageError};
use crate::value::{Span, Table, ValueError};

/// A table as its author wrote it, with the place of what is missing in it.
pub(crate) type Written<'a> = (&'a Table, Span);

/// Canonical parameters, and what a node with them needs.
pub(crate) type Resolved = (Canonical, Estimate);

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
    /// See [`Stage::DTYPES`].
    pub dtypes: &'static [Dtype],
    /// JSON Schema of the parameters.
    pub params_schema: fn(&mut SchemaGenerator) -> Schema,
    /// JSON Schema of the knobs.
    pub knobs_schema: fn(&mut SchemaGenerator) -> Schema,
    /// Threads of a node that asks for none.
    pub threads: usize,
    /// Whether it runs a program of the author's: inputs of any name are taken, and outputs are the keys of the node's
    /// `outputs` table.
    pub open: bool,
    pub(crate) params_subschema: fn(&mut SchemaGenerator) -> Schema,
    pub(crate) knobs_subschema: fn(&mut SchemaGenerator) -> Schema,
    pub(crate) resolve: fn(Written<'_>, &mut Check<'_>, Dtype) -> Result<Resolved, ValueError>,
    pub(crate) canonical_knobs: fn(Written<'_>) -> Result<Canonical, ValueError>,
    pub(crate) run: fn(&serde_json::Value, &serde_json::Value, &mut StageContext<'_>) -> Result<(), StageError>,
}

impl StageEntry {
    /// Names of the parameters, in the order of their type.
    #[must_use]
    pub fn param_names(&self) -> Vec<String> {
        property_names(&(self.params_schema)(&mut SchemaGenerator::default()))
    }

    /// Names of the knobs, in the order of their type.
    #[must_use]
    pub fn knob_names(&self) -> Vec<String> {
        property_names(&(self.knobs_schema)(&mut SchemaGenerator::default()))
    }

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
            dtypes: S::DTYPES,
            params_schema: |generator| generator.root_schema_for::<S::Params>(),
            knobs_schema: |generator| generator.root_schema_for::<S::Knobs>(),
            params_subschema: |generator| <S::Params as schemars::JsonSchema>::json_schema(generator),
            knobs_subschema: |generator| <S::Knobs as schemars::JsonSchema>::json_schema(generator),
            threads: S::THREADS,
            open: false,
            resolve: resolve::<S>,
            canonical_knobs: canonical::<S::Knobs>,
            run: run::<S>,
        }
    }
}

fn canonical<T: serde::de::DeserializeOwned + serde::Serialize>(
    (table, span): Written<'_>,
) -> Result<Canonical, ValueError> {
    written(&table.decode::<T>(span)?, span)
}

fn written<T: serde::Serialize>(typed: &T, span: Span) -> Result<Canonical, ValueError> {
    Canonical::of(typed).map_err(|error| ValueError::new(span, error.to_string()))
}

/// Without an estimate where the check found something wrong.
fn resolve<S: Stage>((table, span): Written<'_>, check: &mut Check<'_>, dtype: Dtype) -> Result<Resolved, ValueError> {
    let typed: S::Params = table.decode(span)?;
    S::check(&typed, check);
    // An estimate may divide by what a check has found to be zero.
    let estimate = if check.is_sound() { S::estimate(&typed, check, dtype) } else { Estimate::default() };
    Ok((written(&typed, span)?, estimate))
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

fn property_names(schema: &Schema) -> Vec<String> {
    let properties = schema.get("properties").and_then(|value| value.as_object());
    properties.into_iter().flat_map(|map| map.keys().cloned()).collect()
}

/// All stage kinds of a binary, in source order.
#[derive(Clone, Copy)]
pub struct Registry {
    entries: &'static [StageEntry],
    methods: &'static [&'static [MethodInfo]],
    cuda: bool,
}

impl Registry {
    /// A registry over a static list.
    #[must_use]
    pub const fn new(entries: &'static [StageEntry]) -> Self {
        Self { entries, methods: &[], cuda: false }
    }

    /// The same, with the training methods that its kinds know, a list for each kind that takes any of them.
    #[must_use]
    pub const fn with_methods(mut self, methods: &'static [&'static [MethodInfo]]) -> Self {
        self.methods = methods;
        self
    }

    /// The training methods, in source order. Two kinds may each have a method of one name.
    #[must_use]
    pub fn methods(&self) -> Vec<&'static MethodInfo> {
        self.methods.iter().copied().flatten().collect()
    }

    /// The same kinds in a binary that can, or cannot, compute on NVIDIA GPUs.
    #[must_use]
    pub const fn with_cuda(self, cuda: bool) -> Self {
        Self { cuda, ..self }
    }

    /// Whether this binary can compute on NVIDIA GPUs.
    #[must_use]
    pub const fn cuda(&self) -> bool {
        self.cuda
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
