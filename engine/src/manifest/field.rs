//! Reading one field and saying what is wrong with it.

use serde::de::DeserializeOwned;

use super::Word;
use crate::diagnostic::{Diagnostic, nearest};
use crate::value::{Key, Table, Value, ValueError, ValueErrorKind};

/// What a person reads about a value that does not fit. `path` leads to the value that was decoded, and may be empty.
#[must_use]
pub fn value_diagnostic(error: &ValueError, path: &str) -> Diagnostic {
    let inner = match (path.is_empty(), error.path.is_empty()) {
        (_, true) => path.to_owned(),
        (true, false) => error.path.clone(),
        (false, false) if error.path.starts_with('[') => format!("{path}{}", error.path),
        (false, false) => format!("{path}.{}", error.path),
    };
    let of = if inner.is_empty() { String::new() } else { format!("`{inner}`: ") };
    match &error.kind {
        ValueErrorKind::UnknownField { field, expected } => {
            let within = inner.strip_suffix(field.as_str()).unwrap_or(&inner).trim_end_matches('.');
            let of = if within.is_empty() { String::new() } else { format!(" in `{within}`") };
            unknown(
                Diagnostic::error("manifest::unknown-field", format!("unknown field `{field}`{of}"))
                    .label(error.span, ""),
                field,
                expected,
                "known here",
            )
        }
        ValueErrorKind::UnknownVariant { variant, expected } => unknown(
            Diagnostic::error("manifest::unknown-value", format!("{of}there is no `{variant}`")).label(error.span, ""),
            variant,
            expected,
            "one of these is expected",
        ),
        ValueErrorKind::MissingField { field } => {
            let message = if inner.is_empty() {
                format!("`{field}` is missing")
            } else {
                format!("`{field}` is missing in `{inner}`")
            };
            Diagnostic::error("manifest::missing-field", message)
                .label(error.span, "")
                .help(format!("add `{field} = ...`"))
        }
        ValueErrorKind::WrongType { found, expected } => {
            Diagnostic::error("manifest::wrong-type", format!("{of}expected {expected}, found {found}"))
                .label(error.span, format!("expected {expected}"))
                .help(other_spelling(found, expected))
        }
        ValueErrorKind::Other(message) => {
            Diagnostic::error("manifest::wrong-value", format!("{of}{message}")).label(error.span, "")
        }
    }
}

/// What to write instead.
pub(crate) fn other_spelling(found: &str, expected: &str) -> String {
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

/// Names that are searched for one that was meant: a manifest can have 10,000, and as many errors.
const MAX_NAMES: usize = 200;

/// Names that a message lists.
const MAX_SHOWN: usize = 20;

/// As [`unknown`], for names of which a manifest can have thousands, and as many errors about them: those beyond the
/// first few that were `found` do without a suggestion.
pub(super) fn unknown_of_many<'a>(
    diagnostic: Diagnostic,
    name: &str,
    known: impl Iterator<Item = &'a str>,
    intro: &str,
    found: &[Diagnostic],
) -> Diagnostic {
    if found.len() < MAX_SUGGESTIONS {
        unknown(diagnostic, name, &known.collect::<Vec<_>>(), intro)
    } else {
        diagnostic.help("check the spelling")
    }
}

/// Errors for which names are searched.
const MAX_SUGGESTIONS: usize = 50;

/// Adds "did you mean", or the whole list where nothing is near.
pub(super) fn unknown(diagnostic: Diagnostic, name: &str, known: &[impl AsRef<str>], intro: &str) -> Diagnostic {
    let names: Vec<&str> = known.iter().take(MAX_NAMES).map(AsRef::as_ref).collect();
    match nearest(name, names.iter().copied()) {
        Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
        None if names.is_empty() => diagnostic,
        None => {
            let shown: Vec<String> = names.iter().take(MAX_SHOWN).map(|name| format!("`{name}`")).collect();
            let more = if known.len() > shown.len() { ", ..." } else { "" };
            diagnostic.help(format!("{intro}: {}{more}", shown.join(", ")))
        }
    }
}

/// Decodes one field; what does not fit goes into `found`.
pub(super) fn decode<T: DeserializeOwned>(key: &Key, value: &Value, found: &mut Vec<Diagnostic>) -> Option<T> {
    value.decode().map_err(|error| found.push(value_diagnostic(&error, &key.name))).ok()
}

/// A field that is read by a function of its own, with an example of how to write it.
pub(super) fn read<T>(
    key: &Key,
    value: &Value,
    reader: fn(&Value) -> Result<T, String>,
    example: &str,
    found: &mut Vec<Diagnostic>,
) -> Option<T> {
    let error = |message| value_diagnostic(&ValueError::new(value.span, message), &key.name);
    reader(value).map_err(|message| found.push(error(message).help(format!("for example: {example}")))).ok()
}

/// Text with its place.
pub(super) fn word(key: &Key, value: &Value, found: &mut Vec<Diagnostic>) -> Option<Word> {
    decode::<String>(key, value, found).map(|text| Word { text, span: value.span })
}

/// Text out of a fixed set.
pub(super) fn one_of(key: &Key, value: &Value, known: &[&str], found: &mut Vec<Diagnostic>) -> Option<Word> {
    let word = word(key, value, found)?;
    if known.contains(&word.text.as_str()) {
        return Some(word);
    }
    let message = format!("`{}`: there is no {} `{}`", key.name, key.name, word.text);
    let error = Diagnostic::error("manifest::unknown-value", message).label(word.span, "");
    found.push(unknown(error, &word.text, known, "one of these is expected"));
    None
}

/// A table, or an error.
pub(super) fn table<'a>(key: &Key, value: &'a Value, found: &mut Vec<Diagnostic>) -> Option<&'a Table> {
    let table = value.as_table();
    if table.is_none() {
        let kind = ValueErrorKind::WrongType { found: value.describe(), expected: "a table".to_owned() };
        found.push(value_diagnostic(&ValueError { span: value.span, path: String::new(), kind }, &key.name));
    }
    table
}
