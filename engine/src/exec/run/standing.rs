//! A run of which nothing is left to do, by what the one before it left behind.

use std::time::Instant;

use super::{RunError, RunReport};
use crate::{
    event::{EVENT_FORMAT, Listener, RunEvent, RunOutcome, Stamped, Summary},
    exec::{lookup::Lookup, options::RunOptions, record::RunRecord, recorder::Recorder, standing::Standing},
};

/// Tells and writes down what [`run`](super::run()) would, where `standing` was found to hold.
///
/// # Errors
/// Those of the store.
pub fn run_standing(
    standing: &Standing,
    lookup: &Lookup,
    options: &RunOptions,
    listeners: &mut [&mut dyn Listener],
) -> Result<RunReport, RunError> {
    let begun = Instant::now();
    let store = lookup.store();
    let record = RunRecord::new(options);
    let _lock = store.lock_run(&record.run)?;
    let mut recorder = Recorder::create(&store.run_dir(&record.run)?)?;
    let mut emit = |event: RunEvent| {
        let stamped = Stamped { at_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX), event };
        recorder.hear(&stamped);
        for listener in listeners.iter_mut() {
            listener.hear(&stamped);
        }
    };
    let count = standing.nodes().len() as u64;
    tracing::debug!(stages = count, "nothing has changed since the last run");
    let (run, manifest) = (record.run.clone(), options.manifest.clone());
    emit(RunEvent::RunStarted { format: EVENT_FORMAT, run, manifest, nodes: count });
    if count > 0 {
        emit(RunEvent::Cached { count, nodes: standing.listed().to_vec() });
    }
    record.end_standing(store, standing.plan(), count)?;
    let (outcome, summary) = (RunOutcome::Done, Summary { cached: count, ..Summary::default() });
    emit(RunEvent::RunFinished { outcome, summary, seconds: begun.elapsed().as_secs_f64() });
    recorder.flush();
    Ok(RunReport { run: record.run, outcome, summary, failures: Vec::new() })
}
