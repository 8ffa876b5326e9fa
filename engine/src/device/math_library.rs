//! CUDA's math functions for kernels: the file `libdevice.10.bc`.
//!
//! The driver has everything else that a kernel needs, so a machine may lack this file alone: it comes with the CUDA
//! toolkit, with packages of PyPI and conda, and with Triton, which PyTorch brings along. CubeCL 0.11 looks into the folder
//! that `CUDA_PATH` names, or into four common ones, and fails in the middle of a training where it finds none. Hence it is
//! looked for before anything runs, in more places, and a child is told where it is.

use std::path::{Path, PathBuf};

use super::{
    NoGpu,
    installed::{Installed, USUAL, Variable, of_packages, python_packages},
};

/// Where it lies within a toolkit.
const WITHIN: &str = "nvvm/libdevice/libdevice.10.bc";

/// The file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MathLibrary(PathBuf);

impl MathLibrary {
    /// The first one there is: of the toolkit that `CUDA_PATH` or `CUDA_HOME` names, of a usual folder, of the toolkit
    /// whose `nvcc` is on the path, of the Python environment that is active or whose `python3` is on the path.
    ///
    /// # Errors
    /// [`NoGpu::NoMathLibrary`].
    pub fn of_this_machine() -> Result<Self, NoGpu> {
        Self::find(&|name| std::env::var_os(name), &USUAL.map(PathBuf::from)).ok_or(NoGpu::NoMathLibrary)
    }

    fn find(variable: &Variable<'_>, usual: &[PathBuf]) -> Option<Self> {
        let Installed { toolkits, environments } = Installed::new(variable, usual);
        let in_environments = environments.into_iter().flat_map(|prefix| {
            let packages: Vec<PathBuf> = python_packages(&prefix).flat_map(|packages| in_packages(&packages)).collect();
            [prefix.join(WITHIN)].into_iter().chain(packages)
        });
        let mut files = toolkits.into_iter().map(|toolkit| toolkit.join(WITHIN)).chain(in_environments);
        files.find(|file| file.is_file()).map(Self)
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.0
    }

    /// A folder that can be given to CubeCL as `CUDA_PATH`: that of the toolkit, or, where the file lies elsewhere, one that
    /// is made in `scratch`, a folder of one child, with a link to it.
    ///
    /// # Errors
    /// When that cannot be made.
    pub fn toolkit(&self, scratch: &Path) -> std::io::Result<PathBuf> {
        if self.0.ends_with(WITHIN)
            && let Some(toolkit) = self.0.ancestors().nth(3)
        {
            return Ok(toolkit.to_owned());
        }
        let toolkit = scratch.join("toolkit");
        let link = toolkit.join(WITHIN);
        fs_err::create_dir_all(link.parent().unwrap_or(&toolkit))?;
        let _ = fs_err::remove_file(&link);
        fs_err::os::unix::fs::symlink(&self.0, &link)?;
        Ok(toolkit)
    }
}

/// Where packages have it: NVIDIA's own (`nvidia-cuda-nvcc-cu12`, `nvidia-nvvm`), and Triton.
fn in_packages(packages: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = of_packages(packages).into_iter().map(|package| package.join(WITHIN)).collect();
    all.push(packages.join("triton/backends/nvidia/lib/libdevice.10.bc"));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, file: &str) -> PathBuf {
        let file = root.join(file);
        fs_err::create_dir_all(file.parent().unwrap()).unwrap();
        fs_err::write(&file, "").unwrap();
        file
    }

    /// What is found with these variables, where nothing but `usual` is usual.
    fn found(variables: &[(&str, &Path)], usual: &Path) -> Option<PathBuf> {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_os_str().to_owned())
        };
        MathLibrary::find(&variable, &[usual.join("cuda")]).map(|found| found.0)
    }

    #[test]
    fn the_toolkit_that_is_named_goes_before_the_usual_and_a_wrong_one_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(found(&[], root), None);
        let old = put(root, "cuda-9.2/nvvm/libdevice/libdevice.10.bc");
        assert_eq!(found(&[], root), Some(old));
        let new = put(root, "cuda-12.9/nvvm/libdevice/libdevice.10.bc");
        put(root, "cuda-old/nvvm/libdevice/libdevice.10.bc");
        assert_eq!(found(&[], root), Some(new));
        let usual = put(root, "cuda/nvvm/libdevice/libdevice.10.bc");
        assert_eq!(found(&[("CUDA_PATH", Path::new(""))], root), Some(usual.clone()));
        let named = put(root, "mine/nvvm/libdevice/libdevice.10.bc");
        assert_eq!(found(&[("CUDA_HOME", &root.join("mine"))], root), Some(named.clone()));
        assert_eq!(
            found(&[("CUDA_PATH", &root.join("nothing")), ("CUDA_HOME", &root.join("mine"))], root),
            Some(named)
        );
        assert_eq!(found(&[("CUDA_PATH", &root.join("nothing"))], root), Some(usual));
    }

    #[test]
    fn programs_on_the_path_and_python_environments_lead_to_it() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let triton = put(root, "venv/lib/python3.12/site-packages/triton/backends/nvidia/lib/libdevice.10.bc");
        assert_eq!(found(&[("VIRTUAL_ENV", &root.join("venv"))], root), Some(triton.clone()));
        put(root, "venv/bin/python3");
        let path = std::env::join_paths([root.join("empty"), root.join("venv/bin")]).unwrap();
        assert_eq!(found(&[("PATH", Path::new(&path))], root), Some(triton));
        let package = put(root, "venv/lib/python3.12/site-packages/nvidia/cuda_nvcc/nvvm/libdevice/libdevice.10.bc");
        assert_eq!(found(&[("PATH", Path::new(&path))], root), Some(package));
        // `nvcc` is a link into the toolkit.
        let toolkit = put(root, "hpc/toolkit/nvvm/libdevice/libdevice.10.bc");
        put(root, "hpc/toolkit/bin/nvcc");
        fs_err::create_dir_all(root.join("links/bin")).unwrap();
        fs_err::os::unix::fs::symlink(root.join("hpc/toolkit/bin/nvcc"), root.join("links/bin/nvcc")).unwrap();
        assert_eq!(found(&[("PATH", &root.join("links/bin"))], root), Some(fs_err::canonicalize(toolkit).unwrap()));
    }

    #[test]
    fn what_lies_elsewhere_is_linked_to_where_it_is_looked_for() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let inside = MathLibrary(put(root, "cuda/nvvm/libdevice/libdevice.10.bc"));
        assert_eq!(inside.toolkit(&root.join("scratch")).unwrap(), root.join("cuda"));
        assert!(!root.join("scratch").exists());
        for name in ["one/libdevice.10.bc", "two/libdevice.10.bc", "two/libdevice.10.bc"] {
            let elsewhere = MathLibrary(put(root, name));
            let toolkit = elsewhere.toolkit(&root.join("scratch")).unwrap();
            assert_eq!(fs_err::read_link(toolkit.join(WITHIN)).unwrap(), root.join(name));
        }
        let made = root.join("scratch/toolkit/nvvm/libdevice");
        assert_eq!(fs_err::read_dir(made).unwrap().count(), 1, "nothing else is left");
    }
}
