//! Fields of a JSON Schema as text for people: name, default, type, what the doc comment says. Tables inside tables are
//! shown with dotted names.

use std::fmt::Write as _;

use serde_json::Value;

/// Deeper tables are left to the editor's schema.
const MAX_DEPTH: usize = 3;

/// Writes the fields of a schema under a title; nothing where it has none.
pub(super) fn fields(out: &mut String, title: &str, schema: &Value) {
    let mut text = String::new();
    table(&mut text, "", schema, schema, 0);
    if !text.is_empty() {
        let _ = write!(out, "\n{title}\n{text}");
    }
}

fn table(out: &mut String, prefix: &str, schema: &Value, root: &Value, depth: usize) {
    let Some(properties) = schema["properties"].as_object() else { return };
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in properties {
        let target = followed(field, root);
        let inner = target["properties"].is_object() && depth < MAX_DEPTH;
        let default = match &field["default"] {
            Value::Null if required.contains(&name.as_str()) => " (required)".to_owned(),
            Value::Null => String::new(),
            Value::Object(_) if inner => String::new(),
            default => format!(" = {default}"),
        };
        let ty = type_of(target, root).map(|ty| format!("  [{ty}]")).unwrap_or_default();
        let _ = writeln!(out, "  {prefix}{name}{default}{ty}");
        for line in field["description"].as_str().unwrap_or_default().lines() {
            let _ = writeln!(out, "      {line}");
        }
        if inner {
            let mut target = target.clone();
            // The default of the whole table says those of its fields.
            if let (Some(Value::Object(defaults)), Some(fields)) =
                (field.get("default"), target["properties"].as_object_mut())
            {
                for (name, default) in defaults {
                    if let Some(field) = fields.get_mut(name).and_then(Value::as_object_mut) {
                        field.insert("default".to_owned(), default.clone());
                    }
                }
            }
            table(out, &format!("{prefix}{name}."), &target, root, depth + 1);
        }
    }
}

/// The schema that a `$ref` stands for, or the one that is not null of an optional field.
fn followed<'a>(field: &'a Value, root: &'a Value) -> &'a Value {
    if let Some(path) = field["$ref"].as_str().and_then(|path| path.strip_prefix('#')) {
        return root.pointer(path).unwrap_or(field);
    }
    let all = field["allOf"].as_array().or_else(|| field["anyOf"].as_array());
    let mut other = all.into_iter().flatten().filter(|one| one["type"] != "null");
    match (other.next(), other.next()) {
        (Some(only), None) => followed(only, root),
        _ => field,
    }
}

/// What may be written: `a whole number`, `` `std` or `left` ``.
fn type_of(schema: &Value, root: &Value) -> Option<String> {
    let words = |values: &[Value]| -> Option<String> {
        let all: Option<Vec<String>> = values.iter().map(|value| Some(format!("`{}`", value.as_str()?))).collect();
        all.map(|all| all.join(", "))
    };
    if let Some(values) = schema["enum"].as_array() {
        return words(values);
    }
    if let Some(variants) = schema["oneOf"].as_array() {
        let names = variants.iter().flat_map(|one| match one["enum"].as_array() {
            Some(values) => values.clone(),
            None => vec![one["const"].clone()],
        });
        return words(&names.collect::<Vec<Value>>());
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(all) => all.iter().filter_map(Value::as_str).filter(|one| *one != "null").collect(),
        _ => return None,
    };
    let [ty] = types.as_slice() else { return None };
    Some(match *ty {
        "integer" => "whole number".to_owned(),
        "number" => "number".to_owned(),
        "boolean" => "true or false".to_owned(),
        "string" => "text".to_owned(),
        "array" => match type_of(followed(&schema["items"], root), root) {
            Some(of) => format!("list of {of}"),
            None => "list".to_owned(),
        },
        "object" => "table".to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use schemars::{JsonSchema, SchemaGenerator};
    use serde::{Deserialize, Serialize};

    use super::*;

    /// Which.
    #[derive(Serialize, Deserialize, JsonSchema, Default)]
    #[serde(rename_all = "lowercase")]
    enum Side {
        /// One side.
        #[default]
        Left,
        /// The other.
        Right,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(default)]
    struct Inner {
        /// Steps.
        iterations: usize,
    }

    impl Default for Inner {
        fn default() -> Self {
            Self { iterations: 2 }
        }
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Outer {
        /// Updates.
        max_steps: u64,
        /// Rates,
        /// in any order.
        #[serde(default)]
        rates: Vec<f64>,
        #[serde(default)]
        side: Side,
        #[serde(default)]
        inner: Inner,
        #[serde(default)]
        maybe: Option<u64>,
    }

    #[test]
    fn fields_have_types_defaults_and_what_their_comments_say() {
        let schema = SchemaGenerator::default().root_schema_for::<Outer>().to_value();
        let mut out = String::new();
        fields(&mut out, "parameters", &schema);
        insta::assert_snapshot!(out, @r#"

        parameters
          max_steps (required)  [whole number]
              Updates.
          rates = []  [list of number]
              Rates,
              in any order.
          side = "left"  [`left`, `right`]
          inner  [table]
          inner.iterations = 2  [whole number]
              Steps.
          maybe  [whole number]
        "#);
    }
}
