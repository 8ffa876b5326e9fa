//! `sepia methods [NAME]`: the reference of the training methods, from their types and doc comments.

use std::fmt::Write as _;

use schemars::SchemaGenerator;
use serde_json::{Value, json};

use super::{
    args::{self, Format},
    exit::{Exit, Failure},
    output, reference,
};
use crate::stage::{MethodInfo, Registry};

pub(super) fn methods(registry: Registry, args: &args::Methods) -> Result<Exit, Failure> {
    let all = registry.methods();
    let chosen: Vec<&MethodInfo> = match &args.name {
        None => all.clone(),
        Some(name) => all.iter().copied().filter(|method| method.name == name).collect(),
    };
    if let (Some(name), []) = (&args.name, chosen.as_slice()) {
        return Err(unknown(&all, name));
    }
    match args.format {
        Format::Json => {
            output::json(&Value::Array(chosen.iter().map(|method| as_json(method, registry)).collect()));
        }
        Format::Text if args.name.is_some() => {
            let texts: Vec<String> = chosen.iter().map(|method| text(method, registry)).collect();
            output::data(&texts.join("\n\n"));
        }
        Format::Text => output::data(&list(&chosen)),
    }
    Ok(Exit::Fine)
}

fn list(methods: &[&MethodInfo]) -> String {
    let mut out = String::new();
    let width = methods.iter().map(|method| method.name.len()).max().unwrap_or(0);
    for (index, method) in methods.iter().enumerate() {
        let kind = method.kinds.first();
        if index == 0 || kind != methods[index - 1].kinds.first() {
            let _ = writeln!(out, "{}methods of {}", if index == 0 { "" } else { "\n" }, kind.unwrap_or(&""));
        }
        let _ = writeln!(out, "  {:width$}  {}", method.name, method.about);
    }
    out.push_str(if methods.is_empty() {
        "this build has no training methods\n"
    } else {
        "\n`sepia methods NAME` describes one.\n"
    });
    out
}

fn text(method: &MethodInfo, registry: Registry) -> String {
    let schema = schema(method);
    let mut out = format!("{}\n\n{}\n", method.name, schema["description"].as_str().unwrap_or(method.about));
    if !method.source.is_empty() {
        let _ = writeln!(out, "\nsource: {}", method.source);
    }
    out.push_str("\nin a manifest\n");
    for kind in kinds(method, registry) {
        let any = method.kinds.first() == Some(&kind);
        let name = if any { format!(" name = \"{}\" ", method.name) } else { String::new() };
        let _ = writeln!(out, "  kind = \"{kind}\"  method = {{{name}}}");
    }
    reference::fields(&mut out, "parameters (part of the key)", &schema);
    out
}

fn as_json(method: &MethodInfo, registry: Registry) -> Value {
    json!({
        "name": method.name, "about": method.about, "source": method.source,
        "kinds": kinds(method, registry), "parameters": schema(method),
    })
}

/// The kinds that take it and that this build has.
fn kinds(method: &MethodInfo, registry: Registry) -> Vec<&'static str> {
    let mut known: Vec<&str> = method.kinds.iter().copied().filter(|kind| registry.get(kind).is_some()).collect();
    known.dedup();
    known
}

fn schema(method: &MethodInfo) -> Value {
    (method.params_schema)(&mut SchemaGenerator::default()).to_value()
}

fn unknown(all: &[&MethodInfo], name: &str) -> Failure {
    let failure = Failure::usage("methods::unknown", format!("there is no training method `{name}`"));
    match crate::diagnostic::nearest(name, all.iter().map(|method| method.name)) {
        Some(near) => failure.help(format!("did you mean `{near}`?")),
        None => failure.help("`sepia methods` lists them"),
    }
}
