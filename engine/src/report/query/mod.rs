//! Questions to the results database: which executions, which columns, in which order, in which groups.
//!
//! | module | what is in it |
//! |---|---|
//! | `condition` | what `--where` says, as a tree |
//! | `parse` | text into a condition, with places for errors |
//! | `columns` | names into columns: fields, parameters, metrics |
//! | `frame` | executions with the columns that were asked for, side by side |
//! | `group` | mean and standard deviation over seeds |
//!
//! Conditions are decided here and not by SQLite: names and values of a question never become part of a statement, and a
//! parameter can be one of the stage that an execution builds on.

mod columns;
mod condition;
mod frame;
mod group;
mod parse;
#[cfg(test)]
mod tests;

pub(crate) use columns::{Column, Direction, Field, direction};
pub(crate) use frame::{Cell, Frame, FrameError};
pub(crate) use group::{Group, Statistics, differing_params, groups};
pub(crate) use parse::parse;

use crate::{diagnostic::Diagnostic, value::Span};

/// What is wrong with a question, with the place in its text where there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueryError {
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// In bytes of the text.
    pub(crate) place: std::ops::Range<usize>,
    pub(crate) label: String,
    pub(crate) help: Option<String>,
}

impl QueryError {
    fn new(code: &'static str, place: std::ops::Range<usize>, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), place, label: String::new(), help: None }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// As it is shown, with the text as the source of this number.
    pub(crate) fn diagnostic(self, source: u16) -> Diagnostic {
        let at = |byte: usize| u32::try_from(byte).unwrap_or(u32::MAX);
        let span = Span { source, start: at(self.place.start), end: at(self.place.end.max(self.place.start + 1)) };
        Diagnostic::error(self.code, self.message).label(span, self.label).help_maybe(self.help)
    }
}
