//! From the engine's device to burn's.

use burn::tensor::{DType, Device};
use rayon::ThreadPool;
use sepia_engine::stage::{self, Dtype, StageContext, StageError};

/// The burn device a stage that computes in f32 shall compute on, without autodiff.
///
/// # Errors
/// When this binary was built without that device, or the stage is asked for another dtype.
pub fn open(ctx: &StageContext<'_>) -> Result<Device, StageError> {
    if ctx.dtype() != Dtype::F32 {
        return Err(StageError::new(format!("this stage computes in f32, not in {}", ctx.dtype().name()))
            .help("leave `dtype` out, or write dtype = \"f32\""));
    }
    Ok(open_in(ctx)?.0)
}

/// The burn device a stage shall compute on, without autodiff, and what it shall compute in.
///
/// # Errors
/// When this binary was built without that device.
pub fn open_in(ctx: &StageContext<'_>) -> Result<(Device, DType), StageError> {
    let dtype = match ctx.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::Bf16 => DType::BF16,
        Dtype::F16 => DType::F16,
    };
    let device = match ctx.device() {
        stage::Device::Cpu => Device::flex(),
        stage::Device::Cuda(index) => cuda(index, ctx)?,
    };
    Ok((device, dtype))
}

#[cfg(feature = "cuda")]
fn cuda(index: usize, ctx: &StageContext<'_>) -> Result<Device, StageError> {
    use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig as _, cache::CacheConfig};
    use sepia_engine::device::Cublas;
    use sepia_kernels::cublas;
    let mut config = CubeClRuntimeConfig::default().override_from_env();
    if let Some(folder) = ctx.kernels() {
        fs_err::create_dir_all(folder)?;
        config.environment.path = CacheConfig::Directory(folder.as_std_path().to_owned());
        // Without this only what was tuned is kept there, and every child compiles its kernels anew.
        config.compilation.cache = true;
    } else {
        config.autotune.disable_cache = true;
        config.throughput.disable_cache = true;
    }
    // `false` where a device was opened before: then the place is known already.
    let _ = CubeClRuntimeConfig::try_set(config);
    let cublas = Cublas::of_this_machine();
    if cublas == Cublas::Off {
        return Ok(Device::cuda(index));
    }
    match (cublas::open(index, cublas.files()), &cublas) {
        (Err(why), Cublas::Named(_)) => {
            let variable = Cublas::VARIABLE;
            Err(StageError::new(format!("{variable} names a cuBLAS that cannot be used: {why}"))
                .help(format!("name libcublas.so.12 or .13 or its folder, or write {variable}=off to do without")))
        }
        _ => Ok(Device::cuda(index)),
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize, _: &StageContext<'_>) -> Result<Device, StageError> {
    Err(StageError::new("this binary was built without CUDA")
        .help("build with `--features cuda`, or choose device = \"cpu\""))
}

/// Threads that a training on a GPU keeps busy: one asks for operations, one fuses them, one launches kernels. Each waits for
/// the next without sleeping, so that on fewer cores they keep each other from running.
const BUSY: usize = 3;

/// Says in the stage's log what a training on a GPU should know of this machine: who multiplies matrices, and that there are
/// too few cores.
pub fn note_machine(ctx: &mut StageContext<'_>) {
    if ctx.device() == stage::Device::Cpu {
        return;
    }
    #[cfg(feature = "cuda")]
    ctx.note(&multiplied_by());
    let cores = std::thread::available_parallelism().map_or(BUSY, usize::from);
    if let Some(note) = short_of_cores(cores) {
        ctx.note(&note);
    }
}

#[cfg(feature = "cuda")]
fn multiplied_by() -> String {
    use sepia_engine::device::Cublas;
    let variable = Cublas::VARIABLE;
    match sepia_kernels::cublas::opened() {
        Some(Ok(found)) => format!("matrices are multiplied by cuBLAS {}", found.version),
        Some(Err(why)) => format!(
            "matrices are multiplied by burn's kernels, which are slower and have to be tuned: {why} ({variable}=FOLDER says \
             where it is)"
        ),
        None => format!("matrices are multiplied by burn's kernels: {variable} is off"),
    }
}

fn short_of_cores(cores: usize) -> Option<String> {
    let there = if cores == 1 { "is 1 core".to_owned() } else { format!("are {cores} cores") };
    (cores < BUSY).then(|| {
        format!(
            "there {there}, but a training on a GPU keeps {BUSY} threads busy: the GPU will wait for them (with Slurm, \
             resources.threads asks for more)"
        )
    })
}

/// Hands over what is queued, without waiting until it is computed.
///
/// A GPU's operations are queued, and those that stand together are fused into one kernel, which rounds a little differently
/// than each by itself. What stands together must not depend on where a run was logged, evaluated, saved or resumed: with this
/// before and after it, an update stands alone.
///
/// # Errors
/// When the device has failed.
pub fn hand_over(device: &Device) -> Result<(), StageError> {
    device.flush().map_err(|error| StageError::new(format!("the device cannot go on: {error}")))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_cores_are_told_where_a_gpu_waits_for_them() {
        let note = short_of_cores(1).unwrap();
        assert!(note.starts_with("there is 1 core, but a training on a GPU keeps 3 threads busy"), "{note}");
        assert!(short_of_cores(2).unwrap().starts_with("there are 2 cores"));
        assert_eq!(short_of_cores(3), None);
    }
}
