//! Text in HTML and SVG.

/// A text as the content of an element or of a quoted attribute. Characters that neither may hold are replaced.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            // Neither XML nor a terminal log's colour codes; text that runs backwards could pass for another.
            c if c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c) => {
                out.push('\u{fffd}');
            }
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_escapes(text in any::<String>()) {
            let escaped = escape(&text);
            let bad = |c: char| c.is_control() && c != '\n' && c != '\t' || "<>\"'".contains(c);
            prop_assert!(!escaped.contains(bad));
        }
    }
}
