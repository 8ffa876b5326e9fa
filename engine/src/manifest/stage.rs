//! One `[stages.NAME]` table: the reserved keys are read here, everything else is left for the stage's kind.

use super::sweep::Sweep;
use super::{InputDecl, Resources, StageDecl, StageExecutor, Word, field, units};
use crate::diagnostic::{Diagnostic, nearest};
use crate::value::{Key, Table, Value, ValueKind};

/// The keys of a stage table that have the same meaning for every kind; all others are parameters and knobs.
pub const RESERVED: [&str; 15] = [
    "kind",
    "description",
    "inputs",
    "seed",
    "device",
    "dtype",
    "resources",
    "retries",
    "timeout",
    "priority",
    "checkpoint_every",
    "executor",
    "matrix",
    "include",
    "exclude",
];

/// Longest name of a stage or manifest, in bytes.
pub(super) const MAX_NAME: usize = 100;

/// More stages than this are not searched for a similar name: that is for manifests that a person writes.
const MAX_SIMILAR: usize = 200;

/// Reads a stage table; `None` where its kind is not known, which is reported. `names` are those of all stages.
pub(super) fn stage(
    name: Key,
    value: Value,
    names: &[String],
    found: &mut Vec<Diagnostic>,
) -> Option<(StageDecl, Sweep)> {
    check_name(&name, found);
    let span = value.span;
    let ValueKind::Table(table) = value.kind else {
        let path = Key { name: format!("stages.{}", name.name), span: name.span };
        field::table(&path, &value, found);
        return None;
    };
    let mut stage = StageDecl { span, ..StageDecl::default() };
    let mut sweep = Sweep::default();
    let mut has_kind = false;
    for (key, value) in table.entries {
        match key.name.as_str() {
            "matrix" => sweep.matrix = Some((key, value)),
            "include" => sweep.include = Some((key, value)),
            "exclude" => sweep.exclude = Some((key, value)),
            _ => {
                has_kind |= key.name == "kind";
                entry(&mut stage, key, value, found);
            }
        }
    }
    if !has_kind {
        let message = format!("the stage `{}` does not say its kind", name.name);
        let error = Diagnostic::error("manifest::missing-kind", message)
            .label(name.span, "")
            .help("add kind = \"...\"; `sepia stages` lists the kinds");
        // Often the misspelt name of another stage, in a profile or on the command line.
        let others = names.iter().map(String::as_str).filter(|other| *other != name.name);
        let near = if names.len() <= MAX_SIMILAR { nearest(&name.name, others) } else { None };
        found.push(error.help_maybe(near.map(|near| format!("or did you mean the stage `{near}`?"))));
    }
    stage.name = name;
    has_kind.then_some((stage, sweep))
}

/// Puts one entry of a stage table where it belongs.
pub(super) fn entry(stage: &mut StageDecl, key: Key, value: Value, found: &mut Vec<Diagnostic>) {
    match key.name.as_str() {
        "kind" => stage.kind = field::word(&key, &value, found).unwrap_or_default(),
        "description" => stage.description = field::decode(&key, &value, found),
        "inputs" => stage.inputs = inputs(&key, &value, found),
        "seed" => stage.seed = field::decode(&key, &value, found),
        "device" => stage.device = device(&key, &value, found),
        "dtype" => stage.dtype = dtype(&key, &value, found),
        "resources" => stage.resources = resources(&key, &value, found),
        "retries" => stage.retries = field::decode(&key, &value, found).unwrap_or_default(),
        "timeout" => stage.timeout = field::read(&key, &value, units::seconds, "timeout = \"2h\"", found),
        "checkpoint_every" => {
            stage.checkpoint_every = field::read(&key, &value, units::seconds, "checkpoint_every = \"5m\"", found);
        }
        "priority" => stage.priority = field::decode(&key, &value, found).unwrap_or_default(),
        "executor" => {
            stage.slurm = field::decode::<StageExecutor>(&key, &value, found).unwrap_or_default().slurm;
        }
        _ => stage.rest.entries.push((key, value)),
    }
}

fn check_name(name: &Key, found: &mut Vec<Diagnostic>) {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let message = if name.name.is_empty() {
        "a stage needs a name".to_owned()
    } else if name.name.len() > MAX_NAME {
        format!("the name of this stage is longer than {MAX_NAME} characters")
    } else if !name.name.chars().all(fits) {
        format!("`{}` is not a name for a stage", name.name.escape_debug())
    } else {
        return;
    };
    let error = Diagnostic::error("manifest::bad-name", message).label(name.span, "");
    found.push(error.help("a name has letters a-z and A-Z, digits, `_` and `-`"));
}

pub(super) fn device(key: &Key, value: &Value, found: &mut Vec<Diagnostic>) -> Option<Word> {
    if let Some(text) = value.as_str()
        && let Some(number) = text.strip_prefix("cuda:")
        && number.len() <= 3
        && number.parse::<u16>().is_ok()
    {
        return Some(Word { text: text.to_owned(), span: value.span });
    }
    field::one_of(key, value, &["auto", "cpu", "cuda", "cuda:N"], found).filter(|word| word.text != "cuda:N")
}

pub(super) fn dtype(key: &Key, value: &Value, found: &mut Vec<Diagnostic>) -> Option<Word> {
    field::one_of(key, value, &["f32", "bf16", "f16"], found)
}

fn inputs(key: &Key, value: &Value, found: &mut Vec<Diagnostic>) -> Vec<InputDecl> {
    let Some(table) = field::table(key, value, found) else { return Vec::new() };
    let ports = table.entries.iter();
    ports.map(|(port, value)| InputDecl { port: port.clone(), from: references(port, value, found) }).collect()
}

fn references(port: &Key, value: &Value, found: &mut Vec<Diagnostic>) -> Vec<Word> {
    let path = format!("inputs.{}", port.name);
    let path = Key { name: path, span: port.span };
    match &value.kind {
        ValueKind::Array(items) if !items.is_empty() => {
            items.iter().filter_map(|item| reference(&path, item, found)).collect()
        }
        _ => reference(&path, value, found).into_iter().collect(),
    }
}

fn reference(path: &Key, value: &Value, found: &mut Vec<Diagnostic>) -> Option<Word> {
    match value.as_str() {
        Some(text) if !text.trim().is_empty() => Some(Word { text: text.to_owned(), span: value.span }),
        _ => {
            let message = format!(
                "`{}`: expected the name of a stage, \"stage\" or \"stage.port\", or a list of them, found {}",
                path.name,
                value.describe()
            );
            found.push(
                Diagnostic::error("manifest::wrong-type", message)
                    .label(value.span, "expected the name of a stage")
                    .help(format!("write {} = \"NAME\", or leave the port out", path.name)),
            );
            None
        }
    }
}

/// The keys of `resources`.
const RESOURCES: [&str; 3] = ["threads", "memory", "device"];

fn resources(key: &Key, value: &Value, found: &mut Vec<Diagnostic>) -> Resources {
    let mut resources = Resources::default();
    let empty = Table::default();
    for (inner, value) in &field::table(key, value, found).unwrap_or(&empty).entries {
        let path = Key { name: format!("resources.{}", inner.name), span: inner.span };
        match inner.name.as_str() {
            "threads" => {
                resources.threads = field::decode::<std::num::NonZero<usize>>(&path, value, found).map(Into::into);
            }
            "memory" => resources.memory = field::read(&path, value, units::bytes, "memory = \"4 GiB\"", found),
            "device" => resources.device = field::decode(&path, value, found),
            _ => {
                let message = format!("unknown field `{}` in `resources`", inner.name);
                let error = Diagnostic::error("manifest::unknown-field", message).label(inner.span, "");
                found.push(field::unknown(error, &inner.name, &RESOURCES, "known here"));
            }
        }
    }
    resources
}
