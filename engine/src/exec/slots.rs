//! What a machine has to give: threads, memory, devices.

/// An amount of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Amount {
    /// Threads.
    pub(super) threads: usize,
    /// Bytes of memory.
    pub(super) memory: u64,
    /// Devices.
    pub(super) devices: usize,
}

/// What there is, and what of it is free.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slots {
    total: Amount,
    used: Amount,
}

impl Slots {
    /// Everything free.
    #[must_use]
    pub(super) fn new(total: Amount) -> Self {
        Self { total, used: Amount::default() }
    }

    /// Takes an amount if it is free. A request above the total is served when nothing else runs: it is the author's
    /// word against the machine's, and refusing for ever helps nobody.
    pub(super) fn take(&mut self, wanted: Amount) -> Option<Amount> {
        let granted = Amount {
            threads: wanted.threads.min(self.total.threads),
            memory: wanted.memory.min(self.total.memory),
            devices: wanted.devices.min(self.total.devices),
        };
        let fits = self.used.threads + granted.threads <= self.total.threads
            && self.used.memory + granted.memory <= self.total.memory
            && self.used.devices + granted.devices <= self.total.devices;
        if !fits {
            return None;
        }
        self.used.threads += granted.threads;
        self.used.memory += granted.memory;
        self.used.devices += granted.devices;
        Some(granted)
    }

    /// Whether no thread is free, so that asking for more is in vain.
    #[must_use]
    pub(super) fn full(&self) -> bool {
        self.used.threads >= self.total.threads
    }

    /// Gives back what [`take`](Self::take) granted.
    pub(super) fn give_back(&mut self, granted: Amount) {
        self.used.threads -= granted.threads;
        self.used.memory -= granted.memory;
        self.used.devices -= granted.devices;
    }
}

/// The memory of this machine, in bytes.
#[must_use]
pub(crate) fn machine_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}

/// The processors of this machine that this process may use.
#[must_use]
pub(crate) fn machine_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_not_free_and_too_much_runs_alone() {
        let amount = |threads| Amount { threads, memory: 10, devices: 0 };
        let mut slots = Slots::new(Amount { threads: 2, memory: 100, devices: 1 });
        let one = slots.take(amount(1)).unwrap();
        assert!(slots.take(amount(8)).is_none());
        slots.give_back(one);
        let all = slots.take(amount(8)).unwrap();
        assert_eq!(all.threads, 2);
        assert!(slots.take(amount(1)).is_none());
        slots.give_back(all);
        assert!(slots.take(Amount { threads: 0, memory: 0, devices: 1 }).is_some());
        assert!(slots.take(Amount { threads: 0, memory: 0, devices: 1 }).is_none());
    }
}
