//! Where a name that is given twice stood the first time.
//!
//! The parser's tree does not keep it and its errors do not tell, so the text is walked once more, event by event. This
//! happens only for texts that have such an error.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use toml_parser::Source;
use toml_parser::parser::{Event, EventKind, RecursionGuard, parse_document};

/// For every "duplicate key" error, by the start of its span: the place of the first definition.
pub(super) fn first_places(text: &str, errors: &[toml::de::Error]) -> BTreeMap<usize, Range<usize>> {
    let wanted: BTreeSet<usize> = errors
        .iter()
        .filter(|error| error.message().starts_with("duplicate key"))
        .filter_map(|error| error.span().map(|span| span.start))
        .collect();
    if wanted.is_empty() {
        return BTreeMap::new();
    }
    let source = Source::new(text);
    let mut walk =
        Walk { source, wanted, seen: BTreeMap::new(), found: BTreeMap::new(), table: String::new(), lists: 0 };
    walk.document(&events(source));
    walk.found
}

/// Lists and inline tables inside each other, as in the `toml` crate.
const MAX_DEPTH: u32 = 80;

fn events(source: Source<'_>) -> Vec<Event> {
    let tokens = source.lex().into_vec();
    let mut events = Vec::with_capacity(tokens.len());
    parse_document(&tokens, &mut RecursionGuard::new(&mut events, MAX_DEPTH), &mut ());
    events
}

/// Separates the segments of a path in [`Walk::seen`]; cannot occur in a TOML key as written.
const SEPARATOR: char = '\0';

struct Walk<'a> {
    source: Source<'a>,
    wanted: BTreeSet<usize>,
    /// Path to the place of its last segment, where it was first defined.
    seen: BTreeMap<String, Range<usize>>,
    found: BTreeMap<usize, Range<usize>>,
    /// The path of the table that keys go into now.
    table: String,
    /// Numbers the tables that may not be compared with each other: elements of lists.
    lists: usize,
}

impl Walk<'_> {
    fn document(&mut self, events: &[Event]) {
        let mut stack: Vec<String> = Vec::new();
        let mut path = String::new();
        let mut at = 0..0;
        let mut header = false;
        for event in events {
            let span = event.span();
            match event.kind() {
                EventKind::StdTableOpen | EventKind::ArrayTableOpen => {
                    header = true;
                    stack.clear();
                    self.table.clear();
                    path.clear();
                }
                EventKind::SimpleKey => {
                    if path.is_empty() {
                        path.clone_from(&self.table);
                    }
                    at = span.start()..span.end();
                    path.push(SEPARATOR);
                    path.push_str(&self.key(event));
                }
                EventKind::StdTableClose if header => {
                    header = false;
                    self.define(&path, &at);
                    self.table = std::mem::take(&mut path);
                }
                EventKind::ArrayTableClose if header => {
                    header = false;
                    self.lists += 1;
                    self.seen.entry(path.clone()).or_insert_with(|| at.clone());
                    self.table = format!("{}{SEPARATOR}{SEPARATOR}{}", std::mem::take(&mut path), self.lists);
                }
                EventKind::KeyValSep => self.define(&path, &at),
                EventKind::InlineTableOpen => {
                    stack.push(std::mem::replace(&mut self.table, std::mem::take(&mut path)));
                    if self.table.is_empty() {
                        self.lists += 1;
                        self.table = format!("{SEPARATOR}{SEPARATOR}{}", self.lists);
                    }
                }
                EventKind::InlineTableClose => {
                    self.table = stack.pop().unwrap_or_default();
                    path.clear();
                }
                EventKind::ArrayOpen | EventKind::ValueSep | EventKind::Newline => path.clear(),
                _ => {}
            }
        }
    }

    fn key(&self, event: &Event) -> String {
        let mut key = std::borrow::Cow::Borrowed("");
        if let Some(raw) = self.source.get(event) {
            raw.decode_key(&mut key, &mut ());
        }
        key.into_owned()
    }

    fn define(&mut self, path: &str, at: &Range<usize>) {
        match self.seen.get(path) {
            Some(first) if self.wanted.contains(&at.start) => {
                self.found.insert(at.start, first.clone());
            }
            Some(_) => {}
            None => {
                self.seen.insert(path.to_owned(), at.clone());
            }
        }
    }
}
