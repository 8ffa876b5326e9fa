//! Where cuBLAS may be found.

use std::path::{Path, PathBuf};

/// The variable that says where it is.
pub const VARIABLE: &str = "SEPIA_CUBLAS";

/// Versions whose functions are those that are called here, the newest first.
const NAMES: [&str; 2] = ["libcublas.so.13", "libcublas.so.12"];

/// What the variable asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Nothing: it is looked for.
    Anything,
    /// Not to use it.
    Nothing,
    /// A library, or a folder that has it.
    This(PathBuf),
}

impl Asked {
    pub(crate) fn of(value: Option<std::ffi::OsString>) -> Self {
        match value {
            None => Self::Anything,
            Some(value) if value.is_empty() => Self::Anything,
            Some(value) if value == "off" => Self::Nothing,
            Some(value) => Self::This(value.into()),
        }
    }
}

/// What to try, in this order: names, which the loader looks for in its own places, and files that are there.
pub(crate) fn places(asked: &Asked, variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Vec<PathBuf> {
    match asked {
        Asked::Nothing => Vec::new(),
        Asked::This(path) if path.is_dir() => {
            NAMES.iter().map(|name| path.join(name)).filter(|path| path.exists()).collect()
        }
        Asked::This(path) => vec![path.clone()],
        Asked::Anything => {
            let folder = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
            let mut folders: Vec<PathBuf> = folder("CUDA_PATH").iter().map(|toolkit| toolkit.join("lib64")).collect();
            for environment in ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(folder) {
                folders.push(environment.join("lib"));
                folders.extend(of_python(&environment));
            }
            folders.push(PathBuf::from("/usr/local/cuda/lib64"));
            let files = folders.iter().flat_map(|folder| NAMES.map(|name| folder.join(name)));
            NAMES.map(PathBuf::from).into_iter().chain(files.filter(|file| file.exists())).collect()
        }
    }
}

/// Where PyTorch's packages put it in an environment of Python.
fn of_python(environment: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(environment.join("lib")) else { return Vec::new() };
    let mut versions: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    versions.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3")));
    versions.sort();
    let packages = |version: PathBuf| {
        ["cu13", "cublas"].map(|package| version.join("site-packages/nvidia").join(package).join("lib"))
    };
    versions.into_iter().flat_map(packages).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_found() {
        let environment = tempfile::tempdir().unwrap();
        let [package, toolkit] = ["lib/python3.12/site-packages/nvidia/cublas/lib", "toolkit/lib64"]
            .map(|folder| environment.path().join(folder));
        for (folder, name) in [(&package, NAMES[1]), (&toolkit, NAMES[0])] {
            std::fs::create_dir_all(folder).unwrap();
            std::fs::write(folder.join(name), "").unwrap();
        }
        let variable = |name: &str| match name {
            "CUDA_PATH" => Some(environment.path().join("toolkit").into()),
            "VIRTUAL_ENV" => Some(environment.path().into()),
            _ => None,
        };
        let found = places(&Asked::Anything, variable);
        let expected = [NAMES[0].into(), NAMES[1].into(), toolkit.join(NAMES[0]), package.join(NAMES[1])]
            .map(|path: PathBuf| path);
        // A toolkit of this machine may follow.
        assert_eq!(found.get(..4), Some(&expected[..]), "{found:?}");

        let of = |value: &Path| places(&Asked::of(Some(value.into())), |_| None);
        assert_eq!(of(&package), [package.join(NAMES[1])]);
        assert_eq!(
            of(Path::new("/nowhere/libcublas.so.12")),
            [Path::new("/nowhere/libcublas.so.12")],
            "and fails later"
        );
        assert!(of(Path::new("off")).is_empty());
        assert_eq!(Asked::of(Some("".into())), Asked::Anything);
    }
}
