//! From the engine's device to burn's.

use burn::tensor::Device;
use rayon::ThreadPool;
use sepia_engine::stage::{self, Dtype, StageContext, StageError};

/// The burn device a stage shall compute on, without autodiff.
///
/// # Errors
/// When this binary was built without that device, or the device cannot compute in the dtype asked for.
pub fn open(ctx: &StageContext<'_>) -> Result<Device, StageError> {
    if ctx.dtype() != Dtype::F32 {
        return Err(StageError::new(format!("this stage computes in f32, not in {}", ctx.dtype().name()))
            .help("leave `dtype` out, or write dtype = \"f32\""));
    }
    match ctx.device() {
        stage::Device::Cpu => Ok(Device::flex()),
        stage::Device::Cuda(index) => cuda(index),
    }
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Result<Device, StageError> {
    Ok(Device::cuda(index))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> Result<Device, StageError> {
    Err(StageError::new("this binary was built without CUDA")
        .help("build with `--features cuda`, or choose device = \"cpu\""))
}

/// Runs `work` with exactly the number of threads that the stage was given, whatever the machine has.
///
/// # Errors
/// What `work` returns, or when the threads cannot be started.
pub fn with_threads<T: Send>(
    threads: usize,
    work: impl FnOnce() -> Result<T, StageError> + Send,
) -> Result<T, StageError> {
    let pool: ThreadPool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|error| StageError::new(format!("{threads} threads could not be started: {error}")))?;
    pool.install(work)
}
