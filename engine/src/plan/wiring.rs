//! Joins inputs to outputs by name and type.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{OutputPort, kind_info::KindTable};
use crate::{
    diagnostic::{Diagnostic, nearest},
    graph::NodeId,
    manifest::{InputDecl, MAX_SUGGESTIONS, StageDecl, Word},
    stage::{Port, PortType, Registry},
    wide,
};

/// A wire into a node's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedWire {
    /// The input port.
    pub port: String,
    /// The node that the bytes come from.
    pub from: NodeId,
    /// Its output port.
    pub output: String,
}

/// All wires of a manifest, by node.
pub(super) struct Wiring {
    wires: Vec<Vec<PlannedWire>>,
}

impl Wiring {
    pub(super) fn edges(&self) -> impl Iterator<Item = (NodeId, NodeId)> + '_ {
        (0u32..).zip(&self.wires).flat_map(|(to, wires)| wires.iter().map(move |wire| (wire.from, NodeId(to))))
    }

    pub(super) fn take(&mut self, id: NodeId) -> Vec<PlannedWire> {
        std::mem::take(&mut self.wires[id.index()])
    }

    pub(super) fn of(&self, id: NodeId) -> &[PlannedWire] {
        &self.wires[id.index()]
    }
}

struct Scope<'a> {
    stages: &'a [Arc<StageDecl>],
    kinds: &'a KindTable,
    by_name: HashMap<&'a str, NodeId>,
}

pub(super) fn wire(
    stages: &[Arc<StageDecl>],
    registry: Registry,
    kinds: &KindTable,
    found: &mut Vec<Diagnostic>,
) -> Wiring {
    let by_name = (0u32..).zip(stages).map(|(at, decl)| (decl.name.name.as_str(), NodeId(at))).collect();
    let scope = Scope { stages, kinds, by_name };
    // Mostly all is well, and that is found out on all threads. What to say of a mistake depends on those before it.
    let mistaken = AtomicBool::new(false);
    let sound = wide::map(stages, |decl| {
        let mut found = Vec::new();
        if mistaken.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let wires = scope.wires_of(decl, registry, &mut found);
        mistaken.fetch_or(!found.is_empty(), Ordering::Relaxed);
        wires
    });
    if !mistaken.into_inner() {
        return Wiring { wires: sound };
    }
    Wiring { wires: stages.iter().map(|decl| scope.wires_of(decl, registry, found)).collect() }
}

impl Scope<'_> {
    fn wires_of(&self, decl: &StageDecl, registry: Registry, found: &mut Vec<Diagnostic>) -> Vec<PlannedWire> {
        let Some(kind) = self.kinds.get(&decl.kind.text) else {
            found.push(unknown_kind(decl, registry));
            // Its wires still count: a cycle through it is a cycle.
            let all = decl.inputs.iter().flat_map(|input| input.from.iter().map(move |word| (input, word)));
            return all
                .filter_map(|(input, word)| {
                    let (from, output) = self.split(word)?;
                    Some(PlannedWire {
                        port: input.port.name.clone(),
                        from,
                        output: output.unwrap_or_default().to_owned(),
                    })
                })
                .collect();
        };
        let entry = kind.entry;
        let mut wires = Vec::with_capacity(decl.inputs.len());
        let names = || entry.inputs.iter().map(|port| port.name);
        let unknown = decl.inputs.iter().filter(|input| !names().any(|name| name == input.port.name));
        let misspelt: Vec<&str> = unknown.filter_map(|input| nearest(&input.port.name, names())).collect();
        for port in entry.inputs {
            let connected = decl.inputs.iter().find(|input| input.port.name == port.name);
            match connected {
                Some(input) => self.join(decl, input, *port, &mut wires, found),
                None if port.optional || misspelt.contains(&port.name) => {}
                None => {
                    let error = self.missing_input(decl, *port, found);
                    found.push(error);
                }
            }
        }
        for input in &decl.inputs {
            if entry.inputs.iter().any(|port| port.name == input.port.name) {
                continue;
            }
            if entry.open {
                self.join(decl, input, Port::new("", PortType::ANY, "").many(), &mut wires, found);
            } else {
                found.push(unknown_port(decl, input, entry.inputs));
            }
        }
        wires
    }

    /// Splits `stage` or `stage.output`.
    fn split<'w>(&self, word: &'w Word) -> Option<(NodeId, Option<&'w str>)> {
        let (stage, output) = word.reference();
        self.by_name.get(stage).map(|id| (*id, output))
    }

    fn join(
        &self,
        decl: &StageDecl,
        input: &InputDecl,
        port: Port,
        wires: &mut Vec<PlannedWire>,
        found: &mut Vec<Diagnostic>,
    ) {
        if input.from.len() > 1 && !port.many {
            found.push(
                Diagnostic::error(
                    "plan::too-many-inputs",
                    format!("the port `{}` takes one input, not {}", port.name, input.from.len()),
                )
                .label(input.from[1].span, "the second one")
                .help("write one stage per input, or a stage that takes a list"),
            );
            return;
        }
        for word in &input.from {
            let Some((from, output)) = self.split(word) else {
                let error = self.unknown_stage(word, found);
                found.push(error);
                continue;
            };
            let producer = &self.stages[from.index()];
            let Some(kind) = self.kinds.get(&producer.kind.text) else { continue };
            match pick_output(&kind.outputs(producer), output, port.ty) {
                Ok(output) => wires.push(PlannedWire { port: input.port.name.clone(), from, output }),
                Err(problem) => found.push(output_error(&problem, decl, producer, word, port)),
            }
        }
    }

    fn missing_input(&self, decl: &StageDecl, port: Port, found: &[Diagnostic]) -> Diagnostic {
        let offers = self.stages.iter().filter(|other| {
            other.name != decl.name
                && self
                    .kinds
                    .get(&other.kind.text)
                    .is_some_and(|kind| kind.outputs(other).iter().any(|out| out.ty == port.ty))
        });
        let searched = if found.len() < MAX_SUGGESTIONS { usize::MAX } else { 0 };
        let offers: Vec<&str> = offers.take(searched).map(|other| other.name.name.as_str()).take(5).collect();
        let error = Diagnostic::error(
            "plan::missing-input",
            format!("`{}` needs an input `{}`: {}", decl.origin, port.name, port.about),
        )
        .label(decl.name.span, format!("kind `{}` cannot run without it", decl.kind.text));
        match offers.first() {
            _ if found.len() >= MAX_SUGGESTIONS => {
                error.help(format!("add `inputs = {{ {} = \"STAGE\" }}`", port.name))
            }
            Some(first) => error.help(format!(
                "add `inputs = {{ {} = \"{first}\" }}`{}",
                port.name,
                if offers.len() > 1 {
                    format!(" (also of that type: {})", offers[1..].join(", "))
                } else {
                    String::new()
                }
            )),
            None => error
                .help(format!("no stage of this manifest has an output of type `{}`: add one that does", port.ty.0)),
        }
    }

    fn unknown_stage(&self, word: &Word, found: &[Diagnostic]) -> Diagnostic {
        let (stage, _) = word.reference();
        let error = Diagnostic::error("plan::unknown-stage", format!("there is no stage `{stage}`"))
            .label(word.span, "not a stage of this manifest");
        if found.len() >= MAX_SUGGESTIONS {
            return error.help("check the spelling");
        }
        let names: Vec<&str> = self.stages.iter().map(|decl| decl.name.name.as_str()).collect();
        match nearest(stage, names.iter().copied()) {
            Some(name) => error.help(format!("did you mean `{name}`?")),
            None => error.help(format!("stages: {}", list(&names))),
        }
    }
}

enum OutputProblem {
    Unknown { wanted: String, has: Vec<String> },
    WrongType { output: String, ty: PortType },
    NoneFits { has: Vec<OutputPort> },
    Ambiguous { fits: Vec<String> },
}

fn pick_output(outputs: &[OutputPort], wanted: Option<&str>, ty: PortType) -> Result<String, OutputProblem> {
    if let Some(wanted) = wanted {
        return match outputs.iter().find(|output| output.name == wanted) {
            Some(output) if ty.accepts(output.ty) => Ok(output.name.clone()),
            Some(output) => Err(OutputProblem::WrongType { output: output.name.clone(), ty: output.ty }),
            None => Err(OutputProblem::Unknown {
                wanted: wanted.to_owned(),
                has: outputs.iter().map(|output| output.name.clone()).collect(),
            }),
        };
    }
    let fits: Vec<&OutputPort> = outputs.iter().filter(|output| ty.accepts(output.ty)).collect();
    match fits.as_slice() {
        [one] => Ok(one.name.clone()),
        [] => Err(OutputProblem::NoneFits { has: outputs.to_vec() }),
        several => Err(OutputProblem::Ambiguous { fits: several.iter().map(|output| output.name.clone()).collect() }),
    }
}

fn output_error(
    problem: &OutputProblem,
    decl: &StageDecl,
    producer: &StageDecl,
    word: &Word,
    port: Port,
) -> Diagnostic {
    let stage = &producer.name.name;
    match problem {
        OutputProblem::Unknown { wanted, has } => {
            let error = Diagnostic::error("plan::unknown-output", format!("`{stage}` has no output `{wanted}`"))
                .label(word.span, format!("outputs of `{stage}`: {}", has.join(", ")));
            match nearest(wanted, has.iter().map(String::as_str)) {
                Some(name) => error.help(format!("did you mean `{stage}.{name}`?")),
                None => error,
            }
        }
        OutputProblem::WrongType { output, ty } => Diagnostic::error(
            "plan::port-type",
            format!("`{}` takes {} for `{}`, but `{stage}.{output}` is {}", decl.name.name, port.ty.0, port.name, ty.0),
        )
        .label(word.span, format!("this is {}", ty.0))
        .help(format!("connect a stage with an output of type `{}`", port.ty.0)),
        OutputProblem::NoneFits { has } => {
            let has: Vec<String> = has.iter().map(|output| format!("{} ({})", output.name, output.ty.0)).collect();
            Diagnostic::error(
                "plan::port-type",
                format!("`{}` takes {} for `{}`, which `{stage}` does not give", decl.name.name, port.ty.0, port.name),
            )
            .label(
                word.span,
                format!("`{stage}` gives: {}", if has.is_empty() { "nothing".to_owned() } else { has.join(", ") }),
            )
            .help(format!("connect a stage with an output of type `{}`", port.ty.0))
        }
        OutputProblem::Ambiguous { fits } => {
            Diagnostic::error("plan::ambiguous-output", format!("`{stage}` has {} outputs that fit here", fits.len()))
                .label(word.span, "which one?")
                .help(format!(
                    "write one of: {}",
                    fits.iter().map(|name| format!("\"{stage}.{name}\"")).collect::<Vec<_>>().join(", ")
                ))
        }
    }
}

fn unknown_kind(decl: &StageDecl, registry: Registry) -> Diagnostic {
    let kinds: Vec<&str> = registry.iter().map(|entry| entry.kind).collect();
    let error = Diagnostic::error("plan::unknown-kind", format!("there is no stage kind `{}`", decl.kind.text))
        .label(decl.kind.span, "unknown kind");
    let error = match nearest(&decl.kind.text, kinds.iter().copied()) {
        Some(name) => error.help(format!("did you mean `{name}`?")),
        None => error.help(format!("kinds: {}", kinds.join(", "))),
    };
    error.help("`sepia stages` describes them all")
}

fn unknown_port(decl: &StageDecl, input: &InputDecl, ports: &[Port]) -> Diagnostic {
    let names: Vec<&str> = ports.iter().map(|port| port.name).collect();
    let error = Diagnostic::error(
        "plan::unknown-port",
        format!("kind `{}` has no input `{}`", decl.kind.text, input.port.name),
    )
    .label(input.port.span, "unknown input");
    match nearest(&input.port.name, names.iter().copied()) {
        Some(name) => error.help(format!("did you mean `{name}`?")),
        None if names.is_empty() => error.help("this kind takes no inputs: remove the line"),
        None => error.help(format!("its inputs: {}", names.join(", "))),
    }
}

/// The first names of a list that may be long.
fn list(names: &[&str]) -> String {
    match names.len() {
        0..=12 => names.join(", "),
        more => format!("{} and {} more", names[..12].join(", "), more - 12),
    }
}
