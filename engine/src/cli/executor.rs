//! Where stages run: what the command line, the manifest and the user's configuration say, in this order.

use camino::{Utf8Path, Utf8PathBuf};

use super::{args::ExecutorArg, exit::Failure};
use crate::{
    exec::{ExecutorChoice, SlurmOptions},
    manifest::{ExecutorDecl, ExecutorName},
    plan::Plan,
};

/// The user's configuration: `$XDG_CONFIG_HOME/sepia/config.toml`, with the same `[executor]` table as a manifest.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Configuration {
    executor: ExecutorDecl,
}

/// Decides for one run.
pub(super) fn choose(plan: &Plan, asked: Option<ExecutorArg>) -> Result<ExecutorChoice, Failure> {
    Ok(decide(asked, &plan.executor, &configuration()?.executor))
}

fn decide(asked: Option<ExecutorArg>, manifest: &ExecutorDecl, user: &ExecutorDecl) -> ExecutorChoice {
    let implied = |decl: &ExecutorDecl| decl.default.or(decl.slurm.as_ref().map(|_| ExecutorName::Slurm));
    let asked = asked.map(|asked| match asked {
        ExecutorArg::Local => ExecutorName::Local,
        ExecutorArg::Slurm => ExecutorName::Slurm,
    });
    match asked.or_else(|| implied(manifest)).or_else(|| implied(user)) {
        Some(ExecutorName::Slurm) => {
            let none = SlurmOptions::default();
            let (manifest, user) = (manifest.slurm.as_ref().unwrap_or(&none), user.slurm.as_ref().unwrap_or(&none));
            ExecutorChoice::Slurm(manifest.over(user))
        }
        Some(ExecutorName::Local) | None => ExecutorChoice::Local,
    }
}

fn configuration() -> Result<Configuration, Failure> {
    let Some(path) = path() else { return Ok(Configuration::default()) };
    match fs_err::read_to_string(&path) {
        Ok(text) => read(&path, &text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Configuration::default()),
        Err(error) => Err(Failure::usage("configuration", error.to_string())),
    }
}

fn read(path: &Utf8Path, text: &str) -> Result<Configuration, Failure> {
    toml::from_str(text).map_err(|error| {
        Failure::usage("configuration", format!("{path} cannot be understood: {}", error.message()))
            .help("it may have [executor.slurm] with the keys that a manifest has there")
    })
}

fn path() -> Option<Utf8PathBuf> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty()).map(Utf8PathBuf::from);
    let folder = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")))?;
    Some(folder.join("sepia/config.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decl(text: &str) -> ExecutorDecl {
        read("config.toml".into(), text).unwrap().executor
    }

    #[test]
    fn settings_choose_slurm_and_the_command_line_has_the_last_word() {
        let (none, slurm) = (ExecutorDecl::default(), decl("[executor.slurm]\npartition = \"gpu\""));
        let local = decl("[executor]\ndefault = \"local\"\nslurm = { qos = \"q\" }");
        let is_slurm = |choice: ExecutorChoice| matches!(choice, ExecutorChoice::Slurm(_));
        assert!(!is_slurm(decide(None, &none, &none)));
        assert!(is_slurm(decide(None, &slurm, &none)) && is_slurm(decide(None, &none, &slurm)));
        assert!(!is_slurm(decide(None, &local, &slurm)) && !is_slurm(decide(Some(ExecutorArg::Local), &slurm, &slurm)));
        let ExecutorChoice::Slurm(both) = decide(Some(ExecutorArg::Slurm), &local, &slurm) else {
            unreachable!("it was asked for")
        };
        assert_eq!((both.qos.as_deref(), both.partition.as_deref()), (Some("q"), Some("gpu")));
    }

    #[test]
    fn what_is_wrong_in_the_configuration_is_said() {
        let error = read("c.toml".into(), "[executor.slurm]\npartitoin = \"x\"").unwrap_err();
        assert!(error.found[0].message.contains("partitoin"), "{error:?}");
    }
}
