//! Attempts as children of this process, each heard out by a thread.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use camino::Utf8PathBuf;
use sepia_cache::Store;

use super::{
    attempt::{Attempt, Control, Message},
    executor::{Cancel, Executor},
    log_files::LogFiles,
    reaper::Reaper,
    slots::Amount,
    threads::Threads,
};
use crate::graph::NodeId;

/// Where messages of attempts go.
pub(super) type Tell = Arc<dyn Fn(Message) + Send + Sync>;

/// This machine.
pub(super) struct Local {
    store: Arc<Store>,
    program: PathBuf,
    capacity: Amount,
    tell: Tell,
    running: BTreeMap<NodeId, Control>,
    threads: Threads,
    logs: Arc<LogFiles>,
    /// Started with the first program of the author's.
    reaper: Arc<Mutex<Option<Reaper>>>,
}

impl Local {
    pub(super) fn new(store: Arc<Store>, program: PathBuf, capacity: Amount, tell: Tell) -> Self {
        let (running, threads) = (BTreeMap::new(), Threads::default());
        Self { store, program, capacity, tell, running, threads, logs: Arc::default(), reaper: Arc::default() }
    }

    fn guard_programs(&self) -> std::io::Result<()> {
        let mut reaper = self.reaper.lock().unwrap_or_else(PoisonError::into_inner);
        if reaper.is_none() {
            *reaper = Some(Reaper::start(&self.program)?);
        }
        Ok(())
    }
}

impl Executor for Local {
    fn capacity(&self) -> Amount {
        self.capacity
    }

    fn submit(&mut self, attempt: Attempt) -> std::io::Result<Utf8PathBuf> {
        if attempt.entry.open {
            self.guard_programs()?;
        }
        let (node, log, control) = (attempt.node, attempt.log.clone(), Control::default());
        let (store, mine, tell) = (Arc::clone(&self.store), control.clone(), Arc::clone(&self.tell));
        let (reaper, logs) = (Arc::clone(&self.reaper), Arc::clone(&self.logs));
        self.threads.run(move || {
            attempt.run(&store, &logs, &mine, &|message| match message {
                Message::Group(group, alive) => {
                    if let Some(reaper) = reaper.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                        // At once: until it stands there, a kill of this process would leave the group alive.
                        if alive { reaper.guard(group) } else { reaper.release(group) }
                    }
                }
                message => tell(message),
            });
        })?;
        self.running.insert(node, control);
        Ok(log)
    }

    fn poll(&mut self) -> std::io::Result<()> {
        Ok(())
    }

    fn cancel(&mut self, node: NodeId, how: Cancel) {
        if let Some(control) = self.running.get(&node) {
            match how {
                Cancel::Gently => control.ask_to_stop(),
                Cancel::AtOnce => control.kill(),
            }
        }
    }

    fn ended(&mut self, node: NodeId) {
        if self.running.remove(&node).is_some() {
            self.threads.ended();
        }
    }

    fn finish(&mut self) {
        std::mem::take(&mut self.running).values().for_each(Control::kill);
        self.threads.finish();
        if let Some(reaper) = self.reaper.lock().unwrap_or_else(PoisonError::into_inner).take() {
            reaper.dismiss();
        }
    }
}
