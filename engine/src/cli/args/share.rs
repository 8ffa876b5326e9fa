//! Sharing results, and whom to trust.

use camino::Utf8PathBuf;
use clap::Subcommand;

use super::Format;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Merge {
    /// Databases (`results.db`) or stores (`.sepia`).
    #[arg(required = true, value_name = "DATABASE")]
    pub(in crate::cli) others: Vec<Utf8PathBuf>,
    /// Take its results as if they were made here, signed or not.
    #[arg(long)]
    pub(in crate::cli) trust: bool,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Divergences {
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(in crate::cli) format: Format,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Remote {
    #[command(subcommand)]
    pub(in crate::cli) what: RemoteCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum RemoteCommand {
    /// Add a remote, and find out what it really does.
    Add {
        /// What to call it.
        name: String,
        /// A folder that all can reach: a path, or `file:///path`.
        url: String,
        /// Take results from it as if they were made here, signed or not.
        #[arg(long)]
        trust: bool,
    },
    /// List the remotes.
    List {
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Forget a remote. What is on it stays.
    Remove {
        /// Which.
        name: String,
    },
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Push {
    /// The remote (not needed if there is but one), then runs or stages [default: everything].
    #[arg(value_name = "[REMOTE] [RUN|STAGE]")]
    pub(in crate::cli) words: Vec<String>,
    /// Figures and provenance, without outputs.
    #[arg(long, conflicts_with = "models")]
    pub(in crate::cli) results_only: bool,
    /// Of the outputs, only models.
    #[arg(long)]
    pub(in crate::cli) models: bool,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Pull {
    /// The remote [default: the only one].
    pub(in crate::cli) remote: Option<String>,
    /// Only the outputs of this run: `latest`, or the beginning of its id (may be repeated).
    #[arg(long)]
    pub(in crate::cli) run: Vec<String>,
    /// Only the outputs of this stage (may be repeated).
    #[arg(long, value_name = "STAGE")]
    pub(in crate::cli) node: Vec<String>,
    /// Figures and provenance, without outputs.
    #[arg(long, conflicts_with = "models")]
    pub(in crate::cli) results_only: bool,
    /// Of the outputs, only models.
    #[arg(long)]
    pub(in crate::cli) models: bool,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Key {
    #[command(subcommand)]
    pub(in crate::cli) what: KeyCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum KeyCommand {
    /// Make a key for yourself. From then on, what you push is signed.
    New,
    /// Print the public half of your key.
    Show,
    /// Let this project trust what a key has signed.
    Trust {
        /// `ed25519:...`
        key: String,
        /// Whose it is.
        #[arg(long)]
        name: Option<String>,
    },
    /// Sign what was made here and is not signed yet.
    Sign,
}
