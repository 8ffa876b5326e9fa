//! `[params]` and `${params.x}`.
//!
//! Text that is one interpolation and nothing else takes the value as it is: an integer stays one, a table stays one.
//! Inside longer text the value is written out. A parameter may refer to others. `$${params.x}` is the text
//! `${params.x}`. Names that a stage declares in a `params` table of its own stay for that stage; whatever else stands in `${...}` (`${inputs.data}`, `${seed}`) is not for the manifest and stays as
//! it is, its escapes included.

mod text;

use std::collections::{BTreeMap, BTreeSet};

use super::{field, merge};
use crate::diagnostic::Diagnostic;
use crate::value::{Span, Table, Value, ValueKind};
use text::{Piece, pieces};

/// Parameters that refer to parameters, one after another.
const MAX_DEPTH: usize = 32;

/// Values, and bytes of text, that interpolation may make altogether.
const MAX_MADE: usize = 1_000_000;

/// Text as it must be written so that nothing of it is filled in.
pub(super) fn escape(text: &str) -> std::borrow::Cow<'_, str> {
    text::escape(text)
}

/// Takes `[params]` out of the table and fills it in everywhere else. Returns the places that could not be filled in.
pub(super) fn apply(table: &mut Table, found: &mut Vec<Diagnostic>) -> Vec<Span> {
    let empty = Table::default();
    let taken = table.entries.iter().position(|(key, _)| key.name == "params").map(|at| table.entries.remove(at));
    let params = taken.as_ref().and_then(|(key, value)| field::table(key, value, found)).unwrap_or(&empty);
    let mut filler = Filler {
        params,
        index: params.entries.iter().map(|(key, value)| (key.name.as_str(), value)).collect(),
        done: BTreeMap::new(),
        trail: Vec::new(),
        used: BTreeSet::new(),
        made: 0,
        own: Vec::new(),
        found,
        failed: Vec::new(),
    };
    filler.table(table);
    // Unused ones are filled in as well, so that their errors show.
    let mut unused = Vec::new();
    for (key, _) in &params.entries {
        if !filler.used.contains(key.name.as_str()) {
            let _ = filler.param(&key.name, key.span);
            unused.push(key);
        }
    }
    let failed = filler.failed;
    for key in unused {
        let message = format!("the parameter `{}` is not used", key.name);
        let warning = Diagnostic::warning("manifest::unused-param", message).label(key.span, "");
        found.push(warning.help(format!("use it as \"${{params.{}}}\", or remove it", key.name)));
    }
    failed
}

struct Filler<'a> {
    params: &'a Table,
    index: BTreeMap<&'a str, &'a Value>,
    /// By path; `None` where it has no value, which is reported.
    done: BTreeMap<String, Option<Value>>,
    /// The paths that are being filled in, each needed by the one before.
    trail: Vec<String>,
    used: BTreeSet<String>,
    made: usize,
    /// Names of the `params` tables of the stages around, which are theirs to fill in.
    own: Vec<String>,
    found: &'a mut Vec<Diagnostic>,
    failed: Vec<Span>,
}

impl Filler<'_> {
    fn table(&mut self, table: &mut Table) {
        let before = self.own.len();
        let own = table.get("params").and_then(Value::as_table);
        self.own.extend(own.into_iter().flat_map(|own| &own.entries).map(|(key, _)| key.name.clone()));
        for (_, value) in &mut table.entries {
            self.value(value);
        }
        self.own.truncate(before);
    }

    fn is_own(&self, path: &str) -> bool {
        let name = path.split('.').next().unwrap_or(path);
        self.own.iter().any(|own| own == name)
    }

    fn value(&mut self, value: &mut Value) {
        let span = value.span;
        match &mut value.kind {
            ValueKind::String(text) if text.contains("${") => match self.text(text, span) {
                Some(kind) => value.kind = kind,
                None => self.failed.push(span),
            },
            ValueKind::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            ValueKind::Table(table) => self.table(table),
            _ => {}
        }
    }

    /// What a text becomes; `None` after an error.
    fn text(&mut self, text: &str, span: Span) -> Option<ValueKind> {
        let pieces = pieces(text);
        if let [Piece::Param(path)] = pieces.as_slice()
            && !self.is_own(path)
        {
            let kind = self.param(path, span)?.kind;
            self.count(merge::weight_of(&kind), span)?;
            return Some(kind);
        }
        let mut filled = String::with_capacity(text.len());
        for piece in pieces {
            match piece {
                Piece::Text(text) => filled.push_str(text),
                Piece::Param(path) if self.is_own(path) => {
                    filled.push_str("${params.");
                    filled.push_str(path);
                    filled.push('}');
                }
                Piece::Param(path) => {
                    let value = self.param(path, span)?;
                    filled.push_str(&self.written(path, &value, span)?);
                }
                Piece::Unclosed => {
                    self.error(span, "manifest::param", "`${params` is not closed", "write ${params.NAME}");
                    return None;
                }
                Piece::Unknown(name) => {
                    let message = format!("there is nothing called `${{{name}}}`");
                    let rest = name.split_once('.').map_or("NAME", |(_, rest)| rest);
                    let help = format!("did you mean `${{params.{rest}}}`? For the text itself write `$${{{name}}}`");
                    self.error(span, "manifest::param-unknown", message, help);
                    return None;
                }
            }
        }
        self.count(filled.len(), span)?;
        Some(ValueKind::String(filled))
    }

    /// A value inside longer text.
    fn written(&mut self, path: &str, value: &Value, span: Span) -> Option<String> {
        Some(match &value.kind {
            ValueKind::String(text) | ValueKind::Datetime(text) => text.clone(),
            ValueKind::Integer(number) => number.to_string(),
            ValueKind::Float(number) => format!("{number:?}"),
            ValueKind::Boolean(flag) => flag.to_string(),
            ValueKind::Array(_) | ValueKind::Table(_) => {
                let message = format!("`params.{path}` is {}, which cannot stand inside text", value.describe());
                let help = format!("write \"${{params.{path}}}\" alone, without text around it");
                self.error(span, "manifest::param", message, help);
                return None;
            }
        })
    }

    /// The value of a parameter; `None` after an error.
    fn param(&mut self, path: &str, span: Span) -> Option<Value> {
        if let Some(done) = self.done.get(path) {
            if done.is_none() {
                self.failed.push(span);
            }
            return done.clone();
        }
        if let Some(first) = self.trail.iter().position(|one| one == path) {
            let circle: Vec<&str> = self.trail.iter().skip(first).map(String::as_str).chain([path]).collect();
            let message = format!("the parameter `{path}` refers to itself: {}", circle.join(" -> "));
            self.error(span, "manifest::param-loop", message, "give one of them a value of its own");
            return None;
        }
        if self.trail.len() == MAX_DEPTH {
            let message = format!("more than {MAX_DEPTH} parameters refer to one another");
            self.error(span, "manifest::param", message, "give one of them a value of its own");
            return None;
        }
        let mut value = self.find(path, span)?;
        self.trail.push(path.to_owned());
        let failed = self.failed.len();
        self.value(&mut value);
        self.trail.pop();
        let value = (self.failed.len() == failed).then_some(value);
        self.done.insert(path.to_owned(), value.clone());
        value
    }

    /// The value of a parameter as written.
    fn find(&mut self, path: &str, span: Span) -> Option<Value> {
        let mut table = self.params;
        let mut walked = String::from("params");
        let mut segments = path.split('.').peekable();
        if let Some(first) = segments.peek() {
            self.used.insert((*first).to_owned());
        }
        while let Some(segment) = segments.next() {
            let value = if walked == "params" { self.index.get(segment).copied() } else { table.get(segment) };
            let Some(value) = value else {
                let names = table.entries.iter().map(|(key, _)| key.name.as_str());
                let message = format!("there is no `{segment}` in `{walked}`");
                let error = Diagnostic::error("manifest::param-unknown", message).label(span, "");
                let error = if table.entries.is_empty() {
                    error.help(format!("add {segment} = ... to [{walked}]"))
                } else {
                    field::unknown_of_many(error, segment, names, "it has", self.found)
                };
                self.found.push(error);
                self.done.insert(path.to_owned(), None);
                return None;
            };
            if segments.peek().is_none() {
                return Some(value.clone());
            }
            walked.push('.');
            walked.push_str(segment);
            let Some(inner) = value.as_table() else {
                let message = format!("`{walked}` is {}, not a table", value.describe());
                self.error(span, "manifest::param", message, format!("write ${{{walked}}}"));
                return None;
            };
            table = inner;
        }
        None
    }

    /// Keeps a few lines from growing into gigabytes.
    fn count(&mut self, made: usize, span: Span) -> Option<()> {
        self.made = self.made.saturating_add(made);
        if self.made > MAX_MADE {
            self.error(span, "manifest::param", "the parameters grow into more than 1 MB", "refer to each other less");
            return None;
        }
        Some(())
    }

    fn error(&mut self, span: Span, code: &'static str, message: impl Into<String>, help: impl Into<String>) {
        self.found.push(Diagnostic::error(code, message).label(span, "").help(help));
    }
}
