//! Running one stage again from what its record says, whatever has become of its manifest.
//!
//! Everything comes from the record: kind, parameters, seed, device class, dtype, threads, and the content of its inputs,
//! which must be in the store. Files outside the store are looked for where the run had its manifest, and must still have
//! the content that the key says. So the attempt has the very key of the record, or does not begin.
//!
//! The result goes into the store beside the recorded one and changes no run: a record of its own is kept only if the
//! outputs differ, under a run id ([`Store::reproduction_id`]) that look-ups prefer all others to.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, mpsc::channel},
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use sepia_cache::{Digest, Metrics, ObjectRef, RECORD_SCHEMA, Record, RecordId, RecordOutput, Store, StoreError};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::{
    attempt::{Attempt, Ended, Ending, Message},
    executor::{Cancel, Executor as _},
    local::{Local, Tell},
    options::Signals,
    provenance,
    record::now_ms,
    slots::{self, Amount},
    worker::Report,
};
use crate::{
    device::Gpus,
    event::Failure,
    fetch,
    graph::NodeId,
    key::KeyInputs,
    manifest::StageDecl,
    plan::{names_files, with_content, with_files},
    stage::{Device, Dtype, Job, Places, Progress, Registry, StageEntry},
    value,
};

/// In the provenance of what was made to be compared: the run whose result it repeats.
pub(crate) const REPRODUCES: &str = "reproduces";

/// Why a stage cannot be run again as it was.
#[derive(Debug, thiserror::Error)]
pub enum CannotReproduce {
    /// The record does not say what it must, or contradicts itself.
    #[error("the record of `{node}` does not say what it was made of: {why}")]
    Unclear {
        /// The stage.
        node: String,
        /// What is wrong.
        why: String,
    },
    /// This program has no such kind.
    #[error("this Sepia has no stage kind `{0}`")]
    Kind(String),
    /// The kind computes something else now.
    #[error(
        "`{kind}` had version {then} when `{node}` ran, this Sepia has version {now}: its results differ by intention"
    )]
    Version {
        /// The stage.
        node: String,
        /// The kind.
        kind: String,
        /// Recorded.
        then: u32,
        /// Of this program.
        now: u32,
    },
    /// It was computed on a GPU, and here is none.
    #[error("`{0}` was computed on a GPU, and this program or machine has none")]
    Device(String),
    /// An output of another stage is not in the store.
    #[error("the input `{port}` of `{node}` ({digest}) is not in the store", digest = .digest.short())]
    Input {
        /// The stage.
        node: String,
        /// The port.
        port: String,
        /// Its content.
        digest: Digest,
    },
    /// A file outside the store is gone or is another one now.
    #[error("the files that `{node}` read are not what they were: {why}")]
    Files {
        /// The stage.
        node: String,
        /// What is wrong.
        why: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The machine.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// What came of it.
#[derive(Debug)]
pub enum Reproduced {
    /// It left outputs.
    Done {
        /// By port, sorted.
        outputs: Vec<(String, ObjectRef)>,
        /// How long it took, in seconds.
        seconds: f64,
        /// The record that was kept, if the outputs differ from the recorded ones.
        kept: Option<RecordId>,
    },
    /// It failed.
    Failed(Failure),
    /// It was told to stop.
    Interrupted,
}

/// What is needed beside the record.
#[derive(Debug)]
pub struct ReproduceOptions {
    /// The folder of the manifest, as far as it is known.
    pub folder: Option<Utf8PathBuf>,
    /// The binary that the child runs.
    pub program: PathBuf,
    /// Counts of signals.
    pub signals: Signals,
}

/// Runs the stage of a good record again.
///
/// # Errors
/// See [`CannotReproduce`]; a stage that fails is no error but a result.
pub fn reproduce(
    registry: Registry,
    store: &Arc<Store>,
    record: &Record,
    options: &ReproduceOptions,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Reproduced, CannotReproduce> {
    let inputs = key_inputs(record)?;
    let entry = entry(registry, record)?;
    let run = store.reproduction_id(&record.key);
    let _alive = store.lock_run(&run)?;
    let top = store.attempt_dir(&run)?;
    let attempt = attempt(registry, store, record, &inputs, entry, &top, options)?;
    let started_at = now_ms();
    let ended = heard_out(store, attempt, options, progress);
    let reproduced = match ended {
        Ok(None) => Ok(Reproduced::Interrupted),
        Ok(Some(Ended { ending: Ending::Finished(mut outputs), metrics, usage, seconds, .. })) => {
            outputs.sort();
            let same = record.outputs.iter().map(|output| (&output.port, output.object.kind, output.object.digest));
            let same = same.eq(outputs.iter().map(|(port, object)| (port, object.kind, object.digest)));
            let mut again = Record {
                schema: RECORD_SCHEMA,
                run: run.clone(),
                started_at,
                wall_seconds: seconds,
                cpu_seconds: usage.cpu_seconds,
                peak_memory_bytes: usage.peak_memory_bytes,
                outputs: outputs
                    .iter()
                    .map(|(port, object)| RecordOutput { port: port.clone(), object: *object })
                    .collect(),
                metrics: Metrics::default(),
                provenance: Value::Object(provenance::gather(
                    &options.program,
                    options.folder.as_deref().unwrap_or(Utf8Path::new("")),
                    &store.file_digests(),
                )),
                ..record.clone()
            };
            metrics.iter().for_each(|point| again.metrics.push(&point.name, point.step, point.value));
            if let Some(map) = again.provenance.as_object_mut() {
                for name in ["device", "dtype", "threads"] {
                    map.insert(name.to_owned(), record.provenance[name].clone());
                }
                map.insert(REPRODUCES.to_owned(), json!(record.run));
            }
            let kept = if same { None } else { store.commit(&[again])?.into_iter().next() };
            // Equal outputs went where the recorded ones are, or should be: durable like those.
            store.sync_pending()?;
            Ok(Reproduced::Done { outputs, seconds, kept })
        }
        Ok(Some(Ended { ending: Ending::Failed(failure), .. })) => Ok(Reproduced::Failed(failure)),
        Ok(Some(Ended { ending: Ending::Damaged { what, .. }, .. })) => {
            let message = format!("an input in the store is damaged: {what}");
            let help = Some("the next `sepia run` makes it again".to_owned());
            Ok(Reproduced::Failed(Failure { message, help, ..Failure::default() }))
        }
        Ok(Some(Ended { ending: Ending::Stopped { .. } | Ending::Withdrawn, .. })) => Ok(Reproduced::Interrupted),
        Err(error) => Err(error.into()),
    };
    if !matches!(reproduced, Ok(Reproduced::Failed(_))) {
        // Its log says nothing that anybody needs.
        let _ = fs_err::remove_dir_all(&top);
    }
    reproduced
}

/// What the key was made of, if it is what the record says.
fn key_inputs(record: &Record) -> Result<KeyInputs, CannotReproduce> {
    let unclear = |why: String| CannotReproduce::Unclear { node: record.node.clone(), why };
    let inputs: KeyInputs =
        serde_json::from_value(record.key_inputs.clone()).map_err(|error| unclear(error.to_string()))?;
    if inputs.key().0 != record.key {
        return Err(unclear("its key is made of something else".to_owned()));
    }
    let mut of_record: BTreeMap<String, Vec<Digest>> = BTreeMap::new();
    for input in &record.inputs {
        of_record.entry(input.port.clone()).or_default().push(input.digest);
    }
    if of_record != inputs.inputs || inputs.seed.is_some_and(|seed| seed != record.seed) {
        return Err(unclear("its inputs are not those of its key".to_owned()));
    }
    Ok(inputs)
}

fn entry(registry: Registry, record: &Record) -> Result<&'static StageEntry, CannotReproduce> {
    let entry = registry.get(&record.kind).ok_or_else(|| CannotReproduce::Kind(record.kind.clone()))?;
    if entry.version != record.stage_version {
        return Err(CannotReproduce::Version {
            node: record.node.clone(),
            kind: record.kind.clone(),
            then: record.stage_version,
            now: entry.version,
        });
    }
    Ok(entry)
}

/// The parameters with their files, which must have the content that the key says.
fn params(
    store: &Store,
    record: &Record,
    inputs: &KeyInputs,
    options: &ReproduceOptions,
) -> Result<Value, CannotReproduce> {
    let written = Value::Object(record.params.clone());
    let changed = |why: String| CannotReproduce::Files { node: record.node.clone(), why };
    let folder = match &options.folder {
        Some(folder) => folder.clone(),
        None if names_files(&written) => return Err(changed("it is not known where its manifest was".to_owned())),
        None => Utf8PathBuf::new(),
    };
    let files = store.file_digests();
    // As the key was made: what names no files stands in it as it is.
    let content = match names_files(&written) {
        true => with_content(&written, &folder, |path| files.digest(path).map_err(std::io::Error::other))
            .map_err(|error| changed(error.to_string()))?,
        false => written.clone(),
    };
    if content != **inputs.params.tree() {
        return Err(changed(format!("those in {folder} have another content")));
    }
    let downloads = fetch::folder(store);
    with_files(&written, Places { folder: &folder, downloads: Some(&downloads) })
        .map_err(|error| changed(error.to_string()))
}

fn attempt(
    registry: Registry,
    store: &Arc<Store>,
    record: &Record,
    inputs: &KeyInputs,
    entry: &'static StageEntry,
    top: &Utf8Path,
    options: &ReproduceOptions,
) -> Result<Attempt, CannotReproduce> {
    let folder = top.join("0-1");
    let on_gpu = inputs.device.as_deref() == Some(Device::Cuda(0).class());
    if on_gpu && Gpus::of_this_machine(registry.cuda()).all().is_empty() {
        return Err(CannotReproduce::Device(record.node.clone()));
    }
    let dtype = inputs.dtype.clone().map_or_else(|| record.provenance["dtype"].clone(), Value::String);
    let threads = record.provenance["threads"].as_u64().and_then(|threads| usize::try_from(threads).ok());
    let mut job = Job {
        seed: record.seed,
        device: if on_gpu { Device::Cuda(0) } else { Device::Cpu },
        dtype: Dtype::deserialize(dtype).unwrap_or_default(),
        threads: threads.unwrap_or(entry.threads).max(1),
        metrics: folder.join("metrics.tsv"),
        // None: going on from a checkpoint would not be doing it again.
        checkpoints: None,
        ..Job::default()
    };
    let mut objects = Vec::new();
    for input in &record.inputs {
        let missing =
            || CannotReproduce::Input { node: record.node.clone(), port: input.port.clone(), digest: input.digest };
        let object = store.object_of(&input.digest)?.filter(|object| store.present(object)).ok_or_else(missing)?;
        job.inputs.entry(input.port.clone()).or_default().push(store.object_path(&object));
        objects.push((NodeId(0), object));
    }
    let output_ports: Vec<String> = record.outputs.iter().map(|output| output.port.clone()).collect();
    for port in &output_ports {
        job.outputs.insert(port.clone(), folder.join("out").join(port));
    }
    let none = value::Table::default();
    Ok(Attempt {
        node: NodeId(0),
        key: inputs.key(),
        decl: Arc::new(StageDecl::default()),
        entry,
        params: params(store, record, inputs, options)?,
        // Knobs do not change results: whatever they were, the defaults will do.
        knobs: (entry.canonical_knobs)((&none, value::Span::default()))
            .map_or(Value::Null, |knobs| Value::clone(knobs.tree())),
        job,
        inputs: objects,
        output_ports,
        folder,
        log: top.join("log"),
        visible: if on_gpu { slots::visible(&[0], &slots::machine_devices()) } else { String::new() },
        program: options.program.clone(),
    })
}

/// Runs the attempt to its end; `None` if it was interrupted.
fn heard_out(
    store: &Arc<Store>,
    attempt: Attempt,
    options: &ReproduceOptions,
    progress: &mut dyn FnMut(&Progress),
) -> std::io::Result<Option<Ended>> {
    let (tell, messages) = channel();
    let tell: Tell = Arc::new(move |message| drop(tell.send(message)));
    // One stage alone: it may have what it asks for.
    let capacity = Amount { threads: attempt.job.threads, memory: u64::MAX, devices: 1, pinned: None };
    let mut executor = Local::new(Arc::clone(store), options.program.clone(), capacity, tell);
    let node = attempt.node;
    executor.submit(attempt)?;
    let mut seen = 0;
    let ended = loop {
        match messages.recv_timeout(Duration::from_millis(50)) {
            Ok(Message::Report(_, Report::Progress(at))) => progress(&at),
            Ok(Message::Ended(_, ended)) => break *ended,
            _ => {}
        }
        let signals = options.signals.count();
        if signals > seen {
            seen = signals;
            executor.cancel(node, Cancel::AtOnce);
        }
        executor.poll()?;
    };
    executor.ended(node);
    executor.finish();
    Ok((seen == 0).then_some(ended))
}
