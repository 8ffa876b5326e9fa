//! `sepia check`.

use super::{
    args::{self, Format, Global},
    exit::{Exit, Failure},
    output, project,
};
use crate::{diagnostic::to_json, stage::Registry};

pub(super) fn check(registry: Registry, global: &Global, args: &args::Check) -> Result<Exit, Failure> {
    let mut exit = Exit::Fine;
    let mut all = Vec::new();
    for manifest in &args.manifests {
        match project::load(registry, manifest, &args.changes) {
            Ok(project) => {
                let nodes = project.plan.nodes.len();
                all.push(serde_json::json!({ "manifest": manifest, "stages": nodes, "diagnostics": to_json(&project.plan.warnings, &project.sources) }));
                if args.format == Format::Text && !global.quiet {
                    output::data(&format!(
                        "{manifest}: {}, no errors\n",
                        crate::report::figures::count(nodes as u64, "stage")
                    ));
                }
                // The program ends soon, and taking thousands of nodes to pieces would be a fifth of its time.
                std::mem::forget(project);
            }
            Err(failure) => {
                exit = failure.exit;
                all.push(serde_json::json!({ "manifest": manifest, "diagnostics": to_json(&failure.found, &failure.sources) }));
                if args.format == Format::Text {
                    output::error(&failure);
                }
            }
        }
    }
    if args.format == Format::Json {
        output::json(&serde_json::Value::Array(all));
    }
    Ok(exit)
}
