//! The dominant singular subspace of a matrix, for projecting gradients.
//!
//! [`Solver::Exact`] takes the full decomposition on the host. [`Solver::Subspace`] runs a block power iteration:
//! matrix products on the device, a Cholesky factor and an eigenproblem of size rank on the host. It starts from the
//! previous basis where there is one, since the subspace of a gradient drifts slowly, and ends with a Rayleigh-Ritz
//! rotation, so that its columns approximate singular vectors one by one and not just their span: Adam works on
//! coordinates, and those depend on the rotation.
//!
//! Either way the columns are orthonormal, ordered by singular value, and of each the entry largest in magnitude (the
//! first of equals) is positive.

use burn::tensor::{DType, Tensor, TensorData};
use faer::{Mat, linalg::solvers::Llt, prelude::Solve as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    host::{to_device, to_host, to_host_f32},
    svd::{LinalgError, Real, Vectors, vectors},
};
use crate::random::Rng;

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

/// An orthonormal basis of the dominant subspace.
#[derive(Debug, Clone)]
pub struct Dominant {
    /// Columns, `[dim, r]`: dim is m on the left side and n on the right.
    pub basis: Tensor<2>,
    /// Share of `||G||_F^2` inside the subspace, 0 to 1; 1 for a zero matrix.
    pub captured: f64,
}

/// The dominant `r` left or right singular directions of a matrix `[m, n]`, clamped to min(m, n).
///
/// `previous` is a basis `[dim, _]` to start from; `seed` decides the random directions. The result is in the matrix's
/// own type and on its device.
///
/// # Errors
/// [`LinalgError`] for an empty matrix, NaN or infinity in it, or no convergence.
pub fn dominant(
    matrix: &Tensor<2>,
    side: Vectors,
    r: usize,
    config: &SubspaceConfig,
    previous: Option<&Tensor<2>>,
    seed: u64,
) -> Result<Dominant, LinalgError> {
    let [m, n] = matrix.dims();
    let q = m.min(n);
    if q == 0 {
        return Err(LinalgError::Empty { rows: m, cols: n });
    }
    let r = r.clamp(1, q);
    match config.solver {
        // A power iteration over nearly all directions costs more than the decomposition.
        Solver::Subspace if r + config.oversample < q => iterate(matrix, side, r, config, previous, seed),
        _ => exact(matrix, side, r),
    }
}

fn exact(matrix: &Tensor<2>, side: Vectors, r: usize) -> Result<Dominant, LinalgError> {
    fn of<T: Real>(host: &Mat<T>, like: &Tensor<2>, side: Vectors, r: usize) -> Result<Dominant, LinalgError> {
        let (all, s) = vectors(host.as_ref(), side)?;
        let kept = Mat::from_fn(all.nrows(), r, |i, j| all[(i, j)]);
        let energy = |values: &[T]| values.iter().map(|s| Into::<f64>::into(*s).powi(2)).sum::<f64>();
        let captured = share(energy(&s[..r]), energy(&s));
        Ok(Dominant { basis: to_device(&kept, &like.device(), like.dtype()), captured })
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

fn iterate(
    matrix: &Tensor<2>,
    side: Vectors,
    r: usize,
    config: &SubspaceConfig,
    previous: Option<&Tensor<2>>,
    seed: u64,
) -> Result<Dominant, LinalgError> {
    let [rows, cols] = matrix.dims();
    // Works on the left side of `g`; the transpose is a view.
    let g = match side {
        Vectors::Left => matrix.clone(),
        Vectors::Right => matrix.clone().transpose(),
    };
    let [dim, _] = g.dims();
    let energy = read(&g.clone().square().sum().reshape([1, 1]))?[(0, 0)];
    if !energy.is_finite() {
        let count = to_host(matrix)?.col_iter().flat_map(|column| column.iter()).filter(|x| !x.is_finite()).count();
        return Err(LinalgError::NotFinite { rows, cols, count });
    }
    if energy == 0.0 {
        return exact(matrix, side, r);
    }
    // A gradient of any size: the Gram matrices below square its entries.
    let g = g.mul_scalar(1.0 / energy.sqrt());
    let width = r + config.oversample;
    let known = previous.map_or(0, |basis| basis.dims()[1].min(width));
    let fresh = random(dim, width - known, seed, matrix);
    let mut basis = match previous {
        Some(previous) => Tensor::cat(vec![previous.clone().narrow(1, 0, known), fresh], 1),
        None => fresh,
    };
    // The first pass makes whatever it starts from orthonormal; only the last needs full orthogonality.
    for _ in 0..config.iterations + usize::from(previous.is_none()) {
        basis = orthonormal(g.clone().matmul(g.clone().transpose().matmul(basis)))?;
    }
    let basis = orthonormal(basis)?;
    let inner = basis.clone().transpose().matmul(g); // [width, n]
    let (values, rotation) = eigen(&read(&inner.clone().matmul(inner.transpose()))?, dim)?;
    let kept = Mat::from_fn(width, r, |i, j| rotation[(i, j)]);
    let basis = basis.matmul(to_device(&kept, &matrix.device(), matrix.dtype()));
    Ok(Dominant { basis: fix_signs(&basis)?, captured: values[..r].iter().sum::<f64>().clamp(0.0, 1.0) })
}

fn read(tensor: &Tensor<2>) -> Result<Mat<f64>, LinalgError> {
    to_host(tensor)
}

/// Normal random columns `[dim, count]`.
fn random(dim: usize, count: usize, seed: u64, like: &Tensor<2>) -> Tensor<2> {
    let data = TensorData::new(Rng::new(seed).normal(dim * count, 1.0), [dim, count]);
    Tensor::from_data(data, (&like.device(), like.dtype()))
}

/// Orthonormal columns with the span of `y`, by a Cholesky factor of its Gram matrix; where the columns are dependent to
/// within round-off, by Householder reflections on the host.
fn orthonormal(y: Tensor<2>) -> Result<Tensor<2>, LinalgError> {
    let (device, dtype) = (y.device(), y.dtype());
    let gram = read(&y.clone().transpose().matmul(y.clone()))?;
    let width = gram.nrows();
    let inverse = Llt::new(gram.as_ref(), faer::Side::Lower).ok().map(|factor| {
        let identity = Mat::<f64>::identity(width, width);
        // (L^T)^-1 = (L L^T)^-1 L
        factor.solve(&identity * factor.L())
    });
    // Products with an ill-conditioned factor lose orthogonality: its square root of the condition number is bounded.
    let usable = inverse.as_ref().is_some_and(|inverse| {
        let spread = (0..width).map(|k| inverse[(k, k)].abs());
        let (low, high) = spread.fold((f64::INFINITY, 0.0_f64), |(low, high), x| (low.min(x), high.max(x)));
        high.is_finite() && low > 0.0 && high / low < 1e3
    });
    match inverse.filter(|_| usable) {
        Some(inverse) => Ok(y.matmul(to_device(&inverse, &device, dtype))),
        None => {
            let q = read(&y)?.qr().compute_thin_Q();
            Ok(to_device(&q, &device, dtype))
        }
    }
}

/// Eigenvalues (descending) and eigenvectors of a symmetric matrix.
fn eigen(symmetric: &Mat<f64>, dim: usize) -> Result<(Vec<f64>, Mat<f64>), LinalgError> {
    let width = symmetric.nrows();
    let found = symmetric
        .self_adjoint_eigen(faer::Side::Lower)
        .map_err(|_| LinalgError::NoConvergence { rows: dim, cols: width })?;
    let (values, vectors) = (found.S().column_vector(), found.U());
    let descending = (0..width).map(|k| values[width - 1 - k]).collect();
    Ok((descending, Mat::from_fn(width, width, |i, j| vectors[(i, width - 1 - j)])))
}

/// Of each column the entry largest in magnitude becomes positive.
fn fix_signs(basis: &Tensor<2>) -> Result<Tensor<2>, LinalgError> {
    let host = to_host(basis)?;
    let signs: Vec<f64> = host
        .col_iter()
        .map(|column| {
            let largest = column.iter().fold(0.0_f64, |best, x| if x.abs() > best.abs() { *x } else { best });
            if largest < 0.0 { -1.0 } else { 1.0 }
        })
        .collect();
    let width = signs.len();
    let signs = Tensor::<2>::from_data(TensorData::new(signs, [1, width]), (&basis.device(), basis.dtype()));
    Ok(basis.clone().mul(signs))
}

/// How far two subspaces of equal dimension agree: `||P^T Q||_F^2 / r`, 1 for equal ones.
///
/// # Errors
/// When the device cannot be read.
pub fn overlap(p: &Tensor<2>, q: &Tensor<2>) -> Result<f64, LinalgError> {
    let inner = p.clone().transpose().matmul(q.clone()).square().sum().reshape([1, 1]);
    Ok(read(&inner)?[(0, 0)] / p.dims()[1].max(1) as f64)
}

#[cfg(test)]
#[path = "subspace_tests.rs"]
mod tests;
