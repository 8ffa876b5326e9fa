//! What the reference says about a training method. What a method does is not the engine's business.

use schemars::{Schema, SchemaGenerator};

/// A training method: `method = { name = "galore", rank = 64 }`.
#[derive(Clone, Copy)]
pub struct MethodInfo {
    /// Its name in a manifest.
    pub name: &'static str,
    /// One line for the list.
    pub about: &'static str,
    /// The papers it comes from: authors, year, title or identifier.
    pub source: &'static str,
    /// The stage kinds that take it: first the one that takes any method, by its name.
    pub kinds: &'static [&'static str],
    /// JSON Schema of its parameters.
    pub params_schema: fn(&mut SchemaGenerator) -> Schema,
}
