//! The texts that spans point into.

use std::sync::{Arc, OnceLock};

use super::Diagnostic;
use crate::value::Span;

/// The texts that spans point into: the manifest, and what it extends.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    texts: Vec<Text>,
}

#[derive(Debug, Clone)]
struct Text {
    name: Arc<str>,
    text: Arc<str>,
    /// Where each line begins; made when a place is asked for.
    lines: OnceLock<Arc<[usize]>>,
}

/// A place as people count: lines and columns from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl Sources {
    /// Adds a text under the name that errors show; returns the number that its spans carry.
    pub fn add(&mut self, name: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> u16 {
        self.texts.push(Text { name: name.into(), text: text.into(), lines: OnceLock::new() });
        u16::try_from(self.texts.len() - 1).unwrap_or(u16::MAX)
    }

    /// Adds the bytes of a file.
    ///
    /// # Errors
    /// They are not UTF-8: the error points at the first byte that is not, in what can be read of the file.
    pub fn add_bytes(&mut self, name: impl Into<Arc<str>>, bytes: &[u8]) -> Result<u16, Box<Diagnostic>> {
        let error = match std::str::from_utf8(bytes) {
            Ok(text) => return Ok(self.add(name, text)),
            Err(error) => error,
        };
        let at = u32::try_from(error.valid_up_to()).unwrap_or(u32::MAX);
        let source = self.add(name, String::from_utf8_lossy(bytes));
        let span = Span { source, start: at, end: at.saturating_add(3) };
        let message = format!("the file is not UTF-8 text: byte {at} cannot be read");
        let error = Diagnostic::error("manifest::not-utf8", message).label(span, "");
        Err(Box::new(error.help("save the file as UTF-8")))
    }

    /// How many texts there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Name and text of a source.
    #[must_use]
    pub fn get(&self, source: u16) -> Option<(&str, &str)> {
        self.texts.get(usize::from(source)).map(|one| (&*one.name, &*one.text))
    }

    /// The text of a span; empty where there is none.
    #[must_use]
    pub fn text(&self, span: Span) -> &str {
        let Some((_, text)) = self.get(span.source) else { return "" };
        text.get(span.start as usize..span.end as usize).unwrap_or_default()
    }

    /// Line and column of a span's first and last end.
    #[must_use]
    pub fn place(&self, span: Span) -> Option<(Place, Place)> {
        let text = self.texts.get(usize::from(span.source))?;
        Some((text.place(span.start), text.place(span.end)))
    }
}

impl Text {
    fn place(&self, at: u32) -> Place {
        let lines = self.lines.get_or_init(|| {
            let ends = self.text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
            std::iter::once(0).chain(ends.map(|(end, _)| end + 1)).collect()
        });
        let at = self.text.floor_char_boundary(at as usize);
        let line = lines.partition_point(|start| *start <= at);
        let start = line.checked_sub(1).and_then(|line| lines.get(line)).copied().unwrap_or_default();
        Place { line, column: self.text.get(start..at).unwrap_or_default().chars().count() + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let mut sources = Sources::default();
        let source = sources.add("a.toml", "ä = 1\nbé = 2");
        let span = Span { source, start: 11, end: 14 };
        assert_eq!(sources.text(span), "= 2");
        assert_eq!(sources.place(span), Some((Place { line: 2, column: 4 }, Place { line: 2, column: 7 })));
        assert_eq!(sources.place(Span { source: 7, ..span }), None);
    }

    #[test]
    fn bytes_that_are_not_utf8_are_pointed_at() {
        let mut sources = Sources::default();
        let error = sources.add_bytes("a.toml", b"a = 1\nb = \xFF\n").unwrap_err();
        assert_eq!(sources.place(error.labels[0].span).unwrap().0, Place { line: 2, column: 5 });
        assert_eq!(sources.add_bytes("b.toml", "ä".as_bytes()), Ok(1));
    }
}
