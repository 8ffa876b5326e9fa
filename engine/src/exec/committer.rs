//! Makes results durable, in batches, beside the loop.
//!
//! Dependants of a finished node start at once: its outputs are in the store. Its record follows here, with whatever else
//! finished in the meantime: the slower the disk, the larger the batches. A crash in between loses only records not yet
//! told as finished; their stages run again. A record is never committed before those it builds on, because the loop hands
//! them over in the order in which they finished.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
};

use sepia_cache::{Record, RecordId, Store, StoreError};

use crate::graph::NodeId;

/// What became of a batch.
pub(super) struct Committed {
    pub(super) nodes: Vec<NodeId>,
    pub(super) result: Result<Vec<RecordId>, StoreError>,
}

/// The thread that commits.
pub(super) struct Committer {
    queue: Option<Sender<(NodeId, Record)>>,
    thread: Option<JoinHandle<()>>,
}

const LARGEST_BATCH: usize = 512;

impl Committer {
    /// Starts the thread; `tell` hears of every batch.
    pub(super) fn start(store: Arc<Store>, tell: impl Fn(Committed) + Send + 'static) -> std::io::Result<Self> {
        let (queue, records) = channel();
        let thread =
            std::thread::Builder::new().name("commit".to_owned()).spawn(move || commit_all(&store, &records, tell))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Hands over a record.
    pub(super) fn commit(&self, node: NodeId, record: Record) {
        if let Some(queue) = &self.queue {
            // The thread lives as long as the queue: sending cannot fail but if it panicked, which the count of open
            // commits then tells.
            let _ = queue.send((node, record));
        }
    }

    /// Waits until everything is durable.
    pub(super) fn finish(mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn commit_all(store: &Store, records: &Receiver<(NodeId, Record)>, tell: impl Fn(Committed)) {
    while let Ok(first) = records.recv() {
        let mut batch = vec![first];
        batch.extend(records.try_iter().take(LARGEST_BATCH - 1));
        let (nodes, records): (Vec<NodeId>, Vec<Record>) = batch.into_iter().unzip();
        let result = store.sync_pending().and_then(|()| store.commit(&records));
        tell(Committed { nodes, result });
    }
}
