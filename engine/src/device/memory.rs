//! How much of a GPU's memory this process holds.
//!
//! The computing library keeps what it has taken from the driver for its next tensors, as PyTorch does: what the process
//! holds is what it needed at its peak, rounded up to the library's pages. A thread looks ten times a second.

use std::{
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread::JoinHandle,
    time::Duration,
};

use nvml_wrapper::{Nvml, enums::device::UsedGpuMemory, error::NvmlError};

use super::{Gpus, LIBRARY};
use crate::stage::Device;

const EVERY: Duration = Duration::from_millis(100);

/// Watches the memory that a process holds until it is asked for the peak.
pub struct MemoryWatch {
    stop: Sender<()>,
    thread: JoinHandle<Option<u64>>,
}

impl MemoryWatch {
    /// Watches this process on a device; `None` on the CPU, and where the driver does not tell.
    #[must_use]
    pub fn of_this_process(device: Device) -> Option<Self> {
        let Device::Cuda(number) = device else { return None };
        let uuid = Gpus::probe().get(number).ok()?.uuid.clone();
        let driver = Nvml::builder().lib_path(LIBRARY.as_ref()).init().ok()?;
        let before = used(&driver, &uuid).ok()?;
        // In a container the driver may know this process under another number. The GPU is its own, so what it used before
        // is not.
        let read = move || held(&driver, &uuid).or_else(|| Some(used(&driver, &uuid).ok()?.saturating_sub(before)));
        Self::start(read)
    }

    /// Watches what `read` gives.
    fn start(mut read: impl FnMut() -> Option<u64> + Send + 'static) -> Option<Self> {
        let (stop, stopped) = channel();
        let watch = move || {
            let mut peak = None;
            loop {
                let ended = !matches!(stopped.recv_timeout(EVERY), Err(RecvTimeoutError::Timeout));
                peak = peak.max(read());
                if ended {
                    return peak;
                }
            }
        };
        let thread = std::thread::Builder::new().name("device memory".to_owned()).spawn(watch).ok()?;
        Some(Self { stop, thread })
    }

    /// Bytes that it held at the most, with a last look now.
    #[must_use]
    pub fn peak(self) -> Option<u64> {
        let _ = self.stop.send(());
        self.thread.join().ok().flatten()
    }
}

/// Bytes in use on the GPU, by whomever.
fn used(driver: &Nvml, uuid: &str) -> Result<u64, NvmlError> {
    Ok(driver.device_by_uuid(uuid)?.memory_info()?.used)
}

/// Bytes that the driver counts to this process.
fn held(driver: &Nvml, uuid: &str) -> Option<u64> {
    let processes = driver.device_by_uuid(uuid).ok()?.running_compute_processes().ok()?;
    let own = processes.into_iter().find(|process| process.pid == std::process::id())?;
    match own.used_gpu_memory {
        UsedGpuMemory::Used(bytes) => Some(bytes),
        UsedGpuMemory::Unavailable => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_the_largest_of_all_looks_with_one_at_the_end() {
        let (tell, told) = channel();
        let mut falling = [3, 9, 4].into_iter();
        let watch = MemoryWatch::start(move || {
            let _ = tell.send(());
            falling.next().or(Some(4))
        });
        // Three looks, whenever they come, and the last.
        (0..3).for_each(|_| told.recv().unwrap());
        assert_eq!(watch.unwrap().peak(), Some(9));
        let once = MemoryWatch::start(|| Some(5)).unwrap();
        assert_eq!(once.peak(), Some(5));
        let never = MemoryWatch::start(|| None).unwrap();
        assert_eq!(never.peak(), None);
    }

    #[test]
    fn the_cpu_is_not_watched() {
        assert!(MemoryWatch::of_this_process(Device::Cpu).is_none());
    }
}
