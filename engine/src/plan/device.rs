//! Device and dtype of a node.

use crate::{
    diagnostic::{Diagnostic, nearest},
    manifest::{StageDecl, Word},
    stage::{Device, Dtype, StageEntry},
};

/// What a stage computes on and in: its own words, else the manifest's, else the CPU in f32.
///
/// # Errors
/// A word that names no device or dtype, or a device that this machine or build lacks.
pub fn resolve_device(
    defaults: (Option<&Word>, Option<&Word>),
    decl: &StageDecl,
    entry: &StageEntry,
) -> Result<(Device, Dtype), Vec<Diagnostic>> {
    if !entry.on_device {
        return Ok((Device::Cpu, Dtype::F32));
    }
    let device = decl.device.as_ref().or(defaults.0).map_or(Ok(Device::Cpu), device);
    let dtype = decl.dtype.as_ref().or(defaults.1).map_or(Ok(Dtype::F32), dtype);
    match (device, dtype) {
        (Ok(device), Ok(dtype)) => Ok((device, dtype)),
        (device, dtype) => Err(device.err().into_iter().chain(dtype.err()).collect()),
    }
}

fn device(word: &Word) -> Result<Device, Diagnostic> {
    match word.text.as_str() {
        "auto" | "cpu" => Ok(Device::Cpu),
        text if text == "cuda" || text.starts_with("cuda:") => Err(Diagnostic::error(
            "plan::no-device",
            format!("`{text}` is not available: this build of Sepia computes on the CPU only"),
        )
        .label(word.span, "needs a GPU")
        .help("write `device = \"cpu\"`, or `auto` to take a GPU where there is one")),
        text => Err(unknown(word, "device", text, &["auto", "cpu", "cuda", "cuda:0"])),
    }
}

fn dtype(word: &Word) -> Result<Dtype, Diagnostic> {
    match word.text.as_str() {
        "f32" => Ok(Dtype::F32),
        "bf16" | "f16" => {
            Err(Diagnostic::error("plan::dtype-on-cpu", format!("the CPU computes in f32, not in {}", word.text))
                .label(word.span, "needs a GPU")
                .help("write `dtype = \"f32\"`, or leave it out"))
        }
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
