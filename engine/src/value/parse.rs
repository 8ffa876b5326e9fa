//! From TOML text to spanned values.
//!
//! The parser is the `toml` crate's, in its recovering mode, so that one slip does not hide the next. It hands tables
//! out sorted by name; here they are put back into the order of the text, which is the order of a person's thoughts
//! and of everything that is shown later.
//!
//! Invariants: never panics, whatever the text; every span lies within the text, on character boundaries.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Key, Span, Table, Value, ValueKind, duplicate};
use crate::diagnostic::Diagnostic;

/// More errors than this in one file help nobody; the rest is counted.
const MAX_ERRORS: usize = 50;

/// Tables and lists inside each other beyond this depth are refused: later phases recurse over values.
const MAX_DEPTH: usize = 100;

/// Parses one source text into its top-level table.
///
/// # Errors
/// All syntax errors, with their places: codes `manifest::syntax`, `manifest::duplicate-name`, `manifest::number`.
pub fn parse_toml(source: u16, text: &str) -> Result<Table, Vec<Diagnostic>> {
    let mut reader = Reader { source, text, errors: Vec::new() };
    if u32::try_from(text.len()).is_err() {
        return Err(vec![Diagnostic::error("manifest::syntax", "the text is larger than 4 GiB")]);
    }
    let (root, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let table = reader.table(root.into_inner(), 0);
        if reader.errors.is_empty() {
            return Ok(table);
        }
    } else {
        reader.syntax(&errors);
    }
    Err(reader.errors)
}

struct Reader<'a> {
    source: u16,
    text: &'a str,
    errors: Vec<Diagnostic>,
}

impl Reader<'_> {
    /// A span within the text, whatever the parser says.
    fn span(&self, range: Range<usize>) -> Span {
        let start = self.text.floor_char_boundary(range.start);
        let end = self.text.ceil_char_boundary(range.end).max(start);
        Span {
            source: self.source,
            start: u32::try_from(start).unwrap_or(u32::MAX),
            end: u32::try_from(end).unwrap_or(u32::MAX),
        }
    }

    fn table(&mut self, table: DeTable<'_>, depth: usize) -> Table {
        let mut entries: Vec<(Key, Value)> = table
            .into_iter()
            .map(|(key, value)| {
                let span = self.span(key.span());
                (Key { name: key.into_inner().into_owned(), span }, self.value(value, depth))
            })
            .collect();
        entries.sort_by_key(|(key, _)| key.span.start);
        Table { entries }
    }

    fn value(&mut self, value: Spanned<DeValue<'_>>, depth: usize) -> Value {
        let range = value.span();
        let span = self.span(range.clone());
        if depth == MAX_DEPTH {
            let message = format!("tables and lists are nested more than {MAX_DEPTH} deep");
            self.error(Diagnostic::error("manifest::syntax", message).label(span, "").help("flatten it"));
            return Value { span, kind: ValueKind::Boolean(false) };
        }
        let kind = match value.into_inner() {
            DeValue::String(text) => ValueKind::String(text.into_owned()),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => ValueKind::Integer(number),
                Err(_) => self.number(span, "whole number", "whole numbers go from -2^63 to 2^63 - 1"),
            },
            DeValue::Float(number) => match number.as_str().parse::<f64>() {
                Ok(parsed) if parsed.is_finite() || !number.as_str().contains(|c: char| c.is_ascii_digit()) => {
                    ValueKind::Float(parsed)
                }
                _ => self.number(span, "number", "numbers go up to about 1.8e308"),
            },
            DeValue::Boolean(flag) => ValueKind::Boolean(flag),
            DeValue::Datetime(_) => ValueKind::Datetime(self.text.get(range).unwrap_or_default().to_owned()),
            DeValue::Array(items) => {
                ValueKind::Array(items.into_iter().map(|item| self.value(item, depth + 1)).collect())
            }
            DeValue::Table(table) => ValueKind::Table(self.table(table, depth + 1)),
        };
        Value { span, kind }
    }

    fn number(&mut self, span: Span, what: &str, help: &str) -> ValueKind {
        let error = Diagnostic::error("manifest::number", format!("this {what} is too large"));
        self.error(error.label(span, "").help(help));
        ValueKind::Integer(0)
    }

    fn error(&mut self, error: Diagnostic) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(error);
        }
    }

    fn syntax(&mut self, errors: &[toml::de::Error]) {
        let first = duplicate::first_places(self.text, errors);
        for error in errors.iter().take(MAX_ERRORS) {
            let range = error.span().unwrap_or(self.text.len()..self.text.len());
            let span = self.span(range.clone());
            self.errors.push(if error.message().starts_with("duplicate key") {
                let name = self.text.get(range.clone()).unwrap_or_default().trim_matches(['"', '\'']);
                let mut diagnostic = Diagnostic::error("manifest::duplicate-name", format!("`{name}` is given twice"))
                    .label(span, "a second time here");
                if let Some(first) = first.get(&range.start) {
                    diagnostic = diagnostic.label(self.span(first.clone()), "first here");
                }
                diagnostic.help("rename one of the two, or remove it")
            } else {
                let (message, help) = reword(error.message());
                Diagnostic::error("manifest::syntax", message).label(span, "").help(help)
            });
        }
        if errors.len() > MAX_ERRORS {
            let more = errors.len() - MAX_ERRORS;
            self.errors.push(Diagnostic::error("manifest::syntax", format!("{more} more syntax errors are not shown")));
        }
    }
}

/// The parser's words, with a next step.
fn reword(message: &str) -> (String, &'static str) {
    let help = if message.contains("must be quoted") || message.contains("string values") {
        "put text in quotes: \"...\""
    } else if message.contains("unclosed") || message.contains("missing") {
        "every `[`, `{` and quote needs its partner"
    } else if message.contains("key with no value") {
        "write `key = value`"
    } else {
        "a line of TOML is `key = value` or `[table]`; values are \"text\", 1, 0.5, true, [1, 2], { key = 1 }"
    };
    (format!("this is not valid TOML: {message}"), help)
}

#[cfg(test)]
mod tests;
