//! A GPU whose memory is full, or that fails: what its library says then, and what is said to people.
//!
//! CubeCL allocates when kernels are queued and reports when a result is read, so the words reach this process in an
//! error, in a panic of the thread that reads, or in a panic of the thread that serves the device.

use super::Gpu;
use crate::{event::Failure, report::figures::bytes, stage::Estimate};

/// What CubeCL 0.11 and CUDA's driver say, in the words of their sources.
const WORDS: [&str; 4] = [
    "out of device memory allocating ",
    "can't allocate buffer of size: ",
    "An out-of-memory error happened during launch",
    "CUDA_ERROR_OUT_OF_MEMORY",
];

/// How CUDA's driver and cuBLAS name what else failed.
const NAMES: [&str; 2] = ["CUDA_ERROR_", "CUBLAS_STATUS_"];

/// The passage of a message which says that the device's memory is full, or names what else it failed with.
#[must_use]
pub fn cause(message: &str) -> Option<String> {
    out_of_memory(message).or_else(|| broken(message))
}

fn broken(message: &str) -> Option<String> {
    let from = NAMES.iter().filter_map(|name| message.find(name)).min()?;
    let of_a_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    Some(message[from..].split(|c| !of_a_name(c)).next().unwrap_or_default().to_owned())
}

/// The passage of a message which says that the device's memory is full.
#[must_use]
pub fn out_of_memory(message: &str) -> Option<String> {
    let from = WORDS.iter().filter_map(|words| message.find(words)).min()?;
    // Within a quoted error a newline is `\n`.
    let passage = message[from..].split(['\n', '"', '\\']).next().unwrap_or_default();
    Some(passage.trim().to_owned())
}

/// The same failure in words for people: with the estimate beside the limit, and what to do.
#[must_use]
pub fn explained(failure: Failure, node: &str, estimate: &Estimate, gpu: Option<&Gpu>) -> Failure {
    let Some(passage) = out_of_memory(&failure.message) else {
        // Whoever knows what to do about it has said so.
        let Some(name) = broken(&failure.message).filter(|_| failure.help.is_none()) else { return failure };
        let help = "run again: a training goes on from its last checkpoint. If it fails again, look for Xid in the \
                    system's log (`dmesg`), which tells what is wrong with the GPU, or report it with this log";
        return Failure {
            message: format!("the GPU failed while `{node}` was computed ({name})"),
            help: Some(help.to_owned()),
            ..failure
        };
    };
    let parts = estimate.parts();
    let known: Vec<String> =
        parts.iter().filter_map(|(name, part)| Some(format!("{name} {}", bytes((*part)?)))).collect();
    let limit = gpu.map_or_else(
        || "the GPU has less free".to_owned(),
        |gpu| format!("the {} has {}", gpu.name, bytes(gpu.memory_bytes)),
    );
    let needed = match estimate.memory_bytes() {
        Some(needed) => format!("`{node}` was estimated to need {} ({}), {limit}", bytes(needed), known.join(", ")),
        None => format!("what `{node}` needs was not known beforehand, {limit}"),
    };
    let largest = parts.into_iter().max_by_key(|(_, part)| part.unwrap_or(0)).map_or("", |(name, _)| name);
    let help = match largest {
        "optimiser state" => "choose a method that keeps less, such as galore, or a smaller model",
        "weights" | "gradients" => "write `per_layer = true`, choose a smaller model, or a GPU with more memory",
        _ => {
            "lower `batch_size` (and raise `grad_accum` as much), write `gradient_checkpointing = true` or \
             `dtype = \"bf16\"`, or choose a GPU with more memory"
        }
    };
    let message = format!("the GPU's memory is full: {needed} ({passage})");
    Failure { message, help: Some(help.to_owned()), ..failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As CubeCL's sources format them, and as a panic quotes them.
    #[test]
    fn the_words_of_the_library_are_known() {
        for (message, passage) in [
            (
                "An IO error happened\nCaused by:\n  out of device memory allocating 4194304000 bytes\nBacktrace:",
                "out of device memory allocating 4194304000 bytes",
            ),
            (
                "the stage panicked: Error while reading data: WithContext { reason: \"An error happened during \
                 execution\\nCaused by:\\n  can't allocate buffer of size: 1099511627776\\n\" }",
                "can't allocate buffer of size: 1099511627776",
            ),
            (
                "A launch error happened\nCaused by:\n  An out-of-memory error happened during launch\nCaused by:\n  x",
                "An out-of-memory error happened during launch",
            ),
            (
                "CUDA allocation error: DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
                "CUDA_ERROR_OUT_OF_MEMORY,",
            ),
        ] {
            assert_eq!(out_of_memory(message).as_deref(), Some(passage));
        }
        assert_eq!(out_of_memory("training diverged: 3 of 59 updates"), None);
        assert_eq!(out_of_memory("The device is poisoned\nCaused by:\n  an illegal address"), None);
    }

    #[test]
    fn a_gpu_that_fails_is_told_from_a_defect() {
        let quoted = "the stage panicked: Unknown error: DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal\")";
        assert_eq!(cause(quoted).as_deref(), Some("CUDA_ERROR_ILLEGAL_ADDRESS"));
        assert_eq!(
            cause("Caused by:\n  CUBLAS_STATUS_NOT_SUPPORTED\nBacktrace").as_deref(),
            Some("CUBLAS_STATUS_NOT_SUPPORTED")
        );
        assert_eq!(cause("training diverged: 3 of 59 updates"), None);
        let failure = Failure { message: quoted.to_owned(), ..Failure::default() };
        let told = explained(failure, "train", &Estimate::default(), None);
        assert_eq!(told.message, "the GPU failed while `train` was computed (CUDA_ERROR_ILLEGAL_ADDRESS)");
        assert!(told.help.unwrap().starts_with("run again: "));
        let known = Failure { message: quoted.to_owned(), help: Some("write off".to_owned()), ..Failure::default() };
        assert_eq!(explained(known.clone(), "train", &Estimate::default(), None), known);
    }

    #[test]
    fn the_estimate_stands_beside_the_limit() {
        let failure = Failure {
            message: "the stage panicked: out of device memory allocating 4194304000 bytes".to_owned(),
            help: Some("this is a defect of Sepia: please report it with the log".to_owned()),
            ..Failure::default()
        };
        let estimate = Estimate {
            weight_bytes: Some(6 << 30),
            gradient_bytes: Some(5 << 30),
            optimizer_state_bytes: Some(10 << 30),
            activation_bytes: Some(70 << 30),
            ..Estimate::default()
        };
        let gpu = Gpu {
            number: 0,
            name: "NVIDIA H100 80GB HBM3".to_owned(),
            uuid: "GPU-1".to_owned(),
            memory_bytes: 80 << 30,
            compute_capability: (9, 0),
        };
        let told = explained(failure.clone(), "train", &estimate, Some(&gpu));
        insta::assert_snapshot!(told.message, @"the GPU's memory is full: `train` was estimated to need 91.0 GiB (weights 6.0 GiB, gradients 5.0 GiB, optimiser state 10.0 GiB, activations 70.0 GiB), the NVIDIA H100 80GB HBM3 has 80.0 GiB (out of device memory allocating 4194304000 bytes)");
        assert!(told.help.unwrap().contains("gradient_checkpointing"));
        let little = Estimate { activation_bytes: None, ..estimate };
        assert!(explained(failure.clone(), "train", &little, None).help.unwrap().contains("galore"));
        let unknown = explained(failure, "train", &Estimate::default(), None);
        assert!(unknown.message.contains("not known beforehand"), "{}", unknown.message);
        let other = Failure { message: "training diverged".to_owned(), ..Failure::default() };
        assert_eq!(explained(other.clone(), "train", &estimate, Some(&gpu)), other);
    }
}
