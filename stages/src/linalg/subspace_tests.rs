//! Tests of the dominant subspace.

use burn::tensor::Device;

use super::*;
use crate::vectors::flat;

/// A matrix whose singular values fall off like a gradient's.
fn falling(m: usize, n: usize, seed: u64, dtype: DType) -> Tensor<2> {
    let q = m.min(n);
    let mut rng = Rng::new(seed);
    let mut draw = |rows: usize, cols: usize| {
        let data = TensorData::new(rng.normal(rows * cols, 1.0), [rows, cols]);
        Tensor::<2>::from_data(data, (&Device::flex(), dtype))
    };
    let (left, right) = (draw(m, q), draw(q, n));
    let scale: Vec<f32> = (0..q).map(|k| ((k + 1) as f32).powf(-1.0)).collect();
    left.mul(Tensor::from_data(TensorData::new(scale, [1, q]), (&Device::flex(), dtype))).matmul(right)
}

fn config(solver: Solver) -> SubspaceConfig {
    SubspaceConfig { solver, ..SubspaceConfig::default() }
}

fn assert_orthonormal(basis: &Tensor<2>) {
    let r = basis.dims()[1];
    for (index, entry) in flat(&basis.clone().transpose().matmul(basis.clone())).iter().enumerate() {
        let expected = f64::from(u8::from(index / r == index % r));
        assert!((entry - expected).abs() < 1e-5, "{entry} at {index}");
    }
}

fn assert_signs(basis: &Tensor<2>) {
    for column in to_host(basis).unwrap().col_iter() {
        let largest = column.iter().fold(0.0_f64, |best, x| if x.abs() > best.abs() { *x } else { best });
        assert!(largest > 0.0);
    }
}

#[test]
fn a_power_iteration_captures_nearly_the_energy_of_the_exact_subspace() {
    for (m, n) in [(48, 96), (96, 48), (64, 64)] {
        for side in [Vectors::Left, Vectors::Right] {
            let g = falling(m, n, 1, DType::F32);
            let exact = dominant(&g, side, 12, &config(Solver::Exact), None, 0).unwrap();
            let found = dominant(&g, side, 12, &config(Solver::Subspace), None, 5).unwrap();
            assert_eq!(found.basis.dims(), [if side == Vectors::Left { m } else { n }, 12]);
            assert!(found.captured <= exact.captured + 1e-5);
            assert!(found.captured >= 0.999 * exact.captured, "{} of {}", found.captured, exact.captured);
            assert_orthonormal(&found.basis);
            assert_orthonormal(&exact.basis);
            assert_signs(&found.basis);
            assert_signs(&exact.basis);
        }
    }
}

#[test]
fn leading_vectors_agree_one_by_one() {
    let g = falling(40, 80, 2, DType::F64);
    let exact = dominant(&g, Vectors::Left, 4, &config(Solver::Exact), None, 0).unwrap().basis;
    let many = SubspaceConfig { solver: Solver::Subspace, iterations: 40, oversample: 8 };
    let found = dominant(&g, Vectors::Left, 4, &many, None, 5).unwrap().basis;
    let worst = flat(&exact.sub(found)).iter().fold(0.0_f64, |worst, x| worst.max(x.abs()));
    assert!(worst < 1e-8, "{worst:e}");
}

#[test]
fn starting_from_the_previous_basis_helps() {
    let g = falling(64, 128, 3, DType::F32);
    let moved = g.clone().add(falling(64, 128, 4, DType::F32).mul_scalar(0.1));
    let once = SubspaceConfig { solver: Solver::Subspace, iterations: 1, oversample: 4 };
    let previous = dominant(&g, Vectors::Left, 16, &config(Solver::Exact), None, 0).unwrap().basis;
    let warm = dominant(&moved, Vectors::Left, 16, &once, Some(&previous), 5).unwrap().captured;
    let cold =
        dominant(&moved, Vectors::Left, 16, &SubspaceConfig { iterations: 0, ..once }, None, 5).unwrap().captured;
    assert!(warm > cold, "{warm} against {cold}");
}

#[test]
fn the_same_seed_gives_the_same_bits() {
    let g = falling(32, 64, 6, DType::F32);
    let run = |seed| flat(&dominant(&g, Vectors::Left, 8, &SubspaceConfig::default(), None, seed).unwrap().basis);
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_matrix_of_low_rank_still_gives_an_orthonormal_basis() {
    let thin = falling(40, 3, 7, DType::F32);
    let g = thin.clone().matmul(thin.transpose());
    let found = dominant(&g, Vectors::Left, 8, &SubspaceConfig::default(), None, 1).unwrap();
    assert_orthonormal(&found.basis);
    assert!(found.captured > 0.99999);
}

#[test]
fn tiny_gradients_have_a_subspace_too() {
    let g = falling(40, 60, 8, DType::F32);
    let base = dominant(&g, Vectors::Left, 8, &SubspaceConfig::default(), None, 1).unwrap();
    let tiny = dominant(&g.mul_scalar(1e-12), Vectors::Left, 8, &SubspaceConfig::default(), None, 1).unwrap();
    assert!(overlap(&base.basis, &tiny.basis).unwrap() > 0.9999);
}

#[test]
fn nan_is_refused_by_both_solvers_and_zero_by_neither() {
    let mut data = vec![0.5_f32; 30 * 40];
    data[7] = f32::NAN;
    let nan = Tensor::<2>::from_data(TensorData::new(data, [30, 40]), &Device::flex());
    let zero = nan.zeros_like();
    for solver in [Solver::Exact, Solver::Subspace] {
        let error = dominant(&nan, Vectors::Left, 4, &config(solver), None, 1).unwrap_err();
        assert_eq!(error, LinalgError::NotFinite { rows: 30, cols: 40, count: 1 });
        let found = dominant(&zero, Vectors::Left, 4, &config(solver), None, 1).unwrap();
        assert_orthonormal(&found.basis);
        assert_eq!(found.captured, 1.0);
    }
}

#[test]
fn a_rank_above_the_short_side_is_clamped() {
    let g = falling(6, 9, 9, DType::F32);
    let found = dominant(&g, Vectors::Right, 50, &SubspaceConfig::default(), None, 1).unwrap();
    assert_eq!(found.basis.dims(), [9, 6]);
    assert!((found.captured - 1.0).abs() < 1e-6);
}
