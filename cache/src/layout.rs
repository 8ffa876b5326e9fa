//! Where things lie in a store, and the `format` file that says so.
//!
//! ```text
//! .sepia/
//!   .gitignore            `*`: a store never gets into a commit by accident
//!   format                `sepia-store 1`
//!   results.db            the database: an index over records/ and runs/ that can be thrown away
//!   objects/ab/<62 hex>   file outputs, named by the blake3 of their bytes
//!   trees/ab/<62 hex>/    folder outputs, as the stage wrote them
//!   trees/ab/<62 hex>.json  ... and their listings
//!   records/<run>.jsonl   the records of one run, one a line, append-only
//!   records/import-*.jsonl, trusted-*.jsonl  records that came from elsewhere, and whether their source was trusted
//!   records/signatures.sig  who vouches for which record
//!   runs/<run>/           what is known of one run (run.json, nodes.jsonl) and its logs
//!   plans/<64 hex>.json   the node listings that runs refer to
//!   attempts/<run>/       private folders of running attempts
//!   checkpoints/<key>/    checkpoints of training stages
//!   locks/                one file for each run that is alive, one name for each key that is locked
//!   damaged/              objects that were found damaged
//!   tags.jsonl            names that people gave to runs
//!   cache/                what can be lost without loss: digests of input files
//! ```

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;

use camino::{Utf8Path, Utf8PathBuf};

use crate::digest::Digest;
use crate::error::{IoContext as _, Result, StoreError};
use crate::object::{ObjectKind, ObjectRef};

/// The newest store format that this code reads and the one that it writes.
pub(crate) const FORMAT: u32 = 1;

/// The folders of a store.
const FOLDERS: &[&str] =
    &["objects", "trees", "records", "runs", "plans", "attempts", "checkpoints", "locks", "damaged", "cache"];

/// How the names of files begin that an interrupted making of a store can leave.
const PARTS: &[&str] = &[".gitignore", "..gitignore.", ".format."];

/// The paths of one store.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) root: Utf8PathBuf,
}

impl Layout {
    pub(crate) fn new(root: &Utf8Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(crate) fn folder(&self, name: &str) -> Utf8PathBuf {
        self.root.join(name)
    }

    pub(crate) fn format(&self) -> Utf8PathBuf {
        self.root.join("format")
    }

    pub(crate) fn database(&self) -> Utf8PathBuf {
        self.root.join("results.db")
    }

    /// Where an object lies.
    pub(crate) fn object(&self, object: &ObjectRef) -> Utf8PathBuf {
        let mut path = self.root.join(Self::objects(object.kind));
        path.push(Self::in_objects(&object.digest));
        path
    }

    /// The folder of all objects of a kind.
    pub(crate) const fn objects(kind: ObjectKind) -> &'static str {
        match kind {
            ObjectKind::File => "objects",
            ObjectKind::Tree => "trees",
        }
    }

    /// Where an object lies in the folder of its kind: `ab/<62 hex>`.
    pub(crate) fn in_objects(digest: &Digest) -> String {
        let hex = digest.hex();
        let (fan, rest) = hex.split_at(2);
        format!("{fan}/{rest}")
    }

    /// Where a tree's listing lies.
    pub(crate) fn listing(&self, digest: &Digest) -> Utf8PathBuf {
        self.root.join("trees").join(Self::in_objects(digest) + ".json")
    }

    pub(crate) fn records(&self, run: &str) -> Utf8PathBuf {
        self.root.join("records").join(format!("{run}.jsonl"))
    }

    /// Where the signatures of records lie.
    pub(crate) fn signatures(&self) -> Utf8PathBuf {
        self.root.join("records").join("signatures.sig")
    }

    pub(crate) fn run(&self, run: &str) -> Utf8PathBuf {
        self.root.join("runs").join(run)
    }

    pub(crate) fn plan(&self, plan: &Digest) -> Utf8PathBuf {
        self.root.join("plans").join(format!("{plan}.json"))
    }

    /// Makes what is missing of a store at the root; the `format` file comes last, so a store with one is whole.
    pub(crate) fn create(&self) -> Result<()> {
        match std::fs::read_dir(&self.root) {
            Ok(entries) => {
                for entry in entries {
                    let name = entry.at("read", &self.root)?.file_name().to_string_lossy().into_owned();
                    let ours = FOLDERS.contains(&name.as_str()) || PARTS.iter().any(|part| name.starts_with(part));
                    if !ours {
                        // Another process may have made the store since we looked.
                        if self.check()? {
                            return Ok(());
                        }
                        return Err(StoreError::NotAStore { root: self.root.clone(), found: name });
                    }
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(StoreError::io("read", &self.root, e)),
        }
        for folder in FOLDERS {
            let path = self.folder(folder);
            std::fs::create_dir_all(&path).map_err(|e| not_writable("make", &path, e))?;
        }
        write_atomically(&self.root.join(".gitignore"), b"*\n")?;
        write_atomically(&self.format(), format!("sepia-store {FORMAT}\n").as_bytes())
    }

    /// Whether there is a store that this code can use. `Ok(false)`: there is none, or one whose making was interrupted.
    pub(crate) fn check(&self) -> Result<bool> {
        let path = self.format();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                return Err(StoreError::NotAFolder { path: self.root.clone() });
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(StoreError::io("read", &path, e)),
        };
        let line = text.lines().next().unwrap_or_default();
        match line.strip_prefix("sepia-store ").and_then(|version| version.parse::<u32>().ok()) {
            Some(found) if found > FORMAT => Err(StoreError::NewerFormat { path, found, known: FORMAT }),
            Some(_) => Ok(true),
            None => Err(StoreError::BadFormat { path, found: line.chars().take(40).collect() }),
        }
    }
}

/// A refusal for want of permission, in a store, means that the store is read-only for us.
pub(crate) fn not_writable(action: &'static str, path: &Utf8Path, source: io::Error) -> StoreError {
    if source.kind() == io::ErrorKind::PermissionDenied {
        StoreError::ReadOnly { action, path: path.to_owned() }
    } else if source.kind() == io::ErrorKind::NotADirectory || source.kind() == io::ErrorKind::AlreadyExists {
        StoreError::NotAFolder { path: path.to_owned() }
    } else {
        StoreError::io(action, path, source)
    }
}

/// Refuses names that would not stay inside the folder they belong into.
pub(crate) fn check_name(what: &'static str, text: &str) -> Result<()> {
    let fine = text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if fine { Ok(()) } else { Err(StoreError::BadName { what, text: text.chars().take(80).collect() }) }
}

/// Replaces a small file as a whole: readers see the old bytes or the new ones. Not synced.
pub(crate) fn write_atomically(path: &Utf8Path, bytes: &[u8]) -> Result<()> {
    let temporary = unique_sibling(path);
    let written = std::fs::File::create(&temporary).and_then(|mut file| file.write_all(bytes));
    let placed = written.and_then(|()| std::fs::rename(&temporary, path));
    if placed.is_err() {
        // What is left is of no use; that it cannot be removed either adds nothing to the error.
        let _ = std::fs::remove_file(&temporary);
    }
    placed.map_err(|e| not_writable("write", path, e))
}

/// Adds lines to a file and syncs it. A line that a killed process left torn does not spoil the next one.
pub(crate) fn append_lines(path: &Utf8Path, mut lines: String) -> Result<()> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).at("write", path)?;
    let length = file.metadata().at("read", path)?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1).at("read", path)?;
    }
    if last != [b'\n'] {
        lines.insert(0, '\n');
    }
    file.write_all(lines.as_bytes()).and_then(|()| file.sync_data()).at("write", path)
}

/// A name beside `path` that no other thread or process uses: `.<name>.<pid>-<count>`.
pub(crate) fn unique_sibling(path: &Utf8Path) -> Utf8PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or("x");
    // Two hosts that share a store may have the same process ids: the start time of this process's first use differs.
    path.with_file_name(format!(".{name}.{}-{}-{count}", std::process::id(), process_mark()))
}

/// Differs between processes of different hosts, even if they share a process id.
fn process_mark() -> &'static str {
    use std::sync::OnceLock;
    static MARK: OnceLock<String> = OnceLock::new();
    MARK.get_or_init(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        format!("{:x}", now.as_nanos())
    })
}
