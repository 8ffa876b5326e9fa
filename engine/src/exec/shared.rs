//! Outputs that a remote has and this store does not: fetched when a run wants them, before anything is computed, by
//! threads of their own. The loop of the run goes on meanwhile and is told how far they are.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

use sepia_cache::{ObjectRef, OpenRemote, Progress, Store};

use super::{keys::NodeOutputs, options::Signals};
use crate::{graph::NodeId, key::StageKey};

/// How many results are fetched at once; each of them on several threads of the store's.
const THREADS: usize = 3;
/// How often it is told how far a fetch is.
const EVERY: Duration = Duration::from_millis(200);

/// A remote that a run takes results from.
pub(super) struct Shared {
    pub(super) remote: OpenRemote,
    pub(super) signals: Signals,
}

/// What becomes of a wish.
#[derive(Debug)]
pub(super) enum News {
    /// So many bytes of so many.
    Fetching(NodeId, Progress),
    /// The outputs of a result for the key are all here now; `None`: there is none to be had.
    Fetched(NodeId, StageKey, Option<NodeOutputs>),
}

struct Wish {
    node: NodeId,
    key: StageKey,
    /// Results that would do, the newest first.
    candidates: Vec<NodeOutputs>,
}

/// Threads that fetch. They end with this, after what they are at; a run that ends does not wait for them.
pub(super) struct Fetcher {
    wishes: Sender<Wish>,
    /// After its first failure a remote is left alone: a run goes on without it.
    failed: Arc<AtomicBool>,
}

impl Fetcher {
    /// Starts the threads.
    pub(super) fn start(
        store: &Arc<Store>,
        shared: Shared,
        tell: impl Fn(News) + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let (wishes, taken) = channel();
        let failed = Arc::new(AtomicBool::new(false));
        let worker = Arc::new(Worker {
            store: Arc::clone(store),
            shared,
            failed: Arc::clone(&failed),
            taken: Mutex::new(taken),
            tell: Box::new(tell),
        });
        for _ in 0..THREADS {
            let worker = Arc::clone(&worker);
            std::thread::Builder::new().name("fetch".to_owned()).spawn(move || worker.work())?;
        }
        Ok(Self { wishes, failed })
    }

    /// Asks for the outputs of any of these results; says whether anybody will answer.
    pub(super) fn wish(&self, node: NodeId, key: StageKey, candidates: Vec<NodeOutputs>) -> bool {
        !candidates.is_empty()
            && !self.failed.load(Ordering::Relaxed)
            && self.wishes.send(Wish { node, key, candidates }).is_ok()
    }
}

struct Worker {
    store: Arc<Store>,
    shared: Shared,
    failed: Arc<AtomicBool>,
    taken: Mutex<Receiver<Wish>>,
    tell: Box<dyn Fn(News) + Send + Sync>,
}

impl Worker {
    fn work(&self) {
        loop {
            let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Wish { node, key, candidates }) = taken else { return };
            let found = candidates.into_iter().find(|outputs| self.fetch(node, outputs));
            (self.tell)(News::Fetched(node, key, found));
        }
    }

    /// Fetches the outputs of a result that are not here; says whether all are here now.
    fn fetch(&self, node: NodeId, outputs: &NodeOutputs) -> bool {
        if self.failed.load(Ordering::Relaxed) || self.shared.signals.count() > 0 {
            return false;
        }
        let missing: Vec<ObjectRef> = outputs.values().filter(|object| !self.store.present(object)).copied().collect();
        if missing.is_empty() {
            return true;
        }
        let told = Mutex::new(None::<Instant>);
        let progress = |progress: Progress| {
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.is_none_or(|told| told.elapsed() >= EVERY) || progress.objects == progress.of_objects {
                *told = Some(Instant::now());
                (self.tell)(News::Fetching(node, progress));
            }
        };
        match self.store.fetch_all(&self.shared.remote, &missing, &progress) {
            Ok((_, _, absent)) => absent == 0,
            Err(error) => {
                if !self.failed.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "nothing more is taken from the remote in this run");
                }
                false
            }
        }
    }
}
