//! Where a program of the author's is.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use camino::Utf8Path;

/// What was found in PATH, by name: most stages of a plan run the same few programs.
static FOUND: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());

/// Where a program is. One named by a relative path is one of the copied files in the folder `work`; one without a slash is
/// looked up in PATH: here, and not by the standard library, which would have to copy this whole process (`fork`) to do it
/// with an environment that is not ours. That took most of the time of a short stage, and the more the larger the plan.
pub(super) fn locate(program: &str, work: &Utf8Path) -> PathBuf {
    if program.contains('/') {
        return work.join(program).into();
    }
    let mut known = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = known.get(program).filter(|path| runs(path)) {
        return path.clone();
    }
    let Some(path) = std::env::var_os("PATH").and_then(|all| search(program, &all, work)) else {
        // Starting it says so.
        return program.into();
    };
    if !path.starts_with(work) {
        known.insert(program.to_owned(), path.clone());
    }
    path
}

/// The first in a list of folders; those that are relative begin at `work`, where the program will be.
fn search(program: &str, folders: &OsStr, work: &Utf8Path) -> Option<PathBuf> {
    std::env::split_paths(folders).map(|folder| work.as_std_path().join(folder).join(program)).find(|path| runs(path))
}

fn runs(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}
