//! Text with interpolations, taken apart.

use std::borrow::Cow;

use crate::diagnostic::nearest;

#[derive(Debug, PartialEq)]
pub(super) enum Piece<'a> {
    /// As it is.
    Text(&'a str),
    /// `${params.PATH}`.
    Param(&'a str),
    /// `${params` without an end.
    Unclosed,
    /// Something that was probably meant to be `${params.x}`, without the braces.
    Unknown(&'a str),
}

/// The pieces of a text, in order. What is not the manifest's stays text.
pub(super) fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    // Where the text begins that has not been handed out, and where to look on.
    let (mut begin, mut look) = (0, 0);
    while let Some(open) = text[look..].find("${").map(|at| look + at) {
        // No name has one of these in it, so nothing is looked at twice.
        let end = text[open + 2..].find(['}', '{', '$']).map_or(text.len(), |at| open + 2 + at);
        let close = text[end..].starts_with('}').then_some(end);
        let inner = text[open + 2..end].trim();
        let Some(piece) = ours(inner, close.is_some()) else {
            look = open + 2;
            continue;
        };
        let escaped = open > begin && text.as_bytes().get(open - 1) == Some(&b'$');
        let until = if escaped { open - 1 } else { open };
        if until > begin {
            pieces.push(Piece::Text(&text[begin..until]));
        }
        if escaped {
            (begin, look) = (open, open + 2);
            continue;
        }
        pieces.push(piece);
        begin = close.map_or(text.len(), |close| close + 1);
        look = begin;
    }
    if begin < text.len() {
        pieces.push(Piece::Text(&text[begin..]));
    }
    pieces
}

/// Puts a `$` before whatever [`pieces`] would take out.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    let mut escaped = String::new();
    let mut begin = 0;
    for (open, _) in text.match_indices("${") {
        let end = text[open + 2..].find(['}', '{', '$']).map_or(text.len(), |at| open + 2 + at);
        if ours(text[open + 2..end].trim(), text[end..].starts_with('}')).is_some() {
            escaped.push_str(&text[begin..open]);
            escaped.push('$');
            begin = open;
        }
    }
    if begin == 0 && escaped.is_empty() {
        return Cow::Borrowed(text);
    }
    escaped.push_str(&text[begin..]);
    Cow::Owned(escaped)
}

fn ours(inner: &str, closed: bool) -> Option<Piece<'_>> {
    let (root, path) = inner.split_once('.').unwrap_or((inner, ""));
    if !closed {
        return (root == "params").then_some(Piece::Unclosed);
    }
    match root {
        "params" if !path.is_empty() => Some(Piece::Param(path)),
        "params" => Some(Piece::Unknown(inner)),
        "inputs" | "outputs" | "seed" => None,
        _ if !path.is_empty() && nearest(root, ["params"]).is_some() => Some(Piece::Unknown(inner)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parameters_are_taken_out() {
        use Piece::{Param, Text, Unclosed, Unknown};
        assert_eq!(pieces("${params.x}"), [Param("x")]);
        assert_eq!(pieces("a${ params.x.y }b"), [Text("a"), Param("x.y"), Text("b")]);
        assert_eq!(pieces("${params.a}${params.b}"), [Param("a"), Param("b")]);
        assert_eq!(pieces("$${params.x}"), [Text("${params.x}")]);
        assert_eq!(pieces("a$${params.x}${params.y}"), [Text("a"), Text("${params.x}"), Param("y")]);
        assert_eq!(pieces("${inputs.a} ${seed} ${HOME} $${seed}"), [Text("${inputs.a} ${seed} ${HOME} $${seed}")]);
        assert_eq!(pieces("a${params.x"), [Text("a"), Unclosed]);
        assert_eq!(pieces("a${x"), [Text("a${x")]);
        assert_eq!(pieces("${x ${params.a}"), [Text("${x "), Param("a")]);
        assert_eq!(pieces("${param.x}"), [Unknown("param.x")]);
        assert_eq!(pieces("${params}"), [Unknown("params")]);
        assert_eq!(pieces("é${params.é}é"), [Text("é"), Param("é"), Text("é")]);
        assert_eq!(pieces(""), []);
    }

    #[test]
    fn escaped_text_comes_out_as_it_was() {
        for text in
            ["${params.x}", "a$${params.x}", "$$${param.x}${params.", "${seed} $${seed}", "${params.a}é${params.b}"]
        {
            let escaped = escape(text).into_owned();
            let back: String = pieces(&escaped)
                .into_iter()
                .map(|piece| match piece {
                    Piece::Text(text) => text,
                    other => panic!("{escaped}: {other:?}"),
                })
                .collect();
            assert_eq!(back, text, "{escaped}");
        }
    }
}
