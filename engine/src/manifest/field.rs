//! Reading one field and saying what is wrong with it.

use serde::de::DeserializeOwned;

use super::{
    Word,
    misfit::{Owner, misfit},
};
use crate::diagnostic::{Diagnostic, nearest};
use crate::value::{Key, Table, Value, ValueError, ValueErrorKind};

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

/// Errors for which names are searched: a manifest can have 10,000 of both.
pub(crate) const MAX_SUGGESTIONS: usize = 50;

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
    value.decode().map_err(|error| found.push(misfit(&error, Owner::Field(&key.name)))).ok()
}

/// A field that is read by a function of its own, with an example of how to write it.
pub(super) fn read<T>(
    key: &Key,
    value: &Value,
    reader: fn(&Value) -> Result<T, String>,
    example: &str,
    found: &mut Vec<Diagnostic>,
) -> Option<T> {
    let error = |message| misfit(&ValueError::new(value.span, message), Owner::Field(&key.name));
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
        found.push(misfit(&ValueError { span: value.span, path: String::new(), kind }, Owner::Field(&key.name)));
    }
    table
}
