//! What time brings.

use std::time::{Duration, Instant};

use super::{Run, RunError};
use crate::{event::RunEvent, exec::executor::Cancel, graph::NodeId};

/// How long a stage may take to save its checkpoint after its time-out.
const GRACE: Duration = Duration::from_secs(30);

impl Run<'_, '_> {
    /// What time brings: signals, time-outs, keys that another run has given back.
    pub(super) fn tick(&mut self) -> Result<(), RunError> {
        let signals = self.options.signals.count();
        if signals > self.signals_seen {
            let gently = self.signals_seen == 0 && signals == 1;
            self.signals_seen = signals;
            self.emit(RunEvent::Stopping { gently });
            self.cancel_rest()?;
            self.end_running(if gently { Cancel::Gently } else { Cancel::AtOnce })?;
        }
        let now = Instant::now();
        for (id, attempt) in &mut self.running {
            match attempt.deadline {
                Some(deadline) if now >= deadline && !attempt.timed_out => {
                    attempt.timed_out = true;
                    attempt.deadline = Some(now + GRACE);
                    self.executor.cancel(*id, Cancel::Gently);
                }
                Some(deadline) if now >= deadline && !attempt.killed => {
                    attempt.killed = true;
                    self.executor.cancel(*id, Cancel::AtOnce);
                }
                _ => {}
            }
        }
        let blocked: Vec<NodeId> = self.blocked.iter().copied().collect();
        for id in blocked {
            let Some((key, _)) = self.nodes[id.index()].key.clone() else { continue };
            // Only a look: the lock itself is taken when there is room to run.
            if self.store.try_lock_key(&key.0, &self.owner)?.is_some() {
                self.blocked.remove(&id);
                match self.lookup.find_now(&key)? {
                    Some(outputs) => {
                        self.take_from_store(id, outputs);
                        self.scheduler.found(id)?;
                    }
                    None => self.scheduler.must_run(id)?,
                }
            }
        }
        Ok(())
    }

    /// Ends what runs; where the run was told to leave it, what can go on without this process does.
    fn end_running(&mut self, how: Cancel) -> Result<(), RunError> {
        let running: Vec<NodeId> = self.running.keys().copied().collect();
        for id in running {
            let left = if self.options.detach { self.executor.leave(id) } else { None };
            let Some(job) = left else {
                self.executor.cancel(id, how);
                continue;
            };
            self.running.remove(&id);
            self.tell_start(id);
            self.cancel(id)?;
            let node = self.plan.node(id).name.clone();
            self.emit(RunEvent::Left { node, job });
        }
        Ok(())
    }
}
