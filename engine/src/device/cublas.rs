//! cuBLAS, which multiplies matrices on a GPU where it is installed.
//!
//! It comes with the CUDA toolkit, with packages of distributions, PyPI and conda, and with PyTorch. A training does without
//! where it is not there, or not wanted.

use std::path::PathBuf;

use super::installed::{Installed, USUAL, Variable, of_packages, python_packages};

/// The names of those versions whose functions are called, the newest first.
const NAMES: [&str; 2] = ["libcublas.so.13", "libcublas.so.12"];

/// What is known of it before it is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cublas {
    /// The user does not want it.
    Off,
    /// The user says where it is: one that cannot be used is an error. Empty where there is nothing.
    Named(Vec<PathBuf>),
    /// Where it was found, in the order to try: one may be too new for the driver.
    Found(Vec<PathBuf>),
}

impl Cublas {
    /// The variable that names a library or the folder that has it, or says `off`.
    pub const VARIABLE: &str = "SEPIA_CUBLAS";

    /// What the variable says, or else what is there: in folders of `LD_LIBRARY_PATH`, of toolkits, of the system, and of
    /// environments of Python and the packages in them.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let system = [format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH), "/usr/lib64".to_owned()];
        Self::find(&|name| std::env::var_os(name), &USUAL.map(PathBuf::from), &system.map(PathBuf::from))
    }

    fn find(variable: &Variable<'_>, usual: &[PathBuf], system: &[PathBuf]) -> Self {
        let inside = |folder: PathBuf| NAMES.map(|name| folder.join(name)).into_iter().filter(|file| file.is_file());
        match variable(Self::VARIABLE).filter(|value| !value.is_empty()) {
            Some(value) if value == "off" => Self::Off,
            Some(value) => {
                let path = PathBuf::from(value);
                Self::Named(if path.is_dir() { inside(path).collect() } else { vec![path] })
            }
            None => {
                let Installed { toolkits, environments } = Installed::new(variable, usual);
                let listed = variable("LD_LIBRARY_PATH").unwrap_or_default();
                let listed: Vec<PathBuf> = std::env::split_paths(&listed).filter(|path| path.is_absolute()).collect();
                let folders = listed
                    .into_iter()
                    .chain(toolkits.into_iter().map(|toolkit| toolkit.join("lib64")))
                    .chain(system.iter().cloned())
                    .chain(environments.into_iter().flat_map(|prefix| {
                        let packages = python_packages(&prefix).flat_map(|packages| of_packages(&packages));
                        let packages: Vec<PathBuf> = packages.collect();
                        std::iter::once(prefix).chain(packages).map(|folder| folder.join("lib"))
                    }));
                let mut files: Vec<PathBuf> = Vec::new();
                for file in folders.flat_map(inside) {
                    if !files.contains(&file) {
                        files.push(file);
                    }
                }
                Self::Found(files)
            }
        }
    }

    /// The files to try, in their order.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        match self {
            Self::Off => &[],
            Self::Named(files) | Self::Found(files) => files,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn it_is_found_where_it_is_installed() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let put = |file: &str| {
            let file = root.join(file);
            fs_err::create_dir_all(file.parent().unwrap()).unwrap();
            fs_err::write(&file, "").unwrap();
            file
        };
        let find = |variables: &[(&str, &Path)]| {
            let variable = |name: &str| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_os_str().to_owned())
            };
            Cublas::find(&variable, &[root.join("cuda")], &[root.join("system")])
        };
        assert_eq!(find(&[]), Cublas::Found(vec![]));
        let package = put("venv/lib/python3.12/site-packages/nvidia/cublas/lib/libcublas.so.12");
        put("venv/lib/python3.12/site-packages/nvidia/cublas/lib/libcublas.so.11");
        let system = put("system/libcublas.so.12");
        let toolkit = put("cuda/lib64/libcublas.so.13");
        let listed = put("listed/libcublas.so.12");
        let (venv, folder) = (root.join("venv"), root.join("listed"));
        assert_eq!(
            find(&[("VIRTUAL_ENV", &venv)]),
            Cublas::Found(vec![toolkit.clone(), system.clone(), package.clone()])
        );
        let everywhere = [("LD_LIBRARY_PATH", folder.as_path()), ("CUDA_PATH", &root.join("cuda"))];
        assert_eq!(find(&everywhere), Cublas::Found(vec![listed.clone(), toolkit, system]), "each once");
        assert_eq!(find(&[(Cublas::VARIABLE, &folder)]), Cublas::Named(vec![listed.clone()]));
        assert_eq!(find(&[(Cublas::VARIABLE, &listed)]), Cublas::Named(vec![listed]));
        assert_eq!(find(&[(Cublas::VARIABLE, root)]), Cublas::Named(vec![]), "there is none");
        assert_eq!(find(&[(Cublas::VARIABLE, Path::new("off")), everywhere[0]]), Cublas::Off);
        assert!(find(&[(Cublas::VARIABLE, Path::new("")), everywhere[0]]).files().len() == 3, "as if it were not set");
    }
}
