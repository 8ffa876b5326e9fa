//! What time brings.

use std::time::{Duration, Instant};

use super::{Run, RunError};
use crate::{event::RunEvent, graph::NodeId};

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
            for attempt in self.running.values_mut() {
                if gently { attempt.control.ask_to_stop() } else { attempt.control.kill() }
            }
        }
        let now = Instant::now();
        for attempt in self.running.values_mut() {
            match attempt.deadline {
                Some(deadline) if now >= deadline && !attempt.timed_out => {
                    attempt.timed_out = true;
                    attempt.deadline = Some(now + GRACE);
                    attempt.control.ask_to_stop();
                }
                Some(deadline) if now >= deadline && !attempt.killed => {
                    attempt.killed = true;
                    attempt.control.kill();
                }
                _ => {}
            }
        }
        let blocked: Vec<NodeId> = self.blocked.iter().copied().collect();
        for id in blocked {
            let Some((key, _)) = self.nodes[id.index()].key.clone() else { continue };
            // Only a look: the lock itself is taken when there is room to run.
            if self.store.try_lock_key(&key.0, "looking")?.is_some() {
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
}
