//! Events as JSON lines, for programs.

use std::io::Write;

use crate::event::{Listener, Stamped};

/// Writes each event as one JSON line, at once.
pub struct JsonLines<W>(pub W);

impl<W: Write> Listener for JsonLines<W> {
    fn hear(&mut self, event: &Stamped) {
        if let Ok(line) = serde_json::to_string(event) {
            // A reader that went away (`| head`) is no reason to stop a run.
            let _ = writeln!(self.0, "{line}").and_then(|()| self.0.flush());
        }
    }
}
