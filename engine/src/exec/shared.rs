//! Outputs that a remote has and this store does not: fetched when a run wants them, before anything is computed.

use std::cell::Cell;

use sepia_cache::{Hit, ObjectRef, OpenRemote, Store};

use super::options::Signals;

/// A remote that a run takes results from. After its first failure it is left alone: a run goes on without it.
pub(super) struct Shared {
    remote: OpenRemote,
    signals: Signals,
    failed: Cell<bool>,
}

impl Shared {
    pub(super) fn new(remote: OpenRemote, signals: Signals) -> Self {
        Self { remote, signals, failed: Cell::new(false) }
    }

    /// Fetches the outputs of a result that are not here; says whether all are here now.
    pub(super) fn fetch(&self, store: &Store, hit: &Hit) -> bool {
        if self.failed.get() || self.signals.count() > 0 {
            return false;
        }
        let outputs = hit.outputs.iter().map(|(_, object)| *object);
        let missing: Vec<ObjectRef> = outputs.filter(|object| !store.present(object)).collect();
        match store.fetch_all(&self.remote, &missing, &|_| ()) {
            Ok((_, _, absent)) => absent == 0,
            Err(error) => {
                tracing::warn!(%error, "nothing more is taken from the remote in this run");
                self.failed.set(true);
                false
            }
        }
    }
}
