//! `sepia devices`.

use serde_json::json;

use super::{
    args::{self, Format},
    exit::{Exit, Failure},
    output,
};
use crate::{
    device::{Cublas, Gpu, Gpus, MathLibrary},
    exec::slots::{machine_memory, machine_threads},
    report::figures::bytes,
    stage::{Dtype, Registry},
};

/// Lists what stages can compute on. A GPU is listed even by a binary that cannot use it, which then says so.
pub(super) fn devices(registry: Registry, args: &args::Devices) -> Result<Exit, Failure> {
    let gpus = Gpus::probe();
    match args.format {
        Format::Json => output::json(&as_json(&gpus, registry.cuda())),
        Format::Text => output::data(&text(&gpus, registry.cuda(), (machine_threads(), machine_memory()))),
    }
    Ok(Exit::Fine)
}

fn text(gpus: &Gpus, built: bool, (threads, memory): (usize, u64)) -> String {
    let mut out = format!("cpu     {threads} threads, {}, f32, slowly bf16 f16\n", bytes(memory));
    for gpu in gpus.all() {
        let (major, minor) = gpu.compute_capability;
        let driver = gpus.driver.as_deref().unwrap_or("?");
        out.push_str(&format!(
            "cuda:{}  {}, {}, compute capability {major}.{minor}, driver {driver}, {}\n",
            gpu.number,
            gpu.name,
            bytes(gpu.memory_bytes),
            names(gpu).join(" "),
        ));
    }
    if gpus.why_none().is_none() {
        out.push_str(&multiplied_by(&Cublas::of_this_machine()));
    }
    let math_library = gpus.why_none().is_none().then(|| MathLibrary::of_this_machine().err()).flatten();
    let why = gpus.why_none().or(math_library.as_ref()).map(|why| (why.to_string(), why.help()));
    let not_built =
        (!built).then(|| (crate::device::NoGpu::NotBuilt.to_string(), crate::device::NoGpu::NotBuilt.help()));
    for (why, help) in why.into_iter().chain(not_built) {
        out.push_str(&format!("no cuda: {why}\n  help: {help}\n"));
    }
    out
}

/// Who multiplies matrices on a GPU.
fn multiplied_by(cublas: &Cublas) -> String {
    let variable = Cublas::VARIABLE;
    match (cublas, cublas.files()) {
        (Cublas::Off, _) => format!("cublas  is off ({variable})\n"),
        (_, [best, ..]) => format!("cublas  {}\n", best.display()),
        (_, []) => format!(
            "cublas  was found nowhere: matrices are multiplied by kernels that are slower and have to be tuned\n  \
             help: install a CUDA toolkit or `pip install nvidia-cublas-cu12`, or say where it is: {variable}=FOLDER\n"
        ),
    }
}

fn as_json(gpus: &Gpus, built: bool) -> serde_json::Value {
    let list: Vec<_> = gpus
        .all()
        .iter()
        .map(|gpu| {
            let (major, minor) = gpu.compute_capability;
            json!({
                "device": format!("cuda:{}", gpu.number),
                "name": gpu.name,
                "uuid": gpu.uuid,
                "memory_bytes": gpu.memory_bytes,
                "compute_capability": format!("{major}.{minor}"),
                "dtypes": names(gpu),
            })
        })
        .collect();
    json!({
        "cuda_built": built,
        "driver": gpus.driver,
        "gpus": list,
        "math_library": MathLibrary::of_this_machine().ok().map(|library| library.file().to_string_lossy().into_owned()),
        "cublas": Cublas::of_this_machine().files().first().map(|file| file.to_string_lossy().into_owned()),
        "why_none": gpus.why_none().map(ToString::to_string),
        "cpu": { "threads": machine_threads(), "memory_bytes": machine_memory() },
    })
}

fn names(gpu: &Gpu) -> Vec<&'static str> {
    gpu.dtypes().into_iter().map(Dtype::name).collect()
}
