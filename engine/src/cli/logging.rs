//! Developer logs: off unless asked for with `-vv` or `SEPIA_LOG`.

use tracing_subscriber::EnvFilter;

pub(super) fn start(verbose: u8) {
    let filter = match std::env::var("SEPIA_LOG") {
        Ok(directives) => EnvFilter::new(directives),
        Err(_) if verbose >= 3 => EnvFilter::new("sepia=trace,sepia_engine=trace,sepia_cache=trace,sepia_stages=trace"),
        Err(_) if verbose == 2 => EnvFilter::new("sepia=debug,sepia_engine=debug,sepia_cache=debug,sepia_stages=debug"),
        Err(_) => return,
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(true).init();
}
