//! Measurements of a run: speed and memory. They depend on the machine and go into the record, never into an output.

use std::time::{Duration, Instant};

/// Tokens per second since the last reading.
#[derive(Debug)]
pub struct Throughput {
    since: Instant,
    tokens: u64,
}

impl Default for Throughput {
    fn default() -> Self {
        Self { since: Instant::now(), tokens: 0 }
    }
}

impl Throughput {
    /// Counts tokens that were worked on.
    pub fn add(&mut self, tokens: u64) {
        self.tokens += tokens;
    }

    /// The rate since the last reading.
    pub fn read(&mut self) -> f64 {
        let rate = self.tokens as f64 / self.since.elapsed().as_secs_f64().max(1e-9);
        *self = Self::default();
        rate
    }

    /// Leaves out what happened since the last reading, such as an evaluation.
    pub fn restart(&mut self) {
        *self = Self::default();
    }
}

/// What one kind of work takes of the time since the beginning.
#[derive(Debug)]
pub struct TimeShare {
    since: Instant,
    spent: Duration,
}

impl Default for TimeShare {
    fn default() -> Self {
        Self { since: Instant::now(), spent: Duration::ZERO }
    }
}

impl TimeShare {
    /// Takes in the time of work that began at `start`.
    pub fn add_since(&mut self, start: Instant) {
        self.spent += start.elapsed();
    }

    /// Between 0 and 1.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.spent.as_secs_f64() / self.since.elapsed().as_secs_f64().max(1e-9)
    }
}

/// The largest amount of memory that this process has held, where the system tells (Linux: `VmHWM`).
#[must_use]
pub fn peak_memory_bytes() -> Option<u64> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
