//! Errors and warnings about what a person wrote, with the place and the way out.
//!
//! Every phase collects [`Diagnostic`]s; only the command line turns them into text, with [`render`](fn@render) for people and
//! [`to_json`] for programs.

mod json;
mod nearest;
mod render;
mod sources;

pub use json::to_json;
pub use nearest::nearest;
pub use render::render;
pub use sources::{Place, Sources};

use std::collections::HashSet;

use crate::value::Span;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing runs.
    Error,
    /// It runs, but is probably not what was meant.
    Warning,
}

/// A place in a source, with what to say there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Label {
    /// The place.
    pub span: Span,
    /// What is said under the caret; may be empty.
    pub text: String,
}

/// One error or warning.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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

    /// Adds a way out where there is one.
    #[must_use]
    pub fn help_maybe(mut self, text: Option<String>) -> Self {
        self.help.extend(text);
        self
    }

    /// Whether nothing runs.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Where it is shown among others: by source and place; those without a place last, next to the prompt.
    fn order(&self) -> (bool, Option<Span>) {
        (self.labels.is_empty(), self.labels.first().map(|label| label.span))
    }
}

/// Leaves the first of those that are alike: the cells of a sweep have one line in common, and its fault as well.
pub fn dedupe(diagnostics: &mut Vec<Diagnostic>) {
    let mut seen = HashSet::new();
    diagnostics.retain(|one| seen.insert(one.clone()));
}

/// In the order of the text, as a person reads it; otherwise in the order in which they were found.
fn sorted(diagnostics: &[Diagnostic]) -> Vec<&Diagnostic> {
    let mut sorted: Vec<&Diagnostic> = diagnostics.iter().collect();
    sorted.sort_by_key(|diagnostic| diagnostic.order());
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_alike_is_said_once() {
        let one = |at| Diagnostic::error("a::b", "c").label(Span { source: 0, start: at, end: at + 1 }, "");
        let mut all = vec![one(1), one(2), one(1), one(1).help("x")];
        dedupe(&mut all);
        assert_eq!(all, [one(1), one(2), one(1).help("x")]);
    }
}
