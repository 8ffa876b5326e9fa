//! From the parser's events to tables, without those for white space, comments and separators. What the parser has
//! reported as wrong is passed over here.

use toml_parser::parser::{Event, EventKind};

use super::super::{Key, Table, Value, ValueKind};
use super::tree::{Id, Origin, ROOT, Tree};
use super::{MAX_DEPTH, Reader};

/// The top-level table.
pub(super) fn document(events: &[Event], reader: &mut Reader<'_>) -> Table {
    let mut builder = Builder { events, next: 0, reader, tree: Tree::new() };
    builder.document();
    builder.tree.take(ROOT)
}

struct Builder<'a, 'r, 's> {
    events: &'a [Event],
    next: usize,
    reader: &'r mut Reader<'s>,
    tree: Tree,
}

impl<'a> Builder<'a, '_, '_> {
    fn next(&mut self) -> Option<&'a Event> {
        let event = self.events.get(self.next);
        self.next += 1;
        event
    }

    fn peek(&self) -> Option<EventKind> {
        self.events.get(self.next).map(Event::kind)
    }

    fn document(&mut self) {
        let mut table = ROOT;
        while let Some(event) = self.next() {
            match event.kind() {
                EventKind::StdTableOpen | EventKind::ArrayTableOpen => table = self.header(event),
                EventKind::SimpleKey => self.key_value(event, table),
                _ => {}
            }
        }
    }

    /// `[path]` or `[[path]]`.
    fn header(&mut self, open: &Event) -> Id {
        let list = open.kind() == EventKind::ArrayTableOpen;
        let mut path = Vec::new();
        let mut span = open.span();
        while let Some(kind) = self.peek() {
            match kind {
                EventKind::SimpleKey | EventKind::Error => {
                    if let Some(event) = self.next().filter(|event| event.kind() == EventKind::SimpleKey) {
                        path.push(self.reader.key(event));
                        span = span.append(event.span());
                    }
                }
                EventKind::StdTableClose | EventKind::ArrayTableClose => {
                    span = self.next().map_or(span, |close| span.append(close.span()));
                    break;
                }
                _ => break,
            }
        }
        let span = self.reader.span_of(span);
        self.tree.header(path, list, span, self.reader)
    }

    /// `path = value`, from its first key on.
    fn key_value(&mut self, first: &Event, table: Id) {
        let mut path: Vec<Key> = Vec::new();
        let mut key = self.reader.key(first);
        while let Some(kind) = self.peek() {
            match kind {
                EventKind::SimpleKey => {
                    if let Some(event) = self.next() {
                        path.push(std::mem::replace(&mut key, self.reader.key(event)));
                    }
                }
                EventKind::Error => self.next += 1,
                EventKind::KeyValSep => {
                    self.next += 1;
                    let depth = self.tree.depth(table) + path.len() + 1;
                    if let Some(value) = self.value(depth) {
                        self.tree.insert(table, path, key, value, self.reader);
                    }
                    return;
                }
                // The parser has said that there is no value.
                _ => return,
            }
        }
    }

    /// The value that comes next, `depth` tables and lists inside the text.
    fn value(&mut self, depth: usize) -> Option<Value> {
        while let Some(kind) = self.peek() {
            match kind {
                EventKind::Newline | EventKind::Error => self.next += 1,
                EventKind::Scalar => return self.next().map(|event| self.reader.scalar(event)),
                EventKind::ArrayOpen | EventKind::InlineTableOpen => {
                    let open = self.next()?;
                    if depth >= MAX_DEPTH {
                        let span = self.reader.span_of(open.span());
                        self.reader.too_deep(span);
                        self.skip();
                        return None;
                    }
                    return Some(match kind {
                        EventKind::ArrayOpen => self.list(open, depth),
                        _ => self.inline_table(open, depth),
                    });
                }
                _ => return None,
            }
        }
        None
    }

    /// Passes over what belongs to a list or inline table that has been opened.
    fn skip(&mut self) {
        let mut open = 1usize;
        while open > 0
            && let Some(event) = self.next()
        {
            match event.kind() {
                EventKind::ArrayOpen | EventKind::InlineTableOpen => open += 1,
                EventKind::ArrayClose | EventKind::InlineTableClose => open -= 1,
                _ => {}
            }
        }
    }

    fn list(&mut self, open: &Event, depth: usize) -> Value {
        let mut items = Vec::new();
        let mut span = open.span();
        while let Some(kind) = self.peek() {
            match kind {
                EventKind::ArrayClose => {
                    span = self.next().map_or(span, |close| span.append(close.span()));
                    break;
                }
                EventKind::Scalar | EventKind::ArrayOpen | EventKind::InlineTableOpen => {
                    items.extend(self.value(depth + 1));
                }
                // Only a list that is not closed runs into these.
                EventKind::StdTableOpen | EventKind::ArrayTableOpen | EventKind::SimpleKey => break,
                _ => self.next += 1,
            }
        }
        Value { span: self.reader.span_of(span), kind: ValueKind::Array(items) }
    }

    fn inline_table(&mut self, open: &Event, depth: usize) -> Value {
        let mut span = open.span();
        let table = self.tree.add(Origin::Header, self.reader.span_of(span), depth + 1);
        while let Some(kind) = self.peek() {
            match kind {
                EventKind::InlineTableClose => {
                    span = self.next().map_or(span, |close| span.append(close.span()));
                    break;
                }
                EventKind::SimpleKey => {
                    if let Some(key) = self.next() {
                        self.key_value(key, table);
                    }
                }
                EventKind::StdTableOpen | EventKind::ArrayTableOpen => break,
                _ => self.next += 1,
            }
        }
        let table = self.tree.take(table);
        Value { span: self.reader.span_of(span), kind: ValueKind::Table(table) }
    }
}
