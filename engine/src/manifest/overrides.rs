//! `--set stages.train.lr=0.01` and `--matrix train.lr=[0.1, 0.01]`.
//!
//! Each is a line of TOML: a dotted key and a value; a value that is not TOML is text. Its spans point into a source of
//! its own, named after the option. Setting a parameter that is swept ends the sweep over it: the command line has the
//! last word.

use super::merge;
use crate::diagnostic::{Diagnostic, Sources};
use crate::value::{Key, Span, Table, Value, ValueKind, parse_toml};

/// A stage and a parameter of it that `--set` gave a value.
type Ended = (String, Vec<Key>);

/// Applies `--set`, in order. Returns which sweeps that ends, for [`end_defaults`].
pub(super) fn set(sources: &mut Sources, table: &mut Table, all: &[String], found: &mut Vec<Diagnostic>) -> Vec<Ended> {
    let mut ended = Vec::new();
    for text in all {
        let Some((path, value)) = assignment(sources, "--set", text, found) else { continue };
        if let [stages, stage, param @ ..] = path.as_slice()
            && stages.name == "stages"
            && !param.is_empty()
        {
            unsweep(table, &stage.name, param, false);
            ended.push((stage.name.clone(), param.to_vec()));
        }
        // Through `merge`, so that a table does what a table in a profile does.
        let over = path.into_iter().rev().fold(value, |value, key| {
            let span = key.span;
            Value { span, kind: ValueKind::Table(Table { entries: vec![(key, value)] }) }
        });
        if let ValueKind::Table(over) = over.kind {
            merge::merge(table, over);
        }
    }
    ended
}

/// Ends the sweeps that stages have from `[defaults.KIND]`, once those are filled in. `--matrix` comes after `--set` and
/// may have begun one anew: that stays.
pub(super) fn end_defaults(table: &mut Table, ended: &[Ended], begun: &[Ended]) {
    let names = |(stage, param): &Ended| (stage.clone(), dotted(param));
    let begun: Vec<(String, String)> = begun.iter().map(names).collect();
    for one in ended.iter().filter(|one| !begun.contains(&names(one))) {
        unsweep(table, &one.0, &one.1, false);
    }
}

/// Applies `--matrix`, in order. Returns which sweeps that begins.
pub(super) fn matrix(
    sources: &mut Sources,
    table: &mut Table,
    all: &[String],
    found: &mut Vec<Diagnostic>,
) -> Vec<Ended> {
    let mut begun = Vec::new();
    for text in all {
        let Some((path, value)) = assignment(sources, "--matrix", text, found) else { continue };
        let path: &[Key] = match path.as_slice() {
            [stages, rest @ ..] if stages.name == "stages" && rest.len() > 1 => rest,
            all => all,
        };
        let [stage, param @ ..] = path else { continue };
        if param.is_empty() {
            let error = Diagnostic::error("manifest::option", format!("`{text}` names no parameter"));
            found.push(error.label(stage.span, "").help("write --matrix STAGE.PARAMETER=[VALUE, VALUE]"));
            continue;
        }
        unsweep(table, &stage.name, param, true);
        begun.push((stage.name.clone(), param.to_vec()));
        let key = |name: &str| Key { name: name.to_owned(), span: stage.span };
        let axis = Key { name: dotted(param), span: param.first().map_or(stage.span, |key| key.span) };
        merge::set(table, &[key("stages"), stage.clone(), key("matrix"), axis], value);
    }
    begun
}

fn dotted(path: &[Key]) -> String {
    let names: Vec<&str> = path.iter().map(|key| key.name.as_str()).collect();
    names.join(".")
}

/// Removes the axis over a parameter from a stage's matrix, if there is one. To be replaced, an axis that is one key
/// stays where it is.
fn unsweep(table: &mut Table, stage: &str, param: &[Key], replace: bool) {
    let mut at = Some(table);
    for name in ["stages", stage, "matrix"] {
        at = at.and_then(|table| table.entries.iter_mut().find(|(key, _)| key.name == name)).and_then(|(_, value)| {
            match &mut value.kind {
                ValueKind::Table(inner) => Some(inner),
                _ => None,
            }
        });
    }
    if let Some(matrix) = at.filter(|matrix| !replace || matrix.get(&dotted(param)).is_none()) {
        remove_axis(matrix, param);
    }
}

/// An axis over `m.rank` is written `"m.rank"`, or as a table `m` with `rank` in it.
fn remove_axis(matrix: &mut Table, param: &[Key]) {
    let name = dotted(param);
    matrix.entries.retain(|(key, _)| key.name != name);
    for length in 1..param.len() {
        let (outer, inner) = param.split_at(length);
        let outer = dotted(outer);
        for (key, value) in &mut matrix.entries {
            if let ValueKind::Table(table) = &mut value.kind
                && key.name == outer
            {
                remove_axis(table, inner);
            }
        }
    }
}

/// The path and the value of `a.b.c=VALUE`.
fn assignment(
    sources: &mut Sources,
    option: &str,
    text: &str,
    found: &mut Vec<Diagnostic>,
) -> Option<(Vec<Key>, Value)> {
    let source = sources.add(option, text);
    let whole = Span { source, start: 0, end: u32::try_from(text.len()).unwrap_or(u32::MAX) };
    if let Some(assignment) = parse_toml(source, text).ok().and_then(single) {
        return Some(assignment);
    }
    // Not TOML as it stands: the value is text, and the key is read alone.
    let parsed = text.match_indices('=').find_map(|(at, _)| {
        let (path, _) = single(parse_toml(source, &format!("{}=0", &text[..at])).ok()?)?;
        let start = u32::try_from(at + 1).unwrap_or(u32::MAX);
        let value = text[at + 1..].trim();
        Some((path, Value { span: Span { start, ..whole }, kind: ValueKind::String(value.to_owned()) }))
    });
    if parsed.is_none() {
        let error = Diagnostic::error("manifest::option", format!("`{option}` expects KEY=VALUE, found `{text}`"));
        let example = if option == "--set" { "stages.train.lr=0.01" } else { "train.lr=[0.1, 0.01]" };
        found.push(error.label(whole, "").help(format!("for example: {option} '{example}'")));
    }
    parsed
}

/// The path to the one value of a text with one dotted key.
fn single(table: Table) -> Option<(Vec<Key>, Value)> {
    let mut path = Vec::new();
    let mut table = table;
    loop {
        let [_] = table.entries.as_slice() else { return None };
        let (key, value) = table.entries.pop()?;
        // The table of a dotted key begins at that key; that of a written value after it.
        let dotted = value.span.start <= key.span.start;
        path.push(key);
        match value.kind {
            ValueKind::Table(inner) if dotted => table = inner,
            kind => return Some((path, Value { kind, ..value })),
        }
    }
}
