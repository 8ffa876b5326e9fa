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

/// What of a singular value one factor takes.
type Part = fn(f64) -> f64;

/// The best factors of rank `k` of a matrix `[m, n]`: `[m, k]` and `[k, n]`. `k` is clamped to 1..=min(m, n).
///
/// # Errors
/// As [`svd`].
pub fn split(matrix: &Mat<f64>, k: usize, sigma: Sigma) -> Result<(Mat<f64>, Mat<f64>), LinalgError> {
    let found = svd(matrix.as_ref())?;
    let k = k.clamp(1, found.s.len());
    let (first, second): (Part, Part) = match sigma {
        Sigma::Balanced => (f64::sqrt, f64::sqrt),
        Sigma::Second => (|_| 1.0, |s| s),
    };
    let left = Mat::from_fn(matrix.nrows(), k, |i, j| found.u[(i, j)] * first(found.s[j]));
    let right = Mat::from_fn(k, matrix.ncols(), |i, j| second(found.s[i]) * found.v[(j, i)]);
    Ok((left, right))
}

/// The factors of rank `k` whose product is closest where the inputs are large: those of `W D`, the second multiplied by
/// `D^-1`, with `D` the roots of the sums of squares of each input (LoRAP's activation-weighted decomposition). Inputs that
/// are always 0 count as 1e-4. The scale of `D` as a whole does not matter.
///
/// # Errors
/// As [`svd`].
pub fn split_weighted(matrix: &Mat<f64>, k: usize, input_squares: &[f64]) -> Result<(Mat<f64>, Mat<f64>), LinalgError> {
    let weight = |j: usize| match input_squares.get(j).copied().unwrap_or(0.0).sqrt() {
        root if root > 0.0 => root,
        _ => 1e-4,
    };
    let weighted = Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| matrix[(i, j)] * weight(j));
    let (left, right) = split(&weighted, k, Sigma::Balanced)?;
    let right = Mat::from_fn(right.nrows(), right.ncols(), |i, j| right[(i, j)] / weight(j));
    Ok((left, right))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{Rows, assert_near, vector};

    #[test]
    fn vector_lorap_awsvd() {
        let vector = vector("lorap_awsvd");
        let rows: Rows = vector.input("W");
        let w = Mat::from_fn(rows.len(), rows[0].len(), |i, j| rows[i][j]);
        let squares: Vec<f64> = vector.input("input_sq_norms");
        let (left, right) = split_weighted(&w, vector.input("k"), &squares).unwrap();
        let product = left * right;
        for (i, row) in vector.expected::<Rows>("L_R").iter().enumerate() {
            for (j, expected) in row.iter().enumerate() {
                assert_near(product[(i, j)], *expected, vector.tol());
            }
        }
    }

    #[test]
    fn dead_inputs_count_little_and_break_nothing() {
        let w = Mat::from_fn(3, 2, |i, j| if j == 0 { 1.0 } else { (i as f64) * 9.0 });
        let (left, right) = split_weighted(&w, 1, &[4.0, 0.0]).unwrap();
        let product = left * right;
        assert!((0..3).all(|i| (product[(i, 0)] - 1.0).abs() < 1e-6), "{product:?}");
    }

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
