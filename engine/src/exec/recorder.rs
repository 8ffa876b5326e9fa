//! Writes the events of a run to `runs/<run id>/events.jsonl`, from which a run is replayed.

use std::io::Write as _;

use camino::Utf8Path;

use crate::event::{Listener, RunEvent, Stamped};

/// The recorder of one run.
pub(super) struct Recorder {
    file: std::io::BufWriter<fs_err::File>,
    failed: bool,
}

/// The file's name in the run's folder.
pub(crate) const EVENTS: &str = "events.jsonl";

impl Recorder {
    pub(super) fn create(run_folder: &Utf8Path) -> std::io::Result<Self> {
        fs_err::create_dir_all(run_folder)?;
        let file = std::io::BufWriter::new(fs_err::File::create(run_folder.join(EVENTS))?);
        Ok(Self { file, failed: false })
    }

    /// Writes out what is buffered. A disk that is full for the event log is full for results too, and that is where the
    /// run fails with a clear message; the log itself gives up quietly.
    pub(super) fn flush(&mut self) {
        self.failed |= self.file.flush().is_err();
    }
}

impl Listener for Recorder {
    fn hear(&mut self, event: &Stamped) {
        if self.failed || matches!(event.event, RunEvent::Progress { .. }) {
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
