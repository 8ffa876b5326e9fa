//! Diagnostics as rustc shows them: the line, a caret, and the way out.

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};

use super::{Diagnostic, Label, Severity, Sources, sorted};

/// More than this fill a screen many times over.
const MAX_SHOWN: usize = 200;

/// The diagnostics one after another in the order of the text, each followed by an empty line; of more than 200, the
/// first ones and how many there are.
#[must_use]
pub fn render(diagnostics: &[Diagnostic], sources: &Sources, coloured: bool) -> String {
    let renderer = if coloured { Renderer::styled() } else { Renderer::plain() };
    let mut text = String::new();
    for diagnostic in sorted(diagnostics).into_iter().take(MAX_SHOWN) {
        text.push_str(renderer.render(&[group(diagnostic, sources)]).trim_end());
        text.push_str("\n\n");
    }
    if let Some(more) = diagnostics.len().checked_sub(MAX_SHOWN).filter(|more| *more > 0) {
        text.push_str(&format!("... and {more} more\n\n"));
    }
    text
}

fn group<'a>(diagnostic: &'a Diagnostic, sources: &'a Sources) -> Group<'a> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut group = Group::with_title(level.primary_title(diagnostic.message.as_str()).id(diagnostic.code));
    // One snippet a source, the main one first.
    let mut shown: Vec<u16> = Vec::new();
    for (index, label) in diagnostic.labels.iter().enumerate() {
        if shown.contains(&label.span.source) {
            continue;
        }
        shown.push(label.span.source);
        let Some((name, text)) = sources.get(label.span.source) else { continue };
        let same = diagnostic
            .labels
            .iter()
            .enumerate()
            .skip(index)
            .filter(|(_, other)| other.span.source == label.span.source);
        let snippet = window(sources, text, same.clone().map(|(_, label)| label));
        group = group.element(
            Snippet::source(snippet.text)
                .path(name)
                .line_start(snippet.line)
                .annotations(same.map(|(index, label)| annotation(index == 0, label, &snippet))),
        );
    }
    for help in &diagnostic.help {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    group
}

fn annotation<'a>(main: bool, label: &'a Label, window: &Window<'_>) -> Annotation<'a> {
    let kind = if main { AnnotationKind::Primary } else { AnnotationKind::Context };
    let start = window.at(label.span.start);
    // A table or list over several lines is shown by its first.
    let first_line = window.text[start..].find('\n').map_or(window.text.len(), |end| start + end);
    let annotation = kind.span(start..window.at(label.span.end).clamp(start, first_line.max(start)));
    if label.text.is_empty() { annotation } else { annotation.label(label.text.as_str()) }
}

/// The lines of a text that a diagnostic is about: the renderer walks all it is given, and a manifest can have 100,000.
struct Window<'a> {
    text: &'a str,
    /// Byte where it begins.
    start: usize,
    /// Number of its first line.
    line: usize,
}

impl Window<'_> {
    fn at(&self, at: u32) -> usize {
        self.text.floor_char_boundary((at as usize).saturating_sub(self.start))
    }
}

fn window<'a, 'l>(sources: &Sources, text: &'a str, labels: impl Iterator<Item = &'l Label>) -> Window<'a> {
    let (mut start, mut end, mut line) = (text.len(), 0, 1);
    for label in labels {
        if (label.span.start as usize) < start {
            line = sources.place(label.span).map_or(1, |(place, _)| place.line);
        }
        start = start.min(label.span.start as usize);
        end = end.max(label.span.start as usize);
    }
    let (start, end) = (text.floor_char_boundary(start), text.floor_char_boundary(end));
    let start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[end..].find('\n').map_or(text.len(), |newline| end + newline);
    Window { text: &text[start..end.max(start)], start, line }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Span;

    const TEXT: &str = "name = \"quickstart\"\n\n[stages.train]\nkind = \"pretrain\"\nmax_step = 300\n\n[stages.eval]\nkind = \"evaluat\"\nnote = \"ärger\"\n";

    fn at(text: &str, needle: &str) -> Span {
        let start = text.find(needle).unwrap() as u32;
        Span { source: 0, start, end: start + needle.len() as u32 }
    }

    fn sources() -> Sources {
        let mut sources = Sources::default();
        sources.add("quickstart.toml", TEXT);
        sources.add("base.toml", "[defaults.pretrain]\nlr = 0.1\n");
        sources
    }

    #[test]
    fn several_diagnostics_come_in_the_order_of_the_text() {
        let diagnostics = [
            Diagnostic::error("plan::unknown-kind", "there is no stage kind `evaluat`")
                .label(at(TEXT, "\"evaluat\""), "not a stage kind")
                .help("did you mean `evaluate`?")
                .help("`sepia stages` lists all kinds"),
            Diagnostic::error("manifest::unknown-field", "unknown field `max_step`")
                .label(at(TEXT, "max_step"), "")
                .label(at(TEXT, "\"pretrain\""), "a stage of this kind")
                .help("did you mean `max_steps`?"),
            Diagnostic::warning("manifest::unused", "the text is long").label(at(TEXT, "\"ärger\""), "ä"),
            Diagnostic::error("store::locked", "no place at all").help("wait"),
        ];
        insta::assert_snapshot!(render(&diagnostics, &sources(), false), @r#"
        error[manifest::unknown-field]: unknown field `max_step`
         --> quickstart.toml:5:1
          |
        4 | kind = "pretrain"
          |        ---------- a stage of this kind
        5 | max_step = 300
          | ^^^^^^^^
          |
          = help: did you mean `max_steps`?

        error[plan::unknown-kind]: there is no stage kind `evaluat`
         --> quickstart.toml:8:8
          |
        8 | kind = "evaluat"
          |        ^^^^^^^^^ not a stage kind
          |
          = help: did you mean `evaluate`?
          = help: `sepia stages` lists all kinds

        warning[manifest::unused]: the text is long
         --> quickstart.toml:9:8
          |
        9 | note = "ärger"
          |        ^^^^^^^ ä

        error[store::locked]: no place at all
         |
         = help: wait
        "#);
    }

    #[test]
    fn two_sources_are_shown_one_under_the_other() {
        let diagnostic = Diagnostic::error("manifest::wrong-type", "`lr` is given as text")
            .label(at(TEXT, "300"), "here")
            .label(Span { source: 1, start: 20, end: 22 }, "its default is a number");
        insta::assert_snapshot!(render(&[diagnostic], &sources(), false), @"
        error[manifest::wrong-type]: `lr` is given as text
         --> quickstart.toml:5:12
          |
        5 | max_step = 300
          |            ^^^ here
          |
         ::: base.toml:2:1
          |
        2 | lr = 0.1
          | -- its default is a number
        ");
    }

    #[test]
    fn colour_is_a_flag() {
        let diagnostic = [Diagnostic::error("a::b", "c")];
        assert!(!render(&diagnostic, &sources(), false).contains('\u{1b}'));
        assert!(render(&diagnostic, &sources(), true).contains('\u{1b}'));
    }

    #[test]
    fn hundreds_are_counted() {
        let many: Vec<Diagnostic> = (0..205).map(|_| Diagnostic::error("a::b", "c")).collect();
        let text = render(&many, &sources(), false);
        assert_eq!(text.matches("error[a::b]").count(), 200);
        assert!(text.ends_with("... and 5 more\n\n"));
    }

    #[test]
    fn spans_outside_the_text_do_no_harm() {
        for (source, start, end) in [(0, 5, 3), (0, 1000, 2000), (0, 0, 5000), (9, 0, 1), (0, 125, 126), (0, 126, 200)]
        {
            let diagnostic = Diagnostic::error("a::b", "c").label(Span { source, start, end }, "d");
            assert!(render(&[diagnostic], &sources(), false).contains("error[a::b]: c"));
        }
    }
}
