//! What the plan needs to know of each stage kind that a manifest uses, found out once per kind.

use std::collections::BTreeMap;

use super::OutputPort;
use crate::{
    manifest::StageDecl,
    stage::{PortType, Registry, StageEntry},
};

/// A kind and the names of its fields.
pub(super) struct KindInfo {
    pub(super) entry: &'static StageEntry,
    pub(super) params: Vec<String>,
    pub(super) knobs: Vec<String>,
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
                let params = entry.param_names();
                let knobs = entry.knob_names();
                kinds.insert(entry.kind, KindInfo { entry, params, knobs });
            }
        }
        Self { kinds }
    }

    pub(super) fn get(&self, kind: &str) -> Option<&KindInfo> {
        self.kinds.get(kind)
    }
}

impl KindInfo {
    /// The outputs of a node of this kind. A kind whose outputs are declared in the manifest has them as the keys of
    /// its `outputs` table.
    pub(super) fn outputs(&self, decl: &StageDecl) -> Vec<OutputPort> {
        if !self.entry.open {
            return self
                .entry
                .outputs
                .iter()
                .map(|port| OutputPort { name: port.name.to_owned(), ty: port.ty })
                .collect();
        }
        let table = decl.rest.get("outputs").and_then(|value| value.as_table());
        let names = table.into_iter().flat_map(|table| &table.entries).map(|(key, _)| key.name.clone());
        names.map(|name| OutputPort { name, ty: PortType::ANY }).collect()
    }
}
