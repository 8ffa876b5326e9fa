//! A run as a page: one file that needs nothing else, or what the dashboard serves while the run goes on.
//!
//! Everything that comes from a manifest, a stage or a database goes through [`escape`], and the page forbids itself, by a
//! Content-Security-Policy, to ask for anything from anywhere.

mod curves;
mod dag;
mod sections;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use super::{html::escape, plot::Ink, run_view::RunView};

const STYLE: &str = include_str!("style.css");

/// What a page of its own may do: show itself.
const ALONE: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// The page as one file.
pub(crate) fn alone(view: &RunView, now: i64) -> String {
    let policy = format!(r#"<meta http-equiv="Content-Security-Policy" content="{}">"#, escape(ALONE));
    page(view, &policy, "", now)
}

/// The page as the dashboard serves it: `script` is what keeps it up to date.
pub(crate) fn live(view: &RunView, script: &str, now: i64) -> String {
    page(view, "", &format!("<script>{script}</script>\n"), now)
}

/// The part of the page that changes while a run goes on.
pub(crate) fn content(view: &RunView, now: i64) -> String {
    sections::all(view, now)
}

fn page(view: &RunView, head: &str, script: &str, now: i64) -> String {
    let title = format!("Sepia run {} of {}", view.row.run, view.row.manifest);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n{head}\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{}</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n{}</main>\n\
         <footer>Sepia {}, {}</footer>\n{script}</body>\n</html>\n",
        escape(&title),
        style(),
        content(view, now),
        env!("CARGO_PKG_VERSION"),
        escape(&sections::time(now)),
    )
}

/// The style sheet with the colours of both modes.
fn style() -> String {
    let fixed =
        [Ink::Background, Ink::Text, Ink::Muted, Ink::Grid, Ink::Good, Ink::Known, Ink::Busy, Ink::Bad, Ink::Idle];
    let inks = || fixed.into_iter().chain((0..super::plot::COLOURS).map(Ink::Series));
    let all = |colour: fn(Ink) -> (u8, u8, u8)| {
        inks().fold(String::new(), |mut out, ink| {
            let (r, g, b) = colour(ink);
            let _ = write!(out, "{}: #{r:02x}{g:02x}{b:02x}; ", super::plot::variable(ink));
            out
        })
    };
    STYLE.replace("LIGHT", &all(Ink::light)).replace("DARK", &all(Ink::dark))
}
