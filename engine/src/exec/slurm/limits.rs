//! What a cluster says of itself that an executor must know, read once from `scontrol show config`.

use std::time::Duration;

/// The part of a cluster's configuration that matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Jobs in one array.
    pub(super) array: usize,
    /// How long the queue remembers a job that has ended; `None`: for ever.
    pub(super) memory: Option<Duration>,
}

impl Default for Limits {
    /// Slurm's own defaults. `MaxArraySize` is 1001, and the largest index is one less.
    fn default() -> Self {
        Self { array: 1001, memory: Some(Duration::from_secs(300)) }
    }
}

impl Limits {
    /// Reads lines such as `MaxArraySize            = 1001` and `MinJobAge               = 300 sec`.
    pub(super) fn of(text: &str) -> Self {
        let number = |name: &str| {
            let (_, value) =
                text.lines().filter_map(|line| line.split_once('=')).find(|(key, _)| key.trim() == name)?;
            value.split_whitespace().next()?.parse::<u64>().ok()
        };
        let standard = Self::default();
        Self {
            // Without arrays, each job is submitted by itself.
            array: number("MaxArraySize").map_or(standard.array, |size| usize::try_from(size.max(1)).unwrap_or(1)),
            memory: number("MinJobAge")
                .map_or(standard.memory, |seconds| (seconds > 0).then(|| Duration::from_secs(seconds))),
        }
    }

    /// The longest time between two questions: a job that ends is to be seen a few times before it is forgotten.
    pub(super) fn longest_silence(&self, shortest: Duration, longest: Duration) -> Duration {
        self.memory.map_or(longest, |memory| (memory / 4).clamp(shortest, longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_slurm_22_printed() {
        let text = "Configuration data as of 2026-11-23T16:59:01\nMailProg                = /bin/true\n\
                    MaxArraySize            = 10001\nMaxJobCount             = 20000\n\
                    MinJobAge               = 20 sec\nMpiDefault              = none\n";
        let limits = Limits::of(text);
        assert_eq!(limits, Limits { array: 10001, memory: Some(20 * SECOND) });
        assert_eq!(limits.longest_silence(2 * SECOND, 30 * SECOND), 5 * SECOND);
    }

    #[test]
    fn a_cluster_that_says_nothing_has_slurms_defaults() {
        assert_eq!(Limits::of(""), Limits::default());
        assert_eq!(Limits::default().longest_silence(2 * SECOND, 30 * SECOND), 30 * SECOND);
    }

    #[test]
    fn arrays_can_be_forbidden_and_records_kept_for_ever() {
        let limits = Limits::of("MaxArraySize = 0\nMinJobAge = 0 sec\n");
        assert_eq!(limits, Limits { array: 1, memory: None });
        assert_eq!(limits.longest_silence(2 * SECOND, 30 * SECOND), 30 * SECOND);
    }
}
