//! Makes the key of a node once the outputs of what it needs are known.

use std::collections::BTreeMap;

use camino::Utf8Path;
use sepia_cache::{Digest, FileDigests, ObjectRef, StoreError};

use crate::{
    graph::NodeId,
    key::{KEY_SCHEMA, KeyInputs},
    plan::{Plan, with_content},
};

/// The stored outputs of a node, by port.
pub type NodeOutputs = BTreeMap<String, ObjectRef>;

/// Why a key cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// An external file cannot be read.
    #[error("an input file cannot be read: {0}")]
    File(#[from] std::io::Error),
    /// The store's cache of file digests failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something it needs has no outputs: a defect of the caller.
    #[error("the outputs of node {0:?} are not known")]
    NoOutputs(NodeId),
}

/// Makes keys for one plan.
pub struct KeyMaker<'p> {
    plan: &'p Plan,
    files: FileDigests,
}

impl<'p> KeyMaker<'p> {
    /// A maker over a plan and the store's cache of file digests.
    #[must_use]
    pub fn new(plan: &'p Plan, files: FileDigests) -> Self {
        Self { plan, files }
    }

    /// What a node's key is made of. `outputs` must hold those of every node it needs.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn inputs_of(&self, id: NodeId, outputs: &[Option<NodeOutputs>]) -> Result<KeyInputs, KeyError> {
        let node = self.plan.node(id);
        let mut inputs: BTreeMap<String, Vec<Digest>> = BTreeMap::new();
        for wire in &node.wires {
            let object = outputs[wire.from.index()].as_ref().and_then(|ports| ports.get(&wire.output));
            let object = object.ok_or(KeyError::NoOutputs(wire.from))?;
            match inputs.get_mut(&wire.port) {
                Some(list) => list.push(object.digest),
                None => drop(inputs.insert(wire.port.clone(), vec![object.digest])),
            }
        }
        let params = if node.reads_files {
            with_content(node.params.tree(), &self.plan.folder, |path| self.digest(path))?.into()
        } else {
            node.params.clone()
        };
        Ok(KeyInputs {
            schema: KEY_SCHEMA,
            kind: node.entry.kind.to_owned(),
            version: node.entry.version,
            params,
            seed: node.entry.seeded.then_some(node.seed),
            inputs,
            device: node.entry.on_device.then(|| node.device.class().to_owned()),
            dtype: node.entry.on_device.then(|| node.dtype.name().to_owned()),
        })
    }

    /// The digests of external files.
    pub(super) fn files(&self) -> &FileDigests {
        &self.files
    }

    fn digest(&self, path: &Utf8Path) -> Result<Digest, KeyError> {
        Ok(self.files.digest(path)?)
    }

    /// Keeps what was learned of external files for the next run.
    ///
    /// # Errors
    /// When the cache cannot be written.
    pub fn save(&self) -> Result<(), KeyError> {
        Ok(self.files.save()?)
    }
}
