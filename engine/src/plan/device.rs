//! Device and dtype of a node.

use crate::{
    diagnostic::{Diagnostic, nearest},
    manifest::{StageDecl, Word},
    stage::{Device, Dtype, StageEntry},
};

/// What a stage computes on and in: its own words, else the manifest's, else the CPU in f32.
///
/// `gpu_there` says whether `auto` finds a GPU; it is asked only then. Whether a GPU that is named is there does not
/// matter yet: its results may all be in the store.
///
/// # Errors
/// A word that names no device or dtype, or a dtype that the device does not compute in.
pub fn resolve_device(
    defaults: (Option<&Word>, Option<&Word>),
    decl: &StageDecl,
    entry: &StageEntry,
    gpu_there: impl Fn() -> bool,
) -> Result<(Device, Dtype), Vec<Diagnostic>> {
    if !entry.on_device {
        return Ok((Device::Cpu, Dtype::F32));
    }
    let device = decl.device.as_ref().or(defaults.0).map_or(Ok(Device::Cpu), |word| device(word, gpu_there));
    let word = decl.dtype.as_ref().or(defaults.1);
    let dtype = word.map_or(Ok(Dtype::F32), dtype);
    match (device, dtype, word) {
        (Ok(Device::Cpu), Ok(Dtype::Bf16 | Dtype::F16), Some(word)) => Err(vec![
            Diagnostic::error("plan::dtype-on-cpu", format!("the CPU computes in f32, not in {}", word.text))
                .label(word.span, "needs a GPU")
                .help("write `dtype = \"f32\"`, or leave it out; `sepia devices` lists the GPUs of this machine"),
        ]),
        (Ok(device), Ok(dtype), _) => Ok((device, dtype)),
        (device, dtype, _) => Err(device.err().into_iter().chain(dtype.err()).collect()),
    }
}

fn device(word: &Word, gpu_there: impl Fn() -> bool) -> Result<Device, Diagnostic> {
    match word.text.as_str() {
        "cpu" => Ok(Device::Cpu),
        "auto" => Ok(if gpu_there() { Device::Cuda(0) } else { Device::Cpu }),
        "cuda" => Ok(Device::Cuda(0)),
        text => match text.strip_prefix("cuda:").and_then(|number| number.parse().ok()) {
            Some(number) => Ok(Device::Cuda(number)),
            None => Err(unknown(word, "device", text, &["auto", "cpu", "cuda", "cuda:0"])),
        },
    }
}

fn dtype(word: &Word) -> Result<Dtype, Diagnostic> {
    match word.text.as_str() {
        "f32" => Ok(Dtype::F32),
        "bf16" => Ok(Dtype::Bf16),
        "f16" => Ok(Dtype::F16),
        text => Err(unknown(word, "dtype", text, &["f32", "bf16", "f16"])),
    }
}

fn unknown(word: &Word, what: &str, text: &str, known: &[&str]) -> Diagnostic {
    let error = Diagnostic::error(format_code(what), format!("there is no {what} `{text}`"))
        .label(word.span, format!("expected one of {}", known.join(", ")));
    match nearest(text, known.iter().copied()) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => error,
    }
}

fn format_code(what: &str) -> &'static str {
    if what == "device" { "plan::unknown-device" } else { "plan::unknown-dtype" }
}
