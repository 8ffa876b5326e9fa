//! `sepia serve`.

use std::{fs::File, io::ErrorKind, os::fd::AsFd as _};

use super::{
    args,
    exit::{Exit, Failure},
};

/// Answers until the other side ends. Whoever can log in here may do what the folder's permissions allow, and no more.
pub(super) fn serve(args: &args::Serve) -> Result<Exit, Failure> {
    debug_assert!(args.stdio, "there is no other way yet, and the argument is required");
    // Past the buffers of the standard streams: what goes over them is large, and never text.
    let input = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let output = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    match sepia_cache::serve(input, output) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Exit::Fine),
    }
}
