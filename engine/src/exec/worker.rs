//! The child's side of an attempt: one stage, one process.
//!
//! Protocol, version [`PROTOCOL`]: the parent writes one JSON line, the [`Order`], to the child's standard input and keeps
//! it open. A line `stop` asks the stage to save a checkpoint and end; the end of the stream means that the parent is
//! gone, and the child ends at once. The child answers with JSON lines ([`Report`]) on standard output; lines that are
//! none (a library that prints) go to the log. Standard error is the log.

use std::{
    io::{BufRead as _, Write as _},
    panic::AssertUnwindSafe,
};

use serde::{Deserialize, Serialize};

use crate::stage::{Job, Progress, Registry, Sink, StageContext, StageError, StopFlag};

/// Version of the protocol; both sides are the same binary, so it only guards against a binary replaced while it runs.
pub(super) const PROTOCOL: u32 = 1;

/// What to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) protocol: u32,
    pub(super) kind: String,
    pub(super) version: u32,
    pub(super) params: serde_json::Value,
    pub(super) knobs: serde_json::Value,
    pub(super) job: Job,
}

/// What the child says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
pub(super) enum Report {
    Progress(Progress),
    Note {
        text: String,
    },
    /// People should know it at once, though the attempt goes on. Executors say it; stages do not.
    Warning {
        text: String,
    },
    Resumed {
        step: u64,
    },
    Checkpoint {
        step: u64,
    },
    /// The last report of a stage that ended well.
    Done,
    /// The last report of a stage that stopped as asked.
    Stopped {
        step: u64,
    },
    /// The last report of a stage that failed.
    Failed {
        message: String,
        help: Option<String>,
        param: Option<String>,
    },
}

struct Pipe(std::io::Stdout);

impl Pipe {
    fn send(&mut self, report: &Report) {
        let Ok(mut line) = serde_json::to_string(report) else { return };
        line.push('\n');
        let mut out = self.0.lock();
        // A parent that is gone ends this process through its standard input; nothing is to be done here.
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    }
}

impl Sink for Pipe {
    fn progress(&mut self, progress: &Progress) {
        self.send(&Report::Progress(progress.clone()));
    }

    fn note(&mut self, text: &str) {
        self.send(&Report::Note { text: text.to_owned() });
    }

    fn resumed(&mut self, step: u64) {
        self.send(&Report::Resumed { step });
    }

    fn checkpoint(&mut self, step: u64) {
        self.send(&Report::Checkpoint { step });
    }
}

/// Runs the stage that standard input orders. The exit code: 0 when it ended well, 1 otherwise.
#[must_use]
pub fn work(registry: Registry) -> i32 {
    let mut pipe = Pipe(std::io::stdout());
    let stop = StopFlag::default();
    let end = match read_order() {
        Ok(order) => {
            watch_parent(stop.clone());
            let on_signal = stop.clone();
            // A signal may come before the handler is there; then it ends the process, which is as well.
            let _ = ctrlc::set_handler(move || on_signal.ask());
            execute(registry, &order, &mut pipe, stop)
        }
        Err(message) => Report::Failed { message, help: None, param: None },
    };
    pipe.send(&end);
    i32::from(end != Report::Done)
}

fn read_order() -> Result<Order, String> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(|error| format!("the order cannot be read: {error}"))?;
    let order: Order =
        serde_json::from_str(&line).map_err(|error| format!("the order cannot be understood: {error}"))?;
    if order.protocol != PROTOCOL {
        return Err(format!("the order is of protocol {}, this binary speaks {PROTOCOL}", order.protocol));
    }
    Ok(order)
}

fn watch_parent(stop: StopFlag) {
    std::thread::spawn(move || {
        let mut line = String::new();
        loop {
            line.clear();
            match std::io::stdin().lock().read_line(&mut line) {
                Ok(0) | Err(_) => std::process::exit(1),
                Ok(_) => stop.ask(),
            }
        }
    });
}

fn execute(registry: Registry, order: &Order, pipe: &mut Pipe, stop: StopFlag) -> Report {
    let Some(entry) = registry.get(&order.kind).filter(|entry| entry.version == order.version) else {
        let message = format!("this binary has no stage kind `{}` of version {}", order.kind, order.version);
        return Report::Failed {
            message,
            help: Some("the binary was replaced while it ran: run again".to_owned()),
            param: None,
        };
    };
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let mut ctx = StageContext::new(order.job.clone(), pipe, stop)?;
        let result = (entry.run)(&order.params, &order.knobs, &mut ctx);
        // Figures recorded before a failure are worth keeping, too.
        ctx.finish()?;
        result
    }));
    match result {
        Ok(Ok(())) => Report::Done,
        Ok(Err(StageError::Stopped { step })) => Report::Stopped { step },
        Ok(Err(StageError::Failed { message, help, param })) => Report::Failed { message, help, param },
        Ok(Err(error)) => Report::Failed { message: error.to_string(), help: None, param: None },
        Err(panic) => Report::Failed {
            message: format!("the stage panicked: {}", panic_text(panic.as_ref())),
            help: Some("this is a defect of Sepia: please report it with the log".to_owned()),
            param: None,
        },
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
