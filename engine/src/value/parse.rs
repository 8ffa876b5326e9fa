//! From TOML text to spanned values.
//!
//! Lexing, grammar and scalars are the `toml_parser` crate's, which is what the `toml` crate is built on; only the tree
//! is our own. The `toml` crate's tree sorts tables by name, does not say where a name stood that is given twice, can be
//! nested so deep that dropping it overflows the stack, and takes about twice as long as everything here (5,000 stages,
//! 600 KB: 33 ms against 17 ms on a busy two-core machine, of which 5 ms are the parser's).
//!
//! Invariants: never panics and never overflows the stack, whatever the text; every span lies within the text, on
//! character boundaries; tables are in the order of the text; one slip does not hide the next.

mod build;
mod tree;

#[cfg(test)]
mod tests;

use std::ops::Range;

use toml_parser::decoder::ScalarKind;
use toml_parser::parser::{Event, EventKind, RecursionGuard, ValidateWhitespace, parse_document};
use toml_parser::{ParseError, Source};

use super::{Span, Table, Value, ValueKind};
use crate::diagnostic::Diagnostic;

/// More errors than this in one file help nobody; the rest is counted.
const MAX_ERRORS: usize = 50;

/// Tables and lists inside each other beyond this depth are refused: later phases recurse over values.
const MAX_DEPTH: usize = 80;

/// Parses one source text into its top-level table.
///
/// # Errors
/// All syntax errors, with their places: codes `manifest::syntax`, `manifest::duplicate-name`, `manifest::number`.
pub fn parse_toml(source: u16, text: &str) -> Result<Table, Vec<Diagnostic>> {
    if u32::try_from(text.len()).is_err() {
        return Err(vec![Diagnostic::error("manifest::syntax", "the text is larger than 4 GiB").help("split it")]);
    }
    let mut reader = Reader { source: Source::new(text), number: source, text, errors: Vec::new(), unshown: 0 };
    let tokens = reader.source.lex().into_vec();
    let mut events: Vec<Event> = Vec::with_capacity(tokens.len() / 2);
    {
        let toml = reader.source;
        // Half of all events say nothing about the tree.
        let mut keep = |event: Event| {
            use EventKind::{Comment, KeySep, ValueSep, Whitespace};
            if !matches!(event.kind(), Comment | KeySep | ValueSep | Whitespace) {
                events.push(event);
            }
        };
        let mut sink = |error: ParseError| reader.syntax(&error);
        let mut checked = ValidateWhitespace::new(&mut keep, toml);
        let mut bounded = RecursionGuard::new(&mut checked, u32::try_from(MAX_DEPTH).unwrap_or(u32::MAX));
        parse_document(&tokens, &mut bounded, &mut sink);
    }
    drop(tokens);
    let table = build::document(&events, &mut reader);
    reader.finish(table)
}

/// The text that is read, and what is wrong with it.
struct Reader<'a> {
    source: Source<'a>,
    /// Of the source, in spans.
    number: u16,
    text: &'a str,
    errors: Vec<Diagnostic>,
    /// Errors beyond [`MAX_ERRORS`].
    unshown: usize,
}

impl Reader<'_> {
    fn finish(mut self, table: Table) -> Result<Table, Vec<Diagnostic>> {
        if self.errors.is_empty() {
            return Ok(table);
        }
        if self.unshown > 0 {
            let message = format!("{} more errors of this file are not shown", self.unshown);
            self.errors.push(Diagnostic::error("manifest::syntax", message));
        }
        Err(self.errors)
    }

    /// A span within the text, whatever the parser says.
    fn span(&self, range: Range<usize>) -> Span {
        let start = self.text.floor_char_boundary(range.start);
        let end = self.text.ceil_char_boundary(range.end).max(start);
        Span {
            source: self.number,
            start: u32::try_from(start).unwrap_or(u32::MAX),
            end: u32::try_from(end).unwrap_or(u32::MAX),
        }
    }

    fn span_of(&self, span: toml_parser::Span) -> Span {
        self.span(span.start()..span.end())
    }

    fn error(&mut self, error: Diagnostic) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(error);
        } else {
            self.unshown += 1;
        }
    }

    fn syntax(&mut self, error: &ParseError) {
        let range = error.unexpected().map_or(self.text.len()..self.text.len(), |span| span.start()..span.end());
        let (message, help) = reword(error);
        let error = Diagnostic::error("manifest::syntax", message).label(self.span(range), "").help(help);
        self.error(error);
    }

    /// A name that is taken already.
    fn twice(&mut self, name: &str, second: Span, first: Span) {
        let error = Diagnostic::error("manifest::duplicate-name", format!("`{name}` is given twice"));
        let error = error.label(second, "a second time here").label(first, "first here");
        self.error(error.help("rename one of the two, or remove it"));
    }

    fn too_deep(&mut self, span: Span) {
        let message = format!("tables and lists are nested more than {MAX_DEPTH} deep");
        self.error(Diagnostic::error("manifest::syntax", message).label(span, "").help("flatten it"));
    }

    /// The name of a key.
    fn key(&mut self, event: &Event) -> super::Key {
        let mut name = std::borrow::Cow::Borrowed("");
        if let Some(raw) = self.source.get(event) {
            raw.decode_key(&mut name, &mut |error: ParseError| self.syntax(&error));
        }
        super::Key { name: name.into_owned(), span: self.span_of(event.span()) }
    }

    fn scalar(&mut self, event: &Event) -> Value {
        let span = self.span_of(event.span());
        let mut text = std::borrow::Cow::Borrowed("");
        let Some(raw) = self.source.get(event) else { return Value { span, kind: ValueKind::Boolean(false) } };
        let kind = match raw.decode_scalar(&mut text, &mut |error: ParseError| self.syntax(&error)) {
            ScalarKind::String => ValueKind::String(text.into_owned()),
            ScalarKind::Boolean(flag) => ValueKind::Boolean(flag),
            ScalarKind::DateTime => {
                if let Err(error) = text.parse::<toml::value::Datetime>() {
                    let error = Diagnostic::error("manifest::syntax", format!("this is not a date or time: {error}"));
                    self.error(error.label(span, "").help("write 2026-01-31, 07:30:00 or 2026-01-31T07:30:00Z"));
                }
                ValueKind::Datetime(raw.as_str().to_owned())
            }
            ScalarKind::Float => match text.parse::<f64>() {
                Ok(number) if number.is_finite() || !text.contains(|c: char| c.is_ascii_digit()) => {
                    ValueKind::Float(number)
                }
                _ => self.number(span, "number", "numbers go up to about 1.8e308"),
            },
            ScalarKind::Integer(radix) => match i64::from_str_radix(&text, radix.value()) {
                Ok(number) => ValueKind::Integer(number),
                Err(_) => self.number(span, "whole number", "whole numbers go from -2^63 to 2^63 - 1"),
            },
        };
        Value { span, kind }
    }

    fn number(&mut self, span: Span, what: &str, help: &str) -> ValueKind {
        let error = Diagnostic::error("manifest::number", format!("this {what} is too large"));
        self.error(error.label(span, "").help(help));
        ValueKind::Integer(0)
    }
}

/// The parser's words, with a next step.
fn reword(error: &ParseError) -> (String, &'static str) {
    let mut message = error.description().to_owned();
    let expected: Vec<String> = error
        .expected()
        .unwrap_or_default()
        .iter()
        .map(|expected| match expected {
            toml_parser::Expected::Literal("\n") => "a new line".to_owned(),
            toml_parser::Expected::Literal(text) => format!("`{text}`"),
            toml_parser::Expected::Description(text) => (*text).to_owned(),
            _ => "something else".to_owned(),
        })
        .collect();
    if !expected.is_empty() {
        message.push_str(", expected ");
        message.push_str(&expected.join(" or "));
    }
    let help = if message.contains("must be quoted") {
        "put text in quotes: \"...\""
    } else if message.contains("unclosed") || message.contains("missing") {
        "every `[`, `{` and quote needs its partner"
    } else {
        "a line of TOML is `key = value` or `[table]`; values are \"text\", 1, 0.5, true, [1, 2], { key = 1 }"
    };
    (format!("this is not valid TOML: {message}"), help)
}
