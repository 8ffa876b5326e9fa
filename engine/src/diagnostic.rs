//! Errors and warnings about what a person wrote, with the place and the way out.

use crate::value::Span;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Nothing runs.
    Error,
    /// It runs, but is probably not what was meant.
    Warning,
}

/// A place in a source, with what to say there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The place.
    pub span: Span,
    /// What is said under the caret; may be empty.
    pub text: String,
}

/// One error or warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable name, `manifest::unknown-field`.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// The places; the first is the main one. Empty where no source is concerned.
    pub labels: Vec<Label>,
    /// Ways out: what to write, which command to paste.
    pub help: Vec<String>,
}

impl Diagnostic {
    /// An error.
    #[must_use]
    pub fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, severity: Severity::Error, message: message.into(), labels: Vec::new(), help: Vec::new() }
    }

    /// A warning.
    #[must_use]
    pub fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, message) }
    }

    /// Adds a place.
    #[must_use]
    pub fn label(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into() });
        self
    }

    /// Adds a way out.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help.push(text.into());
        self
    }
}

/// The texts that spans point into: the manifest, and what it extends.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    texts: Vec<(String, String)>,
}

impl Sources {
    /// Adds a text under the name that errors show; returns the number that its spans carry.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<String>) -> u16 {
        self.texts.push((name.into(), text.into()));
        u16::try_from(self.texts.len() - 1).unwrap_or(u16::MAX)
    }

    /// Name and text of a source.
    #[must_use]
    pub fn get(&self, source: u16) -> Option<(&str, &str)> {
        self.texts.get(usize::from(source)).map(|(name, text)| (name.as_str(), text.as_str()))
    }
}
