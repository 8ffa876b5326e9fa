//! The GPUs of this machine, as its driver tells them.
//!
//! Probed once a process, and only where a manifest asks for a GPU or somebody wants the list: loading the driver's
//! library takes milliseconds that a run on the CPU need not spend. Nothing here computes; a GPU that is listed is one
//! that a child process can be given, see [`Gpus::get`].

mod absence;
mod cublas;
mod failure;
mod gpu;
mod installed;
mod math_library;
mod memory;
mod visible;

use std::sync::OnceLock;

use nvml_wrapper::{Nvml, error::NvmlError};

pub use absence::NoGpu;
pub use cublas::Cublas;
pub use failure::{cause, explained, out_of_memory};
pub use gpu::Gpu;
pub use math_library::MathLibrary;
pub use memory::MemoryWatch;

/// The library of the driver that tells about its GPUs, by the name that the driver installs.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// Its library for computing.
const COMPUTING: &str = "libcuda.so.1";

/// The GPUs that this process may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpus {
    /// Version of the driver, where there is one.
    pub driver: Option<String>,
    found: Result<Vec<Gpu>, NoGpu>,
}

impl Gpus {
    /// The GPUs of this machine. `built` says whether this binary can compute on them.
    #[must_use]
    pub fn of_this_machine(built: bool) -> &'static Self {
        static FOUND: OnceLock<Gpus> = OnceLock::new();
        static NOT_BUILT: Gpus = Gpus { driver: None, found: Err(NoGpu::NotBuilt) };
        if built { FOUND.get_or_init(Self::probe) } else { &NOT_BUILT }
    }

    /// Asks the driver, whatever this binary can compute on.
    #[must_use]
    pub fn probe() -> Self {
        let setting = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        match ask() {
            Ok((driver, all)) if can_load(COMPUTING) => Self::new(driver, all, setting.as_deref()),
            Ok((driver, _)) => Self { driver: Some(driver), found: Err(NoGpu::NoComputing) },
            Err(error) => Self { driver: None, found: Err(absence(&error)) },
        }
    }

    /// The GPUs of a driver, of which `CUDA_VISIBLE_DEVICES` may leave only some.
    fn new(driver: String, all: Vec<Gpu>, setting: Option<&str>) -> Self {
        let none = all.is_empty();
        let found = visible::visible(all, setting);
        let found = match setting {
            _ if none => Err(NoGpu::NoneThere),
            Some(setting) if found.is_empty() => Err(NoGpu::Hidden(setting.to_owned())),
            _ => Ok(found),
        };
        Self { driver: Some(driver), found }
    }

    /// All of them, by number.
    #[must_use]
    pub fn all(&self) -> &[Gpu] {
        self.found.as_deref().unwrap_or_default()
    }

    /// Why there is none.
    #[must_use]
    pub fn why_none(&self) -> Option<&NoGpu> {
        self.found.as_ref().err()
    }

    /// The GPU of a number.
    ///
    /// # Errors
    /// When there is none, or none of that number.
    pub fn get(&self, number: usize) -> Result<&Gpu, NoGpu> {
        let all = self.found.as_ref().map_err(Clone::clone)?;
        all.get(number).ok_or(NoGpu::NoSuchNumber { number, count: all.len() })
    }
}

fn ask() -> Result<(String, Vec<Gpu>), NvmlError> {
    let driver = Nvml::builder().lib_path(LIBRARY.as_ref()).init()?;
    let gpus = (0..driver.device_count()?).map(|at| {
        let device = driver.device_by_index(at)?;
        let capability = device.cuda_compute_capability()?;
        Ok(Gpu {
            number: at as usize,
            name: device.name()?,
            uuid: device.uuid()?,
            memory_bytes: device.memory_info()?.total,
            compute_capability: (
                u32::try_from(capability.major).unwrap_or_default(),
                u32::try_from(capability.minor).unwrap_or_default(),
            ),
        })
    });
    Ok((driver.sys_driver_version()?, gpus.collect::<Result<_, NvmlError>>()?))
}

/// Whether a library is there. It is asked for as if it were the other one: one that can be loaded then lacks a symbol.
fn can_load(library: &str) -> bool {
    !matches!(Nvml::builder().lib_path(library.as_ref()).init(), Err(NvmlError::LibloadingError(_)))
}

fn absence(error: &NvmlError) -> NoGpu {
    match error {
        NvmlError::LibloadingError(_) => NoGpu::NoDriver,
        NvmlError::DriverNotLoaded => NoGpu::DriverNotLoaded,
        other => NoGpu::DriverFails(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(number: usize) -> Gpu {
        Gpu {
            number,
            name: "Test".into(),
            uuid: format!("GPU-{number}"),
            memory_bytes: 1 << 30,
            compute_capability: (8, 0),
        }
    }

    #[test]
    fn a_machine_without_gpus_says_why() {
        let none = Gpus::new("1.0".into(), Vec::new(), None);
        assert_eq!(none.why_none(), Some(&NoGpu::NoneThere));
        assert_eq!(none.get(0), Err(NoGpu::NoneThere));
        let hidden = Gpus::new("1.0".into(), vec![gpu(0)], Some(""));
        assert_eq!(hidden.get(0), Err(NoGpu::Hidden(String::new())));
    }

    #[test]
    fn numbers_count_what_is_visible() {
        let gpus = Gpus::new("1.0".into(), vec![gpu(0), gpu(1), gpu(2)], Some("2,0"));
        let uuids: Vec<_> = gpus.all().iter().map(|gpu| (gpu.number, gpu.uuid.as_str())).collect();
        assert_eq!(uuids, [(0, "GPU-2"), (1, "GPU-0")]);
        assert_eq!(gpus.get(2), Err(NoGpu::NoSuchNumber { number: 2, count: 2 }));
    }

    #[test]
    fn a_missing_library_and_a_missing_driver_are_told_apart() {
        assert_eq!(absence(&NvmlError::DriverNotLoaded), NoGpu::DriverNotLoaded);
        let broken = absence(&NvmlError::GpuLost);
        assert!(matches!(broken, NoGpu::DriverFails(_)), "{broken:?}");
    }

    /// A library that any Linux has, and one that none has.
    #[test]
    fn a_library_that_is_there_is_told_from_one_that_is_not() {
        assert!(can_load("libc.so.6"));
        assert!(!can_load("libnothing-of-this-name.so.1"));
    }

    #[test]
    fn a_binary_without_cuda_asks_no_driver() {
        assert_eq!(Gpus::of_this_machine(false).why_none(), Some(&NoGpu::NotBuilt));
    }
}
