//! The tables of a text while it is read: TOML lets a text come back to a table, and says when it may not.

use std::collections::HashMap;

use super::super::{Key, Span, Table, Value, ValueKind};
use super::{MAX_DEPTH, Reader};

/// Number of a table in a [`Tree`].
pub(super) type Id = usize;

/// The root.
pub(super) const ROOT: Id = 0;

/// From this many keys on, a table has an index of them.
const INDEXED: usize = 16;

/// How a table came to be, which decides what may be added to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// On the way to another one: `a` of `[a.b]`.
    Implicit,
    /// `[a]`, an element of `[[a]]`, or the root.
    Header,
    /// On the way of a dotted key: `a` of `a.b = 1`.
    Dotted,
}

enum Slot {
    /// Complete: nothing can be added, even where it is a table or a list.
    Value(Value),
    Table(Id),
    /// `[[a]]`.
    Tables(Vec<Id>),
}

struct Node {
    origin: Origin,
    span: Span,
    depth: usize,
    entries: Vec<(Key, Slot)>,
    /// Made when there are [`INDEXED`] keys.
    index: Option<HashMap<String, usize>>,
}

impl Node {
    fn find(&self, name: &str) -> Option<usize> {
        match &self.index {
            Some(index) => index.get(name).copied(),
            None => self.entries.iter().position(|(key, _)| key.name == name),
        }
    }

    fn push(&mut self, key: Key, slot: Slot) {
        if self.entries.len() == INDEXED {
            let index = self.entries.iter().enumerate().map(|(at, (key, _))| (key.name.clone(), at)).collect();
            self.index = Some(index);
        }
        if let Some(index) = &mut self.index {
            index.insert(key.name.clone(), self.entries.len());
        }
        self.entries.push((key, slot));
    }
}

/// All tables of a text.
pub(super) struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    pub(super) fn new() -> Self {
        let mut tree = Self { nodes: Vec::new() };
        tree.add(Origin::Header, Span::default(), 0);
        tree
    }

    /// A table that hangs nowhere yet.
    pub(super) fn add(&mut self, origin: Origin, span: Span, depth: usize) -> Id {
        self.nodes.push(Node { origin, span, depth, entries: Vec::new(), index: None });
        self.nodes.len() - 1
    }

    pub(super) fn depth(&self, id: Id) -> usize {
        self.nodes.get(id).map_or(0, |node| node.depth)
    }

    /// The table that `[path]` opens; one that hangs nowhere after an error.
    pub(super) fn header(&mut self, path: Vec<Key>, list: bool, span: Span, reader: &mut Reader<'_>) -> Id {
        self.open(path, list, span, reader).unwrap_or_else(|| self.add(Origin::Header, span, 1))
    }

    fn open(&mut self, mut path: Vec<Key>, list: bool, span: Span, reader: &mut Reader<'_>) -> Option<Id> {
        let key = path.pop()?;
        let parent = self.descend(ROOT, path, Origin::Implicit, reader)?;
        let depth = self.depth(parent) + 1;
        if depth >= MAX_DEPTH {
            reader.too_deep(key.span);
            return None;
        }
        let Some(at) = self.nodes.get(parent)?.find(&key.name) else {
            let id = self.add(Origin::Header, span, depth);
            let slot = if list { Slot::Tables(vec![id]) } else { Slot::Table(id) };
            self.nodes.get_mut(parent)?.push(key, slot);
            return Some(id);
        };
        let new = self.nodes.len();
        let (old, slot) = self.nodes.get_mut(parent)?.entries.get_mut(at)?;
        let first = std::mem::replace(&mut old.span, key.span);
        match slot {
            Slot::Tables(all) if list => {
                old.span = first;
                all.push(new);
                return Some(self.add(Origin::Header, span, depth));
            }
            Slot::Table(id) if !list => {
                let id = *id;
                let node = self.nodes.get_mut(id)?;
                if node.origin == Origin::Implicit {
                    (node.origin, node.span) = (Origin::Header, span);
                    return Some(id);
                }
            }
            _ => {}
        }
        reader.twice(&key.name, key.span, first);
        None
    }

    /// The table at the end of a path, with tables made on the way; `None` after an error.
    fn descend(&mut self, from: Id, path: Vec<Key>, make: Origin, reader: &mut Reader<'_>) -> Option<Id> {
        let mut id = from;
        for key in path {
            let node = self.nodes.get(id)?;
            let Some(at) = node.find(&key.name) else {
                let depth = node.depth + 1;
                if depth >= MAX_DEPTH {
                    reader.too_deep(key.span);
                    return None;
                }
                let new = self.add(make, key.span, depth);
                self.nodes.get_mut(id)?.push(key, Slot::Table(new));
                id = new;
                continue;
            };
            let (first, slot) = node.entries.get(at)?;
            let first = first.span;
            id = match slot {
                Slot::Table(inner) => *inner,
                Slot::Tables(all) if make == Origin::Implicit => *all.last()?,
                _ => {
                    reader.twice(&key.name, key.span, first);
                    return None;
                }
            };
            // A dotted key adds to tables that dotted keys or nobody has opened, not to one with a header of its own.
            if make == Origin::Dotted {
                let inner = self.nodes.get_mut(id)?;
                if inner.origin == Origin::Header {
                    reader.twice(&key.name, key.span, first);
                    return None;
                }
                inner.origin = Origin::Dotted;
            }
        }
        Some(id)
    }

    /// Adds `path.key = value` to a table.
    pub(super) fn insert(&mut self, table: Id, path: Vec<Key>, key: Key, value: Value, reader: &mut Reader<'_>) {
        let Some(parent) = self.descend(table, path, Origin::Dotted, reader) else { return };
        let Some(node) = self.nodes.get_mut(parent) else { return };
        match node.find(&key.name).and_then(|at| node.entries.get(at)) {
            Some((first, _)) => reader.twice(&key.name, key.span, first.span),
            None => node.push(key, Slot::Value(value)),
        }
    }

    /// Takes a table out, complete.
    pub(super) fn take(&mut self, id: Id) -> Table {
        let entries = self.nodes.get_mut(id).map(|node| std::mem::take(&mut node.entries)).unwrap_or_default();
        let entries = entries.into_iter().map(|(key, slot)| {
            let value = match slot {
                Slot::Value(value) => value,
                Slot::Table(inner) => self.value(inner),
                Slot::Tables(all) => {
                    let items: Vec<Value> = all.into_iter().map(|inner| self.value(inner)).collect();
                    let span = items.first().map_or(key.span, |first| first.span);
                    Value { span, kind: ValueKind::Array(items) }
                }
            };
            (key, value)
        });
        Table { entries: entries.collect() }
    }

    fn value(&mut self, id: Id) -> Value {
        let span = self.nodes.get(id).map(|node| node.span).unwrap_or_default();
        Value { span, kind: ValueKind::Table(self.take(id)) }
    }
}
