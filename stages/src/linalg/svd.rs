//! Exact thin singular value decomposition on the host.
//!
//! One thread and no randomness: the same matrix gives the same bits on the same machine, whatever else runs. Signs are
//! fixed by a rule, since a singular vector is defined only up to its sign: of every left vector the entry largest in
//! magnitude (the first of equals) is positive.

use faer::{
    Mat, MatRef, Par,
    diag::Diag,
    dyn_stack::{MemBuffer, MemStack},
    linalg::svd::{ComputeSvdVectors, svd as faer_svd, svd_scratch},
    traits::RealField,
};

/// What can go wrong with a matrix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinalgError {
    /// NaN or infinity in the matrix.
    #[error("the {rows}x{cols} matrix has {count} entries that are NaN or infinite")]
    NotFinite {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
        /// Entries that are not finite.
        count: usize,
    },
    /// The iteration did not converge.
    #[error("the singular value decomposition of the {rows}x{cols} matrix did not converge")]
    NoConvergence {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
    },
    /// A matrix without rows or columns.
    #[error("a {rows}x{cols} matrix has no singular values")]
    Empty {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
    },
    /// The tensor could not be read from its device.
    #[error("the matrix cannot be read from its device: {0}")]
    Unreadable(String),
}

/// f32 or f64.
pub trait Real: RealField + Copy + Into<f64> + std::ops::Neg<Output = Self> {}

impl Real for f32 {}
impl Real for f64 {}

/// `W = U diag(s) V^T` with `s` descending.
#[derive(Debug, Clone)]
pub struct Svd<T> {
    /// Left singular vectors as columns, `[m, q]`, q = min(m, n).
    pub u: Mat<T>,
    /// Singular values, descending.
    pub s: Vec<T>,
    /// Right singular vectors as columns, `[n, q]`.
    pub v: Mat<T>,
}

/// Which singular vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vectors {
    /// `U`, for a basis of the column space.
    Left,
    /// `V`, for a basis of the row space.
    Right,
}

/// The thin decomposition of a matrix `[m, n]`.
///
/// # Errors
/// [`LinalgError`] for an empty matrix, NaN or infinity in it, or no convergence.
pub fn svd<T: Real>(matrix: MatRef<'_, T>) -> Result<Svd<T>, LinalgError> {
    let (m, n) = matrix.shape();
    let q = m.min(n);
    let mut u = Mat::zeros(m, q);
    let mut v = Mat::zeros(n, q);
    let s = run(matrix, Some(&mut u), Some(&mut v))?;
    for k in 0..q {
        if largest_is_negative(&u, k) {
            negate(&mut u, k);
            negate(&mut v, k);
        }
    }
    Ok(Svd { u, s, v })
}

/// The singular values alone, descending: several times cheaper than [`svd`].
///
/// # Errors
/// As [`svd`].
pub fn singular_values<T: Real>(matrix: MatRef<'_, T>) -> Result<Vec<T>, LinalgError> {
    run(matrix, None, None)
}

/// Singular vectors of one side as columns, each with its largest entry positive, and the singular values.
///
/// # Errors
/// As [`svd`].
pub fn vectors<T: Real>(matrix: MatRef<'_, T>, side: Vectors) -> Result<(Mat<T>, Vec<T>), LinalgError> {
    let (m, n) = matrix.shape();
    let q = m.min(n);
    let (basis, s) = match side {
        Vectors::Left => {
            let mut u = Mat::zeros(m, q);
            let s = run(matrix, Some(&mut u), None)?;
            (u, s)
        }
        Vectors::Right => {
            let mut v = Mat::zeros(n, q);
            let s = run(matrix, None, Some(&mut v))?;
            (v, s)
        }
    };
    let mut basis = basis;
    for k in 0..q {
        if largest_is_negative(&basis, k) {
            negate(&mut basis, k);
        }
    }
    Ok((basis, s))
}

fn run<T: Real>(matrix: MatRef<'_, T>, u: Option<&mut Mat<T>>, v: Option<&mut Mat<T>>) -> Result<Vec<T>, LinalgError> {
    let (rows, cols) = matrix.shape();
    let q = rows.min(cols);
    if q == 0 {
        return Err(LinalgError::Empty { rows, cols });
    }
    let count = matrix.col_iter().flat_map(|column| column.iter()).filter(|x| !(**x).into().is_finite()).count();
    if count > 0 {
        return Err(LinalgError::NotFinite { rows, cols, count });
    }
    let want = |wanted: bool| if wanted { ComputeSvdVectors::Thin } else { ComputeSvdVectors::No };
    let scratch = svd_scratch::<T>(rows, cols, want(u.is_some()), want(v.is_some()), Par::Seq, Default::default());
    let mut memory = MemBuffer::new(scratch);
    let mut s = Diag::<T>::zeros(q);
    faer_svd(
        matrix,
        s.as_mut(),
        u.map(Mat::as_mut),
        v.map(Mat::as_mut),
        Par::Seq,
        MemStack::new(&mut memory),
        Default::default(),
    )
    .map_err(|_| LinalgError::NoConvergence { rows, cols })?;
    Ok(s.column_vector().iter().copied().collect())
}

fn largest_is_negative<T: Real>(matrix: &Mat<T>, k: usize) -> bool {
    let mut best = 0.0;
    for entry in matrix.col(k).iter() {
        let entry: f64 = (*entry).into();
        if entry.abs() > f64::abs(best) {
            best = entry;
        }
    }
    best < 0.0
}

fn negate<T: Real>(matrix: &mut Mat<T>, k: usize) {
    for i in 0..matrix.nrows() {
        matrix[(i, k)] = -matrix[(i, k)];
    }
}

#[cfg(test)]
mod tests {
    use faer::Mat;
    use proptest::prelude::*;

    use super::*;

    fn matrix(m: usize, n: usize, entries: &[f64]) -> Mat<f64> {
        Mat::from_fn(m, n, |i, j| entries[i * n + j])
    }

    #[test]
    fn nan_and_empty_are_typed_errors() {
        let nan = matrix(2, 2, &[1.0, f64::NAN, f64::INFINITY, 0.0]);
        assert_eq!(svd(nan.as_ref()).unwrap_err(), LinalgError::NotFinite { rows: 2, cols: 2, count: 2 });
        let empty = Mat::<f64>::zeros(0, 3);
        assert_eq!(singular_values(empty.as_ref()).unwrap_err(), LinalgError::Empty { rows: 0, cols: 3 });
    }

    #[test]
    fn a_zero_matrix_has_zero_singular_values() {
        assert_eq!(singular_values(Mat::<f32>::zeros(3, 2).as_ref()).unwrap(), vec![0.0, 0.0]);
    }

    proptest! {
        #[test]
        fn factors_reproduce_the_matrix_and_follow_the_sign_rule(
            (m, n, entries) in (1usize..9, 1usize..9)
                .prop_flat_map(|(m, n)| (Just(m), Just(n), prop::collection::vec(-1.0f64..1.0, m * n)))
        ) {
            let w = matrix(m, n, &entries);
            let Svd { u, s, v } = svd(w.as_ref()).unwrap();
            prop_assert!(s.windows(2).all(|pair| pair[0] >= pair[1]) && s.iter().all(|s| *s >= 0.0));
            let back = &u * Mat::from_fn(s.len(), s.len(), |i, j| if i == j { s[i] } else { 0.0 }) * v.transpose();
            prop_assert!((&back - &w).norm_max() < 1e-12);
            let identity = Mat::<f64>::identity(s.len(), s.len());
            prop_assert!((u.transpose() * &u - &identity).norm_max() < 1e-12);
            prop_assert!((v.transpose() * &v - &identity).norm_max() < 1e-12);
            for k in 0..s.len() {
                prop_assert!(!largest_is_negative(&u, k));
            }
            let values = singular_values(w.as_ref()).unwrap();
            prop_assert!(values.iter().zip(&s).all(|(a, b)| (a - b).abs() < 1e-12));
            let (right, _) = vectors(w.as_ref(), Vectors::Right).unwrap();
            prop_assert!((right.transpose() * &right - &identity).norm_max() < 1e-12);
        }
    }
}
