//! What a machine has to give: threads, memory, devices.
//!
//! Devices have numbers, because a child must be told which of them are its own: see [`Slots::take`] and
//! [`machine_devices`].

use super::memory::MemoryGroup;
use crate::device::Gpus;

/// An amount of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Amount {
    /// Threads.
    pub(super) threads: usize,
    /// Bytes of memory.
    pub(super) memory: u64,
    /// Devices.
    pub(super) devices: usize,
    /// The number of the one device that will do, if not any will.
    pub(super) pinned: Option<usize>,
}

/// What was granted, until it is given back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Grant {
    amount: Amount,
    /// The numbers of the devices, ascending.
    pub(super) devices: Vec<usize>,
}

/// What there is, and what of it is free.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    total: Amount,
    used: Amount,
    /// By number.
    device_free: Vec<bool>,
}

impl Slots {
    /// Everything free.
    #[must_use]
    pub(super) fn new(total: Amount) -> Self {
        Self { total, used: Amount::default(), device_free: vec![true; total.devices] }
    }

    /// What would be granted of a request. One above the total is served when nothing else runs: it is the author's
    /// word against the machine's, and refusing for ever helps nobody.
    fn granted(&self, wanted: Amount) -> Amount {
        Amount {
            threads: wanted.threads.min(self.total.threads),
            memory: wanted.memory.min(self.total.memory),
            devices: wanted.devices.min(self.total.devices),
            pinned: wanted.pinned.filter(|number| *number < self.total.devices),
        }
    }

    /// Whether [`take`](Self::take) would grant it now.
    #[must_use]
    pub(super) fn fits(&self, wanted: Amount) -> bool {
        let granted = self.granted(wanted);
        self.used.threads + granted.threads <= self.total.threads
            && self.used.memory + granted.memory <= self.total.memory
            && self.used.devices + granted.devices <= self.total.devices
            && granted.pinned.is_none_or(|number| self.device_free[number])
    }

    /// Takes an amount if it is free; of the devices, the one that is asked for, else those with the lowest numbers.
    pub(super) fn take(&mut self, wanted: Amount) -> Option<Grant> {
        if !self.fits(wanted) {
            return None;
        }
        let amount = self.granted(wanted);
        self.used.threads += amount.threads;
        self.used.memory += amount.memory;
        self.used.devices += amount.devices;
        let mut devices: Vec<usize> = amount.pinned.filter(|_| amount.devices > 0).into_iter().collect();
        for number in &devices {
            self.device_free[*number] = false;
        }
        for (number, free) in self.device_free.iter_mut().enumerate() {
            if devices.len() < amount.devices && std::mem::take(free) {
                devices.push(number);
            }
        }
        devices.sort_unstable();
        Some(Grant { amount, devices })
    }

    /// Whether no thread is free, so that asking for more is in vain.
    #[must_use]
    pub(super) fn full(&self) -> bool {
        self.used.threads >= self.total.threads
    }

    /// Gives back what [`take`](Self::take) granted.
    pub(super) fn give_back(&mut self, grant: &Grant) {
        self.used.threads -= grant.amount.threads;
        self.used.memory -= grant.amount.memory;
        self.used.devices -= grant.amount.devices;
        for number in &grant.devices {
            if let Some(free) = self.device_free.get_mut(*number) {
                *free = true;
            }
        }
    }
}

/// The memory of this machine, in bytes.
#[must_use]
pub(crate) fn machine_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}

/// The memory that this process and its children may use, in bytes: that of the machine, or of the container or job they
/// are in.
#[must_use]
pub(crate) fn usable_memory() -> u64 {
    let machine = machine_memory();
    MemoryGroup::of_this_process().limit().map_or(machine, |limit| limit.min(machine))
}

/// The processors of this machine that this process may use.
#[must_use]
pub(crate) fn machine_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them: that variable where it is set (a cluster's
/// scheduler or the user has chosen), else the UUIDs of those that NVIDIA's driver lists, which no order can confuse.
#[must_use]
pub(crate) fn machine_devices() -> Vec<String> {
    match std::env::var(VISIBLE) {
        Ok(chosen) => chosen.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        Err(_) => Gpus::of_this_machine(true).all().iter().map(|gpu| gpu.uuid.clone()).collect(),
    }
}

/// What changes when GPUs come or go, without asking the driver: that takes longer than a run with nothing to do.
#[must_use]
pub(crate) fn devices_mark() -> Vec<String> {
    let chosen = std::env::var(VISIBLE).into_iter();
    let listed = fs_err::read_dir("/proc/driver/nvidia/gpus").into_iter().flatten();
    let mut listed: Vec<String> =
        listed.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    listed.sort();
    chosen.chain(listed).collect()
}

/// What tells a CUDA program which GPUs are its own.
pub(super) const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// Shows a child the devices that it was granted, if any; numbers count as NVIDIA's driver lists them.
pub(super) fn own_devices(command: &mut std::process::Command, visible: &str) {
    if !visible.is_empty() {
        command.env(VISIBLE, visible).env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
    }
}

/// The value of [`VISIBLE`] for a child that was granted devices. Beyond those of the machine, which
/// `--devices` allows, a device goes by its number.
#[must_use]
pub(super) fn visible(granted: &[usize], machine: &[String]) -> String {
    let name = |number: &usize| machine.get(*number).cloned().unwrap_or_else(|| number.to_string());
    granted.iter().map(name).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_not_free_and_too_much_runs_alone() {
        let amount = |threads| Amount { threads, memory: 10, ..Amount::default() };
        let mut slots = Slots::new(Amount { threads: 2, memory: 100, devices: 1, pinned: None });
        let one = slots.take(amount(1)).unwrap();
        assert!(slots.take(amount(8)).is_none());
        slots.give_back(&one);
        let all = slots.take(amount(8)).unwrap();
        assert_eq!(all.amount.threads, 2);
        assert!(slots.take(amount(1)).is_none());
        slots.give_back(&all);
        assert!(slots.take(Amount { devices: 1, ..Amount::default() }).is_some());
        assert!(slots.take(Amount { devices: 1, ..Amount::default() }).is_none());
    }

    #[test]
    fn nobody_shares_a_device_and_the_lowest_number_goes_first() {
        let devices = |devices| Amount { devices, ..Amount::default() };
        let mut slots = Slots::new(devices(3));
        let first = slots.take(devices(1)).unwrap();
        let pair = slots.take(devices(2)).unwrap();
        assert_eq!((&first.devices[..], &pair.devices[..]), (&[0][..], &[1, 2][..]));
        assert!(!slots.fits(devices(1)));
        slots.give_back(&pair);
        slots.give_back(&first);
        assert_eq!(slots.take(devices(9)).unwrap().devices, [0, 1, 2]);
        let second = Amount { pinned: Some(1), ..devices(1) };
        let mut slots = Slots::new(devices(3));
        let taken = slots.take(second).unwrap();
        assert_eq!(taken.devices, [1]);
        assert!(!slots.fits(second) && slots.fits(devices(1)));
        assert_eq!(slots.take(devices(2)).unwrap().devices, [0, 2]);
        assert_eq!(visible(&[0, 2], &["GPU-a".to_owned(), "GPU-b".to_owned()]), "GPU-a,2");
    }
    #[test]
    fn a_child_sees_its_own_devices_in_the_order_of_the_driver() {
        let mut command = std::process::Command::new("true");
        own_devices(&mut command, "");
        assert_eq!(command.get_envs().count(), 0);
        own_devices(&mut command, "GPU-a,2");
        let set: Vec<String> = command
            .get_envs()
            .map(|(name, value)| format!("{}={}", name.display(), value.unwrap().display()))
            .collect();
        assert_eq!(set, ["CUDA_DEVICE_ORDER=PCI_BUS_ID", "CUDA_VISIBLE_DEVICES=GPU-a,2"]);
    }
}
