//! The child's side of an attempt: one stage, one process.
//!
//! Protocol, version [`PROTOCOL`]: the parent writes one JSON line, the [`Order`], to the child's standard input and keeps
//! it open. A line `stop` asks the stage to save a checkpoint and end; the end of the stream means that the parent is
//! gone, and the child ends at once. The child answers with JSON lines ([`Report`]) on standard output; lines that are
//! none (a library that prints) go to the log. Standard error is the log.

use std::{
    io::{BufRead as _, Write as _},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{
    device::{self, MemoryWatch},
    stage::{Job, Progress, Registry, Sink, StageContext, StageError, StopFlag},
};

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
    let panics = Panics::watch();
    let watch = MemoryWatch::of_this_process(order.job.device);
    let run = |ctx: &mut StageContext<'_>| (entry.run)(&order.params, &order.knobs, ctx);
    let result = StageContext::new(order.job.clone(), pipe, stop).and_then(|mut ctx| {
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| run(&mut ctx)));
        if let Some(peak) = watch.and_then(MemoryWatch::peak) {
            ctx.result("peak_device_memory_bytes", peak as f64)?;
        }
        // Figures recorded before a failure are worth keeping, too.
        ctx.finish()?;
        Ok(result)
    });
    match result {
        Ok(Ok(Ok(()))) => Report::Done,
        Ok(Ok(Err(error))) | Err(error) => failed(error, &panics),
        Ok(Err(panic)) => {
            let text = panic_text(panic.as_ref());
            match panics.cause(&text) {
                Some(message) => Report::Failed { message, help: None, param: None },
                None => Report::Failed {
                    message: format!("the stage panicked: {text}"),
                    help: Some("this is a defect of Sepia: please report it with the log".to_owned()),
                    param: None,
                },
            }
        }
    }
}

fn failed(error: StageError, panics: &Panics) -> Report {
    match error {
        StageError::Stopped { step } => Report::Stopped { step },
        StageError::Failed { message, help, param } => {
            // Whoever gives help knows better than the name of an error what has failed, but for memory.
            let cause = if help.is_none() { panics.cause(&message) } else { panics.out_of_memory(&message) };
            match cause {
                Some(message) => Report::Failed { message, help: None, param: None },
                None => Report::Failed { message, help, param },
            }
        }
        error => Report::Failed { message: error.to_string(), help: None, param: None },
    }
}

/// What all threads of this process said when they panicked: the thread that serves a GPU may know why, while the stage's
/// own thread only finds it gone.
#[derive(Clone, Default)]
struct Panics(Arc<Mutex<Vec<String>>>);

impl Panics {
    /// Listens from now on. Panics are printed to the log as before.
    fn watch() -> Self {
        let panics = Self::default();
        let (mine, before) = (panics.clone(), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |panic| {
            mine.0.lock().unwrap_or_else(PoisonError::into_inner).push(panic_text(panic.payload()));
            before(panic);
        }));
        panics
    }

    /// What a GPU failed with, in a message or in what a thread said. A kernel that was only tried may fail and be passed
    /// over, which is the cause of nothing else, unless the thread that serves the GPU is gone.
    fn cause(&self, message: &str) -> Option<String> {
        let gone = message.contains("RecvError");
        let said = || if gone { self.said(device::cause) } else { None };
        self.out_of_memory(message).or_else(|| device::cause(message)).or_else(said)
    }

    /// The same, of a GPU whose memory is full.
    fn out_of_memory(&self, message: &str) -> Option<String> {
        device::out_of_memory(message).or_else(|| self.said(device::out_of_memory))
    }

    fn said(&self, what: fn(&str) -> Option<String>) -> Option<String> {
        let said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.iter().find_map(|said| what(said))
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_gpu_is_told_from_the_words_of_any_thread() {
        let panics = Panics::default();
        let gone = "called `Result::unwrap()` on an `Err` value: RecvError";
        assert_eq!(panics.cause(gone), None);
        panics.0.lock().unwrap().push("out of device memory allocating 64 bytes\nBacktrace".to_owned());
        let found = panics.cause(gone);
        assert_eq!(found.as_deref(), Some("out of device memory allocating 64 bytes"));
        let error = failed(StageError::new("the device cannot be read"), &panics);
        assert!(matches!(error, Report::Failed { message, .. } if message.starts_with("out of device memory")));

        let panics = Panics::default();
        panics.0.lock().unwrap().push("DriverError(CUDA_ERROR_INVALID_VALUE)".to_owned());
        let error = failed(StageError::new("training diverged"), &panics);
        assert!(matches!(error, Report::Failed { message, .. } if message == "training diverged"));
        assert_eq!(panics.cause(gone).as_deref(), Some("CUDA_ERROR_INVALID_VALUE"));
    }
}
