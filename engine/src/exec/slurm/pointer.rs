//! Which task computes a key: one small file for each key that is with a job, by which other runs find the job.

use camino::{Utf8Path, Utf8PathBuf};
use sepia_cache::{Digest, Store};

use super::files::{Folder, jobs_dir, write_whole};

/// Which task computes a key.
pub(super) fn pointer(jobs: &Utf8Path, key: &Digest) -> Option<(String, usize)> {
    let text = fs_err::read_to_string(pointer_path(jobs, key)).ok()?;
    let (batch, n) = text.trim().split_once(' ')?;
    Some((batch.to_owned(), n.parse().ok()?))
}

pub(super) fn set_pointer(jobs: &Utf8Path, key: &Digest, batch: &str, n: usize) -> std::io::Result<()> {
    write_whole(&pointer_path(jobs, key), format!("{batch} {n}\n").as_bytes())
}

/// Removes the pointer of a key, if it is still the one to this task.
pub(super) fn drop_pointer(jobs: &Utf8Path, key: &Digest, batch: &str, n: usize) {
    if pointer(jobs, key).is_some_and(|there| there.0 == batch && there.1 == n) {
        let _ = fs_err::remove_file(pointer_path(jobs, key));
    }
}

/// Removes the pointers to batches that are no more.
pub(super) fn drop_dangling(jobs: &Utf8Path) -> std::io::Result<()> {
    for entry in jobs.read_dir_utf8()? {
        let entry = entry?;
        let Some(Ok(key)) = entry.file_name().strip_suffix(".key").map(str::parse::<Digest>) else { continue };
        if pointer(jobs, &key).is_none_or(|(batch, _)| !jobs.join(batch).is_dir()) {
            fs_err::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn pointer_path(jobs: &Utf8Path, key: &Digest) -> Utf8PathBuf {
    jobs.join(format!("{key}.key"))
}

/// Whether a key is with a job that has not ended.
pub(crate) fn is_under_way(store: &Store, key: &Digest) -> bool {
    let jobs = jobs_dir(store);
    pointer(&jobs, key).is_some_and(|(batch, n)| {
        let folder = Folder::of(&jobs, &batch);
        folder.path.is_dir() && !folder.is_done(n)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_goes_only_with_its_own_task() {
        let dir = tempfile::tempdir().unwrap();
        let jobs = Utf8Path::from_path(dir.path()).unwrap();
        let key = Digest::of_bytes(b"k");
        set_pointer(jobs, &key, "b", 3).unwrap();
        assert_eq!(pointer(jobs, &key), Some(("b".to_owned(), 3)));
        drop_pointer(jobs, &key, "older", 3);
        assert!(pointer(jobs, &key).is_some());
        drop_pointer(jobs, &key, "b", 3);
        assert!(pointer(jobs, &key).is_none());
    }
}
