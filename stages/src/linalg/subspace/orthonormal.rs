//! Orthonormal columns with the span of given ones, for several matrices at once: products on the device, factors of size
//! columns x columns on the host, those of all matrices beside each other.

use burn::tensor::Tensor;
use faer::{
    Mat, Par,
    linalg::{solvers::Llt, triangular_inverse::invert_lower_triangular},
};
use rayon::prelude::*;

use super::super::{
    host::{to_device, to_host},
    svd::LinalgError,
};
use crate::ops::product;

/// The least part of a column's length that must be new beside the columns before it: products with the inverse of a factor
/// lose orthogonality with the square of its condition number.
const LEAST_NEW: f64 = 1e-3;

/// Orthonormal columns with the span of each; where columns are dependent to within round-off, by Householder reflections on
/// the host, which find a column for every one there is.
pub(super) fn orthonormal(all: Vec<Tensor<2>>) -> Result<Vec<Tensor<2>>, LinalgError> {
    let found = by_cholesky(&all)?;
    let dependent = || all.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(y, _)| y);
    let read: Vec<Mat<f64>> = dependent().map(to_host).collect::<Result<_, _>>()?;
    let householder: Vec<Mat<f64>> = read.par_iter().map(|y| y.qr().compute_thin_Q()).collect();
    let mut householder = dependent()
        .zip(householder)
        .map(|(y, q)| to_device(&q, &y.device(), y.dtype()))
        .collect::<Vec<_>>()
        .into_iter();
    Ok(found.into_iter().filter_map(|found| found.or_else(|| householder.next())).collect())
}

/// Orthonormal columns with the span of each by a Cholesky factor of its Gram matrix; none where they are nearly dependent.
pub(super) fn by_cholesky(all: &[Tensor<2>]) -> Result<Vec<Option<Tensor<2>>>, LinalgError> {
    // All are queued before the first is waited for.
    let grams: Vec<Tensor<2>> = all.iter().map(|y| product(y.clone().transpose(), y.clone())).collect();
    let grams: Vec<Mat<f64>> = grams.iter().map(to_host).collect::<Result<_, _>>()?;
    let factors: Vec<Option<Mat<f64>>> = grams.par_iter().map(factor).collect();
    let multiplied = all
        .iter()
        .zip(factors)
        .map(|(y, factor)| factor.map(|factor| product(y.clone(), to_device(&factor, &y.device(), y.dtype()))));
    Ok(multiplied.collect())
}

/// What `Y` must be multiplied by to have orthonormal columns, from `Y^T Y`.
fn factor(gram: &Mat<f64>) -> Option<Mat<f64>> {
    let width = gram.nrows();
    // Columns of unit length span the same; those of a power iteration differ in length as singular values do.
    let lengths: Vec<f64> = (0..width).map(|k| gram[(k, k)].sqrt()).collect();
    if lengths.iter().any(|length| !(length.is_finite() && *length > 0.0)) {
        return None;
    }
    let cosines = Mat::from_fn(width, width, |i, j| gram[(i, j)] / (lengths[i] * lengths[j]));
    let factor = Llt::new(cosines.as_ref(), faer::Side::Lower).ok()?;
    if (0..width).any(|k| factor.L()[(k, k)] < LEAST_NEW) {
        return None;
    }
    let mut inverse = Mat::zeros(width, width);
    invert_lower_triangular(inverse.as_mut(), factor.L(), Par::Seq);
    // Y = Q L^T D with the lengths D, so Q = Y D^-1 L^-T.
    Some(Mat::from_fn(width, width, |i, j| inverse[(j, i)] / lengths[i]))
}
