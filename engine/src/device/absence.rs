//! Why there is no GPU, and what to do about it.

/// Why a GPU cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoGpu {
    /// The binary lacks the feature.
    #[error("this build of Sepia computes on the CPU only")]
    NotBuilt,
    /// No library of a driver.
    #[error("this machine has no NVIDIA driver (libnvidia-ml.so.1 cannot be loaded)")]
    NoDriver,
    /// The library, but no driver in the kernel.
    #[error("the NVIDIA driver is installed, but not loaded")]
    DriverNotLoaded,
    /// A driver that tells about its GPUs alone, as containers have it.
    #[error("the NVIDIA driver is here without its library for computing (libcuda.so.1 cannot be loaded)")]
    NoComputing,
    /// The driver answers with an error.
    #[error("the NVIDIA driver fails: {0}")]
    DriverFails(String),
    /// A driver without GPUs.
    #[error("the NVIDIA driver sees no GPU")]
    NoneThere,
    /// The environment hides them all.
    #[error("CUDA_VISIBLE_DEVICES={0:?} hides every GPU")]
    Hidden(String),
    /// A GPU, but not what kernels are compiled with.
    #[error("CUDA's math library (nvvm/libdevice/libdevice.10.bc) was found nowhere: kernels are compiled with it")]
    NoMathLibrary,
    /// Too old.
    #[error("{gpu} does not compute in {dtype}")]
    LacksDtype {
        /// Its name.
        gpu: String,
        /// The dtype asked for.
        dtype: &'static str,
    },
    /// Fewer than that.
    #[error("there is no GPU of number {number}: this process sees {count}, numbered from 0")]
    NoSuchNumber {
        /// Asked for.
        number: usize,
        /// How many there are.
        count: usize,
    },
}

impl NoGpu {
    /// What to change.
    #[must_use]
    pub fn help(&self) -> &'static str {
        match self {
            NoGpu::NotBuilt => "build with `cargo build --release --features cuda`, or take `--device cpu`",
            NoGpu::NoDriver => "install NVIDIA's driver, run on a machine that has one, or take `--device cpu`",
            NoGpu::DriverNotLoaded => {
                "`modprobe nvidia` loads it (in a container: start it with its GPUs); or take `--device cpu`"
            }
            NoGpu::NoComputing => {
                "in a container: start it with NVIDIA_DRIVER_CAPABILITIES=compute,utility; else install the driver's package \
                 with libcuda.so.1; or take `--device cpu`"
            }
            NoGpu::DriverFails(_) => "`nvidia-smi` says more; or take `--device cpu`",
            NoGpu::NoneThere => "run on a machine that has one, or take `--device cpu`",
            NoGpu::Hidden(_) => "unset CUDA_VISIBLE_DEVICES or name GPUs that exist; or take `--device cpu`",
            NoGpu::NoMathLibrary => {
                "install the CUDA toolkit, or of it only `pip install nvidia-cuda-nvcc-cu12`, and name its folder in \
                 CUDA_PATH if it is not found then; or take `--device cpu`"
            }
            NoGpu::LacksDtype { .. } => {
                "`sepia devices` lists what each GPU computes in; `dtype = \"f32\"` works on all"
            }
            NoGpu::NoSuchNumber { .. } => "`sepia devices` lists them; `device = \"cuda\"` takes any",
        }
    }
}
