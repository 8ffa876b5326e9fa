//! A scene as SVG: a file that stands alone, or a part of a page whose colours follow the reader's choice of light or dark.

use std::fmt::Write as _;

use super::scene::{Anchor, Ink, Item, Scene};
use crate::report::html::escape;

/// Where colours come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Palette {
    /// Written out, on a light background.
    Light,
    /// From the style sheet of the page: `var(--series-0)`.
    Page,
}

/// The name of a colour in a style sheet.
pub(crate) fn variable(ink: Ink) -> String {
    match ink {
        Ink::Series(number) => format!("--series-{}", number % super::scene::COLOURS),
        other => format!("--{other:?}").to_lowercase(),
    }
}

/// A scene as SVG.
pub(crate) fn svg(scene: &Scene, palette: Palette) -> String {
    let colour = |ink: Ink| match palette {
        Palette::Page => format!("var({})", variable(ink)),
        Palette::Light => {
            let (r, g, b) = ink.light();
            format!("#{r:02x}{g:02x}{b:02x}")
        }
    };
    let (width, height) = (scene.width, scene.height);
    let mut out = String::new();
    let _ = write!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}" height="{height:.0}" role="img" font-family="'DejaVu Sans', Verdana, sans-serif"><title>{}</title>"#,
        escape(&scene.description)
    );
    if palette == Palette::Light {
        let _ = write!(out, r#"<rect width="100%" height="100%" fill="{}"/>"#, colour(Ink::Background));
    }
    for item in &scene.items {
        match item {
            Item::Line { points, ink, width, dashes } => {
                let dashes: Vec<String> = dashes.iter().map(ToString::to_string).collect();
                let dashes = if dashes.is_empty() {
                    String::new()
                } else {
                    format!(r#" stroke-dasharray="{}""#, dashes.join(" "))
                };
                let _ = write!(
                    out,
                    r#"<polyline fill="none" stroke="{}" stroke-width="{width}" stroke-linejoin="round"{dashes} points="{}"/>"#,
                    colour(*ink),
                    list(points)
                );
            }
            Item::Area { points, ink, opacity } => {
                let _ = write!(
                    out,
                    r#"<polygon fill="{}" fill-opacity="{opacity}" points="{}"/>"#,
                    colour(*ink),
                    list(points)
                );
            }
            Item::Dot { at, radius, ink, title } => {
                let _ = write!(
                    out,
                    r#"<circle cx="{:.1}" cy="{:.1}" r="{radius}" fill="{}" stroke="{}"><title>{}</title></circle>"#,
                    at.0,
                    at.1,
                    colour(*ink),
                    colour(Ink::Background),
                    escape(title)
                );
            }
            Item::Box { from, size, fill, stroke, title } => {
                let _ = write!(
                    out,
                    r#"<rect x="{:.1}" y="{:.1}" width="{:.1}" height="{:.1}" rx="5" fill="{}" stroke="{}"><title>{}</title></rect>"#,
                    from.0,
                    from.1,
                    size.0,
                    size.1,
                    colour(*fill),
                    colour(*stroke),
                    escape(title)
                );
            }
            Item::Text { at, size, anchor, upright, bold, ink, text } => {
                let anchor = match anchor {
                    Anchor::Start => "start",
                    Anchor::Middle => "middle",
                    Anchor::End => "end",
                };
                let turn = if *upright {
                    format!(r#" transform="rotate(-90 {:.1} {:.1})""#, at.0, at.1)
                } else {
                    String::new()
                };
                let weight = if *bold { r#" font-weight="bold""# } else { "" };
                let _ = write!(
                    out,
                    r#"<text x="{:.1}" y="{:.1}" font-size="{size}" text-anchor="{anchor}" fill="{}"{weight}{turn}>{}</text>"#,
                    at.0,
                    at.1,
                    colour(*ink),
                    escape(text)
                );
            }
        }
    }
    out.push_str("</svg>\n");
    out
}

fn list(points: &[(f64, f64)]) -> String {
    let mut out = String::with_capacity(points.len() * 12);
    for (x, y) in points {
        let _ = write!(out, "{}{x:.1},{y:.1}", if out.is_empty() { "" } else { " " });
    }
    out
}
