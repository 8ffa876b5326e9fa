//! The dominant singular subspace of a matrix, for projecting gradients.
//!
//! [`Solver::Exact`] takes the full decomposition on the host. [`Solver::Subspace`] runs a block power iteration. On the CPU
//! it takes Cholesky factors and solves an eigenproblem of size rank (`lockstep`); on a GPU all of it is computed there, and
//! nothing but four numbers for each matrix is read (`stacked`). It starts from the
//! previous basis where there is one, since the subspace of a gradient drifts slowly, and ends with a Rayleigh-Ritz
//! rotation, so that its columns approximate singular vectors one by one and not just their span: Adam works on
//! coordinates, and those depend on the rotation.
//!
//! Either way the columns are orthonormal, ordered by singular value, and of each the entry largest in magnitude is
//! positive; of equals the first, in a power iteration the positive one.

mod lockstep;
mod orthonormal;
#[cfg(any(test, feature = "cuda"))]
mod stacked;

use burn::tensor::{DType, Device, Tensor};
use faer::Mat;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    host::{to_device, to_host, to_host_f32},
    svd::{LinalgError, Real, Vectors, vectors},
};
#[cfg(feature = "cuda")]
use crate::ops;
use crate::ops::{product, total};

/// How a basis is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Solver {
    /// Full singular value decomposition on the host, in one thread.
    Exact,
    /// Block power iteration on the device, started from the previous basis.
    #[default]
    Subspace,
}

/// How the basis of a gradient's dominant subspace is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SubspaceConfig {
    /// `exact`, or `subspace` for a power iteration that is many times faster and captures nearly the same energy.
    pub solver: Solver,
    /// Power iterations when there is a previous basis to start from; one more where there is none.
    pub iterations: usize,
    /// Random directions carried along besides the rank asked for; they find what the previous basis lacks.
    pub oversample: usize,
}

impl Default for SubspaceConfig {
    fn default() -> Self {
        Self { solver: Solver::default(), iterations: 2, oversample: 8 }
    }
}

/// A dominant subspace that is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// `[m, n]`.
    pub matrix: &'a Tensor<2>,
    /// Of its left or its right singular vectors.
    pub side: Vectors,
    /// So many directions, clamped to min(m, n).
    pub r: usize,
    /// How they are computed.
    pub config: &'a SubspaceConfig,
    /// A basis `[dim, _]` to start from.
    pub previous: Option<&'a Tensor<2>>,
    /// Decides the random directions.
    pub seed: u64,
}

impl Wanted<'_> {
    /// The rank that can be had.
    fn rank(&self) -> usize {
        let [m, n] = self.matrix.dims();
        self.r.clamp(1, m.min(n).max(1))
    }

    /// A power iteration over nearly all directions costs more than the decomposition.
    fn iterates(&self) -> bool {
        let [m, n] = self.matrix.dims();
        self.config.solver == Solver::Subspace && self.rank() + self.config.oversample < m.min(n)
    }
}

/// An orthonormal basis of the dominant subspace.
#[derive(Debug, Clone)]
pub struct Dominant {
    /// Columns, `[dim, r]`: dim is m on the left side and n on the right.
    pub basis: Tensor<2>,
    /// Share of `||G||_F^2` inside the subspace, 0 to 1; 1 for a zero matrix.
    pub captured: f64,
    /// How far it agrees with the basis `P` that it was started from, if there was one: `||P^T Q||_F^2 / r`, 1 if equal.
    pub overlap: Option<f64>,
}

/// How many matrices on a device are best asked for at once: one for each thread of the host where that computes, and some
/// layers' where matrices of one shape are stacked; but not so many that what is computed on the way takes much memory.
#[must_use]
pub fn at_once(device: &Device) -> usize {
    if *device == Device::flex() { rayon::current_num_threads().min(8) } else { 48 }
}

/// The dominant subspaces of several matrices, each in the matrix's own type and on its device. On the CPU each is what it is
/// when asked for by itself, to the bit; on a GPU products of stacked matrices may be rounded otherwise than those of one.
///
/// # Errors
/// Of each, [`LinalgError`] for an empty matrix, NaN or infinity in it, or no convergence.
#[must_use]
pub fn dominant_of_all(wanted: &[Wanted<'_>]) -> Vec<Result<Dominant, LinalgError>> {
    of_all(wanted).unwrap_or_else(|error| wanted.iter().map(|_| Err(error.clone())).collect())
}

/// See [`dominant_of_all`].
///
/// # Errors
/// As there.
pub fn dominant(wanted: Wanted<'_>) -> Result<Dominant, LinalgError> {
    of_all(&[wanted])?.remove(0)
}

#[cfg(feature = "cuda")]
fn of_all(wanted: &[Wanted<'_>]) -> Result<Vec<Result<Dominant, LinalgError>>, LinalgError> {
    let stays = |one: &Wanted<'_>| {
        let width = one.rank() + one.config.oversample;
        one.iterates()
            && ops::on_gpu(one.matrix)
            && one.matrix.dtype() == DType::F32
            && width <= sepia_kernels::LARGEST_EIGEN
    };
    let mut stacked = stacked::find(&wanted.iter().filter(|one| stays(one)).collect::<Vec<_>>())?.into_iter();
    let mut found: Vec<Option<Dominant>> =
        wanted.iter().map(|one| if stays(one) { stacked.next().flatten() } else { None }).collect();
    let left: Vec<Wanted<'_>> =
        wanted.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(one, _)| *one).collect();
    let mut with_host = with_host(&left)?.into_iter();
    Ok(found.iter_mut().filter_map(|found| found.take().map(Ok).or_else(|| with_host.next())).collect())
}

#[cfg(not(feature = "cuda"))]
use with_host as of_all;

fn with_host(wanted: &[Wanted<'_>]) -> Result<Vec<Result<Dominant, LinalgError>>, LinalgError> {
    let iterating: Vec<&Wanted<'_>> = wanted.iter().filter(|one| one.iterates()).collect();
    let energies = read(iterating.iter().map(|one| total(one.matrix.clone().square())).collect())?;
    let usable = iterating.into_iter().zip(energies.iter().copied()).filter(|(_, energy)| is_usable(*energy));
    let mut iterated = lockstep::iterate(&usable.collect::<Vec<_>>())?.into_iter();
    let mut energies = energies.into_iter();
    let mut found = Vec::with_capacity(wanted.len());
    for one in wanted {
        let energy = if one.iterates() { energies.next() } else { None };
        let iterated = if energy.is_some_and(is_usable) { iterated.next() } else { None };
        found.push(match iterated {
            Some(iterated) => Ok(iterated),
            None => exact(one.matrix, one.side, one.r),
        });
    }
    let compared: Vec<(&mut Dominant, &Tensor<2>)> =
        found.iter_mut().zip(wanted).filter_map(|(found, one)| Some((found.as_mut().ok()?, one.previous?))).collect();
    let overlaps = read(compared.iter().map(|(found, previous)| agreement(previous, &found.basis)).collect())?;
    for ((found, _), overlap) in compared.into_iter().zip(overlaps) {
        found.overlap = Some(overlap);
    }
    Ok(found)
}

/// Whether a power iteration can start from a matrix of this `||G||_F^2`: without anything in it or with NaN it cannot.
fn is_usable(energy: f64) -> bool {
    energy.is_finite() && energy > 0.0
}

fn exact(matrix: &Tensor<2>, side: Vectors, r: usize) -> Result<Dominant, LinalgError> {
    fn of<T: Real>(host: &Mat<T>, like: &Tensor<2>, side: Vectors, r: usize) -> Result<Dominant, LinalgError> {
        let (all, s) = vectors(host.as_ref(), side)?;
        let r = r.clamp(1, s.len());
        let kept = Mat::from_fn(all.nrows(), r, |i, j| all[(i, j)]);
        let energy = |values: &[T]| values.iter().map(|s| Into::<f64>::into(*s).powi(2)).sum::<f64>();
        let captured = share(energy(&s[..r]), energy(&s));
        let basis = to_device(&kept, &like.device(), like.dtype());
        Ok(Dominant { basis, captured, overlap: None })
    }
    if matrix.dtype() == DType::F64 {
        of(&to_host(matrix)?, matrix, side, r)
    } else {
        of(&to_host_f32(matrix)?, matrix, side, r)
    }
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { (part / whole).min(1.0) } else { 1.0 }
}

/// `||P^T Q||_F^2 / r`, `[1]`: how far two subspaces of equal dimension agree, 1 for equal ones.
fn agreement(p: &Tensor<2>, q: &Tensor<2>) -> Tensor<1> {
    total(product(p.clone().transpose(), q.clone()).square()).div_scalar(p.dims()[1].max(1) as f64)
}

/// Single values `[1]` from the device, all in one transfer.
fn read(values: Vec<Tensor<1>>) -> Result<Vec<f64>, LinalgError> {
    if values.is_empty() {
        return Ok(Vec::new());
    }
    let all = Tensor::cat(values, 0);
    all.try_to_vec_as::<f64>().map_err(|error| LinalgError::Unreadable(error.to_string()))
}

#[cfg(test)]
mod tests;
