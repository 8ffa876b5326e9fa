//! Truncation of a matrix to its leading singular directions, cheap enough for every few training steps.
//!
//! It takes the eigenvectors of the smaller Gram matrix, `W W^T` or `W^T W`, in f64: with `P` the leading ones,
//! `W_k = P P^T W`. Squaring costs digits, so singular values below about 1e-8 of the largest are noise; for a weight
//! stored in f32 that is beyond its own precision.

use faer::Mat;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::linalg::svd::LinalgError;

/// How many singular values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The smallest k with `sum_{i<=k} s_i^2 >= T * sum s_i^2` (TRP's rule in training, T = 0.9).
    Energy(f64),
    /// The same with `s_i` instead of its square (an option of TRP's code).
    LinearEnergy(f64),
    /// All before the first one below this number (TRP's rule at the end, 0.05).
    Value(f64),
    /// This many.
    Rank(usize),
}

impl Keep {
    /// How many of these singular values (descending) are kept: 0 when all are zero or below the value, else at most all.
    #[must_use]
    pub fn count(self, s: &[f64]) -> usize {
        let share = |threshold: f64, power: i32| {
            let first = s.first().copied().unwrap_or(0.0);
            if first <= 0.0 {
                return 0;
            }
            // Scaled by the largest first, so that squares of tiny values do not vanish.
            let scaled: Vec<f64> = s.iter().map(|s| (s / first).powi(power)).collect();
            let total: f64 = scaled.iter().sum();
            let mut running = 0.0;
            let reached = scaled.iter().position(|part| {
                running += part;
                running / total >= threshold
            });
            reached.map_or(s.len(), |index| index + 1)
        };
        match self {
            Keep::Energy(threshold) => share(threshold, 2),
            Keep::LinearEnergy(threshold) => share(threshold, 1),
            Keep::Value(value) => s.iter().position(|s| *s < value).unwrap_or(s.len()),
            Keep::Rank(k) => k.min(s.len()),
        }
    }
}

/// A matrix with its smaller singular values set to zero.
#[derive(Debug, Clone)]
pub struct Truncated {
    /// `U_k S_k V_k^T`, `[m, n]`.
    pub matrix: Mat<f64>,
    /// `U_k V_k^T`: a sub-gradient of the nuclear norm, without a push on the directions cut off.
    pub subgradient: Mat<f64>,
    /// Directions kept: at least 1.
    pub rank: usize,
    /// All singular values, descending.
    pub singular_values: Vec<f64>,
}

/// Below this part of the largest, a singular value found through a Gram matrix is noise: its direction is no part of the
/// sub-gradient.
const NOISE: f64 = 1e-7;

/// Truncates a matrix `[m, n]`; at least one direction stays.
///
/// # Errors
/// [`LinalgError`] for an empty matrix, NaN or infinity in it, or no convergence.
pub fn truncate(matrix: &Mat<f64>, keep: Keep) -> Result<Truncated, LinalgError> {
    let (rows, cols) = (matrix.nrows(), matrix.ncols());
    if rows.min(cols) == 0 {
        return Err(LinalgError::Empty { rows, cols });
    }
    let count = matrix.col_iter().flat_map(|column| column.iter()).filter(|x| !x.is_finite()).count();
    if count > 0 {
        return Err(LinalgError::NotFinite { rows, cols, count });
    }
    // On the short side: works on `w` with rows <= cols.
    let wide = rows <= cols;
    let w = if wide { matrix.to_owned() } else { matrix.transpose().to_owned() };
    let gram = &w * w.transpose();
    let found = gram.self_adjoint_eigen(faer::Side::Lower).map_err(|_| LinalgError::NoConvergence { rows, cols })?;
    let q = w.nrows();
    let (values, vectors) = (found.S().column_vector(), found.U());
    let s: Vec<f64> = (0..q).map(|k| values[q - 1 - k].max(0.0).sqrt()).collect();
    let rank = keep.count(&s).clamp(1, q);
    let basis = Mat::from_fn(q, rank, |i, j| vectors[(i, q - 1 - j)]); // [q, rank]
    let inner = basis.transpose() * &w; // S_k V_k^T: [rank, cols]
    let floor = NOISE * s.first().copied().unwrap_or(0.0);
    let unit = Mat::from_fn(rank, w.ncols(), |i, j| if s[i] > floor { inner[(i, j)] / s[i] } else { 0.0 });
    let (low, sub) = (&basis * &inner, &basis * &unit);
    let turned = |m: Mat<f64>| if wide { m } else { m.transpose().to_owned() };
    Ok(Truncated { matrix: turned(low), subgradient: turned(sub), rank, singular_values: s })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        linalg::svd::{Svd, svd},
        vectors::{Rows, assert_near, vector},
    };

    fn matrix(rows: &Rows) -> Mat<f64> {
        Mat::from_fn(rows.len(), rows[0].len(), |i, j| rows[i][j])
    }

    fn assert_matrix(found: &Mat<f64>, expected: &Rows, tol: f64) {
        assert!((found - matrix(expected)).norm_max() <= tol, "{found:?} is not {expected:?}");
    }

    #[test]
    fn vector_trp_energy_k() {
        let vector = vector("trp_energy_k");
        let s: Vec<f64> = vector.input("sigma");
        let thresholds: Vec<f64> = vector.input("T");
        let energy: Vec<usize> = thresholds.iter().map(|t| Keep::Energy(*t).count(&s)).collect();
        let linear: Vec<usize> = thresholds.iter().map(|t| Keep::LinearEnergy(*t).count(&s)).collect();
        assert_eq!(energy, vector.expected::<Vec<usize>>("k"));
        assert_eq!(linear, vector.expected::<Vec<usize>>("k_linear_energy"));
    }

    #[test]
    fn vector_trp_value_k() {
        let vector = vector("trp_value_k");
        let s: Vec<f64> = vector.input("sigma");
        let found: Vec<usize> = vector.input::<Vec<f64>>("t").iter().map(|t| Keep::Value(*t).count(&s)).collect();
        assert_eq!(found, vector.expected::<Vec<usize>>("k"));
    }

    #[test]
    fn vector_trp_step() {
        let vector = vector("trp_step");
        let tol = vector.tol();
        let found = truncate(&matrix(&vector.input("W")), Keep::Energy(vector.input("T"))).unwrap();
        for (found, expected) in found.singular_values.iter().zip(vector.expected::<Vec<f64>>("sigma")) {
            assert_near(*found, expected, tol);
        }
        assert_eq!(found.rank, vector.expected::<usize>("k"));
        assert_matrix(&found.matrix, &vector.expected("W_truncated"), tol);
        assert_matrix(&found.subgradient, &vector.expected("subgradient"), tol);
        // The step itself: torch's SGD, the gradient taken at the truncated weight.
        let (lambda, lr, decay): (f64, f64, f64) =
            (vector.input("lambda"), vector.input("lr"), vector.input("weight_decay"));
        let grad = matrix(&vector.input("grad_at_truncated")) + faer::Scale(lambda) * &found.subgradient;
        let next = &found.matrix - faer::Scale(lr) * (grad + faer::Scale(decay) * &found.matrix);
        assert_matrix(&next, &vector.expected("W_next"), tol);
    }

    #[test]
    fn a_zero_matrix_keeps_one_direction_and_gets_no_push() {
        let found = truncate(&Mat::zeros(3, 2), Keep::Energy(0.9)).unwrap();
        assert_eq!((found.rank, found.matrix.norm_max(), found.subgradient.norm_max()), (1, 0.0, 0.0));
    }

    #[test]
    fn a_matrix_with_nan_is_refused() {
        let error =
            truncate(&Mat::from_fn(2, 2, |i, _| if i == 0 { f64::NAN } else { 1.0 }), Keep::Rank(1)).unwrap_err();
        assert_eq!(error, LinalgError::NotFinite { rows: 2, cols: 2, count: 2 });
    }

    proptest! {
        #[test]
        fn truncation_through_the_gram_matrix_is_that_of_the_decomposition(
            (m, n, entries) in (1usize..9, 1usize..9)
                .prop_flat_map(|(m, n)| (Just(m), Just(n), prop::collection::vec(-1.0f64..1.0, m * n))),
            k in 1usize..9,
        ) {
            let w = Mat::from_fn(m, n, |i, j| entries[i * n + j]);
            let k = k.min(m).min(n);
            let Svd { u, s, v } = svd(w.as_ref()).unwrap();
            let gap = s[k - 1] - s.get(k).copied().unwrap_or(0.0);
            prop_assume!(gap > 1e-3 && s[k - 1] > 1e-3);
            let found = truncate(&w, Keep::Rank(k)).unwrap();
            let expected = Mat::from_fn(m, n, |i, j| (0..k).map(|c| u[(i, c)] * s[c] * v[(j, c)]).sum::<f64>());
            let push = Mat::from_fn(m, n, |i, j| (0..k).map(|c| u[(i, c)] * v[(j, c)]).sum::<f64>());
            prop_assert!((&found.matrix - expected).norm_max() < 1e-9);
            prop_assert!((&found.subgradient - push).norm_max() < 1e-7);
        }
    }
}
