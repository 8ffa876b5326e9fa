//! Which parameters of a kind are paths, from the JSON Schema of its type.

use schemars::SchemaGenerator;
use serde_json::Value;

use crate::{
    manifest::PathParam,
    stage::{Command, Registry, Stage as _},
};

/// The definitions of types that are files outside the store, see `stage::input_files`.
const FILE_TYPES: [&str; 2] = ["#/$defs/InputFiles", "#/$defs/InputFile"];

/// Deeper tables hold no files.
const MAX_DEPTH: usize = 8;

/// The places of a kind's parameters that name files: keys from the outside in, `*` for the names of a map.
#[must_use]
pub fn path_params(registry: Registry, kind: &str) -> Vec<PathParam> {
    let Some(entry) = registry.get(kind) else { return Vec::new() };
    let schema = (entry.params_schema)(&mut SchemaGenerator::default()).to_value();
    let mut found = Vec::new();
    walk(&schema, &schema, &mut Vec::new(), &mut found);
    found.sort_unstable();
    found.dedup();
    // Only there do files arrive under their names.
    let named = |keys: &[String]| kind == Command::KIND && keys == ["files"];
    found.into_iter().map(|keys| PathParam { named: named(&keys), keys }).collect()
}

fn walk(schema: &Value, root: &Value, at: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    if at.len() > MAX_DEPTH {
        return;
    }
    if let Some(target) = schema["$ref"].as_str() {
        if FILE_TYPES.contains(&target) {
            found.push(at.clone());
        } else if let Some(target) = target.strip_prefix('#').and_then(|path| root.pointer(path)) {
            walk(target, root, at, found);
        }
    }
    for variants in ["anyOf", "oneOf", "allOf"] {
        schema[variants].as_array().into_iter().flatten().for_each(|variant| walk(variant, root, at, found));
    }
    let named = schema["properties"].as_object().into_iter().flatten();
    for (name, inner) in named
        .map(|(name, inner)| (name.as_str(), inner))
        .chain(schema.get("additionalProperties").filter(|inner| inner.is_object()).map(|inner| ("*", inner)))
    {
        at.push(name.to_owned());
        walk(inner, root, at, found);
        at.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::StageEntry;

    static ENTRIES: &[StageEntry] = &[Command::entry()];

    #[test]
    fn files_of_a_command() {
        let registry = Registry::new(ENTRIES);
        assert_eq!(
            path_params(registry, "command"),
            [
                PathParam { keys: vec!["data".to_owned(), "*".to_owned()], named: false },
                PathParam { keys: vec!["files".to_owned()], named: true }
            ]
        );
        assert!(path_params(registry, "nothing").is_empty());
    }
}
