//! From a manifest and a registry to a [`Plan`]: every node typed, wired and checked, or the full list of what is wrong.
//!
//! A `Plan` is valid by construction: kinds exist, parameters have their types and ranges, every wire joins two ports
//! whose types fit, there is no cycle, every external file exists. Nothing has run yet and the store is not looked at.

mod device;
mod estimate;
mod external;
mod facts;
#[cfg(test)]
mod fuzz_tests;
mod kind_info;
mod node;
mod params;
mod path_params;
mod select;
mod wiring;

pub use device::resolve_device;
pub use estimate::{Machine, over_limits};
pub(crate) use external::content_of;
pub use external::{ExternalFile, external_files, names_files, remotes, with_content, with_files};
pub use node::{Node, OutputPort, Wire};
pub(crate) use params::place_of;
pub use path_params::path_params;
pub use select::{Selection, select};

use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};

use self::{facts::OutputFacts, kind_info::KindInfo};
use crate::{
    device::Gpus,
    diagnostic::{Diagnostic, Severity, dedupe},
    graph::{Cycle, Graph, NodeId},
    manifest::{ExecutorDecl, Manifest, StageDecl, Word},
    stage::{Check, Device, Dtype, Registry},
    wide,
};

/// A manifest that can run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The experiment's name.
    pub name: String,
    /// The folder that relative paths start from: the manifest's.
    pub folder: Utf8PathBuf,
    /// The nodes, in the manifest's order; a [`NodeId`] is an index into this list.
    pub nodes: Vec<Node>,
    /// Where its nodes run, if the command line does not say.
    pub executor: ExecutorDecl,
    /// Who needs whom.
    pub graph: Graph,
    /// What is odd, though it can run.
    pub warnings: Vec<Diagnostic>,
}

impl Plan {
    /// Resolves a manifest.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first thing.
    pub fn resolve(manifest: Manifest, registry: Registry, folder: &Utf8Path) -> Result<Self, Vec<Diagnostic>> {
        let mut found = Vec::new();
        let stages: Vec<Arc<StageDecl>> = manifest.stages.into_iter().map(Arc::new).collect();
        let kinds = kind_info::KindTable::new(registry, stages.iter().map(Arc::as_ref));
        let mut wiring = wiring::wire(&stages, registry, &kinds, &mut found);
        let graph = match Graph::new(stages.len(), wiring.edges()) {
            Ok(graph) => Some(graph),
            Err(cycle) => {
                found.push(cycle_error(&stages, &cycle));
                None
            }
        };
        // Facts flow from level to level; on a cycle there are none, and each node is checked by itself.
        let levels = match &graph {
            Some(graph) => graph.levels(),
            None => vec![(0u32..).take(stages.len()).map(NodeId).collect()],
        };
        let mut nodes: Vec<Option<Node>> = vec![None; stages.len()];
        let mut facts = vec![OutputFacts::new(); stages.len()];
        let mut files = external::FileCheck::new(folder);
        let defaults = (manifest.device.as_ref(), manifest.dtype.as_ref());
        for level in levels {
            let sound = graph.is_some() && !has_errors(&found);
            let checked = wide::map(&level, |id| {
                let decl = &stages[id.index()];
                let wires = if graph.is_some() { wiring.of(*id) } else { &[] };
                let inputs = facts::of_inputs(wires, |from| &facts[from.index()]);
                let check = Check::of(inputs, folder);
                let check = if sound { check } else { check.unsound() };
                let is_leaf = graph.as_ref().is_some_and(|graph| graph.is_leaf(*id));
                let check = if is_leaf { check.of_a_leaf() } else { check };
                Some(check_stage(decl, kinds.get(&decl.kind.text)?, registry, defaults, check))
            });
            for (id, checked) in level.into_iter().zip(checked) {
                let Some(checked) = checked else { continue };
                let decl = &stages[id.index()];
                found.extend(checked.found);
                facts[id.index()] = checked.facts;
                let Some(resolved) = checked.resolved else { continue };
                if resolved.reads_files {
                    files.check(decl, resolved.params.tree(), &mut found);
                }
                let Some(device) = checked.device else { continue };
                nodes[id.index()] =
                    Some(Node::new(manifest.seed, Arc::clone(decl), checked.kind, resolved, device, wiring.take(id)));
            }
        }
        found.sort_by_key(|diagnostic| diagnostic.labels.first().map(|label| label.span));
        dedupe(&mut found);
        let errors = has_errors(&found);
        let nodes: Option<Vec<Node>> = nodes.into_iter().collect();
        match (graph, nodes) {
            (Some(graph), Some(nodes)) if !errors => Ok(Self {
                name: manifest.name,
                folder: folder.to_owned(),
                nodes,
                executor: manifest.executor,
                graph,
                warnings: found,
            }),
            _ => Err(found),
        }
    }

    /// The node of a number.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// The node of a name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<NodeId> {
        let at = self.nodes.iter().position(|node| node.name == name)?;
        u32::try_from(at).ok().map(NodeId)
    }

    /// All nodes' numbers.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)).map(NodeId)
    }
}

/// A stage by itself, and with what is known of its inputs.
struct Checked<'k> {
    kind: &'k KindInfo,
    resolved: Option<params::Resolved>,
    device: Option<(Device, Dtype)>,
    facts: OutputFacts,
    found: Vec<Diagnostic>,
}

fn check_stage<'k>(
    decl: &StageDecl,
    kind: &'k KindInfo,
    registry: Registry,
    defaults: (Option<&Word>, Option<&Word>),
    mut check: Check<'_>,
) -> Checked<'k> {
    let mut found = Vec::new();
    let device = resolve_device(defaults, decl, kind.entry, || gpu_there(registry));
    let dtype = device.as_ref().map_or(Dtype::F32, |(_, dtype)| *dtype);
    check = check.computing_in(dtype);
    let resolved = params::resolve(decl, kind, &mut check, dtype, &mut found);
    let (facts, problems) = check.finish();
    params::report_problems(decl, problems, &mut found);
    let device = device.map_err(|errors| found.extend(errors)).ok();
    Checked { kind, resolved, device, facts, found }
}

fn has_errors(found: &[Diagnostic]) -> bool {
    found.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
}

fn cycle_error(stages: &[Arc<StageDecl>], cycle: &Cycle) -> Diagnostic {
    let name = |id: &NodeId| stages[id.index()].name.name.as_str();
    let path: Vec<&str> = cycle.0.iter().chain(cycle.0.first()).map(name).collect();
    let mut error = Diagnostic::error("plan::cycle", format!("these stages need each other: {}", path.join(" -> ")))
        .help("a stage can only use what is finished before it starts: remove one of these inputs");
    for (at, id) in cycle.0.iter().enumerate() {
        let decl = &stages[id.index()];
        let before = name(&cycle.0[(at + cycle.0.len() - 1) % cycle.0.len()]);
        let place = decl.inputs.iter().flat_map(|input| &input.from).find(|word| {
            word.text == before || word.text.strip_prefix(before).is_some_and(|rest| rest.starts_with('.'))
        });
        error = error.label(place.map_or(decl.name.span, |word| word.span), format!("`{}` needs `{before}`", name(id)));
    }
    error
}

/// Whether `auto` takes a GPU: this binary can, and the machine has one.
fn gpu_there(registry: Registry) -> bool {
    !Gpus::of_this_machine(registry.cuda()).all().is_empty()
}
