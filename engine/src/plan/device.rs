//! Device and dtype of a node.

use crate::{
    diagnostic::{Diagnostic, nearest},
    manifest::{StageDecl, Word},
    stage::{Device, Dtype, StageEntry},
};

/// What a stage computes on and in: its own words, else the manifest's, else the CPU in f32. A dtype that the manifest
/// names for all is passed over by kinds that do not compute in it.
///
/// `gpu_there` says whether `auto` finds a GPU; it is asked only then. Whether a GPU that is named is there does not
/// matter yet: its results may all be in the store.
///
/// # Errors
/// A word that names no device or dtype, or a dtype of its own that the kind does not compute in.
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
    let own = decl.dtype.as_ref().map(|word| dtype(word).and_then(|dtype| computed(word, dtype, entry)));
    let dtype = own.unwrap_or_else(|| match defaults.1.map(dtype) {
        // The manifest's word is for the kinds that know it.
        Some(Ok(dtype)) if !entry.dtypes.contains(&dtype) => Ok(Dtype::F32),
        Some(found) => found,
        None => Ok(Dtype::F32),
    });
    match (device, dtype) {
        (Ok(device), Ok(dtype)) => Ok((device, dtype)),
        (device, dtype) => Err(device.err().into_iter().chain(dtype.err()).collect()),
    }
}

/// The dtype, if stages of the kind compute in it.
fn computed(word: &Word, dtype: Dtype, entry: &StageEntry) -> Result<Dtype, Diagnostic> {
    if entry.dtypes.contains(&dtype) {
        return Ok(dtype);
    }
    let names: Vec<&str> = entry.dtypes.iter().map(|dtype| dtype.name()).collect();
    let message = format!("a stage of the kind `{}` does not compute in {}", entry.kind, word.text);
    Err(Diagnostic::error("plan::dtype", message)
        .label(word.span, format!("it computes in {}", names.join(", ")))
        .help("leave `dtype` out of this stage: what stands at the top of the manifest is for the kinds that know it"))
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
