//! `sepia fmt [--check]`.

use std::io::Read as _;

use camino::Utf8Path;

use super::{
    args,
    exit::{Exit, Failure},
    output,
};
use crate::{diagnostic::Sources, manifest::format};

pub(super) fn fmt(args: &args::Fmt) -> Result<Exit, Failure> {
    let mut exit = Exit::Fine;
    for path in &args.manifests {
        let text = if path == "-" { stdin()? } else { read(path)? };
        let mut sources = Sources::default();
        let formatted = format(&mut sources, path.as_str(), &text).map_err(|found| Failure {
            exit: Exit::Usage,
            found,
            sources,
        })?;
        if path == "-" && !args.check {
            output::data(&formatted);
        } else if formatted != text && args.check {
            output::note(&format!("{path} is not formatted: `sepia fmt {path}` does it"));
            exit = Exit::StageFailed;
        } else if formatted != text {
            replace(path, &formatted)?;
            output::note(&format!("formatted {path}"));
        }
    }
    Ok(exit)
}

fn stdin() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

fn read(path: &Utf8Path) -> Result<String, Failure> {
    let failed = |error: std::io::Error| {
        Failure::usage("manifest::unreadable", error.to_string())
            .help("name files that are there, or `-` for standard input")
    };
    fs_err::read_to_string(path).map_err(failed)
}

/// Whole or not at all: the new text is written beside the old one and takes its place.
fn replace(path: &Utf8Path, text: &str) -> Result<(), Failure> {
    // A link stays a link.
    let path = path.canonicalize_utf8()?;
    let folder = path.parent().unwrap_or(Utf8Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    file.as_file().set_permissions(fs_err::metadata(&path)?.permissions())?;
    file.persist(&path).map_err(|error| error.error)?;
    Ok(())
}
