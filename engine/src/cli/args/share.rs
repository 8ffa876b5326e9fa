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
pub(in crate::cli) struct Export {
    /// A run: `latest`, a tag, or the beginning of its id.
    #[arg(default_value = "latest")]
    pub(in crate::cli) run: String,
    /// Where to: a folder, or a file whose name ends with .tar or .tar.zst. It must not be there.
    #[arg(long, value_name = "DIR|FILE")]
    pub(in crate::cli) to: Utf8PathBuf,
    /// The outputs, too: then nothing need run again.
    #[arg(long)]
    pub(in crate::cli) outputs: bool,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Import {
    /// What `sepia export` has written.
    #[arg(value_name = "DIR|FILE")]
    pub(in crate::cli) from: Utf8PathBuf,
    /// Where the manifest and its files go [default: a folder beside the store, named after the run].
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) to: Option<Utf8PathBuf>,
    /// Take its results as if they were made here, signed or not.
    #[arg(long)]
    pub(in crate::cli) trust: bool,
}

const REPRODUCE_HELP: &str = "\
The stage runs in a folder of its own, without checkpoints, from the inputs in the store and the files that its parameters
name. The stored result stays what later runs use; a result that differs is kept beside it, and `sepia divergences` lists
both. Exit code 0: the same bytes; 1: they differ, or the stage failed.";

#[derive(Debug, clap::Args)]
#[command(after_help = REPRODUCE_HELP)]
pub(in crate::cli) struct Reproduce {
    /// A stage (its newest result), `RUN/STAGE`, a key or a record.
    pub(in crate::cli) what: String,
    /// The manifest that the stage's files are beside [default: where the run had it].
    #[arg(short, long, value_name = "FILE")]
    pub(in crate::cli) manifest: Option<Utf8PathBuf>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(in crate::cli) format: Format,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Tag {
    /// A run: `latest`, a tag, or the beginning of its id [without: list the tags].
    #[arg(requires = "name")]
    pub(in crate::cli) run: Option<String>,
    /// The name: letters, digits, `-`, `_` and `.`. If another run has it, it moves.
    pub(in crate::cli) name: Option<String>,
    /// Take this name away.
    #[arg(long, value_name = "NAME", conflicts_with = "run")]
    pub(in crate::cli) delete: Option<String>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(in crate::cli) format: Format,
}

const REMOTE_HELP: &str = "\
Where it is:
  /mnt/share/sepia                  a folder that all can reach; on the store's own disk, files are shared (see `--copy`)
  ssh://[user@]host[:port]/path     a folder on a host, by the Sepia there or else over sftp; `/~/path` is below your home
                                    there. Your own ssh is used, or what SEPIA_SSH says (`ssh -F config`); it must not have
                                    to ask you anything
  s3://bucket/prefix                a bucket (in a build with `--features s3`), with the keys of the environment
                                    (AWS_ACCESS_KEY_ID ...) or of ~/.aws/credentials (AWS_PROFILE)
Options follow a `?`, with `&` between them:
  timeout=SECONDS                   how long it may be silent [default: 60 for ssh, 30 for s3]
  sepia=PATH                        ssh: where Sepia is there [default: sepia]
  endpoint=URL, region=NAME         s3: a store that is not Amazon's";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Serve {
    /// Over standard input and output.
    #[arg(long, required = true)]
    pub(in crate::cli) stdio: bool,
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
        /// Where: a folder that all can reach (`/mnt/share/sepia`), a folder on a host (`ssh://[user@]host[:port]/path`,
        /// below your home there with `/~/path`), or a bucket (`s3://bucket/prefix`, in a build with `--features s3`).
        #[arg(long_help = REMOTE_HELP)]
        url: String,
        /// Take results from it as if they were made here, signed or not.
        #[arg(long)]
        trust: bool,
        /// Let it have copies of its own, though it is on the store's disk and could share the files.
        #[arg(long)]
        copy: bool,
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

/// What `push` and `pull` have in common.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Transfer {
    /// Figures and provenance, without outputs.
    #[arg(long, conflicts_with = "models")]
    pub(in crate::cli) results_only: bool,
    /// Of the outputs, only models.
    #[arg(long)]
    pub(in crate::cli) models: bool,
    /// `json`: one event a line on standard output, with progress in bytes.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(in crate::cli) format: Format,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Push {
    /// The remote (not needed if there is but one), then runs or stages [default: everything].
    #[arg(value_name = "[REMOTE] [RUN|STAGE]")]
    pub(in crate::cli) words: Vec<String>,
    #[command(flatten)]
    pub(in crate::cli) transfer: Transfer,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Pull {
    /// The remote [default: the only one].
    pub(in crate::cli) remote: Option<String>,
    /// Only the outputs of this run: `latest`, a tag, or the beginning of its id (may be repeated).
    #[arg(long)]
    pub(in crate::cli) run: Vec<String>,
    /// Only the outputs of this stage (may be repeated).
    #[arg(long, value_name = "STAGE")]
    pub(in crate::cli) node: Vec<String>,
    #[command(flatten)]
    pub(in crate::cli) transfer: Transfer,
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
