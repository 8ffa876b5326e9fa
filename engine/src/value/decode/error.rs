//! The error of a decode under way: serde makes it without a place, the values that it passes on its way out give it
//! one, and the keys its path.

use std::fmt::Display;

use serde::de::Unexpected;

use super::super::{Span, ValueError, ValueErrorKind, ValueKind};

/// Boxed, since serde hands results of this type up through every field.
#[derive(Debug)]
pub(super) struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ValueErrorKind,
    span: Option<Span>,
    /// Segments, the innermost first.
    path: Vec<Segment>,
}

#[derive(Debug)]
enum Segment {
    Key(String),
    Index(usize),
}

impl Error {
    pub(super) fn new(kind: ValueErrorKind) -> Self {
        Self(Box::new(Inner { kind, span: None, path: Vec::new() }))
    }

    pub(super) fn other(message: impl Into<String>) -> Self {
        Self::new(ValueErrorKind::Other(message.into()))
    }

    /// Another type.
    pub(super) fn expected(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(ValueErrorKind::WrongType { found: found.into(), expected: expected.into() })
    }

    /// Gives it a place, where it has none yet.
    pub(super) fn at(mut self, span: Span) -> Self {
        self.0.span.get_or_insert(span);
        self
    }

    /// The key that is not known, if that is the error and it has no place yet.
    pub(super) fn unknown_field(&self) -> Option<&str> {
        match &self.0.kind {
            ValueErrorKind::UnknownField { field, .. } if self.0.span.is_none() => Some(field),
            _ => None,
        }
    }

    pub(super) fn in_key(mut self, key: &str) -> Self {
        self.0.path.push(Segment::Key(key.to_owned()));
        self
    }

    pub(super) fn in_index(mut self, index: usize) -> Self {
        self.0.path.push(Segment::Index(index));
        self
    }

    pub(super) fn finish(self) -> ValueError {
        let mut path = String::new();
        for segment in self.0.path.iter().rev() {
            match segment {
                Segment::Key(key) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(key);
                }
                Segment::Index(index) => path.push_str(&format!("[{index}]")),
            }
        }
        ValueError { span: self.0.span.unwrap_or_default(), path, kind: self.0.kind }
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.kind)
    }
}

impl std::error::Error for Error {}

impl serde::de::Error for Error {
    fn custom<T: Display>(message: T) -> Self {
        let message = message.to_string();
        if message.starts_with("data did not match any variant of untagged enum") {
            return Self::other("this fits none of the forms that can stand here");
        }
        Self::other(message)
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Self::expected(in_words(&expected.to_string()), found_in_words(&found))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Self::expected(in_words(&expected.to_string()), found_in_words(&found))
    }

    fn invalid_length(length: usize, expected: &dyn serde::de::Expected) -> Self {
        Self::other(format!("expected {}, found {length}", in_words(&expected.to_string())))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(ValueErrorKind::UnknownVariant { variant: variant.to_owned(), expected: owned(expected) })
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::new(ValueErrorKind::UnknownField { field: field.to_owned(), expected: owned(expected) })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(ValueErrorKind::MissingField { field: field.to_owned() })
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::other(format!("`{field}` is given twice, under two of its names"))
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// `a`, `b` or `c`.
pub(super) fn list(names: &[&str]) -> String {
    match names {
        [] => "nothing".to_owned(),
        [one] => format!("`{one}`"),
        [init @ .., last] => {
            let init: Vec<String> = init.iter().map(|name| format!("`{name}`")).collect();
            format!("{} or `{last}`", init.join(", "))
        }
    }
}

fn found_in_words(found: &Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(flag) => ValueKind::Boolean(*flag).describe(),
        Unexpected::Signed(number) => ValueKind::Integer(*number).describe(),
        Unexpected::Float(number) => ValueKind::Float(*number).describe(),
        Unexpected::Str(text) => ValueKind::String((*text).to_owned()).describe(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// Rust's names of what is expected, as a researcher would say them.
fn in_words(expected: &str) -> String {
    let words = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" | "u128" => "a whole number of 0 or more",
        "i8" => "a whole number from -128 to 127",
        "i16" => "a whole number from -32768 to 32767",
        "i32" => "a whole number from -2147483648 to 2147483647",
        "i64" | "isize" | "i128" | "integer" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "`true` or `false`",
        "a string" | "str" | "borrowed string" | "string" => "text",
        "a sequence" => "a list",
        "a map" => "a table",
        "a character" => "a single character",
        "unit" => "nothing",
        _ => {
            return match expected.split_once(' ') {
                Some(("struct" | "map", _)) => "a table".to_owned(),
                Some(("tuple", _)) => "a list".to_owned(),
                _ if expected.starts_with("a tuple of size ") => expected.replacen("a tuple of size", "a list of", 1),
                _ if expected.starts_with("a nonzero ") => "a whole number other than 0".to_owned(),
                _ => expected.to_owned(),
            };
        }
    };
    words.to_owned()
}
