//! What a value of an axis, or an added value of `include`, does to a stage.

use crate::diagnostic::Diagnostic;
use crate::manifest::{Resources, StageDecl, Word, merge, stage};
use crate::value::{Key, Table, Value, ValueKind};

/// One assignment, checked once and applied to every cell that has it.
#[derive(Debug, Clone)]
pub(super) enum Setting {
    /// A parameter or knob, by its path.
    Rest(Vec<Key>, Value),
    Seed(Option<u64>),
    Device(Option<Word>),
    Dtype(Option<Word>),
    /// All of the resources.
    Resources(Resources),
    /// Those of the resources that are given.
    SomeResources(Resources),
    Retries(u32),
    Timeout(Option<f64>),
    CheckpointEvery(Option<f64>),
    Priority(i64),
}

/// The reserved keys that make no sense for one cell.
const FIXED: [&str; 6] = ["kind", "description", "inputs", "matrix", "include", "exclude"];

impl Setting {
    /// The setting of a value at a path; `None` after an error.
    pub(super) fn new(path: &[Key], value: &Value, found: &mut Vec<Diagnostic>) -> Option<Self> {
        let (first, inner) = path.split_first()?;
        if !stage::RESERVED.contains(&first.name.as_str()) {
            return Some(Self::Rest(path.to_vec(), value.clone()));
        }
        let value = inner.iter().rev().fold(value.clone(), |value, key| {
            let table = Table { entries: vec![(key.clone(), value)] };
            Value { span: key.span, kind: ValueKind::Table(table) }
        });
        let before = found.len();
        let mut patch = StageDecl::default();
        stage::entry(&mut patch, first.clone(), value, found);
        if found.len() > before {
            return None;
        }
        Some(match first.name.as_str() {
            "seed" => Self::Seed(patch.seed),
            "device" => Self::Device(patch.device),
            "dtype" => Self::Dtype(patch.dtype),
            "resources" if inner.is_empty() => Self::Resources(patch.resources),
            "resources" => Self::SomeResources(patch.resources),
            "retries" => Self::Retries(patch.retries),
            "timeout" => Self::Timeout(patch.timeout),
            "checkpoint_every" => Self::CheckpointEvery(patch.checkpoint_every),
            "priority" => Self::Priority(patch.priority),
            _ => return None,
        })
    }

    pub(super) fn apply(&self, stage: &mut StageDecl) {
        match self {
            Self::Rest(path, value) => merge::set(&mut stage.rest, path, value.clone()),
            Self::Seed(seed) => stage.seed = *seed,
            Self::Device(device) => stage.device.clone_from(device),
            Self::Dtype(dtype) => stage.dtype.clone_from(dtype),
            Self::Resources(resources) => stage.resources = *resources,
            Self::SomeResources(resources) => {
                let old = stage.resources;
                stage.resources = Resources {
                    threads: resources.threads.or(old.threads),
                    memory: resources.memory.or(old.memory),
                    device: resources.device.or(old.device),
                };
            }
            Self::Retries(retries) => stage.retries = *retries,
            Self::Timeout(timeout) => stage.timeout = *timeout,
            Self::CheckpointEvery(every) => stage.checkpoint_every = *every,
            Self::Priority(priority) => stage.priority = *priority,
        }
    }
}

/// Whether a path can be set for one cell; says what is wrong where it cannot.
pub(super) fn check_path(path: &[Key], found: &mut Vec<Diagnostic>) -> bool {
    let Some(first) = path.first() else { return false };
    let message = if path.iter().any(|key| key.name.is_empty()) {
        "a name in a matrix has an empty part".to_owned()
    } else if FIXED.contains(&first.name.as_str()) {
        format!("`{}` cannot be swept", first.name)
    } else {
        return true;
    };
    let error = Diagnostic::error("manifest::matrix", message).label(first.span, "");
    found.push(error.help("sweep a parameter, `seed`, `device`, `dtype`, or a dotted name: \"model.d_model\""));
    false
}

/// `model.d_model`.
pub(super) fn dotted(path: &[Key]) -> String {
    let names: Vec<&str> = path.iter().map(|key| key.name.as_str()).collect();
    names.join(".")
}

/// The parts of a key that may have dots in it.
pub(super) fn split(key: &Key) -> impl Iterator<Item = Key> + '_ {
    key.name.split('.').map(|part| Key { name: part.to_owned(), span: key.span })
}
