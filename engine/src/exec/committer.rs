//! Makes results durable, in batches, beside the loop.
//!
//! Dependants of a finished node start at once: its outputs are in the store. Its record follows here, with whatever else
//! finishes within [`GATHER`], or while the batch before is being written: a transaction and its syncs cost more than a
//! trivial stage, so they are shared. Nobody waits for that: where nothing else is coming, and after a stage that took long,
//! a batch goes at once. The loop gathers, so that the thread is woken once for each batch. A crash in between loses only
//! records not yet told as finished; their stages run again. A record is never committed before those it builds on, because
//! the loop hands them over in the order in which they finished.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use sepia_cache::{Record, RecordId, Store, StoreError};

use crate::graph::NodeId;

/// What became of a batch.
pub(super) struct Committed {
    pub(super) nodes: Vec<NodeId>,
    pub(super) result: Result<Vec<RecordId>, StoreError>,
}

/// The thread that commits, and what it has not been given yet.
pub(super) struct Committer {
    queue: Option<Sender<Batch>>,
    thread: Option<JoinHandle<()>>,
    gathered: Batch,
    /// When the batch is to go.
    until: Instant,
    /// The thread has a batch.
    busy: bool,
}

#[derive(Default)]
struct Batch {
    nodes: Vec<NodeId>,
    records: Vec<Record>,
}

const LARGEST_BATCH: usize = 512;

/// How long a record waits for others to share its transaction.
const GATHER: Duration = Duration::from_millis(40);

/// A stage that took longer than this, in seconds, does not wait: nobody would like to run it again.
const LONG: f64 = 1.0;

impl Committer {
    /// Starts the thread; `tell` hears of every batch.
    pub(super) fn start(store: Arc<Store>, tell: impl Fn(Committed) + Send + 'static) -> std::io::Result<Self> {
        let (queue, batches) = channel();
        let thread =
            std::thread::Builder::new().name("commit".to_owned()).spawn(move || commit_all(&store, &batches, tell))?;
        let gathered = Batch::default();
        Ok(Self { queue: Some(queue), thread: Some(thread), gathered, until: Instant::now(), busy: false })
    }

    /// Takes a record.
    pub(super) fn commit(&mut self, node: NodeId, record: Record) {
        let now = Instant::now();
        if self.gathered.records.is_empty() {
            self.until = now + GATHER;
        }
        if record.wall_seconds > LONG {
            self.until = now;
        }
        self.gathered.nodes.push(node);
        self.gathered.records.push(record);
    }

    /// Hands over what was gathered, if it is time. `alone`: nothing more is coming soon.
    pub(super) fn pass_on(&mut self, alone: bool) {
        let due = alone || self.gathered.records.len() >= LARGEST_BATCH || Instant::now() >= self.until;
        if due && !self.busy && !self.gathered.records.is_empty() {
            self.hand_over();
        }
    }

    /// How long the loop may sleep before it has to call [`pass_on`](Self::pass_on).
    pub(super) fn patience(&self) -> Duration {
        if self.busy || self.gathered.records.is_empty() {
            return Duration::MAX;
        }
        self.until.saturating_duration_since(Instant::now())
    }

    /// The loop has heard what became of a batch.
    pub(super) fn heard(&mut self) {
        self.busy = false;
    }

    fn hand_over(&mut self) {
        if let Some(queue) = &self.queue {
            self.busy = true;
            // The thread lives as long as the queue: sending cannot fail but if it panicked, which the count of open
            // commits then tells.
            let _ = queue.send(std::mem::take(&mut self.gathered));
        }
    }

    /// Waits until everything is durable.
    pub(super) fn finish(mut self) {
        self.hand_over();
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn commit_all(store: &Store, batches: &Receiver<Batch>, tell: impl Fn(Committed)) {
    while let Ok(Batch { nodes, records }) = batches.recv() {
        if !nodes.is_empty() {
            tell(Committed { nodes, result: store.commit(&records) });
        }
    }
}
