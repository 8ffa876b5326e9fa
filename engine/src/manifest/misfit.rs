//! What a person reads about a value that does not fit, be it a field of the manifest format or a parameter of a stage.

use crate::{
    diagnostic::{Diagnostic, nearest},
    value::{Span, ValueError, ValueErrorKind},
};

/// Whose value it is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Owner<'a> {
    /// The manifest format: a field of this path.
    Field(&'a str),
    /// A stage: a parameter or a knob.
    Param {
        /// Its name as written.
        stage: &'a str,
        /// Its kind, which has a reference.
        kind: &'a str,
    },
}

impl Owner<'_> {
    /// The code of a message: that of a field, or that of a parameter.
    fn code(self, field: &'static str, param: &'static str) -> &'static str {
        match self {
            Owner::Field(_) => field,
            Owner::Param { .. } => param,
        }
    }

    /// The path that leads to a value, as written; empty for all parameters of a stage together.
    fn path(self, inner: &str) -> String {
        match self {
            Owner::Field(path) if inner.is_empty() => path.to_owned(),
            Owner::Field(path) if inner.starts_with('[') => format!("{path}{inner}"),
            Owner::Field(path) => format!("{path}.{inner}"),
            Owner::Param { .. } => inner.to_owned(),
        }
    }

    /// What has the fields that are looked for at a path.
    fn place(self, path: &str) -> String {
        match self {
            Owner::Param { kind, .. } if path.is_empty() => format!("kind `{kind}`"),
            _ => format!("`{path}`"),
        }
    }

    fn reference(self, diagnostic: Diagnostic, says: &str) -> Diagnostic {
        match self {
            Owner::Field(_) => diagnostic,
            Owner::Param { kind, .. } => diagnostic.help(format!("`sepia help {kind}` says {says}")),
        }
    }
}

/// The message for a value that does not fit.
pub(crate) fn misfit(error: &ValueError, owner: Owner<'_>) -> Diagnostic {
    let path = owner.path(&error.path);
    let name = match owner {
        Owner::Param { stage, .. } if path.is_empty() => format!("`{stage}`"),
        _ => format!("`{path}`"),
    };
    match &error.kind {
        ValueErrorKind::UnknownField { field, expected } => {
            let within = path.strip_suffix(field.as_str()).unwrap_or(&path).trim_end_matches('.');
            unknown_field(owner, within, field, error.span, expected.iter().map(String::as_str))
        }
        ValueErrorKind::UnknownVariant { variant, expected } => {
            let listed = expected.iter().map(|one| format!("`{one}`")).collect::<Vec<_>>().join(", ");
            let found = Diagnostic::error(
                owner.code("manifest::unknown-value", "plan::unknown-value"),
                format!("{name} cannot be `{variant}`"),
            )
            .label(error.span, format!("expected one of {listed}"));
            match nearest(variant, expected.iter().map(String::as_str)) {
                Some(near) => found.help(format!("did you mean `{near}`?")),
                None => owner.reference(found, "what they mean"),
            }
        }
        ValueErrorKind::MissingField { field } => {
            let found = Diagnostic::error(
                owner.code("manifest::missing-field", "plan::missing-field"),
                format!("{name} needs `{field}`"),
            )
            .label(error.span, format!("`{field}` is not given"));
            match owner {
                Owner::Field(_) => found.help(format!("add `{field} = ...`")),
                Owner::Param { .. } => owner.reference(found, "what it is"),
            }
        }
        ValueErrorKind::WrongType { found, expected } => Diagnostic::error(
            owner.code("manifest::wrong-type", "plan::wrong-type"),
            format!("{name}: expected {expected}, found {found}"),
        )
        .label(error.span, format!("expected {expected}"))
        .help(other_spelling(found, expected)),
        ValueErrorKind::Other(message) => {
            // A type that reads itself says what to do on a second line.
            let (message, help) = message.split_once('\n').unwrap_or((message, ""));
            let code = owner.code("manifest::wrong-value", "plan::bad-value");
            let found = Diagnostic::error(code, format!("{name}: {message}")).label(error.span, "");
            if help.is_empty() { owner.reference(found, "what is expected") } else { found.help(help) }
        }
    }
}

/// The message for a field that nobody knows: `path` leads to what was expected to have it.
pub(crate) fn unknown_field<'a>(
    owner: Owner<'_>,
    path: &str,
    field: &str,
    span: Span,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Diagnostic {
    let message = format!("{} has no field `{field}`", owner.place(path));
    let error = Diagnostic::error(owner.code("manifest::unknown-field", "plan::unknown-field"), message)
        .label(span, "unknown field");
    match nearest(field, known.clone()) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => {
            let mut names: Vec<&str> = known.collect();
            names.sort_unstable();
            error.help(format!("its fields: {}", names.join(", ")))
        }
    }
}

/// What to write instead.
fn other_spelling(found: &str, expected: &str) -> String {
    let numeric = expected.contains("number") || expected.contains("`true`");
    let quoted = found.strip_prefix("the text \"").and_then(|rest| rest.strip_suffix('"'));
    if let Some(quoted) = quoted.filter(|text| numeric && (text.parse::<f64>().is_ok() || is_flag(text))) {
        return format!("write it without quotes: {quoted}");
    }
    let fraction = found.strip_prefix("the number ").and_then(|number| number.strip_suffix(".0"));
    if let Some(whole) = fraction.filter(|_| expected.contains("whole number")) {
        return format!("write it without the fraction: {whole}");
    }
    let plain = found.trim_start_matches("the whole number ").trim_start_matches("the number ").trim_matches('`');
    match expected {
        "text" if plain.parse::<f64>().is_ok() || is_flag(plain) => format!("write it in quotes: \"{plain}\""),
        "text" => "text stands in quotes: \"...\"".to_owned(),
        "a table" => "a table is { key = value, ... }, or has a header of its own: [...]".to_owned(),
        "a list" => "a list is [ value, ... ]".to_owned(),
        _ => format!("write {expected}"),
    }
}

fn is_flag(text: &str) -> bool {
    text == "true" || text == "false"
}
