//! From stages with sweeps to nodes, each stage after those that it takes its inputs from.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::budget::{Budget, WIRE};
use super::fan::{AxisId, Cells, Fan, Shown, join};
use super::nodes::{self, Port, Source};
use super::reference::{self, Reference};
use super::{MAX_NODES, Sweep, cells, plain};
use crate::diagnostic::Diagnostic;
use crate::manifest::{StageDecl, Word, field, merge};
use crate::value::Key;

/// Expands stages of which at least one is swept or selects cells.
pub(super) fn wire(stages: Vec<(StageDecl, Sweep)>, found: &mut Vec<Diagnostic>) -> Vec<StageDecl> {
    let names: BTreeMap<String, usize> =
        stages.iter().enumerate().map(|(at, (stage, _))| (stage.name.name.clone(), at)).collect();
    let order = order(&stages, &names, found);
    let mut left = stages.len();
    let mut wiring = Wiring {
        names,
        done: stages.iter().map(|_| None).collect(),
        axes: Vec::new(),
        made: 0,
        budget: Budget::new(),
        found,
    };
    let mut stages: Vec<Option<(StageDecl, Sweep)>> = stages.into_iter().map(Some).collect();
    for at in order {
        left -= 1;
        let Some((stage, sweep)) = stages.get_mut(at).and_then(Option::take) else { continue };
        let done = wiring.stage(stage, sweep, left);
        if let Some(slot) = wiring.done.get_mut(at) {
            *slot = done;
        }
    }
    wiring.done.into_iter().flatten().flat_map(|done| done.nodes).collect()
}

/// The stages in an order in which each comes after its inputs; those in a circle are left out and reported.
fn order(stages: &[(StageDecl, Sweep)], names: &BTreeMap<String, usize>, found: &mut Vec<Diagnostic>) -> Vec<usize> {
    let inputs = |stage: &StageDecl| -> Vec<usize> {
        let words = stage.inputs.iter().flat_map(|input| &input.from);
        words.filter_map(|word| names.get(reference::parse(&word.text).ok()?.stage).copied()).collect()
    };
    let inputs: Vec<Vec<usize>> = stages.iter().map(|(stage, _)| inputs(stage)).collect();
    let mut takers: Vec<Vec<usize>> = vec![Vec::new(); stages.len()];
    let mut missing: Vec<usize> = inputs.iter().map(Vec::len).collect();
    for (at, inputs) in inputs.iter().enumerate() {
        for &input in inputs {
            takers[input].push(at);
        }
    }
    let mut order: Vec<usize> = (0..stages.len()).filter(|at| missing[*at] == 0).collect();
    let mut next = 0;
    while let Some(&at) = order.get(next) {
        next += 1;
        for &taker in &takers[at] {
            missing[taker] -= 1;
            if missing[taker] == 0 {
                order.push(taker);
            }
        }
    }
    if let Some(start) = missing.iter().position(|missing| *missing > 0) {
        found.push(circle(start, stages, &inputs, &missing));
    }
    order
}

/// Follows inputs that are still missing until a stage comes back.
fn circle(start: usize, stages: &[(StageDecl, Sweep)], inputs: &[Vec<usize>], missing: &[usize]) -> Diagnostic {
    let mut trail = vec![start];
    let circle = loop {
        let last = trail.last().copied().unwrap_or(start);
        let next = inputs[last].iter().copied().find(|input| missing[*input] > 0).unwrap_or(start);
        if let Some(first) = trail.iter().position(|one| *one == next) {
            trail.drain(..first);
            trail.push(next);
            break trail;
        }
        trail.push(next);
    };
    // An input comes before what takes it.
    let names: Vec<&str> = circle.iter().rev().map(|at| stages[*at].0.name.name.as_str()).collect();
    let message = format!("the stages depend on each other in a circle: {}", names.join(" -> "));
    let span = stages[circle[0]].0.name.span;
    Diagnostic::error("manifest::cycle", message).label(span, "").help("remove one of these inputs")
}

/// A stage whose nodes are made.
pub(super) struct Done {
    pub(super) cells: Cells,
    pub(super) nodes: Vec<StageDecl>,
}

/// What a stage takes of swept stages, with the number of each.
type Fans = Vec<(Fan, usize)>;

/// References of one stage to swept stages.
const MAX_FANS: usize = 64;

struct Wiring<'a> {
    names: BTreeMap<String, usize>,
    /// By stage; `None` where it is not made yet, or cannot be.
    done: Vec<Option<Done>>,
    axes: Vec<AxisInfo>,
    made: usize,
    budget: Budget,
    found: &'a mut Vec<Diagnostic>,
}

impl Wiring<'_> {
    /// Makes the nodes of a stage; `left` stages come after it.
    fn stage(&mut self, mut stage: StageDecl, sweep: Sweep, left: usize) -> Option<Done> {
        let swept = !sweep.is_none();
        let own = cells::own(&stage.name, sweep, &mut self.budget, self.found);
        let (inputs, fans) = self.inputs(&stage)?;
        let own = own?;
        if !swept && fans.is_empty() {
            self.made += 1;
            return Some(Done { cells: Cells { count: 1, ..Cells::default() }, nodes: vec![plain(stage)] });
        }
        let producers: Vec<(&Fan, &Done)> =
            fans.iter().filter_map(|(fan, at)| Some((fan, self.done.get(*at)?.as_ref()?))).collect();
        let joined = join(&producers.iter().map(|(fan, done)| (*fan, &done.cells)).collect::<Vec<_>>());
        let taken = joined.as_ref().map_or_else(|size| *size, |joined| joined.count);
        let size = taken.saturating_mul(own.cells.len());
        let total = size.saturating_add(left).saturating_add(self.made);
        let joined = match joined {
            Ok(joined) if total <= MAX_NODES && joined.count > 0 => joined,
            _ => {
                self.found.push(wrong_size(&stage.name, taken, own.cells.len(), total));
                return None;
            }
        };
        let gathered = |one: usize| -> usize { (0..fans.len()).map(|fan| joined.gathered(one, fan, &fans)).sum() };
        let wires = (0..joined.count).map(gathered).sum::<usize>().saturating_mul(own.cells.len());
        let weight = 10 + own.axes.len() + (merge::weight(&stage.rest) + own.weight()) / 8;
        let steps = size.saturating_mul(weight).saturating_add(wires.saturating_mul(WIRE));
        self.budget.spend(steps, &stage.name, self.found)?;
        self.made += size;

        let own_axes = own.axes.iter().map(|axis| AxisInfo {
            origin: stage.name.name.as_str().into(),
            name: axis.key.name.as_str().into(),
            labels: axis.points.iter().map(|point| Arc::clone(&point.label)).collect(),
        });
        let ids = joined.axes.iter().copied().chain(self.axes.len()..self.axes.len() + own.axes.len());
        let ids: Vec<AxisId> = ids.collect();
        self.axes.extend(own_axes);
        let axes = shown(&stage.name.name, &ids, &self.axes);
        stage.inputs.clear();
        let done = nodes::nodes(&stage, &own, &joined, axes, &inputs, &producers);
        let mut names: HashSet<&str> = HashSet::with_capacity(done.nodes.len());
        if let Some(twice) = done.nodes.iter().find(|node| !names.insert(&node.name.name)) {
            let message = format!("two cells are both called `{}`", twice.name.name);
            let error = Diagnostic::error("manifest::duplicate-label", message).label(stage.name.span, "");
            self.found.push(error.help("let each table of `include` differ from the others in a value of an axis"));
            return None;
        }
        Some(done)
    }

    /// Where the inputs of a stage come from; `None` after an error, here or in a stage that it takes something from.
    fn inputs(&mut self, stage: &StageDecl) -> Option<(Vec<Port>, Fans)> {
        let mut fans = Vec::new();
        let mut whole = true;
        let mut ports = Vec::with_capacity(stage.inputs.len());
        for input in &stage.inputs {
            let mut from = Vec::with_capacity(input.from.len());
            for word in &input.from {
                match self.source(word, &mut fans) {
                    Some(source) => from.push(source),
                    None => whole = false,
                }
            }
            ports.push(Port { port: input.port.clone(), from });
        }
        whole.then_some((ports, fans))
    }

    fn source(&mut self, word: &Word, fans: &mut Fans) -> Option<Source> {
        let error = |code, message: String| Diagnostic::error(code, message).label(word.span, "");
        let Reference { stage, select, port } = match reference::parse(&word.text) {
            Ok(reference) => reference,
            Err(message) => {
                let help = "write \"stage\", \"stage.port\" or \"stage[label, label].port\"";
                self.found.push(error("manifest::bad-reference", message).help(help));
                return None;
            }
        };
        let Some(&at) = self.names.get(stage) else {
            let names = self.names.keys().map(String::as_str);
            let unknown = error("manifest::unknown-stage", format!("there is no stage `{stage}`"));
            let unknown = field::unknown_of_many(unknown, stage, names, "the stages are", self.found);
            self.found.push(unknown);
            return None;
        };
        let done = self.done.get(at)?.as_ref()?;
        if select.is_none() && done.cells.axes.is_empty() {
            return Some(Source::Same(word.clone()));
        }
        let steps = done.cells.count * (1 + done.cells.axes.len());
        let key = Key { name: word.text.clone(), span: word.span };
        self.budget.spend(steps, &key, self.found)?;
        if fans.len() == MAX_FANS {
            let message = format!("a stage takes swept stages by more than {MAX_FANS} references");
            self.found.push(error("manifest::too-large", message).help("gather their cells: \"stage[*]\""));
            return None;
        }
        match Fan::new(stage, &done.cells, select.as_deref()) {
            Ok(fan) => {
                fans.push((fan, at));
                Some(Source::Fan { fan: fans.len() - 1, port: port.map(ToOwned::to_owned), span: word.span })
            }
            Err((message, help)) => {
                self.found.push(error("manifest::unknown-label", message).help(help));
                None
            }
        }
    }
}

fn wrong_size(stage: &Key, taken: usize, own: usize, total: usize) -> Diagnostic {
    let (code, message, help) = if taken == 0 {
        let message = format!("no cells of the inputs of `{}` belong together", stage.name);
        ("manifest::empty-join", message, "inputs are joined on the axes that they have in common")
    } else {
        let message = format!(
            "the sweep of `{}` has {} cells ({taken} of its inputs x {own} of its own): that makes {total} nodes, and a \
             manifest may have {MAX_NODES} in all",
            stage.name,
            taken.saturating_mul(own)
        );
        ("manifest::too-large", message, "sweep fewer values, or split the manifest")
    };
    Diagnostic::error(code, message).label(stage.span, "").help(help)
}

/// An axis, under the name that it has in the stage that sweeps over it.
struct AxisInfo {
    origin: Arc<str>,
    name: Arc<str>,
    labels: Arc<[Arc<str>]>,
}

/// The axes of a stage, with the stage they come from in front where their name alone would be ambiguous.
fn shown(stage: &str, ids: &[AxisId], all: &[AxisInfo]) -> Vec<Shown> {
    let infos: Vec<(AxisId, &AxisInfo)> = ids.iter().filter_map(|id| Some((*id, all.get(*id)?))).collect();
    let shown = |&(id, info): &(AxisId, &AxisInfo)| {
        let ambiguous = infos.iter().filter(|(_, other)| other.name == info.name).count() > 1;
        if !ambiguous || *info.origin == *stage {
            return Shown { id, name: Arc::clone(&info.name), labels: Arc::clone(&info.labels) };
        }
        let prefixed = |text: &Arc<str>| format!("{}.{text}", info.origin).into();
        Shown { id, name: prefixed(&info.name), labels: info.labels.iter().map(prefixed).collect() }
    };
    infos.iter().map(shown).collect()
}
