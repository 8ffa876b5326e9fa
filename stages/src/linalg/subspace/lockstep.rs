//! Power iterations over several matrices in step: the device computes for all while the host waits once, and then the host
//! factors for all, one matrix a thread. Each finds to the bit what it finds by itself.

use burn::tensor::{Tensor, TensorData};
use faer::Mat;
use rayon::prelude::*;

use super::{
    super::{
        host::{to_device, to_host},
        svd::{LinalgError, Vectors},
    },
    Dominant, Wanted,
    orthonormal::{by_cholesky, orthonormal},
};
use crate::{ops::product, random::Rng};

/// One matrix on its way.
struct Running {
    /// Scaled, its left side wanted: the transpose of a matrix whose right side is wanted.
    g: Tensor<2>,
    basis: Tensor<2>,
    passes: usize,
}

/// The dominant subspaces of matrices `||G||_F^2 = energy`, which are finite and above 0.
pub(super) fn iterate(all: &[(&Wanted<'_>, f64)]) -> Result<Vec<Dominant>, LinalgError> {
    let mut running: Vec<Running> = all.iter().map(|(wanted, energy)| Running::new(wanted, *energy)).collect();
    // The first pass makes whatever it starts from orthonormal; only the last needs full orthogonality.
    for done in 0..running.iter().map(|one| one.passes).max().unwrap_or(0) {
        let (indices, across): (Vec<usize>, Vec<_>) =
            running.iter().enumerate().filter(|(_, one)| done < one.passes).map(|(k, one)| (k, one.across())).unzip();
        let gs: Vec<&Tensor<2>> = indices.iter().map(|k| &running[*k].g).collect();
        let found = pass(&gs, across)?;
        for (k, basis) in indices.into_iter().zip(found) {
            running[k].basis = basis;
        }
    }
    let (gs, bases): (Vec<_>, Vec<_>) = running.into_iter().map(|one| (one.g, one.basis)).unzip();
    rotate(all, &gs, orthonormal(bases)?)
}

impl Running {
    fn new(wanted: &Wanted<'_>, energy: f64) -> Self {
        let matrix = wanted.matrix;
        // The transpose is a view.
        let g = match wanted.side {
            Vectors::Left => matrix.clone(),
            Vectors::Right => matrix.clone().transpose(),
        };
        // A gradient of any size: its Gram matrices square its entries.
        let g = g.mul_scalar(1.0 / energy.sqrt());
        let [dim, _] = g.dims();
        let width = wanted.rank() + wanted.config.oversample;
        let known = wanted.previous.map_or(0, |basis| basis.dims()[1].min(width));
        let fresh = random(dim, width - known, wanted.seed, matrix);
        let basis = match wanted.previous {
            Some(previous) => Tensor::cat(vec![previous.clone().narrow(1, 0, known), fresh], 1),
            None => fresh,
        };
        Self { g, basis, passes: wanted.config.iterations + usize::from(wanted.previous.is_none()) }
    }

    /// `G^T B`.
    fn across(&self) -> Tensor<2> {
        product(self.g.clone().transpose(), self.basis.clone())
    }
}

/// The second half of a pass: orthonormal columns with the span of `G G^T B`, from `G^T B`.
fn pass(gs: &[&Tensor<2>], across: Vec<Tensor<2>>) -> Result<Vec<Tensor<2>>, LinalgError> {
    let times = |g: &&Tensor<2>, across: Tensor<2>| product((*g).clone(), across);
    let products: Vec<_> = gs.iter().zip(&across).map(|(g, across)| times(g, across.clone())).collect();
    let found = by_cholesky(&products)?;
    drop(products);
    // In `G G^T B` the singular values are squared; in `G^T B` they are not yet.
    let (again, across): (Vec<_>, Vec<_>) =
        gs.iter().zip(across).zip(&found).filter(|(_, found)| found.is_none()).map(|(pair, _)| pair).unzip();
    let products = again.into_iter().zip(orthonormal(across)?).map(|(g, across)| times(g, across)).collect();
    let mut better = orthonormal(products)?.into_iter();
    Ok(found.into_iter().filter_map(|found| found.or_else(|| better.next())).collect())
}

/// A Rayleigh-Ritz rotation: of orthonormal columns to approximate singular vectors.
fn rotate(all: &[(&Wanted<'_>, f64)], gs: &[Tensor<2>], bases: Vec<Tensor<2>>) -> Result<Vec<Dominant>, LinalgError> {
    let inner = gs.iter().zip(&bases).map(|(g, basis)| product(basis.clone().transpose(), g.clone())); // [width, n]
    let grams: Vec<Tensor<2>> = inner.map(|inner| product(inner.clone(), inner.transpose())).collect();
    let grams: Vec<Mat<f64>> = grams.iter().map(to_host).collect::<Result<_, _>>()?;
    let eigen: Vec<_> = grams.par_iter().map(eigen).collect::<Result<_, _>>()?;
    let rotated = all.iter().zip(bases).zip(eigen).map(|(((wanted, _), basis), (values, rotation))| {
        let r = wanted.rank();
        let kept = Mat::from_fn(rotation.nrows(), r, |i, j| rotation[(i, j)]);
        let kept = to_device(&kept, &basis.device(), basis.dtype());
        let captured = values[..r].iter().sum::<f64>().clamp(0.0, 1.0);
        Dominant { basis: fix_signs(product(basis, kept)), captured, overlap: None }
    });
    Ok(rotated.collect())
}

/// Normal random columns `[dim, count]`.
pub(super) fn random(dim: usize, count: usize, seed: u64, like: &Tensor<2>) -> Tensor<2> {
    let data = TensorData::new(Rng::new(seed).normal(dim * count, 1.0), [dim, count]);
    Tensor::from_data(data, (&like.device(), like.dtype()))
}

/// Eigenvalues (descending) and eigenvectors of a symmetric matrix.
pub(super) fn eigen(symmetric: &Mat<f64>) -> Result<(Vec<f64>, Mat<f64>), LinalgError> {
    let width = symmetric.nrows();
    let found = symmetric
        .self_adjoint_eigen(faer::Side::Lower)
        .map_err(|_| LinalgError::NoConvergence { rows: width, cols: width })?;
    let (values, vectors) = (found.S().column_vector(), found.U());
    let descending = (0..width).map(|k| values[width - 1 - k]).collect();
    Ok((descending, Mat::from_fn(width, width, |i, j| vectors[(i, width - 1 - j)])))
}

/// Of each column the entry largest in magnitude becomes positive.
pub(super) fn fix_signs<const D: usize>(basis: Tensor<D>) -> Tensor<D> {
    let (highest, lowest) = (basis.clone().max_dim(D - 2), basis.clone().min_dim(D - 2));
    let negative = highest.clone().add(lowest).lower_elem(0.0);
    basis.mul(highest.ones_like().mask_fill(negative, -1.0))
}
