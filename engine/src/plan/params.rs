//! Parameters and knobs: from the spanned table of a stage to canonical values, with all errors of the stage.

use std::collections::BTreeMap;

use camino::Utf8Path;

use crate::{
    diagnostic::{Diagnostic, nearest},
    manifest::{Owner, RESERVED, StageDecl, misfit, unknown_field},
    plan::{kind_info::KindInfo, names_files},
    stage::{Check, Dtype, Estimate, Problem},
    value::{Span, Table, Value, ValueError, ValueErrorKind, ValueKind},
};

/// The canonical values of a node.
pub(super) struct Resolved {
    pub(super) params: serde_json::Value,
    pub(super) knobs: serde_json::Value,
    pub(super) estimate: Estimate,
    /// Whether the parameters name files outside the store: found out here, where nodes are looked at on all threads.
    pub(super) reads_files: bool,
}

/// Decodes what is left in a stage table. `None` when something is wrong, which is then in `found`.
pub(super) fn resolve(
    decl: &StageDecl,
    kind: &KindInfo,
    check: &mut Check<'_>,
    dtype: Dtype,
    found: &mut Vec<Diagnostic>,
) -> Option<Resolved> {
    let before = found.len();
    let mut misspelt = Vec::new();
    let mut params = Table::default();
    let mut knobs = Table::default();
    for (key, value) in &decl.rest.entries {
        if kind.params.contains(&key.name) {
            params.entries.push((key.clone(), value.clone()));
        } else if kind.knobs.contains(&key.name) {
            knobs.entries.push((key.clone(), value.clone()));
        } else {
            let known = kind.params.iter().chain(&kind.knobs).map(String::as_str).chain(RESERVED.iter().copied());
            misspelt.extend(nearest(&key.name, known.clone()).map(str::to_owned));
            found.push(unknown_field(owner(decl), "", &key.name, key.span, known));
        }
    }
    let table = |table| Value { span: decl.name.span, kind: ValueKind::Table(table) };
    let params = decode_all(decl, table(params), misspelt, found, |value, whole| {
        if whole {
            return (kind.entry.resolve)(value, check, dtype);
        }
        // With fields taken out, a check would find faults that are not the author's.
        (kind.entry.resolve)(value, &mut Check::new(&BTreeMap::new(), Utf8Path::new("")).unsound(), dtype)
    });
    let knobs = decode_all(decl, table(knobs), Vec::new(), found, |value, _| (kind.entry.canonical_knobs)(value));
    (found.len() == before).then_some(())?;
    let (params, estimate) = params?;
    Some(Resolved { reads_files: names_files(&params), params, knobs: knobs?, estimate })
}

/// serde stops at the first error. To find the others, the field at fault is taken out and the rest decoded again; a
/// field that is missing only because it was taken out, or misspelt, is no second error of the author's.
fn decode_all<T>(
    decl: &StageDecl,
    mut value: Value,
    mut taken_out: Vec<String>,
    found: &mut Vec<Diagnostic>,
    mut decode: impl FnMut(&Value, bool) -> Result<T, ValueError>,
) -> Option<T> {
    let mut whole = true;
    loop {
        let error = match decode(&value, whole) {
            Ok(decoded) => return whole.then_some(decoded),
            Err(error) => error,
        };
        if let ValueErrorKind::MissingField { field } = &error.kind
            && error.path.is_empty()
            && taken_out.contains(field)
        {
            return None;
        }
        whole = false;
        let top = error.path.split(['.', '[']).next().unwrap_or_default().to_owned();
        found.push(misfit(&error, owner(decl)));
        let ValueKind::Table(table) = &mut value.kind else { return None };
        let length = table.entries.len();
        table.entries.retain(|(key, _)| key.name != top);
        if table.entries.len() == length {
            return None;
        }
        taken_out.push(top);
    }
}

fn owner(decl: &StageDecl) -> Owner<'_> {
    Owner::Param { stage: &decl.origin, kind: &decl.kind.text }
}

/// Turns what a stage's own check found into diagnostics at the manifest's lines.
pub(super) fn report_problems(decl: &StageDecl, problems: Vec<Problem>, found: &mut Vec<Diagnostic>) {
    for problem in problems {
        let mut error = Diagnostic::error("plan::bad-value", format!("`{}`: {}", decl.origin, problem.message))
            .label(place_of(decl, &problem.param), format!("`{}`", problem.param));
        let reference = || format!("`sepia help {}` says what it does", decl.kind.text);
        error = error.help(problem.help.unwrap_or_else(reference));
        found.push(error);
    }
}

/// Where a parameter is written; where it is not (a default), the innermost table that would hold it, else the stage's
/// name.
pub(crate) fn place_of(decl: &StageDecl, path: &str) -> Span {
    let mut table = Some(&decl.rest);
    let mut span = decl.name.span;
    for name in path.split('.').filter(|name| !name.is_empty()) {
        let Some((_, value)) = table.and_then(|table| table.entry(name)) else { break };
        span = value.span;
        table = value.as_table();
    }
    span
}
