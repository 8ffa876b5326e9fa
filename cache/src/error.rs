//! Everything that can go wrong with a store, and what to do about it.
//!
//! Every message names the path and, where there is one, the way out.

use std::io;

use camino::{Utf8Path, Utf8PathBuf};

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was being done: `read`, `move into the store`.
        action: &'static str,
        /// To what.
        path: Utf8PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// No space, or no quota, is left.
    #[error(
        "the disk is full: cannot {action} {path}; free some space (`sepia cache gc` lists what the store can give up) and run again"
    )]
    OutOfSpace {
        /// What was being done.
        action: &'static str,
        /// Where.
        path: Utf8PathBuf,
    },
    /// The store's folder cannot be written to, or was opened for reading only.
    #[error("the store is read-only: cannot {action} {path}; make it writable or choose another store with --store")]
    ReadOnly {
        /// What was being done.
        action: &'static str,
        /// Where.
        path: Utf8PathBuf,
    },
    /// There is no store where one was expected.
    #[error("there is no store at {root}; `sepia run` makes one, --store names another")]
    NoStore {
        /// Where it was looked for.
        root: Utf8PathBuf,
    },
    /// A file or something else stands where the store's folder should be.
    #[error("{path} is not a folder; move it away or choose another store with --store")]
    NotAFolder {
        /// What stands there.
        path: Utf8PathBuf,
    },
    /// The folder exists and holds something else.
    #[error("{root} is not a store: it has no `format` file but holds `{found}`; choose an empty or missing folder")]
    NotAStore {
        /// The folder.
        root: Utf8PathBuf,
        /// The first thing found in it.
        found: String,
    },
    /// The `format` file says something that no version of Sepia wrote.
    #[error("{path} does not say which format the store has (found `{found}`, expected `sepia-store 1`)")]
    BadFormat {
        /// The `format` file.
        path: Utf8PathBuf,
        /// Its first line.
        found: String,
    },
    /// The store was written by a newer Sepia. Nothing was changed.
    #[error(
        "{path}: the store has format {found}, this Sepia knows up to {known}; use a newer Sepia (nothing was changed)"
    )]
    NewerFormat {
        /// The `format` file.
        path: Utf8PathBuf,
        /// The version it states.
        found: u32,
        /// The newest version that this code knows.
        known: u32,
    },
    /// The database was written by a newer Sepia. Nothing was changed.
    #[error(
        "{path}: the database has schema {found}, this Sepia knows up to {known}; use a newer Sepia (nothing was changed)"
    )]
    NewerDatabase {
        /// The database.
        path: Utf8PathBuf,
        /// Its `user_version`.
        found: i64,
        /// The newest that this code knows.
        known: i64,
    },
    /// The file is not a database, not one of Sepia's, or damaged.
    #[error(
        "{path} is not a usable results database ({reason}); move it away: the next command builds it anew from records/"
    )]
    DatabaseDamaged {
        /// The database.
        path: Utf8PathBuf,
        /// What SQLite says.
        reason: String,
    },
    /// Another process kept the database locked for longer than the busy timeout.
    #[error("{path} is locked by another process (for more than {seconds} s); wait for it to finish and try again")]
    DatabaseBusy {
        /// The database.
        path: Utf8PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// Another answer of SQLite's.
    #[error("{path}: {source}")]
    Database {
        /// The database.
        path: Utf8PathBuf,
        /// SQLite's answer.
        source: rusqlite::Error,
    },
    /// A stage did not leave the output it declared.
    #[error("there is no output at {path}; the stage has to write it before it finishes")]
    OutputMissing {
        /// Where it was looked for.
        path: Utf8PathBuf,
    },
    /// An output that the store cannot keep.
    #[error("{path} is {what}; an output may hold files and folders with UTF-8 names only")]
    UnsupportedOutput {
        /// The thing, its name made printable where needed.
        path: String,
        /// `a symbolic link`, `a socket`, ...
        what: &'static str,
    },
    /// An output changed between hashing and insertion.
    #[error("{path} changed while it was being stored; nothing may write to an output after its stage has finished")]
    OutputChanged {
        /// The output.
        path: Utf8PathBuf,
    },
    /// Bytes of the store are not what they should be.
    #[error(transparent)]
    Damage(#[from] crate::object::Damage),
    /// Text that should have been a digest.
    #[error("`{text}` is not a digest: expected 64 hexadecimal digits")]
    BadDigest {
        /// The text.
        text: String,
    },
    /// A name that cannot be used as a file name of the store.
    #[error("`{text}` cannot be a {what}: use letters, digits, `-`, `_` and `.`, and begin with a letter or digit")]
    BadName {
        /// `run id`, ...
        what: &'static str,
        /// The text.
        text: String,
    },
    /// A record that cannot be written down.
    #[error("the record of `{node}` cannot be kept: {why}")]
    BadRecord {
        /// The node it is about.
        node: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nothing of this name.
    #[error("there is no {what} `{text}` in {path}; `sepia runs` lists what there is")]
    NotFound {
        /// `run`, `record`, ...
        what: &'static str,
        /// What was asked for.
        text: String,
        /// The database asked.
        path: Utf8PathBuf,
    },
    /// A prefix that fits several.
    #[error("`{text}` could be any of {}; write more of it", matches.join(", "))]
    Ambiguous {
        /// What was asked for.
        text: String,
        /// The first few that fit.
        matches: Vec<String>,
    },
    /// A tag that people gave to several runs without knowing of each other.
    #[error("`{tag}` was given to several runs ({}); `sepia tag RUN {tag}` decides which one it names", runs.join(", "))]
    TagOfSeveral {
        /// The tag.
        tag: String,
        /// The runs.
        runs: Vec<String>,
    },
    /// Text or a file that should have been a key or a signature.
    #[error(
        "`{text}` is not a key of Sepia's: expected `ed25519:` and 64 hexadecimal digits; `sepia key new` makes one"
    )]
    BadKey {
        /// The text, or the file.
        text: String,
    },
    /// Something that came from elsewhere is not what it should be. Nothing of it was taken.
    #[error("{source_name} is refused: {why} (nothing was changed)")]
    Refused {
        /// The database, the remote and object, ...
        source_name: String,
        /// What is wrong with it.
        why: String,
    },
    /// No remote of this name, or several and no name.
    #[error("{}", no_remote(name, known))]
    NoRemote {
        /// What was asked for; empty, if nothing was.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A remote did not do what it was asked.
    #[error("the remote {remote} cannot {action}: {why}")]
    Remote {
        /// Its address.
        remote: String,
        /// `read records/...`
        action: String,
        /// Its answer.
        why: String,
    },
    /// The file system does not lock files.
    #[error("cannot lock {path}: {source}; the store needs a file system with flock (Lustre: mount with -o flock)")]
    NoLocks {
        /// The lock file.
        path: Utf8PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Something must not happen while runs are going on.
    #[error("the store {root} is in use by {}; wait for it to finish and try again", users.join(", "))]
    InUse {
        /// The store.
        root: Utf8PathBuf,
        /// Who holds it.
        users: Vec<String>,
    },
    /// A test stopped the code here, as a kill would.
    #[cfg(test)]
    #[error("stopped before `{0}`")]
    StoppedByTest(&'static str),
}

fn no_remote(name: &str, known: &[String]) -> String {
    let known = match known {
        [] => "this store has none; `sepia remote add NAME URL` adds one".to_owned(),
        known => format!("there are {}", known.join(", ")),
    };
    if name.is_empty() { format!("say which remote: {known}") } else { format!("there is no remote `{name}`: {known}") }
}

/// `Result` with [`StoreError`].
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

impl StoreError {
    /// The error for `source`, which happened while trying to `action` `path`. A full disk and a read-only one get
    /// kinds of their own.
    pub(crate) fn io(action: &'static str, path: &Utf8Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::OutOfSpace { action, path },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { action, path },
            _ => Self::Io { action, path, source },
        }
    }
}

/// Adds the action and the path to an [`io::Error`].
pub(crate) trait IoContext<T> {
    /// See [`StoreError::io`].
    fn at(self, action: &'static str, path: &Utf8Path) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Utf8Path) -> Result<T> {
        self.map_err(|source| StoreError::io(action, path, source))
    }
}

impl<T> IoContext<T> for rustix::io::Result<T> {
    fn at(self, action: &'static str, path: &Utf8Path) -> Result<T> {
        self.map_err(|source| StoreError::io(action, path, source.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Fixture, key, record};

    #[test]
    fn what_the_system_refuses_is_told_apart() {
        let path = Utf8Path::new("/store/x");
        let text = |code: i32| StoreError::io("write", path, io::Error::from_raw_os_error(code)).to_string();
        // ENOSPC, EDQUOT, EROFS, EIO
        assert!(text(28).starts_with("the disk is full: cannot write /store/x"));
        assert!(text(122).starts_with("the disk is full: cannot write /store/x"));
        assert!(text(30).starts_with("the store is read-only: cannot write /store/x"));
        assert!(text(5).starts_with("cannot write /store/x: Input/output error"));
    }

    #[test]
    fn a_database_that_cannot_grow_says_so_and_shows_nothing_of_the_batch() {
        let f = Fixture::new();
        let mut large = record("a", &[("out", f.object(b"a"))]);
        (0..10_000).for_each(|step| large.metrics.push("loss", Some(step), 0.5));
        let batch = [record("b", &[]), large];
        let limit = |pages: i64| f.store.query(|c| c.pragma_update(None, "max_page_count", pages)).unwrap();
        limit(1);
        let error = f.store.commit(&batch).unwrap_err();
        assert!(matches!(error, StoreError::OutOfSpace { .. }), "{error:?}");
        assert!(f.store.executions().unwrap().is_empty());
        limit(1_000_000);
        f.store.commit(&batch).unwrap();
        assert_eq!(f.store.executions().unwrap().len(), 2);
        assert_eq!(f.store.index().unwrap().candidates(&key("a")).unwrap().len(), 1);
    }
}
