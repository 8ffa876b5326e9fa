//! Running a manifest, and saying beforehand what that would do.

use clap::ValueEnum;

use super::{Format, Source};
use crate::manifest::parse_bytes;

#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct Chosen {
    #[command(flatten)]
    pub(in crate::cli) source: Source,
    /// Stages to run, with all they need: names, or globs like `train*` [default: all].
    pub(in crate::cli) targets: Vec<String>,
    /// Run the targets with all they need. This is the default; the flag says so in scripts.
    #[arg(long, conflicts_with = "only")]
    pub(in crate::cli) upstream: bool,
    /// Also run everything that depends on the targets.
    #[arg(long)]
    pub(in crate::cli) downstream: bool,
    /// Run the targets alone: what they need must be in the store.
    #[arg(long, requires = "targets", conflicts_with = "downstream")]
    pub(in crate::cli) only: bool,
    /// Run these stages even if they are in the store (name or glob; may be repeated).
    #[arg(long, value_name = "STAGE")]
    pub(in crate::cli) force: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Run {
    #[command(flatten)]
    pub(in crate::cli) chosen: Chosen,
    /// Threads that all running stages use together [default: all of this machine].
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(in crate::cli) jobs: Option<u16>,
    /// Devices (GPUs) that all running stages share, one child to a device; a stage asks for them with
    /// `resources = { device = N }` and sees its own in CUDA_VISIBLE_DEVICES [default: those of this machine, or of
    /// CUDA_VISIBLE_DEVICES; one where there is none].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(in crate::cli) devices: Option<u16>,
    /// Memory that all running stages may use together, as they declare it with `resources = { memory = SIZE }`: `8 GiB`
    /// [default: all that this machine, or its container, has].
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(in crate::cli) memory: Option<u64>,
    /// Take results from this remote before computing them, and offer it those that were computed.
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) remote: Option<String>,
    /// Take results that came from elsewhere even if nobody in `trusted_keys` has signed them.
    #[arg(long)]
    pub(in crate::cli) trust_all: bool,
    /// After a failure, go on with what does not depend on it.
    #[arg(short, long)]
    pub(in crate::cli) keep_going: bool,
    #[command(flatten)]
    pub(in crate::cli) place: Place,
    /// When the run is stopped (Ctrl-C), leave the jobs on the cluster: `sepia attach` takes them up again.
    #[arg(long)]
    pub(in crate::cli) detach: bool,
    /// Only say what would be done, as `sepia plan` does.
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
    /// `json`: one event a line on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(in crate::cli) format: Format,
}

pub(super) fn size(text: &str) -> Result<u64, String> {
    parse_bytes(text)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "a size is written like 4GiB, 512MB or 1.5TiB".to_owned())
}

#[derive(Debug, Default, clap::Args)]
pub(in crate::cli) struct Place {
    /// Where stages run: here, or as jobs of a cluster [default: `slurm` if the manifest or the user's configuration has
    /// `[executor.slurm]`, else `local`].
    #[arg(long, value_enum, value_name = "WHERE")]
    pub(in crate::cli) executor: Option<ExecutorArg>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum ExecutorArg {
    /// This machine.
    Local,
    /// A cluster with Slurm that shares the store's file system.
    Slurm,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Attach {
    /// The run: `latest`, a tag, or the beginning of its id.
    #[arg(default_value = "latest")]
    pub(in crate::cli) run: String,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Plan {
    #[command(flatten)]
    pub(in crate::cli) chosen: Chosen,
    /// Print the manifest with all that it extends, interpolates and overrides filled in: itself a manifest, with the
    /// same keys.
    #[arg(long)]
    pub(in crate::cli) resolved: bool,
    #[command(flatten)]
    pub(in crate::cli) place: Place,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(in crate::cli) format: Format,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Devices {
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(in crate::cli) format: Format,
}
