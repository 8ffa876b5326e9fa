//! Manifests: naming one, changing it on the command line, checking, writing and formatting it, and what it may say.

use camino::Utf8PathBuf;
use clap::ValueEnum;

use super::Format;

/// A manifest, and what the command line changes in it.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct Source {
    /// The manifest.
    pub(in crate::cli) manifest: Utf8PathBuf,
    #[command(flatten)]
    pub(in crate::cli) changes: Changes,
}

#[derive(Debug, Clone, Default, clap::Args)]
pub(in crate::cli) struct Changes {
    /// Lay this profile of the manifest over it.
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) profile: Option<String>,
    /// Where stages compute that name no device themselves: `auto`, `cpu`, `cuda`, `cuda:1`. Short for --set device=NAME.
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) device: Option<String>,
    /// Change a value: `stages.train.lr=0.01` (may be repeated).
    #[arg(long, value_name = "PATH=VALUE")]
    pub(in crate::cli) set: Vec<String>,
    /// Sweep a parameter: `train.lr=[0.1, 0.01]` (may be repeated).
    #[arg(long, value_name = "STAGE.PARAM=LIST")]
    pub(in crate::cli) matrix: Vec<String>,
}

impl Changes {
    /// Everything that `--set` and its short forms change, in order: what is longer to write has the last word.
    pub(in crate::cli) fn sets(&self) -> Vec<String> {
        self.device.iter().map(|name| format!("device={name:?}")).chain(self.set.iter().cloned()).collect()
    }
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Check {
    /// The manifests.
    #[arg(required = true)]
    pub(in crate::cli) manifests: Vec<Utf8PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) changes: Changes,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(in crate::cli) format: Format,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct New {
    /// The experiment: writes NAME.toml, which must not exist.
    #[arg(required_unless_present = "list")]
    pub(in crate::cli) name: Option<Utf8PathBuf>,
    /// What to start from; `--list` says what there is.
    #[arg(long, default_value = "training")]
    pub(in crate::cli) template: String,
    /// List the templates.
    #[arg(long)]
    pub(in crate::cli) list: bool,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Fmt {
    /// The manifests; `-` formats standard input.
    #[arg(required = true)]
    pub(in crate::cli) manifests: Vec<Utf8PathBuf>,
    /// Write nothing; exit with 1 if something would change.
    #[arg(long)]
    pub(in crate::cli) check: bool,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Methods {
    /// The method to describe.
    pub(in crate::cli) name: Option<String>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(in crate::cli) format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    pub(in crate::cli) fn name(self) -> &'static str {
        match self {
            Shell::Bash => "bash",
            Shell::Zsh => "zsh",
            Shell::Fish => "fish",
        }
    }
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Completions {
    /// The shell.
    #[arg(value_enum)]
    pub(in crate::cli) shell: Shell,
}
