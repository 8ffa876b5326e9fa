//! Diagnostics for programs: `--format json`.

use serde::Serialize;

use super::{Diagnostic, Place, Severity, Sources, sorted};

/// One diagnostic. `start` and `end` count lines and characters from 1; `end` is one past the last character.
#[derive(Serialize)]
struct Shown<'a> {
    code: &'a str,
    severity: Severity,
    message: &'a str,
    labels: Vec<ShownLabel<'a>>,
    help: &'a [String],
}

#[derive(Serialize)]
struct ShownLabel<'a> {
    file: &'a str,
    start: Place,
    end: Place,
    text: &'a str,
}

/// The diagnostics in the order of the text, as a JSON list.
#[must_use]
pub fn to_json(diagnostics: &[Diagnostic], sources: &Sources) -> serde_json::Value {
    let shown: Vec<Shown<'_>> = sorted(diagnostics).into_iter().map(|diagnostic| shown(diagnostic, sources)).collect();
    serde_json::to_value(shown).unwrap_or_default()
}

fn shown<'a>(diagnostic: &'a Diagnostic, sources: &'a Sources) -> Shown<'a> {
    let labels = diagnostic.labels.iter().filter_map(|label| {
        let (start, end) = sources.place(label.span)?;
        let (file, _) = sources.get(label.span.source)?;
        Some(ShownLabel { file, start, end, text: &label.text })
    });
    Shown {
        code: diagnostic.code,
        severity: diagnostic.severity,
        message: &diagnostic.message,
        labels: labels.collect(),
        help: &diagnostic.help,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Span;

    #[test]
    fn lines_and_columns_count_from_one() {
        let mut sources = Sources::default();
        let source = sources.add("m.toml", "ä = 1\nseed = \"x\"\n");
        let diagnostic = Diagnostic::warning("manifest::wrong-type", "expected a whole number")
            .label(Span { source, start: 14, end: 17 }, "here")
            .help("write seed = 1");
        insta::assert_snapshot!(to_json(&[diagnostic], &sources), @r#"[{"code":"manifest::wrong-type","help":["write seed = 1"],"labels":[{"end":{"column":11,"line":2},"file":"m.toml","start":{"column":8,"line":2},"text":"here"}],"message":"expected a whole number","severity":"warning"}]"#);
    }
}
