//! Balanced factors of a matrix.

use burn::tensor::{DType, Tensor};
use faer::Mat;

use super::{
    host::{to_device, to_host},
    svd::{LinalgError, Svd, svd},
};

/// Which singular values the factors carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// The matrix's own.
    Values,
    /// Ones in their place.
    Ones,
}

/// `B = U_k sqrt(S_k)` `[m, k]` and `A = sqrt(S_k) V_k^T` `[k, n]`: `B A` is the best approximation of rank k, and
/// `B^T B = A A^T = S_k` (spectral initialisation). k is clamped to min(m, n). Computed in f64 on the host.
///
/// # Errors
/// As [`svd`].
pub fn spectral_factors(matrix: &Tensor<2>, k: usize, kept: Kept) -> Result<(Tensor<2>, Tensor<2>), LinalgError> {
    let (device, dtype): (_, DType) = (matrix.device(), matrix.dtype());
    let Svd { u, s, v } = svd(to_host(matrix)?.as_ref())?;
    let k = k.clamp(1, s.len());
    let root = |j: usize| if kept == Kept::Ones { 1.0 } else { s[j].sqrt() };
    let b = Mat::from_fn(u.nrows(), k, |i, j| u[(i, j)] * root(j));
    let a = Mat::from_fn(k, v.nrows(), |i, j| root(i) * v[(j, i)]);
    Ok((to_device(&b, &device, dtype), to_device(&a, &device, dtype)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{assert_close, assert_near, flat, tensor, vector};

    #[test]
    fn vector_spectral_init() {
        let vector = vector("spectral_init");
        let w = tensor(&vector.input("W"), DType::F64);
        let (b, a) = spectral_factors(&w, vector.input("k"), Kept::Values).unwrap();
        assert_close(&b.clone().matmul(a.clone()), &vector.expected("UVt"), vector.tol());
        assert_close(&b.clone().transpose().matmul(b.clone()), &vector.expected("UtU"), vector.tol());
        assert_close(&a.clone().matmul(a.clone().transpose()), &vector.expected("VtV"), vector.tol());
        let error = flat(&w.sub(b.matmul(a))).iter().map(|x| x * x).sum::<f64>().sqrt();
        assert_near(error, vector.expected("trunc_error_fro"), vector.tol());
    }

    #[test]
    fn ones_keep_the_directions_and_not_the_sizes() {
        let w = tensor(&vec![vec![4.0, 0.0], vec![0.0, 2.0]], DType::F64);
        let (b, a) = spectral_factors(&w, 2, Kept::Ones).unwrap();
        assert_close(&b.matmul(a), &vec![vec![1.0, 0.0], vec![0.0, 1.0]], 1e-12);
    }

    #[test]
    fn a_rank_above_the_short_side_is_clamped() {
        let w = tensor(&vec![vec![1.0, 2.0, 3.0]], DType::F32);
        let (b, a) = spectral_factors(&w, 9, Kept::Values).unwrap();
        assert_eq!((b.dims(), a.dims()), ([1, 1], [1, 3]));
    }
}
