//! The manifest's values: what TOML says, with the place where it says it.
//!
//! Every table, key and leaf carries a [`Span`], through sweeps and interpolation, so that an error found at any later
//! phase can still point at the line that the author wrote.

mod decode;

mod parse;

pub use parse::parse_toml;

use serde::de::DeserializeOwned;

/// A stretch of one source text, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    /// Which of the [`Sources`](crate::diagnostic::Sources) it lies in.
    pub source: u16,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// Where it is written.
    pub span: Span,
    /// What it is.
    pub kind: ValueKind,
}

/// The kinds of value that TOML has.
#[derive(Debug, Clone, PartialEq)]
pub enum ValueKind {
    /// Text.
    String(String),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction or an exponent.
    Float(f64),
    /// `true` or `false`.
    Boolean(bool),
    /// A date or time, as written.
    Datetime(String),
    /// A list.
    Array(Vec<Value>),
    /// A table, inline or not.
    Table(Table),
}

/// A table in the order of the text.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    /// Its entries; no key twice.
    pub entries: Vec<(Key, Value)>,
}

/// A key with its place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Key {
    /// The name.
    pub name: String,
    /// Where it is written.
    pub span: Span,
}

/// A value that does not have the shape it should have.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueError {
    /// The innermost place that is wrong.
    pub span: Span,
    /// Dotted path below the value that was decoded: `model.n_head`, `files[1]`; empty for the value itself.
    pub path: String,
    /// What is wrong.
    pub kind: ValueErrorKind,
}

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq)]
pub enum ValueErrorKind {
    /// A key that is not known here, with those that are.
    UnknownField {
        /// What was written.
        field: String,
        /// What would be known.
        expected: Vec<String>,
    },
    /// A name out of a fixed set that is not in it.
    UnknownVariant {
        /// What was written.
        variant: String,
        /// What would be known.
        expected: Vec<String>,
    },
    /// A key that must be there.
    MissingField {
        /// Its name.
        field: String,
    },
    /// A value of another type.
    WrongType {
        /// What was found, in words: `the text "x"`.
        found: String,
        /// What would fit, in words.
        expected: String,
    },
    /// Anything else, in words.
    Other(String),
}

/// What is wrong, in one sentence without a full stop: `expected a whole number, found the text "12"`.
impl std::fmt::Display for ValueErrorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownField { field, .. } => write!(f, "unknown field `{field}`"),
            Self::UnknownVariant { variant, .. } => write!(f, "unknown value `{variant}`"),
            Self::MissingField { field } => write!(f, "`{field}` is missing"),
            Self::WrongType { found, expected } => write!(f, "expected {expected}, found {found}"),
            Self::Other(message) => f.write_str(message),
        }
    }
}

/// The path, where there is one, and what is wrong.
impl std::fmt::Display for ValueError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.is_empty() { write!(f, "{}", self.kind) } else { write!(f, "{}: {}", self.path, self.kind) }
    }
}

impl std::error::Error for ValueError {}

impl ValueError {
    /// An error in words, at a place.
    #[must_use]
    pub fn new(span: Span, message: impl Into<String>) -> Self {
        Self { span, path: String::new(), kind: ValueErrorKind::Other(message.into()) }
    }
}

impl Value {
    /// Decodes into a typed value through serde.
    ///
    /// # Errors
    /// The first thing that does not fit, with its place and path.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, ValueError> {
        decode::decode(self)
    }

    /// The table, if it is one.
    #[must_use]
    pub fn as_table(&self) -> Option<&Table> {
        match &self.kind {
            ValueKind::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The text, if it is text.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match &self.kind {
            ValueKind::String(text) => Some(text),
            _ => None,
        }
    }

    /// What it is, in words: `the text "x"`, `the whole number 3`, `a table`.
    #[must_use]
    pub fn describe(&self) -> String {
        self.kind.describe()
    }
}

impl ValueKind {
    /// See [`Value::describe`].
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::String(text) if text.chars().count() > 40 => "a long text".to_owned(),
            Self::String(text) => format!("the text {text:?}"),
            Self::Integer(number) => format!("the whole number {number}"),
            Self::Float(number) => format!("the number {number:?}"),
            Self::Boolean(flag) => format!("`{flag}`"),
            Self::Datetime(text) => format!("the date {text}"),
            Self::Array(items) => format!("a list of {}", items.len()),
            Self::Table(_) => "a table".to_owned(),
        }
    }
}

impl Table {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.entry(name).map(|(_, value)| value)
    }

    /// Decodes into a typed value through serde; `span` is the place of an error that concerns the whole table.
    ///
    /// # Errors
    /// The first thing that does not fit, with its place and path.
    pub fn decode<T: DeserializeOwned>(&self, span: Span) -> Result<T, ValueError> {
        decode::decode_table(self, span)
    }

    /// The key and value of a key.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<&(Key, Value)> {
        self.entries.iter().find(|(key, _)| key.name == name)
    }
}
