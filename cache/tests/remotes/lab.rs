//! Workers: processes that push and pull, and one that serves.

use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use sepia_cache::{
    Digest, ObjectRef, OpenMode, Record, RecordOutput, RemoteOptions, Store, StoreError, What, hash_output,
};

use crate::support::bare_record;

pub(crate) const ROLE: &str = "SEPIA_REMOTE_TEST_ROLE";
pub(crate) const ROOT: &str = "SEPIA_REMOTE_TEST_ROOT";
const URL: &str = "SEPIA_REMOTE_TEST_URL";
pub(crate) const PUSHERS: usize = 20;
pub(crate) const EACH: usize = 3;

/// Where the workers meet, and how they reach the remote.
pub(crate) struct Lab {
    pub(crate) root: Utf8PathBuf,
    pub(crate) url: String,
    pub(crate) environment: Vec<(&'static str, String)>,
    pub(crate) _folder: tempfile::TempDir,
}

impl Lab {
    /// A lab with the remote `url`; `{}` in it stands for the lab's folder.
    pub(crate) fn new(url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(folder.path().to_owned()).unwrap();
        Self { url: url.replace("{}", root.as_str()), root, environment: Vec::new(), _folder: folder }
    }

    /// A variable that the workers shall have.
    pub(crate) fn with(mut self, name: &'static str, value: String) -> Self {
        self.environment.push((name, value));
        self
    }

    /// Starts a worker.
    pub(crate) fn start(&self, role: &str) -> Child {
        self.start_at(&self.url, role)
    }

    /// Starts a worker for which the remote is elsewhere.
    pub(crate) fn start_at(&self, url: &str, role: &str) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "lab::worker", "--nocapture"]);
        command.env(ROLE, role).env(ROOT, &self.root).env(URL, url);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Waits for a worker. The error is what it said.
    pub(crate) fn end(worker: Child) -> Result<(), String> {
        let done = worker.wait_with_output().unwrap();
        if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).into_owned()) }
    }

    /// Lets a worker push or pull, `send NAME` or `fetch NAME`, to its end.
    pub(crate) fn run(&self, role: &str) -> Result<(), String> {
        Self::end(self.start(role))
    }

    /// The store of a worker.
    pub(crate) fn store(&self, name: &str) -> Store {
        Store::open(&self.root.join(name), OpenMode::Create).unwrap()
    }

    /// How many results a store has; everything in it must be sound.
    pub(crate) fn all_of(&self, name: &str) -> usize {
        let store = Store::open(&self.root.join(name), OpenMode::Existing).unwrap();
        let found = store.verify_all(|_| ()).unwrap();
        assert_eq!((found.damaged, found.absent), (Vec::new(), Vec::new()));
        store.executions().unwrap().len()
    }

    /// Twenty processes push at once, three times each; one pulls it all.
    pub(crate) fn crowd(&self) {
        let pushers: Vec<Child> = (0..PUSHERS).map(|i| self.start(&format!("push-{i}"))).collect();
        for pusher in pushers {
            assert_eq!(Self::end(pusher), Ok(()));
        }
        assert_eq!(self.run("pull"), Ok(()));
        assert_eq!(self.all_of("pull"), PUSHERS * EACH);
    }
}

/// Result `i` of worker `who`: a file that is all its own, and a tree that many share.
pub(crate) fn produce(store: &Store, who: &str, i: usize) {
    let text = format!("{who} {i} ").repeat(20_000);
    record(store, who, i, text.as_bytes());
}

/// A result with a file of so many bytes that cannot be compressed.
pub(crate) fn produce_large(store: &Store, bytes: usize) -> ObjectRef {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    record(store, "large", 0, &noise)
}

fn record(store: &Store, who: &str, i: usize, body: &[u8]) -> ObjectRef {
    let attempt = store.attempt_dir(who).unwrap().join(i.to_string());
    std::fs::create_dir_all(attempt.join("tree")).unwrap();
    std::fs::write(attempt.join("file"), body).unwrap();
    std::fs::write(attempt.join("tree/a"), format!("shared {}", i % 2)).unwrap();
    let [file, tree] = ["file", "tree"].map(|port| {
        let path = attempt.join(port);
        let object = store.insert(&path, &hash_output(&path).unwrap()).unwrap();
        RecordOutput { port: port.into(), object }
    });
    let object = file.object;
    let key = Digest::of_bytes(format!("{who} {i}").as_bytes());
    let record = Record { outputs: vec![file, tree], ..bare_record(key, who, format!("node-{i}")) };
    store.commit(&[record]).unwrap();
    object
}

#[test]
fn worker() {
    let Ok(role) = std::env::var(ROLE) else { return };
    if role == "serve" {
        let stream = |stream: std::os::fd::BorrowedFd<'_>| std::fs::File::from(stream.try_clone_to_owned().unwrap());
        // The test program prints before and after; the protocol has to bear it.
        let _ = sepia_cache::serve(stream(std::io::stdin().as_fd()), stream(std::io::stdout().as_fd()));
        return;
    }
    if let Err(error) = work(&role) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

/// `send NAME` pushes a store as it is, `fetch NAME` pulls into one; `pull` is the latter too. Any other worker makes
/// results and pushes each.
fn work(role: &str) -> Result<(), StoreError> {
    let root = Utf8PathBuf::from(std::env::var(ROOT).unwrap());
    let (what, name) = role.split_once(' ').unwrap_or((role, role));
    let store = Store::open(&root.join(name), OpenMode::Create)?;
    if store.remotes()?.is_empty() {
        store.add_remote(
            "lab",
            &std::env::var(URL).unwrap(),
            RemoteOptions { trust: true, ..RemoteOptions::default() },
        )?;
    }
    let push = || store.push(&store.open_remote(None)?, &What::default(), &|_| ());
    match what {
        "pull" | "fetch" => drop(store.pull(&store.open_remote(None)?, &What::default(), &|_| ())?),
        "send" => drop(push()?),
        // Several pushes each, so that they meet.
        _ => {
            for i in 0..EACH {
                produce(&store, role, i);
                push()?;
            }
        }
    }
    Ok(())
}

/// Waits until something is there, for as long as a loaded machine may take.
pub(crate) fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "it never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The largest file below a folder of which the name fits, if there is one.
pub(crate) fn largest(folder: &Utf8Path, fits: &dyn Fn(&str) -> bool) -> u64 {
    let mut largest = 0;
    for entry in folder.read_dir_utf8().into_iter().flatten().flatten() {
        let path = entry.path();
        let bytes = match std::fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => self::largest(path, fits),
            Ok(metadata) if fits(entry.file_name()) => metadata.len(),
            _ => 0,
        };
        largest = largest.max(bytes);
    }
    largest
}
