//! What people see: listeners of [`RunEvent`](crate::event::RunEvent), tables and pictures of results, words for figures.

pub(crate) mod figures;
pub(crate) mod html;
mod json;
pub(crate) mod page;
pub(crate) mod plot;
pub(crate) mod query;
pub(crate) mod run_view;
pub(crate) mod tabulate;
mod terminal;

pub use json::JsonLines;
pub use terminal::{Terminal, TerminalOptions};
