//! Writes the events of a run to `runs/<run id>/events.jsonl`, from which a run is replayed; beside it, for those who look
//! at the run while it goes on, what it is about to do (`plan.json`) and how far its stages are (`progress.json`).

use std::{
    collections::BTreeMap,
    io::Write as _,
    time::{Duration, Instant},
};

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::{
    event::{Listener, RunEvent, Stamped},
    stage::Progress,
};

/// What a run is about to do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PlanFile {
    /// The manifest's text.
    pub(crate) manifest: String,
    pub(crate) nodes: Vec<PlannedNode>,
}

/// A node of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PlannedNode {
    pub(crate) node: String,
    pub(crate) kind: String,
    /// Its number in the whole plan, after which its logs and folders are named.
    pub(crate) number: usize,
    /// The places in this list of the nodes it needs.
    pub(crate) needs: Vec<usize>,
}

const PLAN: &str = "plan.json";
const PROGRESS: &str = "progress.json";
/// How often the state of running stages is written.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Writes down what a run is about to do.
pub(super) fn write_plan(run_folder: &Utf8Path, plan: &PlanFile) -> std::io::Result<()> {
    fs_err::write(run_folder.join(PLAN), serde_json::to_string(plan)?)
}

/// What a run was about to do; `None` if it found all in the store.
pub(crate) fn read_plan(run_folder: &Utf8Path) -> Option<PlanFile> {
    let mut plan: PlanFile = serde_json::from_slice(&fs_err::read(run_folder.join(PLAN)).ok()?).ok()?;
    let nodes = plan.nodes.len();
    plan.nodes.iter_mut().for_each(|node| node.needs.retain(|needed| *needed < nodes));
    Some(plan)
}

/// How far the stages of a run are.
pub(crate) fn read_progress(run_folder: &Utf8Path) -> BTreeMap<String, Progress> {
    let text = fs_err::read(run_folder.join(PROGRESS)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// The recorder of one run.
pub(super) struct Recorder {
    file: std::io::BufWriter<fs_err::File>,
    failed: bool,
    folder: Utf8PathBuf,
    progress: BTreeMap<String, Progress>,
    progress_changed: bool,
    progress_written: Option<Instant>,
}

/// The file's name in the run's folder.
pub(crate) const EVENTS: &str = "events.jsonl";

impl Recorder {
    pub(super) fn create(run_folder: &Utf8Path) -> std::io::Result<Self> {
        fs_err::create_dir_all(run_folder)?;
        let file = std::io::BufWriter::new(fs_err::File::create(run_folder.join(EVENTS))?);
        Ok(Self {
            file,
            failed: false,
            folder: run_folder.to_owned(),
            progress: BTreeMap::new(),
            progress_changed: false,
            progress_written: None,
        })
    }

    /// Writes out what is buffered. A disk that is full for the event log is full for results too, and that is where the
    /// run fails with a clear message; the log itself gives up quietly.
    pub(super) fn flush(&mut self) {
        self.failed |= self.file.flush().is_err();
        let due = self.progress_written.is_none_or(|last| last.elapsed() >= PROGRESS_EVERY);
        if self.progress_changed && due {
            self.progress_changed = false;
            self.progress_written = Some(Instant::now());
            // Only for onlookers: a run does not fail because nobody can watch it.
            let unfinished = self.folder.join(".progress.json");
            let text = serde_json::to_string(&self.progress).unwrap_or_default();
            let written = fs_err::write(&unfinished, text);
            let _ = written.and_then(|()| fs_err::rename(&unfinished, self.folder.join(PROGRESS)));
        }
    }
}

impl Listener for Recorder {
    fn hear(&mut self, event: &Stamped) {
        match &event.event {
            RunEvent::Progress { node, progress } => {
                self.progress.insert(node.clone(), progress.clone());
                self.progress_changed = true;
                return;
            }
            RunEvent::Fetching { .. } => return,
            RunEvent::Finished { node, .. } | RunEvent::Failed { node, .. } => drop(self.progress.remove(node)),
            _ => {}
        }
        if self.failed {
            return;
        }
        let written = serde_json::to_string(event).map_err(std::io::Error::from);
        self.failed |= written.and_then(|line| writeln!(self.file, "{line}")).is_err();
    }
}

/// The recorded events of a run; a torn last line is left out.
pub(crate) fn read_events(run_folder: &Utf8Path) -> std::io::Result<Vec<Stamped>> {
    let text = fs_err::read_to_string(run_folder.join(EVENTS))?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}
