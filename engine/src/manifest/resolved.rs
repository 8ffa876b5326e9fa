//! The resolved manifest: one text without `extends`, profiles, parameters and defaults that means the same. Sweeps
//! stay sweeps. It is what `sepia plan --resolved` prints, and a manifest itself.

use std::collections::BTreeMap;

use serde::ser::{Error as _, Serialize, Serializer};

use super::load::Load;
use super::{Manifest, load, params, stem};
use crate::diagnostic::{Diagnostic, Sources};
use crate::value::{Table, Value, ValueKind};

impl Manifest {
    /// Reads a manifest as [`Manifest::load`] does and writes it as one text that stands alone. Comments are lost.
    ///
    /// # Errors
    /// Everything that is wrong with the manifest.
    pub fn resolved(
        sources: &mut Sources,
        name: &str,
        text: &str,
        options: &Load<'_>,
    ) -> Result<String, Vec<Diagnostic>> {
        let mut table = load::merged(sources, name, text, options)?;
        // Elsewhere the file's name would be another.
        if table.get("name").is_none() {
            let name = Value { kind: ValueKind::String(stem(name).to_owned()), span: crate::value::Span::default() };
            table.entries.insert(0, (crate::value::Key { name: "name".to_owned(), ..Default::default() }, name));
        }
        write(&table).map_err(|error| {
            vec![Diagnostic::error("manifest::resolved", format!("the manifest cannot be written: {error}"))]
        })
    }
}

/// One header a stage and one a matrix, everything below on one line: the order of all keys stays as it is, and in a
/// matrix it has a meaning.
fn write(table: &Table) -> Result<String, toml::ser::Error> {
    let mut text = String::new();
    lines(table, &["stages"], &mut text)?;
    for (name, stage) in table.get("stages").and_then(Value::as_table).map_or(&[][..], |stages| &stages.entries) {
        let Some(stage) = stage.as_table() else { continue };
        let header = format!("stages.{}", key(&name.name)?);
        text.push_str(&format!("\n[{header}]\n"));
        lines(stage, &["matrix"], &mut text)?;
        if let Some(matrix) = stage.get("matrix").and_then(Value::as_table) {
            text.push_str(&format!("\n[{header}.matrix]\n"));
            lines(matrix, &[], &mut text)?;
        }
    }
    Ok(text)
}

/// `key = value` for every key but some.
fn lines(table: &Table, without: &[&str], text: &mut String) -> Result<(), toml::ser::Error> {
    for (name, value) in table.entries.iter().filter(|(key, _)| !without.contains(&key.name.as_str())) {
        text.push_str(&key(&name.name)?);
        text.push_str(" = ");
        Written(value).serialize(toml::ser::ValueSerializer::new(text))?;
        text.push('\n');
    }
    Ok(())
}

/// A key as TOML writes it, in quotes where it needs them.
fn key(name: &str) -> Result<String, toml::ser::Error> {
    const VALUE: &str = " = 0\n";
    let mut line = toml::to_string(&BTreeMap::from([(name, 0)]))?;
    line.truncate(line.len().saturating_sub(VALUE.len()));
    Ok(line)
}

/// A value as TOML needs it.
struct Written<'a>(&'a Value);

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0.kind {
            ValueKind::String(text) => serializer.serialize_str(&params::escape(text)),
            ValueKind::Integer(number) => serializer.serialize_i64(*number),
            ValueKind::Float(number) => serializer.serialize_f64(*number),
            ValueKind::Boolean(flag) => serializer.serialize_bool(*flag),
            ValueKind::Datetime(text) => {
                text.parse::<toml::value::Datetime>().map_err(S::Error::custom)?.serialize(serializer)
            }
            ValueKind::Array(items) => serializer.collect_seq(items.iter().map(Written)),
            ValueKind::Table(table) => {
                serializer.collect_map(table.entries.iter().map(|(key, value)| (&key.name, Written(value))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
extends = "base.toml"
[params]
steps = 3
[defaults.pretrain]
lr = 1e-3
model = { d_model = 8 }
[profile.smoke.stages.train]
max_steps = 1
[stages.train]
kind = "pretrain"
note = "$${params.steps} ${seed} $$${params.steps} \"quoted\" é"
max_steps = "${params.steps}"
when = 2026-01-02T03:04:05Z
inputs = { data = "corpus" }
include = [{ lr = 9.0, "model.d_model" = 2 }]
[stages.train.matrix]
method = [{ name = "full" }, { name = "galore", rank = 4 }]
"model.d_model" = [4, 8]
"#;

    fn base(_: &str) -> Result<String, String> {
        Ok("seed = 5\n[stages.corpus]\nkind = \"text-dataset\"\nfiles = [\"a\"]\n".into())
    }

    fn plain(table: &Table) -> serde_json::Value {
        let value = Value { span: crate::value::Span::default(), kind: ValueKind::Table(table.clone()) };
        serde_json::to_value(Written(&value)).unwrap()
    }

    fn nodes(name: &str, text: &str, options: &Load<'_>) -> Vec<(String, Option<u64>, serde_json::Value, Vec<String>)> {
        let (manifest, _) = Manifest::load(&mut Sources::default(), name, text, options).unwrap();
        assert_eq!((manifest.name.as_str(), manifest.seed), ("m", 5));
        let node = |stage: super::super::StageDecl| {
            let inputs = stage.inputs.iter().flat_map(|input| &input.from).map(|word| word.text.clone()).collect();
            (stage.name.name, stage.seed, plain(&stage.rest), inputs)
        };
        manifest.stages.into_iter().map(node).collect()
    }

    #[test]
    fn the_resolved_manifest_stands_alone_and_means_the_same() {
        let options = Load { profile: Some("smoke"), loader: Some(&base), ..Load::default() };
        let text = Manifest::resolved(&mut Sources::default(), "m.toml", TEXT, &options).unwrap();
        insta::assert_snapshot!(text, @r#"
        name = "m"
        seed = 5

        [stages.corpus]
        kind = "text-dataset"
        files = ["a"]

        [stages.train]
        lr = 0.001
        model = { d_model = 8 }
        kind = "pretrain"
        note = '$${params.steps} ${seed} $$${params.steps} "quoted" é'
        max_steps = 1
        when = 2026-01-02T03:04:05Z
        inputs = { data = "corpus" }
        include = [{ lr = 9.0, "model.d_model" = 2 }]

        [stages.train.matrix]
        method = [{ name = "full" }, { name = "galore", rank = 4 }]
        "model.d_model" = [4, 8]
        "#);
        assert_eq!(nodes("m.toml", TEXT, &options), nodes("other.toml", &text, &Load::default()));
        let again = Manifest::resolved(&mut Sources::default(), "other.toml", &text, &Load::default()).unwrap();
        assert_eq!(text, again);
    }

    #[test]
    fn what_is_wrong_is_not_written() {
        assert!(Manifest::resolved(&mut Sources::default(), "m.toml", "x = 1", &Load::default()).is_err());
    }
}
