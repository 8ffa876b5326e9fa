//! The `command` kind: any program as a stage.
//!
//! The program runs in an empty folder of its own. It sees the files that the stage declares (copied there), the inputs
//! and data files (by absolute path, through placeholders), and a small environment. Afterwards exactly the declared
//! outputs must exist there, and nothing else. So what it read and wrote is what its key says.

use std::collections::{BTreeMap, BTreeSet};

use camino::Utf8Path;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Check, InputFiles, NoKnobs, Stage, StageContext, StageEntry, StageError, Written, is_pattern};

/// Runs a program: your own script beside the built-in stages.
///
/// Placeholders in `argv` and `env`: `${inputs.PORT}` and `${data.NAME}` (absolute paths), `${outputs.NAME}` (path in the
/// working folder), `${params.NAME}`, `${seed}`, `${threads}`. `$${` stands for a plain `${`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandParams {
    /// The program and its arguments. No shell is involved; write `["sh", "-c", "..."]` for one.
    pub argv: Vec<String>,
    /// Outputs: name to the path, relative to the working folder, where the program leaves a file or folder.
    #[serde(default)]
    pub outputs: BTreeMap<String, String>,
    /// Scripts and small files, copied into the working folder under their written path.
    #[serde(default = "none")]
    pub files: InputFiles,
    /// Large files and folders, passed by path: `${data.NAME}`.
    #[serde(default)]
    pub data: BTreeMap<String, InputFiles>,
    /// Environment variables to set.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Names of environment variables to pass through. Their values are not part of the key.
    #[serde(default)]
    pub env_allow: Vec<String>,
    /// Values for `${params.NAME}`.
    #[serde(default)]
    pub params: BTreeMap<String, serde_json::Value>,
}

fn none() -> InputFiles {
    InputFiles::of(Vec::new())
}

/// The kind.
#[derive(Debug)]
pub struct Command;

impl Stage for Command {
    const KIND: &'static str = "command";
    const VERSION: u32 = 1;
    const INPUTS: &'static [super::Port] = &[];
    const OUTPUTS: &'static [super::Port] = &[];
    const SEEDED: bool = true;
    const ON_DEVICE: bool = false;
    type Params = CommandParams;
    type Knobs = NoKnobs;

    fn check(params: &Self::Params, check: &mut Check<'_>) {
        if params.argv.is_empty() {
            check.problem("argv", "the command is empty", "write `argv = [\"python3\", \"script.py\"]`");
        }
        for (name, path) in &params.outputs {
            if let Some(why) = outside(path) {
                check.problem(
                    format!("outputs.{name}"),
                    format!("the output path {path:?} {why}"),
                    "write a path inside the working folder",
                );
            }
        }
        let mut taken = BTreeSet::new();
        for written in params.files.written() {
            let path = match written {
                // What is fetched is copied under the name it has in the URL.
                Written::Url(remote) => remote.file_name(),
                Written::Path(path) => place_of(path),
            };
            if !taken.insert(Utf8Path::new(path)) && !is_pattern(path) {
                check.problem(
                    "files",
                    format!("two files would arrive in the working folder as {path:?}"),
                    "give one of them another name",
                );
            }
            if let Some(why) = outside(path) {
                check.problem(
                    "files",
                    format!("{path:?} {why}, so it has no place in the working folder"),
                    "name it under `data`, and use `${data.NAME}`; or write `/./` before what is to be its name: `../lib/./x.py`",
                );
            }
        }
        for text in params.argv.iter().chain(params.env.values()) {
            for placeholder in placeholders(text) {
                check_placeholder(&placeholder, params, check);
            }
        }
    }

    /// Never called: the engine starts the program itself (see [`CommandParams`] and `exec::command`).
    fn run(_: &Self::Params, _: &Self::Knobs, _: &mut StageContext<'_>) -> Result<(), StageError> {
        Err(StageError::new("a command has no code of its own"))
    }
}

impl Command {
    /// The registry row.
    #[must_use]
    pub const fn entry() -> StageEntry {
        let mut entry = StageEntry::of::<Command>();
        entry.open = true;
        entry
    }
}

fn check_placeholder(placeholder: &str, params: &CommandParams, check: &mut Check<'_>) {
    let (table, name) = placeholder.split_once('.').unwrap_or((placeholder, ""));
    let (known, what): (Vec<&String>, _) = match table {
        "seed" | "threads" if name.is_empty() => return,
        "inputs" => {
            if !check.is_connected(name) {
                check.problem(
                    "argv",
                    format!("`${{{placeholder}}}`: no input `{name}` is connected"),
                    format!("add `inputs = {{ {name} = \"STAGE\" }}`"),
                );
            }
            return;
        }
        "outputs" => (params.outputs.keys().collect(), "output"),
        "params" => (params.params.keys().collect(), "parameter"),
        "data" => (params.data.keys().collect(), "data entry"),
        _ => {
            check.problem(
                "argv",
                format!("`${{{placeholder}}}` is no placeholder"),
                "placeholders: ${inputs.PORT}, ${outputs.NAME}, ${data.NAME}, ${params.NAME}, ${seed}, ${threads}; `$${` for a plain `${`",
            );
            return;
        }
    };
    if !known.iter().any(|one| *one == name) {
        let near = crate::diagnostic::nearest(name, known.iter().map(|one| one.as_str()));
        let help = match near {
            Some(near) => format!("did you mean `${{{table}.{near}}}`?"),
            None => format!("declare it: `{table} = {{ {name} = ... }}`"),
        };
        check.problem("argv", format!("`${{{placeholder}}}`: there is no {what} `{name}`"), help);
    }
}

/// Why a path does not stay inside the folder it is relative to.
/// Where a file or folder goes below the working folder: where it lies below the manifest's, or what follows a `/./`, which
/// paths of a base in another folder have.
pub(crate) fn place_of(written: &str) -> &str {
    match written.rsplit_once("/./") {
        Some((_, name)) => name,
        // What is left of a pattern.
        None => written.strip_suffix("/.").map_or(written, |_| ""),
    }
}

fn outside(path: &str) -> Option<&'static str> {
    let path = Utf8Path::new(path);
    if path.as_str().is_empty() {
        return Some("is empty");
    }
    let mut normal = 0;
    for component in path.components() {
        match component {
            camino::Utf8Component::Normal(_) => normal += 1,
            camino::Utf8Component::CurDir => {}
            _ => return Some("leads outside the working folder"),
        }
    }
    (normal == 0).then_some("names the working folder itself")
}

/// The names inside `${...}`, without those escaped as `$${`.
fn placeholders(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let _ = substitute(text, |name| {
        found.push(name.to_owned());
        Some(String::new())
    });
    found
}

/// Replaces every `${name}` by what `value` gives for it; `$${` becomes `${`.
///
/// # Errors
/// The first name for which `value` has nothing.
pub(crate) fn substitute(text: &str, mut value: impl FnMut(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at - 1]);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let Some(end) = rest[at..].find('}') else {
            out.push_str(&rest[at..]);
            return Ok(out);
        };
        let name = &rest[at + 2..at + end];
        out.push_str(&value(name).ok_or_else(|| name.to_owned())?);
        rest = &rest[at + end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_replaced_and_escapes_are_not() {
        let value = |name: &str| (name == "seed").then(|| "7".to_owned());
        assert_eq!(substitute("--seed=${seed} $${seed} $x ${", value).unwrap(), "--seed=7 ${seed} $x ${");
        assert_eq!(substitute("${inputs.model}", value).unwrap_err(), "inputs.model");
        assert_eq!(placeholders("a ${b} $${c} ${d.e}"), ["b", "d.e"]);
    }

    #[test]
    fn paths_outside_the_working_folder_are_refused() {
        for (path, bad) in
            [("out.txt", false), ("a/b", false), ("./a", false), ("../a", true), ("/a", true), ("", true), (".", true)]
        {
            assert_eq!(outside(path).is_some(), bad, "{path}");
        }
    }
}
