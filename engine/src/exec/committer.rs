//! Makes results durable, in batches, beside the loop.
//!
//! Dependants of a finished node start at once: its outputs are in the store. Its record follows here, with whatever else
//! finishes within [`GATHER`]: a transaction and its syncs cost more than a trivial stage, so they are shared. Nobody waits
//! for that: the loop says when nothing else is coming, and a record that took long to make is committed at once. A crash
//! in between loses only records not yet told as finished; their stages run again. A record is never committed before
//! those it builds on, because the loop hands them over in the order in which they finished.

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

/// The thread that commits.
pub(super) struct Committer {
    queue: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    Commit(NodeId, Box<Record>),
    /// Nothing more is coming soon.
    Now,
}

const LARGEST_BATCH: usize = 512;

/// How long a record waits for others to share its transaction.
const GATHER: Duration = Duration::from_millis(40);

/// A stage that took longer than this does not wait: nobody would like to run it again.
const LONG: f64 = 1.0;

impl Committer {
    /// Starts the thread; `tell` hears of every batch.
    pub(super) fn start(store: Arc<Store>, tell: impl Fn(Committed) + Send + 'static) -> std::io::Result<Self> {
        let (queue, orders) = channel();
        let thread =
            std::thread::Builder::new().name("commit".to_owned()).spawn(move || commit_all(&store, &orders, tell))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Hands over a record.
    pub(super) fn commit(&self, node: NodeId, record: Record) {
        self.send(Order::Commit(node, Box::new(record)));
    }

    /// Nothing else is coming: what was handed over need not wait.
    pub(super) fn now(&self) {
        self.send(Order::Now);
    }

    fn send(&self, order: Order) {
        if let Some(queue) = &self.queue {
            // The thread lives as long as the queue: sending cannot fail but if it panicked, which the count of open
            // commits then tells.
            let _ = queue.send(order);
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

fn commit_all(store: &Store, orders: &Receiver<Order>, tell: impl Fn(Committed)) {
    while let Ok(first) = orders.recv() {
        let (nodes, records) = gather(first, orders);
        if nodes.is_empty() {
            continue;
        }
        let result = store.commit(&records);
        tell(Committed { nodes, result });
    }
}

/// A batch: up to what is waiting when its time is over, or when nothing more is coming.
fn gather(first: Order, orders: &Receiver<Order>) -> (Vec<NodeId>, Vec<Record>) {
    let (mut nodes, mut records) = (Vec::new(), Vec::new());
    let mut until = Instant::now() + GATHER;
    let mut next = Some(first);
    while let Some(order) = next {
        match order {
            Order::Commit(node, record) => {
                if record.wall_seconds > LONG {
                    until = Instant::now();
                }
                nodes.push(node);
                records.push(*record);
            }
            Order::Now => until = Instant::now(),
        }
        if records.len() == LARGEST_BATCH {
            break;
        }
        next = orders.recv_timeout(until.saturating_duration_since(Instant::now())).ok();
    }
    (nodes, records)
}
