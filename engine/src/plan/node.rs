//! A node of a plan: one stage with everything about it decided.

use std::sync::Arc;

use super::{kind_info::KindInfo, params::Resolved, wiring::PlannedWire};
use crate::{
    graph::NodeId,
    manifest::StageDecl,
    stage::{Canonical, Device, Dtype, Estimate, PortType, StageEntry},
};

/// A wire into a node.
pub type Wire = PlannedWire;

/// An output of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputPort {
    /// Its name.
    pub name: String,
    /// What it is.
    pub ty: PortType,
}

/// One node.
#[derive(Clone)]
pub struct Node {
    /// Its name, unique in the plan.
    pub name: String,
    /// Its kind.
    pub entry: &'static StageEntry,
    /// Canonical parameters: typed, defaults filled in. External files still stand as written.
    pub params: Canonical,
    /// Canonical knobs.
    pub knobs: Canonical,
    /// Its inputs, in the order of the kind's ports and then of the manifest.
    pub wires: Vec<Wire>,
    /// Its outputs.
    pub outputs: Arc<[OutputPort]>,
    /// Its seed, whether or not its kind uses one.
    pub seed: u64,
    /// Whether its parameters name files outside the store.
    pub reads_files: bool,
    /// What it needs; empty where nothing is known.
    pub estimate: Estimate,
    /// Where it computes.
    pub device: Device,
    /// What it computes in.
    pub dtype: Dtype,
    /// What was written, for places and for resources.
    pub decl: Arc<StageDecl>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("name", &self.name).field("kind", &self.entry.kind).finish_non_exhaustive()
    }
}

impl Node {
    pub(super) fn new(
        default_seed: u64,
        decl: Arc<StageDecl>,
        kind: &KindInfo,
        resolved: Resolved,
        (device, dtype): (Device, Dtype),
        wires: Vec<Wire>,
    ) -> Self {
        Self {
            name: decl.name.name.clone(),
            entry: kind.entry,
            params: resolved.params,
            knobs: resolved.knobs,
            wires,
            outputs: kind.outputs(&decl),
            seed: decl.seed.unwrap_or(default_seed),
            reads_files: resolved.reads_files,
            estimate: resolved.estimate,
            device,
            dtype,
            decl,
        }
    }

    /// The nodes it needs directly, with repetitions.
    pub fn needs(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.wires.iter().map(|wire| wire.from)
    }

    /// Devices that it has to itself while it runs: what it asks for, else one if it computes on a GPU.
    #[must_use]
    pub fn devices(&self) -> usize {
        self.decl.resources.device.unwrap_or(usize::from(matches!(self.device, Device::Cuda(_))))
    }

    /// The number of the GPU that its author names, where it is not the first: `cuda` is any, and so is `cuda:0`.
    #[must_use]
    pub fn pinned_device(&self) -> Option<usize> {
        match self.device {
            Device::Cuda(number) if number > 0 => Some(number),
            Device::Cuda(_) | Device::Cpu => None,
        }
    }

    /// Threads it may use: what it asks for, else one. Never what happens to be free.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.decl.resources.threads.unwrap_or(self.entry.threads).max(1)
    }
}
