//! Looking at plans and past runs.

use camino::Utf8PathBuf;
use clap::ValueEnum;

use super::{Changes, Format, Source};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Explain {
    /// A stage of the manifest (with --manifest), or a key, or a stage of the latest run.
    pub(in crate::cli) what: String,
    /// Explain why the stage would run now.
    #[arg(short, long, value_name = "FILE")]
    pub(in crate::cli) manifest: Option<Utf8PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) changes: Changes,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(in crate::cli) format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum GraphFormat {
    /// A tree with the state of each stage.
    Tree,
    /// Graphviz.
    Dot,
    /// Mermaid.
    Mermaid,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Graph {
    #[command(flatten)]
    pub(in crate::cli) source: Source,
    #[arg(long, value_enum, default_value_t = GraphFormat::Tree)]
    pub(in crate::cli) format: GraphFormat,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Runs {
    /// How many.
    #[arg(short = 'n', long, default_value_t = 20)]
    pub(in crate::cli) limit: usize,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(in crate::cli) format: Format,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Show {
    /// A run: `latest`, a tag, or the beginning of its id.
    #[arg(default_value = "latest")]
    pub(in crate::cli) run: String,
    /// One stage of it, with its parameters, figures and outputs.
    pub(in crate::cli) stage: Option<String>,
    /// Print again what the run printed.
    #[arg(long, conflicts_with = "stage")]
    pub(in crate::cli) replay: bool,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(in crate::cli) format: Format,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Log {
    /// The stage.
    pub(in crate::cli) stage: String,
    /// The run: `latest`, a tag, or the beginning of its id [default: the newest run in which the stage ran].
    #[arg(long)]
    pub(in crate::cli) run: Option<String>,
    /// Go on printing what it writes until it ends.
    #[arg(short, long)]
    pub(in crate::cli) follow: bool,
}
