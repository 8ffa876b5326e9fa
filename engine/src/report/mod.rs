//! What people see: listeners of [`RunEvent`](crate::event::RunEvent) and words for figures.

pub(crate) mod figures;
mod json;
mod terminal;

pub use json::JsonLines;
pub use terminal::{Terminal, TerminalOptions};
