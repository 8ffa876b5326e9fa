//! `sepia stages` and `sepia help KIND`: the reference, from the types and doc comments of the stages.

use std::fmt::Write as _;

use schemars::SchemaGenerator;
use serde_json::Value;

use super::{
    args,
    exit::{Exit, Failure},
    output, reference,
};
use crate::stage::{Port, Registry, StageEntry};

pub(super) fn list(registry: Registry) -> Result<Exit, Failure> {
    let mut out = String::new();
    let width = registry.iter().map(|entry| entry.kind.len()).max().unwrap_or(0);
    for entry in registry.iter() {
        let about = about(entry);
        let _ = writeln!(out, "{:width$}  {}", entry.kind, about.lines().next().unwrap_or_default());
    }
    out.push_str("\n`sepia help KIND` describes one.\n");
    output::data(&out);
    Ok(Exit::Fine)
}

pub(super) fn help(registry: Registry, args: &args::Help) -> Result<Exit, Failure> {
    use clap::CommandFactory as _;
    let Some(kind) = &args.kind else {
        output::data(&args::Args::command().render_long_help().to_string());
        return Ok(Exit::Fine);
    };
    if let Some(entry) = registry.get(kind) {
        output::data(&reference(entry));
        return Ok(Exit::Fine);
    }
    if kind == "database" {
        output::data(sepia_cache::QUERIES);
        return Ok(Exit::Fine);
    }
    if let Some(command) = args::Args::command().find_subcommand_mut(kind) {
        output::data(&command.render_long_help().to_string());
        return Ok(Exit::Fine);
    }
    let failure = Failure::usage("help::unknown", format!("there is no stage kind and no command `{kind}`"));
    Err(match crate::diagnostic::nearest(kind, registry.iter().map(|entry| entry.kind)) {
        Some(near) => failure.help(format!("did you mean `{near}`?")),
        None => failure.help("`sepia stages` lists the kinds"),
    })
}

fn schema(entry: &StageEntry) -> Value {
    (entry.params_schema)(&mut SchemaGenerator::default()).to_value()
}

fn about(entry: &StageEntry) -> String {
    schema(entry)["description"].as_str().unwrap_or_default().to_owned()
}

fn reference(entry: &StageEntry) -> String {
    let params = schema(entry);
    let mut out = format!(
        "{} (version {})\n\n{}\n",
        entry.kind,
        entry.version,
        params["description"].as_str().unwrap_or_default()
    );
    ports(&mut out, "inputs", entry.inputs);
    ports(&mut out, "outputs", entry.outputs);
    if entry.open {
        out.push_str("\ninputs and outputs: of any name, as the stage declares them\n");
    }
    reference::fields(&mut out, "parameters (part of the key)", &params);
    let knobs = (entry.knobs_schema)(&mut SchemaGenerator::default()).to_value();
    reference::fields(&mut out, "knobs (not part of the key)", &knobs);
    out
}

fn ports(out: &mut String, title: &str, ports: &[Port]) {
    if ports.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{title}");
    for port in ports {
        let flags = match (port.optional, port.many) {
            (true, true) => ", optional, a list",
            (true, false) => ", optional",
            (false, true) => ", a list",
            (false, false) => "",
        };
        let _ = writeln!(out, "  {} ({}{flags}): {}", port.name, port.ty.0, port.about);
    }
}
