//! The layout of a manifest's text: what `sepia fmt` makes of it.
//!
//! Spaces within lines, indentation and blank lines become those of the house; comments, the order of everything and where
//! lines are broken stay. Formatting twice changes nothing more. It works on tokens, so that whatever it does not know
//! stays as it is, and the meaning is compared before the text is handed out.

use toml_parser::{
    Source,
    lexer::{Token, TokenKind},
};

use crate::diagnostic::{Diagnostic, Sources};
use crate::value::parse_toml;

/// The text as it should be.
///
/// # Errors
/// What is wrong with it as TOML; or that it cannot be formatted without changing what it says.
pub fn format(sources: &mut Sources, name: &str, text: &str) -> Result<String, Vec<Diagnostic>> {
    let source = sources.add(name, text);
    parse_toml(source, text)?;
    let formatted = lay_out(text);
    if meaning(&formatted).is_none() || meaning(text) != meaning(&formatted) {
        let error = Diagnostic::error("manifest::format", format!("{name} cannot be formatted without changing it"));
        return Err(vec![error.help("leave it as it is: it is valid")]);
    }
    Ok(formatted)
}

fn meaning(text: &str) -> Option<toml::Table> {
    toml::from_str(text).ok()
}

/// Spaces of one level inside a list or table that goes over several lines.
const INDENT: &str = "  ";

fn lay_out(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut blank = 0;
    let mut depth = 0;
    for line in lines(text) {
        let tokens: Vec<&Token> = line.iter().filter(|token| token.kind() != TokenKind::Whitespace).collect();
        if tokens.is_empty() {
            blank += 1;
            continue;
        }
        if blank > 0 && !out.is_empty() {
            out.push('\n');
        }
        blank = 0;
        let closing = tokens.iter().take_while(|token| closes(token.kind())).count();
        out.push_str(&INDENT.repeat(depth_after(depth, &tokens[..closing])));
        write_line(text, &line, depth, &mut out);
        out.push('\n');
        depth = depth_after(depth, &tokens);
    }
    out
}

/// The tokens of each line, without the line's end. A text in several lines is one token.
fn lines(text: &str) -> Vec<Vec<Token>> {
    let mut lines = vec![Vec::new()];
    for token in Source::new(text).lex() {
        match token.kind() {
            TokenKind::Newline => lines.push(Vec::new()),
            TokenKind::Eof => {}
            _ => {
                if let Some(line) = lines.last_mut() {
                    line.push(token);
                }
            }
        }
    }
    lines
}

fn opens(kind: TokenKind) -> bool {
    matches!(kind, TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket)
}

fn closes(kind: TokenKind) -> bool {
    matches!(kind, TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket)
}

fn depth_after(depth: usize, tokens: &[&Token]) -> usize {
    tokens.iter().fold(depth, |depth, token| match token.kind() {
        kind if opens(kind) => depth + 1,
        kind if closes(kind) => depth.saturating_sub(1),
        _ => depth,
    })
}

/// One line, spaces between its tokens as they should be. `depth` is that of lists and tables open before it.
fn write_line(text: &str, line: &[Token], depth: usize, out: &mut String) {
    let header = depth == 0
        && line
            .iter()
            .find(|token| token.kind() != TokenKind::Whitespace)
            .is_some_and(|first| first.kind() == TokenKind::LeftSquareBracket);
    let mut before: Option<TokenKind> = None;
    let mut space = "";
    for token in line {
        let raw = &text[token.span().start()..token.span().end()];
        if token.kind() == TokenKind::Whitespace {
            space = raw;
            continue;
        }
        if let Some(before) = before {
            out.push_str(between(before, token.kind(), space, header));
        }
        out.push_str(if token.kind() == TokenKind::Comment { raw.trim_end() } else { raw });
        (before, space) = (Some(token.kind()), "");
    }
}

/// What stands between two tokens of a line, where now there is `space`.
fn between(before: TokenKind, after: TokenKind, space: &str, header: bool) -> &str {
    match (before, after) {
        // Comments at the end of lines may stand below each other: that is the author's.
        (_, TokenKind::Comment) if space.is_empty() => " ",
        (_, TokenKind::Comment) => space,
        (TokenKind::Equals, _) | (_, TokenKind::Equals) => " ",
        (_, TokenKind::Comma) => "",
        (TokenKind::Comma, _) => " ",
        (TokenKind::LeftCurlyBracket, TokenKind::RightCurlyBracket) => "",
        (TokenKind::LeftCurlyBracket, _) | (_, TokenKind::RightCurlyBracket) => " ",
        (TokenKind::LeftSquareBracket, _) | (_, TokenKind::RightSquareBracket) => "",
        (TokenKind::Dot, _) | (_, TokenKind::Dot) => "",
        // A date and its time are two tokens.
        _ if header => "",
        _ => space,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::diagnostic::render;

    fn formatted(text: &str) -> String {
        let mut sources = Sources::default();
        match format(&mut sources, "m.toml", text) {
            Ok(text) => text,
            Err(errors) => render(&errors, &sources, false),
        }
    }

    #[test]
    fn comments_order_and_meaning_stay() {
        let text = "#:schema sepia.schema.json\n# About.\nname=\"x\"   # the name\n\n\n\n[stages.train]\nkind   = \"pretrain\"\n\
                    lr=0.10 # as published\nmethod={name=\"galore\",rank=64}\n  # Sweeps:\nmatrix={seed={count=5}}\n\
                    \n[stages.a]\nkind = 'command'\nargv = [\"a\",\n # why\n \"b\"]";
        insta::assert_snapshot!(formatted(text), @r#"
        #:schema sepia.schema.json
        # About.
        name = "x"   # the name

        [stages.train]
        kind = "pretrain"
        lr = 0.10 # as published
        method = { name = "galore", rank = 64 }
        # Sweeps:
        matrix = { seed = { count = 5 } }

        [stages.a]
        kind = 'command'
        argv = ["a",
          # why
          "b"]
        "#);
        assert_eq!(formatted(&formatted(text)), formatted(text));
    }

    #[test]
    fn what_is_not_toml_is_shown() {
        insta::assert_snapshot!(formatted("a = \n"), @r#"
        error[manifest::syntax]: this is not valid TOML: string values must be quoted, expected literal string
         --> m.toml:1:5
          |
        1 | a = 
          |     ^
          |
          = help: put text in quotes: "..."
        "#);
    }

    proptest! {
        #[test]
        fn any_text_is_formatted_or_refused(text in "[ -~\n]{0,80}") {
            let mut sources = Sources::default();
            if let Ok(once) = format(&mut sources, "m", &text) {
                prop_assert_eq!(meaning(&once), meaning(&text));
            }
        }
    }
}
