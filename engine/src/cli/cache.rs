//! `sepia cache`.

use super::{
    args::{self, CacheCommand, Global},
    exit::{Exit, Failure},
};

pub(super) fn cache(global: &Global, args: &args::Cache) -> Result<Exit, Failure> {
    let _ = (global, &args.what, CacheCommand::Verify);
    Err(Failure::usage("x", "x"))
}
