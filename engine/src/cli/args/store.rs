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
    /// Keep what runs of the last DAYS days used or made.
    #[arg(long, value_name = "DAYS")]
    pub(in crate::cli) keep_days: Option<u32>,
    /// Really remove it.
    #[arg(long)]
    pub(in crate::cli) yes: bool,
}
