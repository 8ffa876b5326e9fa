//! A matrix as the product of two of a given rank.

use faer::Mat;

use crate::linalg::svd::{LinalgError, svd};

/// Which factor carries the singular values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sigma {
    /// Their square roots go into both: `U sqrt(S)` and `sqrt(S) V^T` (spectral initialisation).
    Balanced,
    /// The second takes them all: `U` and `S V^T`, as TRP's spatial form does.
    Second,
}

/// The best factors of rank `k` of a matrix `[m, n]`: `[m, k]` and `[k, n]`. `k` is clamped to 1..=min(m, n).
///
/// # Errors
/// As [`svd`].
pub fn split(matrix: &Mat<f64>, k: usize, sigma: Sigma) -> Result<(Mat<f64>, Mat<f64>), LinalgError> {
    let found = svd(matrix.as_ref())?;
    let k = k.clamp(1, found.s.len());
    let (first, second): (fn(f64) -> f64, fn(f64) -> f64) = match sigma {
        Sigma::Balanced => (f64::sqrt, f64::sqrt),
        Sigma::Second => (|_| 1.0, |s| s),
    };
    let left = Mat::from_fn(matrix.nrows(), k, |i, j| found.u[(i, j)] * first(found.s[j]));
    let right = Mat::from_fn(k, matrix.ncols(), |i, j| second(found.s[i]) * found.v[(j, i)]);
    Ok((left, right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balanced_factors_have_equal_gram_matrices_and_the_other_split_an_orthonormal_first() {
        let w = Mat::from_fn(4, 3, |i, j| ((i * 3 + j) as f64).sin());
        let (left, right) = split(&w, 2, Sigma::Balanced).unwrap();
        assert!((left.transpose() * &left - &right * right.transpose()).norm_max() < 1e-12);
        let (basis, rest) = split(&w, 2, Sigma::Second).unwrap();
        assert!((basis.transpose() * &basis - Mat::<f64>::identity(2, 2)).norm_max() < 1e-12);
        assert!((&left * &right - &basis * &rest).norm_max() < 1e-12);
    }

    #[test]
    fn a_rank_beyond_the_short_side_is_clamped() {
        let w = Mat::from_fn(2, 5, |i, j| (i + j) as f64);
        let (left, right) = split(&w, 9, Sigma::Balanced).unwrap();
        assert_eq!((left.ncols(), right.nrows()), (2, 2));
    }
}
