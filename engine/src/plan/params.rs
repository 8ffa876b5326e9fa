//! Parameters and knobs: from the spanned table of a stage to canonical values, with all errors of the stage.

use std::borrow::Cow;

use camino::Utf8Path;

use crate::{
    diagnostic::{Diagnostic, nearest},
    manifest::{Owner, RESERVED, StageDecl, misfit, unknown_field},
    plan::{
        kind_info::{Field, KindInfo},
        names_files,
    },
    stage::{Canonical, Check, Dtype, Estimate, Problem},
    value::{Key, Span, Table, Value, ValueError, ValueErrorKind},
};

/// The canonical values of a node.
pub(super) struct Resolved {
    pub(super) params: Canonical,
    pub(super) knobs: Canonical,
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
    let (mut misspelt, mut has_knobs) = (Vec::new(), false);
    for (key, _) in &decl.rest.entries {
        match kind.field(&key.name) {
            Some(Field::Param) => {}
            Some(Field::Knob) => has_knobs = true,
            None => {
                let known = kind.names().chain(RESERVED.iter().copied());
                misspelt.extend(nearest(&key.name, known.clone()).map(str::to_owned));
                found.push(unknown_field(owner(decl), "", &key.name, key.span, known));
            }
        }
    }
    let only = |wanted| {
        let is_wanted = |(key, _): &&(Key, Value)| kind.field(&key.name) == Some(wanted);
        Table { entries: decl.rest.entries.iter().filter(is_wanted).cloned().collect() }
    };
    // Most stages name no knob, and then nothing has to be taken apart.
    let plain = !has_knobs && found.len() == before;
    let params = if plain { Cow::Borrowed(&decl.rest) } else { Cow::Owned(only(Field::Param)) };
    let params = decode_all(decl, params, misspelt, found, |table, whole| {
        if whole {
            return (kind.entry.resolve)(table, check, dtype);
        }
        // With fields taken out, a check would find faults that are not the author's.
        (kind.entry.resolve)(table, &mut Check::of(Vec::new(), Utf8Path::new("")).unsound(), dtype)
    });
    let knobs = match &kind.default_knobs {
        Some(defaults) if !has_knobs => Some(defaults.clone()),
        _ => decode_all(decl, Cow::Owned(only(Field::Knob)), Vec::new(), found, |table, _| {
            (kind.entry.canonical_knobs)(table)
        }),
    };
    (found.len() == before).then_some(())?;
    let (params, estimate) = params?;
    let reads_files = params.may_name_files() && names_files(params.tree());
    Some(Resolved { reads_files, params, knobs: knobs?, estimate })
}

/// serde stops at the first error. To find the others, the field at fault is taken out and the rest decoded again; a
/// field that is missing only because it was taken out, or misspelt, is no second error of the author's.
fn decode_all<T>(
    decl: &StageDecl,
    mut table: Cow<'_, Table>,
    mut taken_out: Vec<String>,
    found: &mut Vec<Diagnostic>,
    mut decode: impl FnMut((&Table, Span), bool) -> Result<T, ValueError>,
) -> Option<T> {
    let mut whole = true;
    loop {
        let error = match decode((&table, decl.name.span), whole) {
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
        table.entry(&top)?;
        table.to_mut().entries.retain(|(key, _)| key.name != top);
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
