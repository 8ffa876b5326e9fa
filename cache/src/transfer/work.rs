//! Several threads that take jobs from one list, and how far they are.

use std::io;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::Result;

/// How many transfers go on at once.
const THREADS: usize = 6;
/// How often a transfer is tried that a connection ended.
const TRIES: u32 = 4;

/// Told how many more bytes of objects have gone.
pub(super) type Count<'c> = &'c (dyn Fn(u64) + Sync);

/// How far a push or pull is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Objects that are there.
    pub objects: u64,
    /// Objects in all.
    pub of_objects: u64,
    /// Bytes of objects that are there, before compression.
    pub bytes: u64,
    /// Bytes in all.
    pub of_bytes: u64,
}

/// Counts for [`Progress`], from several threads.
pub(super) struct Counter<'p> {
    objects: AtomicU64,
    bytes: AtomicU64,
    of_objects: u64,
    of_bytes: u64,
    tell: &'p (dyn Fn(Progress) + Sync),
}

impl<'p> Counter<'p> {
    pub(super) fn new(of_objects: u64, of_bytes: u64, tell: &'p (dyn Fn(Progress) + Sync)) -> Self {
        let counter = Self { objects: AtomicU64::new(0), bytes: AtomicU64::new(0), of_objects, of_bytes, tell };
        counter.tell();
        counter
    }

    pub(super) fn bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.tell();
    }

    pub(super) fn object(&self) {
        self.objects.fetch_add(1, Ordering::Relaxed);
        self.tell();
    }

    fn tell(&self) {
        (self.tell)(Progress {
            objects: self.objects.load(Ordering::Relaxed),
            of_objects: self.of_objects,
            // What is tried again is counted again.
            bytes: self.bytes.load(Ordering::Relaxed).min(self.of_bytes),
            of_bytes: self.of_bytes,
        });
    }
}

/// Does all jobs, several at a time. After an error nothing new begins, and the first one is returned.
pub(super) fn each<T: Sync>(jobs: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let first: Mutex<Option<crate::StoreError>> = Mutex::new(None);
    let take = || {
        while !stop.load(Ordering::Relaxed) {
            let number = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX);
            let Some(job) = jobs.get(number) else { return };
            if let Err(error) = work(job) {
                stop.store(true, Ordering::Relaxed);
                first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    };
    let threads = THREADS.min(jobs.len());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // Two threads that write one file wait for each other most of the time, and on the pool of the whole process an idle thread
    // would rather help with a file that is being written than begin another.
    let share = || rayon::ThreadPoolBuilder::new().num_threads(cores.div_ceil(threads.max(1))).build();
    let take_with_share = || match share() {
        Ok(pool) => pool.install(take),
        Err(_) => take(),
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(take_with_share);
        }
        take_with_share();
    });
    match first.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Tries again what a connection that ended has interrupted.
pub(super) fn again<T>(mut work: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut tries = 1;
    loop {
        match work() {
            Err(error) if tries < TRIES && is_passing(&error) => {
                tracing::debug!(%error, tries, "trying again");
                std::thread::sleep(std::time::Duration::from_millis(50 << tries));
                tries += 1;
            }
            other => return other,
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, Interrupted, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | Interrupted | UnexpectedEof)
}
