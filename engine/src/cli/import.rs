//! `sepia import`: takes what `sepia export` made. Everything is checked before anything is changed.

use camino::{Utf8Path, Utf8PathBuf};
use sepia_cache::{Digest, Parcel, Store};

use super::{
    args::{self, Global},
    exit::{Exit, Failure},
    export::{About, DOWNLOADS, PROJECT, parent},
    merge, output, project,
};
use crate::{
    fetch,
    report::figures::{bytes, count},
};

pub(super) fn import(global: &Global, args: &args::Import) -> Result<Exit, Failure> {
    if args.from.symlink_metadata().is_err() {
        return Err(Failure::usage("import::not-found", format!("there is no {}", args.from)));
    }
    let store = project::make_store(global)?;
    if args.from.is_dir() {
        let parcel = Parcel::check(&args.from)?;
        return take(global, args, &store, &args.from, &parcel);
    }
    let unpacked = tempfile::Builder::new().prefix(".import-").tempdir_in(store.cache_dir())?;
    let folder = Utf8PathBuf::try_from(unpacked.path().to_owned()).map_err(|error| error.into_io_error())?;
    let parcel = Parcel::unpack(&args.from, &folder)?;
    take(global, args, &store, &folder, &parcel)
}

fn take(
    global: &Global,
    args: &args::Import,
    store: &Store,
    folder: &Utf8Path,
    parcel: &Parcel,
) -> Result<Exit, Failure> {
    let strange = |why: String| Failure::usage("import::unreadable", format!("{}: {why}", args.from));
    let about: About = serde_json::from_value(parcel.about.clone()).map_err(|error| strange(error.to_string()))?;
    if !parcel.below(PROJECT).any(|(path, _)| path == about.manifest) {
        return Err(strange(format!("there is no manifest {} in it", about.manifest)));
    }
    let short = &parcel.run[..parcel.run.len().min(8)];
    let to = match &args.to {
        Some(to) => to.clone(),
        // Beside the store, so that runs there find it.
        None => parent(store.root()).join(format!("{}-{short}", about.manifest.file_stem().unwrap_or("run"))),
    };
    let new = new_files(&to, parcel)?;
    let bar = output::Bar::new(global, &format!("importing {}", args.from));
    let taken = store.take_from_parcel(folder, parcel, args.trust, &|progress| {
        bar.set_bytes(progress.bytes, progress.of_bytes);
    })?;
    bar.end();
    for path in &new {
        copy_new(&folder.join(PROJECT).join(path), &to.join(path))?;
    }
    // What was fetched is hashed again before a stage reads it.
    for (path, _) in parcel.below(DOWNLOADS) {
        let place = fetch::folder(store).join(&path);
        if !place.exists() {
            copy_new(&folder.join(DOWNLOADS).join(&path), &place)?;
        }
    }
    let mut text = format!("imported run {short}: {}", merge::text(&taken.merged));
    text.push_str(&match (taken.objects, taken.absent) {
        (0, 0) => String::new(),
        (0, _) => "; its outputs did not come along".to_owned(),
        (objects, _) => format!("; {}, {}", count(objects, "output"), bytes(taken.bytes)),
    });
    output::data(&format!("{text}\n"));
    output::note(&format!("{:>12} {to}: {}", "Wrote", count(new.len() as u64, "file")));
    if !args.trust {
        output::note(
            "its results count only if someone in `trusted_keys` has signed them; `--trust` takes all of them",
        );
    }
    let manifest = to.join(&about.manifest);
    let mut words = vec!["sepia".to_owned(), "run".to_owned(), quoted(manifest.as_str())];
    words.extend(about.arguments.iter().map(|word| quoted(word)));
    let found = project::store_path(&Global::default(), Some(&manifest))?;
    if found.canonicalize_utf8().ok() != store.root().canonicalize_utf8().ok() {
        words.extend(["--store".to_owned(), quoted(store.root().as_str())]);
    }
    output::note(&format!("{:>12} {}", "Run it with", words.join(" ")));
    Ok(Exit::Fine)
}

/// The files of the project that are not there yet. One that is there and differs is an error: nothing is overwritten.
fn new_files(to: &Utf8Path, parcel: &Parcel) -> Result<Vec<Utf8PathBuf>, Failure> {
    let mut new = Vec::new();
    for (path, listed) in parcel.below(PROJECT) {
        let place = to.join(&path);
        // A link in the way could lead anywhere.
        let parents = path.ancestors().skip(1).filter(|parent| !parent.as_str().is_empty());
        for parent in parents.map(|parent| to.join(parent)) {
            if parent.symlink_metadata().is_ok_and(|metadata| !metadata.is_dir()) {
                return Err(in_the_way(&parent, to));
            }
        }
        match place.symlink_metadata() {
            Err(_) => new.push(path),
            Ok(metadata) if metadata.is_file() && Digest::of_file(&place)? == listed.digest => {}
            Ok(_) => return Err(in_the_way(&place, to)),
        }
    }
    Ok(new)
}

fn in_the_way(path: &Utf8Path, to: &Utf8Path) -> Failure {
    Failure::usage("import::exists", format!("{path} is there already and is something else"))
        .help(format!("nothing is overwritten: move {to} away, or name another folder with `--to`"))
}

/// Copies to a name that is not taken, whole or not at all.
fn copy_new(from: &Utf8Path, to: &Utf8Path) -> std::io::Result<()> {
    let folder = parent(to);
    fs_err::create_dir_all(&folder)?;
    let mut part = tempfile::Builder::new().prefix(".import-").tempfile_in(&folder)?;
    std::io::copy(&mut fs_err::File::open(from)?, &mut part)?;
    let file = part.persist_noclobber(to).map_err(|error| error.error)?;
    // Temporary files are for their owner alone; these are as others that the user makes.
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_for_a_shell() {
        assert_eq!(quoted("train.lr=0.1"), "train.lr=0.1");
        assert_eq!(quoted("train.lr=[0.1, 0.01]"), "'train.lr=[0.1, 0.01]'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
