//! What people see: listeners of [`RunEvent`](crate::event::RunEvent), tables and pictures of results, words for figures.

pub(crate) mod figures;
mod json;
pub(crate) mod query;
pub(crate) mod tabulate;
mod terminal;

pub use json::JsonLines;
pub use terminal::{Terminal, TerminalOptions};
