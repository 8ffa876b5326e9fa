//! From a key to a running attempt.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Run, RunError, RunningAttempt, Wake};
use crate::{
    event::{Failure, RunEvent},
    exec::{
        attempt::Attempt,
        committer::Committer,
        keys::{KeyError, NodeOutputs},
        record::now_ms,
        recorder::{PlanFile, PlannedNode, write_plan},
        slots,
        state::NodeState,
    },
    fetch,
    graph::NodeId,
    key::StageKey,
    plan::with_files,
    stage::{Device, Job, Places},
};

impl Run<'_, '_> {
    /// Finds the keys of all nodes whose inputs are there, and takes from the store what it has.
    pub(super) fn resolve_keys(&mut self) -> Result<(), RunError> {
        while let Some(id) = self.scheduler.next_to_resolve() {
            let inputs = match self.keys.inputs_of(id, &self.outputs) {
                Ok(inputs) => inputs,
                Err(KeyError::File(error)) => {
                    self.fail(id, unreadable(&error))?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let key = inputs.key();
            let anyway = self.must_run_anyway(id);
            let hit = if anyway { None } else { self.lookup.find(&key)? };
            self.nodes[id.index()].key = Some((key, inputs));
            if let Some(outputs) = hit {
                self.take_from_store(id, outputs);
                self.scheduler.found(id)?;
            } else if anyway || !self.wish(id, key)? {
                self.not_found(id)?;
            }
        }
        Ok(())
    }

    /// Asks the remote for a result; says whether an answer will come. Until then the node waits, and the loop goes on.
    fn wish(&self, id: NodeId, key: StageKey) -> Result<bool, RunError> {
        Ok(match &self.fetcher {
            Some(fetcher) => fetcher.wish(id, key, self.lookup.known(&key)?),
            None => false,
        })
    }

    /// What was wished of the remote is here, or cannot be had.
    pub(super) fn take_fetched(
        &mut self,
        id: NodeId,
        key: StageKey,
        outputs: Option<NodeOutputs>,
    ) -> Result<(), RunError> {
        let still = self.nodes[id.index()].key.as_ref().is_some_and(|(now, _)| *now == key);
        if !still || self.scheduler.state(id) != NodeState::Waiting {
            return Ok(());
        }
        match outputs {
            Some(outputs) => {
                self.take_from_store(id, outputs);
                self.scheduler.found(id)?;
                Ok(())
            }
            None => self.not_found(id),
        }
    }

    /// No result for a node's key is to be had.
    fn not_found(&mut self, id: NodeId) -> Result<(), RunError> {
        if self.frozen[id.index()] {
            return self.fail(id, not_in_store());
        }
        Ok(self.scheduler.must_run(id)?)
    }

    pub(super) fn must_run_anyway(&self, id: NodeId) -> bool {
        self.forced[id.index()] && self.nodes[id.index()].attempts == 0
    }

    pub(super) fn take_from_store(&mut self, id: NodeId, outputs: NodeOutputs) {
        self.outputs[id.index()] = Some(outputs);
        self.blocked.remove(&id);
        self.summary.cached += 1;
        self.cached.push(id);
    }

    pub(super) fn start_attempts(&mut self) -> Result<(), RunError> {
        while let Some(id) = self.scheduler.next_to_start() {
            let Some(key) = self.nodes[id.index()].key.as_ref().map(|(key, _)| *key) else { continue };
            if self.nodes[id.index()].lock.is_none() {
                let Some(lock) = self.store.try_lock_key(&key.0, &self.owner)? else {
                    self.wait_for_other(id, key)?;
                    continue;
                };
                // Between the look-up and the lock another run may have finished it.
                if !self.must_run_anyway(id)
                    && let Some(outputs) = self.lookup.find_now(&key)?
                {
                    self.take_from_store(id, outputs);
                    self.scheduler.found_late(id)?;
                    continue;
                }
                self.nodes[id.index()].lock = Some(lock);
            }
            self.start(id, key)?;
            self.resolve_keys()?;
        }
        Ok(())
    }

    pub(super) fn wait_for_other(&mut self, id: NodeId, key: StageKey) -> Result<(), RunError> {
        self.scheduler.held(id)?;
        self.blocked.insert(id);
        let owner = self.store.lock_owner(&key.0).unwrap_or_else(|| "another run".to_owned());
        let ours = owner.contains(&self.record.run);
        if !std::mem::replace(&mut self.nodes[id.index()].told_waiting, true) && !ours {
            let node = self.plan.node(id).name.clone();
            self.emit(RunEvent::Waiting { node, owner });
        }
        Ok(())
    }

    pub(super) fn start(&mut self, id: NodeId, key: StageKey) -> Result<(), RunError> {
        let node = self.plan.node(id);
        self.nodes[id.index()].attempts += 1;
        let attempt = self.nodes[id.index()].attempts;
        self.prepare_machinery()?;
        let downloads = fetch::folder(&self.store);
        let places = Places { folder: &self.plan.folder, downloads: Some(&downloads) };
        let params = match with_files(node.params.tree(), places) {
            Ok(params) => params,
            Err(error) => return self.fail(id, unreadable(&error)),
        };
        let folder = self.store.attempts_dir().join(&self.record.run).join(format!("{}-{attempt}", id.0));
        let mut job = Job {
            seed: node.seed,
            // A child sees the devices that it was granted, numbered anew.
            device: match node.device {
                Device::Cuda(_) if !self.scheduler.devices_of(id).is_empty() => Device::Cuda(0),
                other => other,
            },
            dtype: node.dtype,
            threads: node.threads(),
            metrics: folder.join("metrics.tsv"),
            checkpoints: Some(self.store.checkpoints_dir(&key.0)),
            checkpoint_seconds: node.decl.checkpoint_seconds(),
            kernels: matches!(node.device, Device::Cuda(_)).then(|| self.store.cache_dir().join("kernels")),
            ..Job::default()
        };
        let mut inputs = Vec::new();
        for wire in &node.wires {
            let Some(object) = self.outputs[wire.from.index()].as_ref().and_then(|ports| ports.get(&wire.output))
            else {
                continue;
            };
            job.inputs.entry(wire.port.clone()).or_default().push(self.store.object_path(object));
            inputs.push((wire.from, *object));
        }
        for output in node.outputs.iter() {
            job.outputs.insert(output.name.clone(), folder.join("out").join(&output.name));
        }
        let work = Attempt {
            node: id,
            key,
            decl: Arc::clone(&node.decl),
            entry: node.entry,
            params,
            knobs: serde_json::Value::clone(node.knobs.tree()),
            job,
            inputs,
            output_ports: node.outputs.iter().map(|output| output.name.clone()).collect(),
            folder,
            log: self.log_path(id)?,
            visible: match self.scheduler.devices_of(id) {
                [] => String::new(),
                granted => slots::visible(granted, &slots::machine_devices()),
            },
            program: self.options.program.clone(),
        };
        let log = self.executor.submit(work)?.into_string();
        self.scheduler.started(id)?;
        let started = Instant::now();
        let timeout = node.decl.timeout.filter(|_| !self.executor.keeps_time());
        let running = RunningAttempt {
            started_at: now_ms(),
            deadline: timeout.map(|seconds| started + Duration::from_secs_f64(seconds)),
            timed_out: false,
            killed: false,
        };
        self.running.insert(id, running);
        self.tell_cached();
        let (node, kind) = (node.name.clone(), node.entry.kind.to_owned());
        let started = RunEvent::Started { node, kind, key: key.to_string(), attempt, log };
        if self.plan.node(id).needs().any(|needed| self.uncommitted.contains(&needed)) {
            self.untold_starts.insert(id, started);
        } else {
            self.emit(started);
        }
        Ok(())
    }

    /// What the run is about to do, for those who look at it while it goes on.
    fn plan_file(&self) -> PlanFile {
        let chosen: Vec<NodeId> =
            self.plan.ids().filter(|id| self.scheduler.state(*id) != NodeState::Outside).collect();
        let places: BTreeMap<NodeId, usize> = chosen.iter().enumerate().map(|(place, id)| (*id, place)).collect();
        let nodes = chosen.iter().map(|id| {
            let node = self.plan.node(*id);
            let needs: BTreeSet<usize> = node.needs().filter_map(|needed| places.get(&needed).copied()).collect();
            let (name, kind) = (node.name.clone(), node.entry.kind.to_owned());
            PlannedNode { node: name, kind, number: id.index(), needs: needs.into_iter().collect() }
        });
        PlanFile { manifest: self.options.manifest_text.clone(), nodes: nodes.collect() }
    }

    /// What is only needed once something runs.
    pub(super) fn prepare_machinery(&mut self) -> Result<(), RunError> {
        if self.committer.is_none() {
            self.record.begin(&self.store)?;
            // Only for onlookers: a run does not fail because nobody can watch it.
            let _ = write_plan(&self.store.run_dir(&self.record.run)?, &self.plan_file());
            let tell = self.tell.clone();
            let tell = move |committed| drop(tell.send(Wake::Committed(committed)));
            self.committer = Some(Committer::start(Arc::clone(&self.store), tell)?);
            fs_err::create_dir_all(self.record.logs(&self.store)?)?;
            self.record.gather_provenance(&self.store, &self.options.program, &self.plan.folder);
        }
        Ok(())
    }
}

/// A file of the author's that was there when the plan was made.
fn unreadable(error: &std::io::Error) -> Failure {
    Failure {
        message: format!("an input file cannot be read any more: {error}"),
        help: Some("put it back and leave it there while the run goes on, then run again".to_owned()),
        ..Failure::default()
    }
}

fn not_in_store() -> Failure {
    Failure {
        message: "its result is not in the store, and `--only` keeps it from running".to_owned(),
        help: Some("run without `--only`".to_owned()),
        ..Failure::default()
    }
}
