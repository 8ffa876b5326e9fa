//! Attempts as children of this process, each heard out by a thread of its own.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use camino::Utf8PathBuf;
use sepia_cache::Store;

use super::{
    attempt::{Attempt, Control, Message},
    executor::{Cancel, Executor},
    reaper::Reaper,
    slots::{Amount, machine_memory},
};
use crate::graph::NodeId;

/// Where messages of attempts go.
pub(super) type Tell = Arc<dyn Fn(Message) + Send + Sync>;

/// This machine.
pub(super) struct Local {
    store: Arc<Store>,
    program: PathBuf,
    threads: usize,
    devices: usize,
    tell: Tell,
    running: BTreeMap<NodeId, (Control, JoinHandle<()>)>,
    /// Started with the first program of the author's.
    reaper: Arc<Mutex<Option<Reaper>>>,
}

impl Local {
    pub(super) fn new(store: Arc<Store>, program: PathBuf, (threads, devices): (usize, usize), tell: Tell) -> Self {
        Self { store, program, threads, devices, tell, running: BTreeMap::new(), reaper: Arc::default() }
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
        Amount { threads: self.threads.max(1), memory: machine_memory(), devices: self.devices, pinned: None }
    }

    fn submit(&mut self, attempt: Attempt) -> std::io::Result<Utf8PathBuf> {
        if attempt.entry.open {
            self.guard_programs()?;
        }
        let (node, log, control) = (attempt.node, attempt.log.clone(), Control::default());
        let (store, mine, tell) = (Arc::clone(&self.store), control.clone(), Arc::clone(&self.tell));
        let reaper = Arc::clone(&self.reaper);
        let thread = std::thread::Builder::new().name("attempt".to_owned()).spawn(move || {
            attempt.run(&store, &mine, &|message| match message {
                Message::Group(group, alive) => {
                    if let Some(reaper) = reaper.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                        if alive {
                            // At once: until it is told, a kill of this process would leave the group alive.
                            reaper.guard(group);
                            reaper.tell();
                        } else {
                            reaper.release(group);
                        }
                    }
                }
                message => tell(message),
            });
        })?;
        self.running.insert(node, (control, thread));
        Ok(log)
    }

    /// Groups that have ended are told to the reaper together.
    fn poll(&mut self) -> std::io::Result<()> {
        if let Some(reaper) = self.reaper.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            reaper.tell();
        }
        Ok(())
    }

    fn cancel(&mut self, node: NodeId, how: Cancel) {
        if let Some((control, _)) = self.running.get(&node) {
            match how {
                Cancel::Gently => control.ask_to_stop(),
                Cancel::AtOnce => control.kill(),
            }
        }
    }

    /// The thread has said its last word: it ends at once.
    fn ended(&mut self, node: NodeId) {
        if let Some((_, thread)) = self.running.remove(&node) {
            let _ = thread.join();
        }
    }

    fn finish(&mut self) {
        self.running.values().for_each(|(control, _)| control.kill());
        for (_, thread) in std::mem::take(&mut self.running).into_values() {
            let _ = thread.join();
        }
        if let Some(reaper) = self.reaper.lock().unwrap_or_else(PoisonError::into_inner).take() {
            reaper.dismiss();
        }
    }
}
