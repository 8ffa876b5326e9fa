//! The top level of a manifest.

use super::sweep::{self, Sweep};
use super::{ExecutorDecl, FORMAT, Manifest, StageDecl, field, stage};
use crate::diagnostic::Diagnostic;
use crate::value::{Key, Span, Table, Value, ValueKind};

/// The keys of the top level.
const KNOWN: [&str; 11] =
    ["sepia", "extends", "name", "seed", "device", "dtype", "executor", "params", "defaults", "profile", "stages"];

/// Reads the top-level table; errors and warnings go into `found`.
pub(super) fn manifest(table: Table, stem: &str, whole: Span, found: &mut Vec<Diagnostic>) -> Manifest {
    let mut manifest = Manifest {
        name: stem.to_owned(),
        seed: 0,
        device: None,
        dtype: None,
        executor: ExecutorDecl::default(),
        stages: Vec::new(),
    };
    let mut has_stages = false;
    for (key, value) in table.entries {
        match key.name.as_str() {
            "sepia" => {}
            "name" => {
                if let Some(name) = name(&key, &value, found) {
                    manifest.name = name;
                }
            }
            "seed" => manifest.seed = field::decode(&key, &value, found).unwrap_or_default(),
            "device" => manifest.device = stage::device(&key, &value, found),
            "dtype" => manifest.dtype = stage::dtype(&key, &value, found),
            "executor" => manifest.executor = field::decode(&key, &value, found).unwrap_or_default(),
            "stages" => {
                has_stages = true;
                manifest.stages = sweep::expand(stages(&key, value, found), found);
            }
            _ => found.push(unknown(&key)),
        }
    }
    if !has_stages {
        let end = Span { start: whole.end, ..whole };
        let error = Diagnostic::error("manifest::no-stages", "the manifest has no stages").label(end, "");
        found.push(error.help("add one: [stages.NAME] with kind = \"...\"; `sepia stages` lists the kinds"));
    }
    manifest
}

/// Whether the table is of a format that can be read; says what is wrong where it is not.
pub(super) fn format(table: &Table, found: &mut Vec<Diagnostic>) -> bool {
    let Some((key, value)) = table.entry("sepia") else { return true };
    let Some(format) = field::decode::<i64>(key, value, found) else { return false };
    let message = match format {
        FORMAT => return true,
        newer if newer > FORMAT => {
            format!("this manifest is written in format {newer}, and this version of sepia reads format {FORMAT}")
        }
        other => format!("there is no manifest format {other}"),
    };
    let help = if format > FORMAT { "install a newer sepia".to_owned() } else { format!("write sepia = {FORMAT}") };
    found.push(Diagnostic::error("manifest::format", message).label(value.span, "").help(help));
    false
}

fn name(key: &Key, value: &Value, found: &mut Vec<Diagnostic>) -> Option<String> {
    let name = field::decode::<String>(key, value, found)?;
    if !name.trim().is_empty() && name.len() <= stage::MAX_NAME && !name.chars().any(char::is_control) {
        return Some(name);
    }
    let message = format!("`name`: expected one line of text, at most {} bytes long", stage::MAX_NAME);
    let error = Diagnostic::error("manifest::bad-name", message).label(value.span, "");
    found.push(error.help("leave it out to use the file's name"));
    None
}

fn stages(key: &Key, value: Value, found: &mut Vec<Diagnostic>) -> Vec<(StageDecl, Sweep)> {
    let ValueKind::Table(table) = value.kind else {
        field::table(key, &value, found);
        return Vec::new();
    };
    if table.entries.is_empty() {
        let error = Diagnostic::error("manifest::no-stages", "the manifest has no stages").label(value.span, "");
        found.push(error.help("add one: [stages.NAME] with kind = \"...\"; `sepia stages` lists the kinds"));
    }
    let names: Vec<String> = table.entries.iter().map(|(key, _)| key.name.clone()).collect();
    table.entries.into_iter().filter_map(|(name, value)| stage::stage(name, value, &names, found)).collect()
}

fn unknown(key: &Key) -> Diagnostic {
    let error =
        Diagnostic::error("manifest::unknown-field", format!("unknown field `{}`", key.name)).label(key.span, "");
    if stage::RESERVED.contains(&key.name.as_str()) {
        return error.help(format!("`{}` belongs into a stage: [stages.NAME]", key.name));
    }
    field::unknown(error, &key.name, &KNOWN, "parameters belong into a stage; known at the top level")
}
