//! Arguments: the whole command line here, those of each group of commands in a file of its own.

mod look;
mod manifest;
mod results;
mod run;
mod share;
mod store;

pub(in crate::cli) use self::{
    look::{Explain, Graph, GraphFormat, Log, Runs, Show},
    manifest::{Changes, Check, Completions, Fmt, Methods, New, Source},
    results::{Compare, Dashboard, Plot, Report, Results, TableFormat},
    run::{Attach, Chosen, Devices, ExecutorArg, Plan, Run},
    share::{
        Divergences, Export, Import, Key, KeyCommand, Merge, Pull, Push, Remote, RemoteCommand, Reproduce, Serve, Tag,
        Transfer,
    },
    store::{Cache, CacheCommand, Gc},
};

use camino::Utf8PathBuf;
use clap::{Parser, Subcommand, ValueEnum};

/// Runs experiments on low-rank training from a manifest: each stage once per distinct input.
#[derive(Debug, Parser)]
#[command(name = "sepia", version, disable_help_subcommand = true, after_help = EXIT_CODES)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    pub(in crate::cli) global: Global,
    #[command(subcommand)]
    pub(in crate::cli) command: Command,
}

const EXIT_CODES: &str =
    "Exit codes: 0 fine, 1 a stage failed, 2 bad usage or manifest, 3 the store cannot be used, 130 interrupted.";

#[derive(Debug, Default, clap::Args)]
pub(in crate::cli) struct Global {
    /// The store [default: $SEPIA_STORE, else the nearest .sepia/ upwards, else .sepia/ beside the manifest].
    #[arg(long, global = true, value_name = "DIR")]
    pub(in crate::cli) store: Option<Utf8PathBuf>,
    /// More detail; twice for developer logs (or set SEPIA_LOG).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(in crate::cli) verbose: u8,
    /// Nothing but errors.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(in crate::cli) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Command {
    /// Run a manifest: what is in the store is taken from there.
    Run(Run),
    /// Say what `run` would do.
    Plan(Plan),
    /// Check a manifest without running anything.
    Check(Check),
    /// Write a manifest to start from.
    New(New),
    /// Format manifests; comments stay.
    Fmt(Fmt),
    /// Say why a stage would run, or why it ran.
    Explain(Explain),
    /// Print the graph of a manifest.
    Graph(Graph),
    /// Take up again a run whose jobs were left on a cluster.
    Attach(Attach),
    /// List past runs.
    Runs(Runs),
    /// Show a past run, or one stage of it.
    Show(Show),
    /// Print what a stage wrote to its log.
    Log(Log),
    /// Tabulate results.
    Results(Results),
    /// Say what differs between two results or two runs.
    Compare(Compare),
    /// Draw a metric: curves over steps, or figures against parameters.
    Plot(Plot),
    /// Write a run as one HTML page that needs nothing else.
    Report(Report),
    /// Show a run in the browser while it goes on.
    Dashboard(Dashboard),
    /// Look after the store.
    Cache(Cache),
    /// Take the results of another database or store that are not here. Nothing is overwritten.
    Merge(Merge),
    /// List keys whose executions left different outputs, and what differs in where they ran.
    Divergences(Divergences),
    /// Write everything that a run was made of to a folder or a file: for another machine, or for the archive.
    Export(Export),
    /// Take what `export` has written, once every byte of it is checked.
    Import(Import),
    /// Run a stage again from what its result was recorded to be made of, and compare.
    Reproduce(Reproduce),
    /// Name a run, take a name away, or list the names.
    Tag(Tag),
    /// Manage the places where results are shared.
    Remote(Remote),
    /// Bring results to a remote: what it lacks.
    Push(Push),
    /// Fetch results from a remote: what is not here.
    Pull(Pull),
    /// Answer another Sepia over ssh: it starts this on the host of its remote.
    Serve(Serve),
    /// Make and show keys that sign results.
    Key(Key),
    /// List the stage kinds.
    Stages,
    /// List the GPUs of this machine.
    Devices(Devices),
    /// Describe a stage kind: its parameters, defaults, inputs and outputs.
    Help(Help),
    /// List the training methods, or describe one: its parameters, defaults and paper.
    Methods(Methods),
    /// Print the JSON Schema of manifests, for editors.
    Schema,
    /// Print what makes a shell complete commands, stages and runs.
    Completions(Completions),
    #[command(name = "__work", hide = true)]
    Work,
    #[command(name = "__job", hide = true)]
    Job {
        /// The batch.
        folder: Utf8PathBuf,
    },
    #[command(name = "__reap", hide = true)]
    Reap,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Help {
    /// The kind, or a command of Sepia, or `database`: the tables of results.db, with queries to copy.
    pub(in crate::cli) kind: Option<String>,
}
