//! Arguments.

use camino::Utf8PathBuf;
use clap::{Parser, Subcommand, ValueEnum};

/// Runs experiments on low-rank training from a manifest: each stage once per distinct input.
#[derive(Debug, Parser)]
#[command(name = "sepia", version, disable_help_subcommand = true, after_help = EXIT_CODES)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

const EXIT_CODES: &str =
    "Exit codes: 0 fine, 1 a stage failed, 2 bad usage or manifest, 3 the store cannot be used, 130 interrupted.";

#[derive(Debug, Default, clap::Args)]
pub(super) struct Global {
    /// The store [default: $SEPIA_STORE, else the nearest .sepia/ upwards, else .sepia/ beside the manifest].
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) store: Option<Utf8PathBuf>,
    /// More detail; twice for developer logs (or set SEPIA_LOG).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// Nothing but errors.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
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
pub(super) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// A manifest, and what the command line changes in it.
#[derive(Debug, clap::Args)]
pub(super) struct Source {
    /// The manifest.
    pub(super) manifest: Utf8PathBuf,
    #[command(flatten)]
    pub(super) changes: Changes,
}

#[derive(Debug, Default, clap::Args)]
pub(super) struct Changes {
    /// Lay this profile of the manifest over it.
    #[arg(long, value_name = "NAME")]
    pub(super) profile: Option<String>,
    /// Where stages compute that name no device themselves: `auto`, `cpu`, `cuda`, `cuda:1`. Short for --set device=NAME.
    #[arg(long, value_name = "NAME")]
    pub(super) device: Option<String>,
    /// Change a value: `stages.train.lr=0.01` (may be repeated).
    #[arg(long, value_name = "PATH=VALUE")]
    pub(super) set: Vec<String>,
    /// Sweep a parameter: `train.lr=[0.1, 0.01]` (may be repeated).
    #[arg(long, value_name = "STAGE.PARAM=LIST")]
    pub(super) matrix: Vec<String>,
}

impl Changes {
    /// Everything that `--set` and its short forms change, in order: what is longer to write has the last word.
    pub(super) fn sets(&self) -> Vec<String> {
        self.device.iter().map(|name| format!("device={name:?}")).chain(self.set.iter().cloned()).collect()
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Chosen {
    #[command(flatten)]
    pub(super) source: Source,
    /// Stages to run, with all they need: names, or globs like `train*` [default: all].
    pub(super) targets: Vec<String>,
    /// Run the targets with all they need. This is the default; the flag says so in scripts.
    #[arg(long, conflicts_with = "only")]
    pub(super) upstream: bool,
    /// Also run everything that depends on the targets.
    #[arg(long)]
    pub(super) downstream: bool,
    /// Run the targets alone: what they need must be in the store.
    #[arg(long, requires = "targets", conflicts_with = "downstream")]
    pub(super) only: bool,
    /// Run these stages even if they are in the store (name or glob; may be repeated).
    #[arg(long, value_name = "STAGE")]
    pub(super) force: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Run {
    #[command(flatten)]
    pub(super) chosen: Chosen,
    /// Threads that all running stages use together [default: all of this machine].
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) jobs: Option<u16>,
    /// Devices (GPUs) that all running stages share, one child to a device; a stage asks for them with
    /// `resources = { device = N }` and sees its own in CUDA_VISIBLE_DEVICES [default: those of this machine, or of
    /// CUDA_VISIBLE_DEVICES; one where there is none].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) devices: Option<u16>,
    /// Take results from this remote before computing them, and offer it those that were computed.
    #[arg(long, value_name = "NAME")]
    pub(super) remote: Option<String>,
    /// Take results that came from elsewhere even if nobody in `trusted_keys` has signed them.
    #[arg(long)]
    pub(super) trust_all: bool,
    /// After a failure, go on with what does not depend on it.
    #[arg(short, long)]
    pub(super) keep_going: bool,
    #[command(flatten)]
    pub(super) place: Place,
    /// When the run is stopped (Ctrl-C), leave the jobs on the cluster: `sepia attach` takes them up again.
    #[arg(long)]
    pub(super) detach: bool,
    /// Only say what would be done, as `sepia plan` does.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// `json`: one event a line on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

#[derive(Debug, Default, clap::Args)]
pub(super) struct Place {
    /// Where stages run: here, or as jobs of a cluster [default: `slurm` if the manifest or the user's configuration has
    /// `[executor.slurm]`, else `local`].
    #[arg(long, value_enum, value_name = "WHERE")]
    pub(super) executor: Option<ExecutorArg>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ExecutorArg {
    /// This machine.
    Local,
    /// A cluster with Slurm that shares the store's file system.
    Slurm,
}

#[derive(Debug, clap::Args)]
pub(super) struct Attach {
    /// The run: `latest`, a tag, or the beginning of its id.
    #[arg(default_value = "latest")]
    pub(super) run: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct Plan {
    #[command(flatten)]
    pub(super) chosen: Chosen,
    /// Print the manifest with all that it extends, interpolates and overrides filled in: itself a manifest, with the
    /// same keys.
    #[arg(long)]
    pub(super) resolved: bool,
    #[command(flatten)]
    pub(super) place: Place,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// The manifests.
    #[arg(required = true)]
    pub(super) manifests: Vec<Utf8PathBuf>,
    #[command(flatten)]
    pub(super) changes: Changes,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct New {
    /// The experiment: writes NAME.toml, which must not exist.
    #[arg(required_unless_present = "list")]
    pub(super) name: Option<Utf8PathBuf>,
    /// What to start from; `--list` says what there is.
    #[arg(long, default_value = "training")]
    pub(super) template: String,
    /// List the templates.
    #[arg(long)]
    pub(super) list: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Fmt {
    /// The manifests; `-` formats standard input.
    #[arg(required = true)]
    pub(super) manifests: Vec<Utf8PathBuf>,
    /// Write nothing; exit with 1 if something would change.
    #[arg(long)]
    pub(super) check: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Methods {
    /// The method to describe.
    pub(super) name: Option<String>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    pub(super) fn name(self) -> &'static str {
        match self {
            Shell::Bash => "bash",
            Shell::Zsh => "zsh",
            Shell::Fish => "fish",
        }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// The shell.
    #[arg(value_enum)]
    pub(super) shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    /// A stage of the manifest (with --manifest), or a key, or a stage of the latest run.
    pub(super) what: String,
    /// Explain why the stage would run now.
    #[arg(short, long, value_name = "FILE")]
    pub(super) manifest: Option<Utf8PathBuf>,
    #[command(flatten)]
    pub(super) changes: Changes,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum GraphFormat {
    /// A tree with the state of each stage.
    Tree,
    /// Graphviz.
    Dot,
    /// Mermaid.
    Mermaid,
}

#[derive(Debug, clap::Args)]
pub(super) struct Graph {
    #[command(flatten)]
    pub(super) source: Source,
    #[arg(long, value_enum, default_value_t = GraphFormat::Tree)]
    pub(super) format: GraphFormat,
}

#[derive(Debug, clap::Args)]
pub(super) struct Runs {
    /// How many.
    #[arg(short = 'n', long, default_value_t = 20)]
    pub(super) limit: usize,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// A run: `latest`, a tag, or the beginning of its id.
    #[arg(default_value = "latest")]
    pub(super) run: String,
    /// One stage of it, with its parameters, figures and outputs.
    pub(super) stage: Option<String>,
    /// Print again what the run printed.
    #[arg(long, conflicts_with = "stage")]
    pub(super) replay: bool,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Log {
    /// The stage.
    pub(super) stage: String,
    /// The run: `latest`, a tag, or the beginning of its id [default: the newest run in which the stage ran].
    #[arg(long)]
    pub(super) run: Option<String>,
    /// Go on printing what it writes until it ends.
    #[arg(short, long)]
    pub(super) follow: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum TableFormat {
    /// For people.
    #[value(alias = "text")]
    Table,
    /// For programs.
    Json,
    /// For spreadsheets and data frames: all digits, a mean in three columns.
    Csv,
    /// For notes and papers.
    Markdown,
}

const RESULTS_HELP: &str = "\
Names are those of parameters (`lr`, `model.rank`, or its end: `rank`), metrics (`val_loss`, `loss.lowest`) and the fields
node, stage, kind, run, seed, outcome, key, started, seconds, cpu_seconds, peak_memory_bytes, trust; `params.lr` and
`metrics.lr` where a name is both. A parameter that an execution does not have is that of the stages it builds on, so evaluations can be
grouped by the method of their training.

Conditions: = != < <= > >=, ~ (contains), like 'a%', in (1, 2), and, or, not, parentheses. Of a run or a key the beginning is
enough. What an execution does not have makes a comparison false. `trust` is `own`, or of results from elsewhere `trusted`,
`signed` (by a key of `trusted_keys`), `unknown signer` or `unsigned`: the last two are shown, and not used by runs.

  sepia results evaluate --where 'method = galore and lr < 0.01' --sort val_loss
  sepia results evaluate --group method,rank --format markdown
  sepia results --columns node,seed,lr,val_loss.lowest --format csv";

#[derive(Debug, clap::Args)]
#[command(after_help = RESULTS_HELP)]
pub(super) struct Results {
    /// Only executions of this stage or kind.
    pub(super) stage: Option<String>,
    /// Only executions of this run: `latest`, a tag, or the beginning of its id.
    #[arg(long)]
    pub(super) run: Option<String>,
    /// Only executions that fit: `method = galore and lr < 0.01`.
    #[arg(long = "where", value_name = "CONDITION")]
    pub(super) condition: Option<String>,
    /// In this order: `val_loss`, or `-accuracy` for the highest first; several with commas.
    #[arg(long, value_name = "NAMES", allow_hyphen_values = true)]
    pub(super) sort: Option<String>,
    /// One row for each value of these (`method,lr`), with mean and standard deviation of the metrics over the rest.
    #[arg(long, value_name = "NAMES")]
    pub(super) group: Option<String>,
    /// These columns, in this order (with --group: these metrics).
    #[arg(long, value_name = "NAMES")]
    pub(super) columns: Option<String>,
    /// No more than this many rows.
    #[arg(short = 'n', long, value_name = "N")]
    pub(super) limit: Option<usize>,
    #[arg(long, value_enum, default_value_t = TableFormat::Table)]
    pub(super) format: TableFormat,
}

#[derive(Debug, clap::Args)]
pub(super) struct Compare {
    /// A run (`latest`, a tag, or the beginning of its id), `RUN/STAGE`, a stage (its newest result), a key or a record.
    pub(super) a: String,
    /// Another one.
    pub(super) b: String,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Plot {
    /// What was measured: `loss`, `val_loss`. Over steps, if it was measured at steps; else against --against. `spectra`:
    /// the singular values that rank analyses left.
    pub(super) metric: String,
    /// Only executions of this stage or kind.
    pub(super) stage: Option<String>,
    /// One colour for each value of these (`method,rank`): means, with bands of one standard deviation over the rest.
    #[arg(long, value_name = "NAMES")]
    pub(super) by: Option<String>,
    /// Put the figures of whole executions against this [default: parameters, where they were counted].
    #[arg(long, value_name = "NAME")]
    pub(super) against: Option<String>,
    /// Only executions that fit (see `sepia help results`).
    #[arg(long = "where", value_name = "CONDITION")]
    pub(super) condition: Option<String>,
    /// Only executions of this run: `latest`, a tag, or the beginning of its id.
    #[arg(long)]
    pub(super) run: Option<String>,
    /// For spectra, only these weights; `*` stands for any text.
    #[arg(long, value_name = "PATTERN", default_value = "*")]
    pub(super) weights: String,
    /// A logarithmic x axis.
    #[arg(long)]
    pub(super) log_x: bool,
    /// A logarithmic y axis.
    #[arg(long)]
    pub(super) log_y: bool,
    /// Where to: a name that ends with .svg or .png [default: METRIC.svg].
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<Utf8PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Report {
    /// A run: `latest`, a tag, or the beginning of its id.
    #[arg(default_value = "latest")]
    pub(super) run: String,
    /// Where to [default: run-ID.html].
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<Utf8PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Dashboard {
    /// A run: a tag, the beginning of its id, or `latest`, which follows the newest.
    #[arg(default_value = "latest")]
    pub(super) run: String,
    /// The port on this machine [default: a free one].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) port: Option<u16>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Cache {
    #[command(subcommand)]
    pub(super) what: CacheCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum CacheCommand {
    /// Hash every stored output again and compare.
    Verify {
        /// Fetch what is damaged or missing from this remote.
        #[arg(long, value_name = "REMOTE")]
        repair_from: Option<String>,
    },
    /// Say how much room the store takes.
    Size,
    /// Remove what no record names, or what no kept run needs. A dry run, unless --yes is given.
    Gc(Gc),
}

#[derive(Debug, clap::Args)]
pub(super) struct Gc {
    /// Keep only what the newest N runs used or made.
    #[arg(long, value_name = "N")]
    pub(super) keep_last: Option<usize>,
    /// Keep what this run used or made (may be repeated).
    #[arg(long, value_name = "RUN")]
    pub(super) keep_run: Vec<String>,
    /// Keep what the run of this tag used or made (may be repeated); `*` stands for any text.
    #[arg(long, value_name = "TAG")]
    pub(super) keep_tag: Vec<String>,
    /// Remove what only this run used or made (may be repeated). What another run needs stays.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["keep_last", "keep_days"])]
    pub(super) run: Vec<String>,
    /// Remove what was used least recently until all outputs together are no larger: `20GiB`, `500 MB`. What other rules
    /// keep stays in any case.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(super) max_size: Option<u64>,
    /// Keep what runs of the last DAYS days used or made.
    #[arg(long, value_name = "DAYS")]
    pub(super) keep_days: Option<u32>,
    /// Really remove it.
    #[arg(long)]
    pub(super) yes: bool,
}

fn size(text: &str) -> Result<u64, String> {
    crate::manifest::parse_bytes(text).ok_or_else(|| "write a size such as `20GiB` or `500 MB`".to_owned())
}

#[derive(Debug, clap::Args)]
pub(super) struct Devices {
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Merge {
    /// Databases (`results.db`) or stores (`.sepia`).
    #[arg(required = true, value_name = "DATABASE")]
    pub(super) others: Vec<Utf8PathBuf>,
    /// Take its results as if they were made here, signed or not.
    #[arg(long)]
    pub(super) trust: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Divergences {
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

const REMOTE_HELP: &str = "\
Where it is:
  /mnt/share/sepia                  a folder that all can reach
  ssh://[user@]host[:port]/path     a folder on a host that has Sepia; `/~/path` is below your home there. Your own ssh is
                                    used, or what SEPIA_SSH says (`ssh -F config`); it must not have to ask you anything
  s3://bucket/prefix                a bucket (in a build with `--features s3`), with the keys of the environment
                                    (AWS_ACCESS_KEY_ID ...) or of ~/.aws/credentials (AWS_PROFILE)
Options follow a `?`, with `&` between them:
  timeout=SECONDS                   how long it may be silent [default: 60 for ssh, 30 for s3]
  sepia=PATH                        ssh: where Sepia is there [default: sepia]
  endpoint=URL, region=NAME         s3: a store that is not Amazon's";

#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    /// Over standard input and output.
    #[arg(long, required = true)]
    pub(super) stdio: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Export {
    /// A run: `latest`, a tag, or the beginning of its id.
    #[arg(default_value = "latest")]
    pub(super) run: String,
    /// Where to: a folder, or a file whose name ends with .tar or .tar.zst. It must not be there.
    #[arg(long, value_name = "DIR|FILE")]
    pub(super) to: Utf8PathBuf,
    /// The outputs, too: then nothing need run again.
    #[arg(long)]
    pub(super) outputs: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// What `sepia export` has written.
    #[arg(value_name = "DIR|FILE")]
    pub(super) from: Utf8PathBuf,
    /// Where the manifest and its files go [default: a folder beside the store, named after the run].
    #[arg(long, value_name = "DIR")]
    pub(super) to: Option<Utf8PathBuf>,
    /// Take its results as if they were made here, signed or not.
    #[arg(long)]
    pub(super) trust: bool,
}

const REPRODUCE_HELP: &str = "\
The stage runs in a folder of its own, without checkpoints, from the inputs in the store and the files that its parameters
name. The stored result stays what later runs use; a result that differs is kept beside it, and `sepia divergences` lists
both. Exit code 0: the same bytes; 1: they differ, or the stage failed.";

#[derive(Debug, clap::Args)]
#[command(after_help = REPRODUCE_HELP)]
pub(super) struct Reproduce {
    /// A stage (its newest result), `RUN/STAGE`, a key or a record.
    pub(super) what: String,
    /// The manifest that the stage's files are beside [default: where the run had it].
    #[arg(short, long, value_name = "FILE")]
    pub(super) manifest: Option<Utf8PathBuf>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Tag {
    /// A run: `latest`, a tag, or the beginning of its id [without: list the tags].
    #[arg(requires = "name")]
    pub(super) run: Option<String>,
    /// The name: letters, digits, `-`, `_` and `.`. If another run has it, it moves.
    pub(super) name: Option<String>,
    /// Take this name away.
    #[arg(long, value_name = "NAME", conflicts_with = "run")]
    pub(super) delete: Option<String>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Remote {
    #[command(subcommand)]
    pub(super) what: RemoteCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum RemoteCommand {
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
pub(super) struct Push {
    /// The remote (not needed if there is but one), then runs or stages [default: everything].
    #[arg(value_name = "[REMOTE] [RUN|STAGE]")]
    pub(super) words: Vec<String>,
    /// Figures and provenance, without outputs.
    #[arg(long, conflicts_with = "models")]
    pub(super) results_only: bool,
    /// Of the outputs, only models.
    #[arg(long)]
    pub(super) models: bool,
    /// `json`: one event a line on standard output, with progress in bytes.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Pull {
    /// The remote [default: the only one].
    pub(super) remote: Option<String>,
    /// Only the outputs of this run: `latest`, a tag, or the beginning of its id (may be repeated).
    #[arg(long)]
    pub(super) run: Vec<String>,
    /// Only the outputs of this stage (may be repeated).
    #[arg(long, value_name = "STAGE")]
    pub(super) node: Vec<String>,
    /// Figures and provenance, without outputs.
    #[arg(long, conflicts_with = "models")]
    pub(super) results_only: bool,
    /// Of the outputs, only models.
    #[arg(long)]
    pub(super) models: bool,
    /// `json`: one event a line on standard output, with progress in bytes.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Key {
    #[command(subcommand)]
    pub(super) what: KeyCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
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

#[derive(Debug, clap::Args)]
pub(super) struct Help {
    /// The kind, or a command of Sepia, or `database`: the tables of results.db, with queries to copy.
    pub(super) kind: Option<String>,
}
