//! Looking after the store.

use clap::Subcommand;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Cache {
    #[command(subcommand)]
    pub(in crate::cli) what: CacheCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum CacheCommand {
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
pub(in crate::cli) struct Gc {
    /// Keep only what the newest N runs used or made.
    #[arg(long, value_name = "N")]
    pub(in crate::cli) keep_last: Option<usize>,
    /// Keep what this run used or made (may be repeated).
    #[arg(long, value_name = "RUN")]
    pub(in crate::cli) keep_run: Vec<String>,
    /// Keep what the run of this tag used or made (may be repeated); `*` stands for any text.
    #[arg(long, value_name = "TAG")]
    pub(in crate::cli) keep_tag: Vec<String>,
    /// Remove what only this run used or made (may be repeated). What another run needs stays.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["keep_last", "keep_days"])]
    pub(in crate::cli) run: Vec<String>,
    /// Remove what was used least recently until all outputs together are no larger: `20GiB`, `500 MB`. What other rules
    /// keep stays in any case.
    #[arg(long, value_name = "SIZE", value_parser = super::run::size)]
    pub(in crate::cli) max_size: Option<u64>,
    /// Keep what runs of the last DAYS days used or made.
    #[arg(long, value_name = "DAYS")]
    pub(in crate::cli) keep_days: Option<u32>,
    /// Really remove it.
    #[arg(long)]
    pub(in crate::cli) yes: bool,
}
