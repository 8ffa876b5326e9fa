//! Printing.

use std::io::{IsTerminal as _, Write as _};

use super::exit::Failure;
use crate::diagnostic::{Diagnostic, Sources, render};

/// Whether standard error may carry colours: a terminal, and nobody said no.
pub(super) fn coloured() -> bool {
    anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never
}

/// Standard error. What is written at once arrives at once, with or without colours: `anstream` would pass on each stretch
/// between two of them by itself, and who reads would be woken for each.
pub(super) struct Stderr {
    coloured: bool,
}

impl Stderr {
    pub(super) fn new() -> Self {
        Self { coloured: coloured() }
    }
}

impl std::io::Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut out = std::io::stderr();
        if self.coloured {
            out.write_all(bytes)?;
        } else {
            out.write_all(&anstream::adapter::strip_bytes(bytes).into_vec())?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Whether standard error is a terminal that can redraw lines.
pub(super) fn interactive() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Prints why a command ended early.
pub(super) fn error(failure: &Failure) {
    diagnostics(&failure.found, &failure.sources);
    let errors = failure.found.iter().filter(|one| one.is_error()).count();
    if errors > 1 {
        let _ = writeln!(std::io::stderr(), "{errors} errors: nothing was run");
    }
}

/// Prints warnings.
pub(super) fn warnings(found: &[Diagnostic], sources: &Sources) {
    diagnostics(found, sources);
}

/// Prints diagnostics to standard error.
pub(super) fn diagnostics(found: &[Diagnostic], sources: &Sources) {
    if !found.is_empty() {
        let _ = write!(std::io::stderr(), "{}", render(found, sources, coloured()));
    }
}

/// Prints data to standard output. A reader that has enough (`| head`) is no error.
pub(super) fn data(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Prints JSON data, indented, to standard output.
pub(super) fn json(value: &serde_json::Value) {
    data(&format!("{value:#}\n"));
}

/// Prints JSON data as one line, at once.
pub(super) fn line(value: &serde_json::Value) {
    data(&format!("{value}\n"));
}

/// A table without lines, its columns aligned, numbers to the right.
pub(super) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    use comfy_table::{Cell, CellAlignment, Table, presets};
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(header.iter().map(|name| Cell::new(name.to_uppercase())));
    for row in rows {
        table.add_row(row.into_iter().map(|text| {
            let numeric = text.chars().next().is_some_and(|first| first.is_ascii_digit() || first == '-')
                && text.chars().all(|c| c.is_ascii_digit() || ",.-+eE%".contains(c));
            Cell::new(text).set_alignment(if numeric { CellAlignment::Right } else { CellAlignment::Left })
        }));
    }
    let text = table.to_string();
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        out.push_str(line.strip_prefix(' ').unwrap_or(line).trim_end());
        out.push('\n');
    }
    out
}

/// A bar on a terminal, for what takes a while; elsewhere nothing.
pub(super) struct Bar(indicatif::ProgressBar);

impl Bar {
    pub(super) fn new(global: &super::args::Global, what: &str) -> Self {
        if !interactive() || global.quiet {
            return Self(indicatif::ProgressBar::hidden());
        }
        Self(indicatif::ProgressBar::new(0).with_message(what.to_owned()))
    }

    fn show(&self, template: &str, done: u64, all: u64) {
        if self.0.length() != Some(all) {
            // The template is one of the two below.
            if let Ok(style) = indicatif::ProgressStyle::with_template(template) {
                self.0.set_style(style);
            }
            self.0.set_length(all);
        }
        self.0.set_position(done);
    }

    /// So many things of so many.
    pub(super) fn set(&self, done: u64, all: u64) {
        self.show("{msg} {wide_bar} {pos}/{len} {eta}", done, all);
    }

    /// So many bytes of so many.
    pub(super) fn set_bytes(&self, done: u64, all: u64) {
        self.show("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}", done, all);
    }

    pub(super) fn end(self) {
        self.0.finish_and_clear();
    }
}

/// Prints a line for people to standard error.
pub(super) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
