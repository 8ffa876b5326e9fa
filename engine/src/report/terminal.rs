//! Events as lines for people, in cargo's manner: a right-aligned word, the node, the detail. Bars on a terminal.
//!
//! The same code prints a live run and a replay of its record, so that both look the same.

use std::{collections::BTreeMap, io::Write};

use anstyle::{AnsiColor, Style};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::figures::{count, duration, number};
use crate::{
    event::{Failure, Listener, RunEvent, RunOutcome, Stamped, Summary},
    stage::Progress,
};

/// How to print.
#[derive(Debug, Clone, Copy)]
pub struct TerminalOptions {
    /// Draw progress bars (standard error is a terminal).
    pub bars: bool,
    /// Also print notes of stages.
    pub verbose: bool,
    /// Print nothing but failures.
    pub quiet: bool,
}

/// How many names of cached nodes are printed one by one.
const EACH: usize = 20;
/// How many of a stage's figures stand in its last line; `sepia show` has them all.
const SHOWN: usize = 5;
/// How often a stage's progress is printed where there are no bars.
const PLAIN_EVERY_MS: u64 = 10_000;

/// Prints events to a writer (standard error, as a rule).
pub struct Terminal<W> {
    out: W,
    options: TerminalOptions,
    bars: MultiProgress,
    running: BTreeMap<String, Running>,
    now_ms: u64,
}

struct Running {
    bar: Option<ProgressBar>,
    last_plain: u64,
}

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BUSY: Style = AnsiColor::Cyan.on_default().bold();
const WARN: Style = AnsiColor::Yellow.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const DIM: Style = AnsiColor::BrightBlack.on_default();

impl<W: Write> Terminal<W> {
    /// A printer. `W` strips colours itself where they do not belong (`anstream`).
    pub fn new(out: W, options: TerminalOptions) -> Self {
        let target = if options.bars { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() };
        Self { out, options, bars: MultiProgress::with_draw_target(target), running: BTreeMap::new(), now_ms: 0 }
    }

    fn line(&mut self, style: Style, word: &str, rest: &str) {
        if self.options.quiet {
            return;
        }
        self.always(style, word, rest);
    }

    fn always(&mut self, style: Style, word: &str, rest: &str) {
        let text = format!("{style}{word:>12}{style:#} {rest}\n");
        let out = &mut self.out;
        // A closed standard error is no reason to stop a run.
        self.bars.suspend(|| drop(out.write_all(text.as_bytes()).and_then(|()| out.flush())));
    }

    fn plain(&mut self, text: &str) {
        let out = &mut self.out;
        self.bars.suspend(|| drop(out.write_all(text.as_bytes()).and_then(|()| out.flush())));
    }

    fn drop_bar(&mut self, node: &str) {
        if let Some(Running { bar: Some(bar), .. }) = self.running.remove(node) {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
    }

    fn progress(&mut self, node: &str, progress: &Progress) {
        let now = self.now_ms;
        let Some(running) = self.running.get_mut(node) else { return };
        let figures: Vec<String> =
            progress.figures.iter().map(|(name, value)| format!("{name} {}", number(*value))).collect();
        let figures = figures.join("  ");
        if self.options.bars {
            let bar = running.bar.get_or_insert_with(|| {
                let bar = self.bars.add(ProgressBar::new(progress.total));
                let template = "{prefix:>12.cyan.bold} {msg}  [{bar:24}] {pos}/{len}  {eta}";
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style.progress_chars("=> "));
                }
                bar.set_prefix("Running");
                bar
            });
            bar.set_length(progress.total);
            bar.set_position(progress.done);
            bar.set_message(format!("{node}  {figures}"));
        } else if now >= running.last_plain + PLAIN_EVERY_MS {
            running.last_plain = now;
            let text = format!("{node} {} {}/{}  {figures}", progress.unit, progress.done, progress.total);
            self.line(BUSY, "Running", &text);
        }
    }

    fn fetching(&mut self, node: &str, done: u64, all: u64) {
        if !self.options.bars {
            return;
        }
        if done == all {
            self.drop_bar(node);
            return;
        }
        let running = self.running.entry(node.to_owned()).or_insert(Running { bar: None, last_plain: self.now_ms });
        let bar = running.bar.get_or_insert_with(|| {
            let bar = self.bars.add(ProgressBar::new(all));
            let template = "{prefix:>12.cyan.bold} {msg}  [{bar:24}] {bytes}/{total_bytes}  {bytes_per_sec}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix("Fetching");
            bar.set_message(node.to_owned());
            bar
        });
        bar.set_length(all);
        bar.set_position(done);
    }

    fn failure(&mut self, node: &str, attempt: u32, failure: &Failure, again: bool) {
        let word = if again { "Retrying" } else { "Failed" };
        let style = if again { WARN } else { BAD };
        let which = if attempt > 1 || again { format!(" (attempt {attempt})") } else { String::new() };
        self.always(style, word, &format!("{node}{which}: {}", failure.message));
        let mut text = String::new();
        for line in &failure.log_tail {
            text.push_str(&format!("{DIM}{:>12} |{DIM:#} {line}\n", ""));
        }
        if let Some(help) = &failure.help {
            text.push_str(&format!("{:>12} help: {help}\n", ""));
        }
        if !failure.log_tail.is_empty() {
            text.push_str(&format!("{:>12} log: {}\n", "", failure.log));
        }
        self.plain(&text);
    }

    fn finished(&mut self, outcome: RunOutcome, summary: &Summary, seconds: f64) {
        let Summary { ran, cached, failed, skipped, cancelled } = *summary;
        let mut parts = vec![format!("{ran} ran"), format!("{cached} cached")];
        for (number, what) in [(failed, "failed"), (skipped, "skipped"), (cancelled, "not run")] {
            if number > 0 {
                parts.push(format!("{number} {what}"));
            }
        }
        let (style, word) = match outcome {
            RunOutcome::Done => (GOOD, "Finished"),
            RunOutcome::Failed => (BAD, "Failed"),
            RunOutcome::Interrupted => (WARN, "Stopped"),
        };
        let text = format!("{} in {}", parts.join(", "), duration(seconds));
        if outcome == RunOutcome::Done { self.line(style, word, &text) } else { self.always(style, word, &text) }
    }
}

impl<W: Write> Listener for Terminal<W> {
    fn hear(&mut self, stamped: &Stamped) {
        self.now_ms = stamped.at_ms;
        match &stamped.event {
            RunEvent::RunStarted { run, manifest, nodes, .. } => {
                let text = format!("{} of {manifest} as run {}", count(*nodes, "stage"), &run[..run.len().min(8)]);
                self.line(GOOD, "Planned", &text);
            }
            RunEvent::Cached { count: number, nodes } => {
                if usize::try_from(*number).is_ok_and(|number| number <= EACH && number == nodes.len()) {
                    for node in nodes {
                        self.drop_bar(node);
                        self.line(GOOD, "Cached", node);
                    }
                } else {
                    self.line(GOOD, "Cached", &count(*number, "stage"));
                }
            }
            RunEvent::Fetching { node, bytes, of_bytes } => self.fetching(node, *bytes, *of_bytes),
            RunEvent::Waiting { node, owner } => {
                self.line(WARN, "Waiting", &format!("{node}: being computed by {owner}"));
            }
            RunEvent::Started { node, kind, attempt, .. } => {
                let which = if *attempt > 1 { format!(", attempt {attempt}") } else { String::new() };
                self.drop_bar(node);
                self.line(BUSY, "Running", &format!("{node} ({kind}{which})"));
                self.running.insert(node.clone(), Running { bar: None, last_plain: self.now_ms });
            }
            RunEvent::Resumed { node, step } => self.line(BUSY, "Resuming", &format!("{node} at step {step}")),
            RunEvent::Checkpoint { node, step } if self.options.verbose => {
                self.line(DIM, "Checkpoint", &format!("{node} at step {step}"));
            }
            RunEvent::Checkpoint { .. } => {}
            RunEvent::Progress { node, progress } => self.progress(node, progress),
            RunEvent::Note { node, text } if self.options.verbose => self.line(DIM, "Note", &format!("{node}: {text}")),
            RunEvent::Note { .. } => {}
            RunEvent::Warning { node, text } => self.line(WARN, "Warning", &format!("{node}: {text}")),
            RunEvent::Finished { node, seconds, figures, same_outputs } => {
                self.drop_bar(node);
                let figures: Vec<String> =
                    figures.iter().take(SHOWN).map(|(name, value)| format!("{name} {}", number(*value))).collect();
                let mut text = format!("{node} in {}", duration(*seconds));
                if !figures.is_empty() {
                    text.push_str(&format!("  {}", figures.join("  ")));
                }
                if *same_outputs {
                    text.push_str("  (same outputs as before)");
                }
                self.line(GOOD, "Finished", &text);
            }
            RunEvent::Failed { node, attempt, failure, again } => {
                self.drop_bar(node);
                self.failure(node, *attempt, failure, *again);
            }
            RunEvent::Stopped { node, step } => {
                self.drop_bar(node);
                let saved = if *step > 0 {
                    format!("{node} at step {step}, to be resumed by the next run")
                } else {
                    node.clone()
                };
                self.line(WARN, "Stopped", &saved);
            }
            RunEvent::Skipped { node, because } => {
                self.line(WARN, "Skipped", &format!("{node}, because {because} failed"));
            }
            RunEvent::Cancelled { node } => {
                self.drop_bar(node);
                if self.options.verbose {
                    self.line(DIM, "Not run", node);
                }
            }
            RunEvent::Left { node, job } => {
                self.drop_bar(node);
                self.line(WARN, "Left", &format!("{node} goes on as {job}"));
            }
            RunEvent::Damaged { node, what } => {
                self.always(WARN, "Damaged", &format!("{what}; {node} runs again"));
            }
            RunEvent::Stopping { gently: true } => {
                self.always(WARN, "Stopping", "running stages save a checkpoint; press Ctrl-C again to kill them");
            }
            RunEvent::Stopping { gently: false } => self.always(WARN, "Stopping", "running stages are killed"),
            RunEvent::RunFinished { outcome, summary, seconds } => self.finished(*outcome, summary, *seconds),
        }
    }
}
