//! Where, with what and from which state of the sources a result comes. Recorded with every execution, never keyed.

use std::{path::Path, process::Command};

use camino::Utf8Path;
use sepia_cache::FileDigests;
use serde_json::{Map, Value, json};

use crate::{device::Gpus, stage::Device};

/// What is the same for all executions of a run. Takes some milliseconds: it asks git, and hashes the binary unless `files`
/// knows it.
pub(super) fn gather(program: &Path, folder: &Utf8Path, files: &FileDigests) -> Map<String, Value> {
    let binary = Utf8Path::from_path(program).and_then(|path| files.digest(path).ok());
    if let Err(error) = files.save() {
        tracing::debug!(%error, "the digest of the binary is not kept");
    }
    let mut all = machine();
    all.insert("sepia_version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
    all.insert("sepia_binary".to_owned(), json!(binary.map(|digest| digest.to_string())));
    all.insert("git".to_owned(), git(folder).unwrap_or(Value::Null));
    all
}

/// The machine that this process runs on.
pub(super) fn machine() -> Map<String, Value> {
    let system = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let mut all = Map::new();
    all.insert("host".to_owned(), json!(text(system.nodename())));
    all.insert(
        "os".to_owned(),
        json!(format!("{} {} {}", text(system.sysname()), text(system.release()), text(system.machine()))),
    );
    all.insert("cpu".to_owned(), json!(cpu_model()));
    all.insert("cpu_count".to_owned(), json!(super::slots::machine_threads()));
    all.insert("memory_bytes".to_owned(), json!(super::slots::machine_memory()));
    all
}

/// The GPU that a node computes on, and its driver.
pub(super) fn gpu(device: Device) -> Option<Value> {
    let Device::Cuda(number) = device else { return None };
    let gpus = Gpus::of_this_machine(true);
    let gpu = gpus.get(number).ok()?;
    Some(json!({ "name": gpu.name, "memory_bytes": gpu.memory_bytes, "driver": gpus.driver }))
}

fn cpu_model() -> Option<String> {
    let info = fs_err::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The commit of the manifest's folder, and whether tracked files differ from it.
fn git(folder: &Utf8Path) -> Option<Value> {
    let ask = |arguments: &[&str]| {
        let folder = if folder.as_str().is_empty() { Utf8Path::new(".") } else { folder };
        let answer = Command::new("git")
            .arg("-C")
            .arg(folder)
            .args(arguments)
            .stderr(std::process::Stdio::null())
            .output()
            .ok()?;
        answer.status.success().then(|| String::from_utf8_lossy(&answer.stdout).trim().to_owned())
    };
    let commit = ask(&["rev-parse", "HEAD"])?;
    let changes = ask(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(json!({ "commit": commit, "dirty": !changes.is_empty() }))
}
