//! What the plan needs to know of each stage kind that a manifest uses, found out once per kind.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::OutputPort;
use crate::{
    manifest::StageDecl,
    stage::{Canonical, Port, PortType, Registry, StageEntry},
    value::{Span, Table},
};

/// A kind, with what its nodes have in common.
pub(super) struct KindInfo {
    pub(super) entry: &'static StageEntry,
    /// Names of the parameters and of the knobs, in the order of their types.
    names: Vec<String>,
    fields: HashMap<String, Field>,
    /// The knobs of a node that has none written.
    pub(super) default_knobs: Option<Canonical>,
    outputs: Arc<[OutputPort]>,
}

/// What a field of a stage's table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    /// Part of the key.
    Param,
    /// Not part of it.
    Knob,
}

/// The kinds of one manifest.
pub(super) struct KindTable {
    kinds: BTreeMap<&'static str, KindInfo>,
}

impl KindTable {
    pub(super) fn new<'a>(registry: Registry, stages: impl Iterator<Item = &'a StageDecl>) -> Self {
        let mut kinds = BTreeMap::new();
        let mut last = "";
        for decl in stages {
            if decl.kind.text == last {
                continue;
            }
            last = &decl.kind.text;
            if let Some(entry) = registry.get(last)
                && !kinds.contains_key(entry.kind)
            {
                kinds.insert(entry.kind, KindInfo::new(entry));
            }
        }
        Self { kinds }
    }

    pub(super) fn get(&self, kind: &str) -> Option<&KindInfo> {
        self.kinds.get(kind)
    }
}

impl KindInfo {
    fn new(entry: &'static StageEntry) -> Self {
        let (params, knobs) = (entry.param_names(), entry.knob_names());
        let names: Vec<String> = params.iter().chain(&knobs).cloned().collect();
        let knobs = knobs.into_iter().map(|name| (name, Field::Knob));
        // A name that is both is a parameter.
        let fields = knobs.chain(params.into_iter().map(|name| (name, Field::Param))).collect();
        let default_knobs = (entry.canonical_knobs)((&Table::default(), Span::default())).ok();
        let port = |port: &Port| OutputPort { name: port.name.to_owned(), ty: port.ty };
        Self { entry, names, fields, default_knobs, outputs: entry.outputs.iter().map(port).collect() }
    }

    /// What a field is; `None` where the kind has none of that name.
    pub(super) fn field(&self, name: &str) -> Option<Field> {
        self.fields.get(name).copied()
    }

    /// The names of all fields.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.names.iter().map(String::as_str)
    }

    /// The outputs of a node of this kind. A kind whose outputs are declared in the manifest has them as the keys of
    /// its `outputs` table.
    pub(super) fn outputs(&self, decl: &StageDecl) -> Arc<[OutputPort]> {
        if !self.entry.open {
            return Arc::clone(&self.outputs);
        }
        let table = decl.rest.get("outputs").and_then(|value| value.as_table());
        let names = table.into_iter().flat_map(|table| &table.entries).map(|(key, _)| key.name.clone());
        names.map(|name| OutputPort { name, ty: PortType::ANY }).collect()
    }
}
