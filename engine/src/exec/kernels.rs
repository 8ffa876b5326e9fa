//! The compiled and tuned kernels of a GPU: each child gets a copy.
//!
//! CubeCL keeps them in a database that several processes cannot share: its coordination between them panics, now and then
//! even between threads of one, see [`failed`]. So a child works on a copy of its own, and what it has learned replaces the
//! kept one when it has ended well. Kept is a folder that nobody writes to, named by a link: who copies sees a whole one,
//! whatever others put in its place meanwhile, on network file systems, too. Whatever goes wrong here costs a child the time to compile its kernels again, and never its result.

use camino::{Utf8Path, Utf8PathBuf};

/// How often a stage is begun whose database of kernels fails. The last time it has none.
pub(super) const TRIES: u32 = 6;

/// What the database (turso_core 0.8.3, in CubeCL 0.11) says when two threads of a child meet in it. Seen where several
/// children shared one, and in 10 of 42 starts from a copy that lacked the file which processes share; in none of 36 with it.
const MEETING: &str = "reader slot released by non-owner";

/// Whether the database has failed in a child that began to write to a log here.
pub(super) fn failed(log: &Utf8Path, begun: u64) -> bool {
    let text = fs_err::read(log).unwrap_or_default();
    let own = usize::try_from(begun).ok().and_then(|begun| text.get(begun..)).unwrap_or_default();
    own.windows(MEETING.len()).any(|words| words == MEETING.as_bytes())
}

/// What a child has of the kernels.
pub(super) struct Kernels {
    /// Where they are kept for the store.
    kept: Utf8PathBuf,
    /// Where the child has them.
    own: Utf8PathBuf,
    /// Bytes that it was given.
    given: u64,
}

/// The link to the kept folder.
const CURRENT: &str = "current";

impl Kernels {
    /// Copies what is kept to `own`, which must not exist yet.
    ///
    /// # Errors
    /// When no folder can be made there.
    pub(super) fn lend(kept: &Utf8Path, own: Utf8PathBuf) -> std::io::Result<Self> {
        fs_err::create_dir_all(&own)?;
        if let Err(error) = copy_current(kept, &own) {
            tracing::debug!(%error, "kernels are not copied");
            fs_err::remove_dir_all(&own)?;
            fs_err::create_dir(&own)?;
        }
        let given = size(&own);
        Ok(Self { kept: kept.to_owned(), own, given })
    }

    /// Where the child has them.
    pub(super) fn folder(&self) -> &Utf8Path {
        &self.own
    }

    /// Keeps what a child has learned that has ended well.
    pub(super) fn give_back(self) {
        if size(&self.own) > self.given
            && let Err(error) = self.replace()
        {
            tracing::debug!(%error, "kernels are not kept");
        }
    }

    fn replace(&self) -> std::io::Result<()> {
        fs_err::create_dir_all(&self.kept)?;
        // Names only grow: who is copying from a folder never finds another one of its name.
        let mut number = self.numbers().max().unwrap_or(0) + 1;
        while let Err(error) = fs_err::create_dir(self.kept.join(number.to_string())) {
            if error.kind() != std::io::ErrorKind::AlreadyExists {
                return Err(error);
            }
            number += 1;
        }
        // Over the empty folder that was made to have the name.
        fs_err::rename(&self.own, self.kept.join(number.to_string()))?;
        let link = self.kept.join(format!("{CURRENT}-{number}"));
        fs_err::os::unix::fs::symlink(number.to_string(), &link)?;
        fs_err::rename(&link, self.kept.join(CURRENT))?;
        for older in self.numbers().filter(|other| *other < number) {
            fs_err::remove_dir_all(self.kept.join(older.to_string()))?;
        }
        Ok(())
    }

    /// The names of kept folders, the current one among them.
    fn numbers(&self) -> impl Iterator<Item = u64> {
        let listed = fs_err::read_dir(&self.kept).into_iter().flatten().flatten();
        listed.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
    }
}

/// Files of the kept folder, all of them: without the one that its processes share (`*-tshm`) the database makes that anew
/// when it is opened, and its threads meet far more often.
fn copy_current(kept: &Utf8Path, own: &Utf8Path) -> std::io::Result<()> {
    let Ok(current) = fs_err::read_link(kept.join(CURRENT)) else { return Ok(()) };
    for entry in fs_err::read_dir(kept.as_std_path().join(current))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs_err::copy(entry.path(), own.as_std_path().join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn size(folder: &Utf8Path) -> u64 {
    let files = fs_err::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).filter(std::fs::Metadata::is_file).map(|file| file.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        _root: tempfile::TempDir,
        root: Utf8PathBuf,
    }

    impl Place {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let path = Utf8PathBuf::from_path_buf(root.path().to_owned()).unwrap();
            Self { _root: root, root: path }
        }

        fn lend(&self, child: &str) -> Kernels {
            Kernels::lend(&self.root.join("kept"), self.root.join(child)).unwrap()
        }

        fn kept(&self) -> Vec<String> {
            let listed = fs_err::read_dir(self.root.join("kept")).into_iter().flatten().flatten();
            let mut names: Vec<String> = listed.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        }
    }

    #[test]
    fn a_failure_counts_for_the_child_that_wrote_it() {
        let place = Place::new();
        let log = place.root.join("log");
        assert!(!failed(&log, 0));
        fs_err::write(&log, format!("panicked at x:\n{MEETING} | slot_index=0\nagain\n")).unwrap();
        assert!(failed(&log, 0));
        assert!(!failed(&log, fs_err::metadata(&log).unwrap().len()));
        assert!(!failed(&log, 1 << 40));
    }

    #[test]
    fn what_one_child_learned_the_next_one_has() {
        let place = Place::new();
        let first = place.lend("a");
        fs_err::write(first.folder().join("default.db"), "compiled").unwrap();
        fs_err::write(first.folder().join("default.db-tshm"), "of processes").unwrap();
        first.give_back();
        let second = place.lend("b");
        assert_eq!(fs_err::read_to_string(second.folder().join("default.db")).unwrap(), "compiled");
        assert_eq!(fs_err::read_to_string(second.folder().join("default.db-tshm")).unwrap(), "of processes");
        // Nothing new: what is kept stays.
        second.give_back();
        assert_eq!(place.kept(), ["1", "current"]);
    }

    #[test]
    fn children_beside_each_other_do_not_meet_and_the_last_one_counts() {
        let place = Place::new();
        let (one, two) = (place.lend("a"), place.lend("b"));
        fs_err::write(one.folder().join("default.db"), "one").unwrap();
        fs_err::write(two.folder().join("default.db"), "two").unwrap();
        one.give_back();
        let between = place.lend("c");
        assert_eq!(fs_err::read_to_string(between.folder().join("default.db")).unwrap(), "one");
        two.give_back();
        assert_eq!(place.kept(), ["2", "current"]);
        let after = place.lend("d");
        assert_eq!(fs_err::read_to_string(after.folder().join("default.db")).unwrap(), "two");
        // A child that failed gives nothing back, and what is kept may be cleared away at any time.
        drop(after);
        fs_err::remove_dir_all(place.root.join("kept/2")).unwrap();
        let without = place.lend("e");
        assert!(!without.folder().join("default.db").exists());
        fs_err::write(without.folder().join("default.db"), "anew").unwrap();
        without.give_back();
        let last = place.lend("f");
        assert_eq!(fs_err::read_to_string(last.folder().join("default.db")).unwrap(), "anew");
    }
}
