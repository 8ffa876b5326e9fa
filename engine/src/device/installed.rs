//! Where what comes with CUDA may be on this machine: toolkits, and environments of Python, in which PyTorch has put some of it.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Where CubeCL and people put toolkits.
pub(super) const USUAL: [&str; 4] = ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda", "/usr"];

/// How variables are looked up.
pub(super) type Variable<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

/// Folders that are looked through, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Installed {
    /// Of the toolkit that `CUDA_PATH` or `CUDA_HOME` names, the usual ones, and the one whose `nvcc` is on the path.
    pub(super) toolkits: Vec<PathBuf>,
    /// Of the environment that is active, and the one whose `python3` is on the path.
    pub(super) environments: Vec<PathBuf>,
}

impl Installed {
    pub(super) fn new(variable: &Variable<'_>, usual: &[PathBuf]) -> Self {
        let named = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        // The prefixes of programs: `/opt/x` for `/opt/x/bin/nvcc`. A link on the path may point to where it was installed.
        let path = variable("PATH").unwrap_or_default();
        let prefix_of = |program: &str| {
            let mut found =
                std::env::split_paths(&path).map(|folder| folder.join(program)).filter(|file| file.is_file());
            found.next().into_iter().flat_map(|file| {
                let real = fs_err::canonicalize(&file).ok();
                [Some(file), real].into_iter().flatten().filter_map(|file| Some(file.parent()?.parent()?.to_owned()))
            })
        };
        let toolkits = ["CUDA_PATH", "CUDA_HOME"]
            .into_iter()
            .filter_map(named)
            .chain(usual.iter().cloned())
            .chain(usual.first().into_iter().flat_map(|first| versions(first)))
            .chain(prefix_of("nvcc"));
        let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(named).chain(prefix_of("python3"));
        Self { toolkits: toolkits.collect(), environments: environments.collect() }
    }
}

/// Toolkits beside the usual one, as NVIDIA's installers name them: `/usr/local/cuda-12.9`, the newest first.
fn versions(usual: &Path) -> Vec<PathBuf> {
    let Some((folder, name)) = usual.parent().zip(usual.file_name()) else { return Vec::new() };
    let start = format!("{}-", name.to_string_lossy());
    let version = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?.strip_prefix(&start)?.to_owned();
        let parts: Vec<u32> = name.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
        Some(parts)
    };
    let listed = fs_err::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all: Vec<(Vec<u32>, PathBuf)> = listed.filter_map(|path| Some((version(&path)?, path))).collect();
    all.sort_by(|one, other| other.cmp(one));
    all.into_iter().map(|(_, path)| path).collect()
}

/// The folders of a Python environment that packages are installed in.
pub(super) fn python_packages(prefix: &Path) -> impl Iterator<Item = PathBuf> {
    let mut all: Vec<PathBuf> = fs_err::read_dir(prefix.join("lib"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3")))
        .collect();
    all.sort();
    all.into_iter().rev().flat_map(|python| [python.join("site-packages"), python.join("dist-packages")])
}

/// The folders of NVIDIA's packages among those of Python.
pub(super) fn of_packages(packages: &Path) -> Vec<PathBuf> {
    let nvidia = fs_err::read_dir(packages.join("nvidia")).into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> = nvidia.map(|entry| entry.path()).collect();
    all.sort();
    all
}
