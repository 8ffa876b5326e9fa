//! Results: as tables, pictures and pages.

use camino::Utf8PathBuf;
use clap::ValueEnum;

use super::Format;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum TableFormat {
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
pub(in crate::cli) struct Results {
    /// Only executions of this stage or kind.
    pub(in crate::cli) stage: Option<String>,
    /// Only executions of this run: `latest`, a tag, or the beginning of its id.
    #[arg(long)]
    pub(in crate::cli) run: Option<String>,
    /// Only executions that fit: `method = galore and lr < 0.01`.
    #[arg(long = "where", value_name = "CONDITION")]
    pub(in crate::cli) condition: Option<String>,
    /// In this order: `val_loss`, or `-accuracy` for the highest first; several with commas.
    #[arg(long, value_name = "NAMES", allow_hyphen_values = true)]
    pub(in crate::cli) sort: Option<String>,
    /// One row for each value of these (`method,lr`), with mean and standard deviation of the metrics over the rest.
    #[arg(long, value_name = "NAMES")]
    pub(in crate::cli) group: Option<String>,
    /// These columns, in this order (with --group: these metrics).
    #[arg(long, value_name = "NAMES")]
    pub(in crate::cli) columns: Option<String>,
    /// No more than this many rows.
    #[arg(short = 'n', long, value_name = "N")]
    pub(in crate::cli) limit: Option<usize>,
    #[arg(long, value_enum, default_value_t = TableFormat::Table)]
    pub(in crate::cli) format: TableFormat,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Compare {
    /// A run (`latest`, a tag, or the beginning of its id), `RUN/STAGE`, a stage (its newest result), a key or a record.
    pub(in crate::cli) a: String,
    /// Another one.
    pub(in crate::cli) b: String,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(in crate::cli) format: Format,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Plot {
    /// What was measured: `loss`, `val_loss`. Over steps, if it was measured at steps; else against --against. `spectra`:
    /// the singular values that rank analyses left.
    pub(in crate::cli) metric: String,
    /// Only executions of this stage or kind.
    pub(in crate::cli) stage: Option<String>,
    /// One colour for each value of these (`method,rank`): means, with bands of one standard deviation over the rest.
    #[arg(long, value_name = "NAMES")]
    pub(in crate::cli) by: Option<String>,
    /// Put the figures of whole executions against this [default: parameters, where they were counted].
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) against: Option<String>,
    /// Only executions that fit (see `sepia help results`).
    #[arg(long = "where", value_name = "CONDITION")]
    pub(in crate::cli) condition: Option<String>,
    /// Only executions of this run: `latest`, a tag, or the beginning of its id.
    #[arg(long)]
    pub(in crate::cli) run: Option<String>,
    /// For spectra, only these weights; `*` stands for any text.
    #[arg(long, value_name = "PATTERN", default_value = "*")]
    pub(in crate::cli) weights: String,
    /// A logarithmic x axis.
    #[arg(long)]
    pub(in crate::cli) log_x: bool,
    /// A logarithmic y axis.
    #[arg(long)]
    pub(in crate::cli) log_y: bool,
    /// Where to: a name that ends with .svg or .png [default: METRIC.svg].
    #[arg(short, long, value_name = "FILE")]
    pub(in crate::cli) output: Option<Utf8PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Report {
    /// A run: `latest`, a tag, or the beginning of its id.
    #[arg(default_value = "latest")]
    pub(in crate::cli) run: String,
    /// Where to [default: run-ID.html].
    #[arg(short, long, value_name = "FILE")]
    pub(in crate::cli) output: Option<Utf8PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Dashboard {
    /// A run: a tag, the beginning of its id, or `latest`, which follows the newest.
    #[arg(default_value = "latest")]
    pub(in crate::cli) run: String,
    /// The port on this machine [default: a free one].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(in crate::cli) port: Option<u16>,
}
