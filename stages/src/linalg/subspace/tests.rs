//! Tests of the dominant subspace.

use burn::tensor::TensorData;

use super::*;
use crate::{random::Rng, testing::test_device, vectors::flat};

/// A matrix whose singular values fall off like a gradient's.
fn falling(m: usize, n: usize, seed: u64, dtype: DType) -> Tensor<2> {
    falling_with([m, n], seed, dtype, 1)
}

/// The same with singular values that fall like a power of their number.
fn falling_with([m, n]: [usize; 2], seed: u64, dtype: DType, power: i32) -> Tensor<2> {
    let q = m.min(n);
    let mut rng = Rng::new(seed);
    let mut draw = |rows: usize, cols: usize| {
        let data = TensorData::new(rng.normal(rows * cols, 1.0), [rows, cols]);
        Tensor::<2>::from_data(data, (&test_device(), dtype))
    };
    let (left, right) = (draw(m, q), draw(q, n));
    let scale: Vec<f32> = (0..q).map(|k| ((k + 1) as f32).powi(-power)).collect();
    left.mul(Tensor::from_data(TensorData::new(scale, [1, q]), (&test_device(), dtype))).matmul(right)
}

fn config(solver: Solver) -> SubspaceConfig {
    SubspaceConfig { solver, ..SubspaceConfig::default() }
}

fn wanted<'a>(
    matrix: &'a Tensor<2>,
    side: Vectors,
    r: usize,
    config: &'a SubspaceConfig,
    previous: Option<&'a Tensor<2>>,
    seed: u64,
) -> Wanted<'a> {
    Wanted { matrix, side, r, config, previous, seed }
}

/// `||P^T Q||_F^2 / r`.
fn overlap(p: &Tensor<2>, q: &Tensor<2>) -> f64 {
    read(vec![agreement(p, q)]).unwrap()[0]
}

fn assert_orthonormal(basis: &Tensor<2>) {
    let r = basis.dims()[1];
    for (index, entry) in flat(&product(basis.clone().transpose(), basis.clone())).iter().enumerate() {
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
            let exact = dominant(wanted(&g, side, 12, &config(Solver::Exact), None, 0)).unwrap();
            let found = dominant(wanted(&g, side, 12, &config(Solver::Subspace), None, 5)).unwrap();
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
    let exact = dominant(wanted(&g, Vectors::Left, 4, &config(Solver::Exact), None, 0)).unwrap().basis;
    let many = SubspaceConfig { solver: Solver::Subspace, iterations: 40, oversample: 8 };
    let found = dominant(wanted(&g, Vectors::Left, 4, &many, None, 5)).unwrap().basis;
    let worst = flat(&exact.sub(found)).iter().fold(0.0_f64, |worst, x| worst.max(x.abs()));
    assert!(worst < 1e-8, "{worst:e}");
}

#[test]
fn starting_from_the_previous_basis_helps() {
    let g = falling(64, 128, 3, DType::F32);
    let moved = g.clone().add(falling(64, 128, 4, DType::F32).mul_scalar(0.1));
    let once = SubspaceConfig { solver: Solver::Subspace, iterations: 1, oversample: 4 };
    let previous = dominant(wanted(&g, Vectors::Left, 16, &config(Solver::Exact), None, 0)).unwrap().basis;
    let warm = dominant(wanted(&moved, Vectors::Left, 16, &once, Some(&previous), 5)).unwrap().captured;
    let cold = dominant(wanted(&moved, Vectors::Left, 16, &SubspaceConfig { iterations: 0, ..once }, None, 5))
        .unwrap()
        .captured;
    assert!(warm > cold, "{warm} against {cold}");
}

#[test]
fn the_same_seed_gives_the_same_bits() {
    let g = falling(32, 64, 6, DType::F32);
    let run =
        |seed| flat(&dominant(wanted(&g, Vectors::Left, 8, &SubspaceConfig::default(), None, seed)).unwrap().basis);
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_matrix_of_low_rank_still_gives_an_orthonormal_basis() {
    let thin = falling(40, 3, 7, DType::F32);
    let g = thin.clone().matmul(thin.transpose());
    let found = dominant(wanted(&g, Vectors::Left, 8, &SubspaceConfig::default(), None, 1)).unwrap();
    assert_orthonormal(&found.basis);
    assert!(found.captured > 0.99999);
}

#[test]
fn tiny_gradients_have_a_subspace_too() {
    let g = falling(40, 60, 8, DType::F32);
    let base = dominant(wanted(&g, Vectors::Left, 8, &SubspaceConfig::default(), None, 1)).unwrap();
    let tiny =
        dominant(wanted(&g.clone().mul_scalar(1e-12), Vectors::Left, 8, &SubspaceConfig::default(), None, 1)).unwrap();
    assert!(overlap(&base.basis, &tiny.basis) > 0.9999);
}

#[test]
fn nan_is_refused_by_both_solvers_and_zero_by_neither() {
    let mut data = vec![0.5_f32; 30 * 40];
    data[7] = f32::NAN;
    let nan = Tensor::<2>::from_data(TensorData::new(data, [30, 40]), &test_device());
    let zero = nan.zeros_like();
    for solver in [Solver::Exact, Solver::Subspace] {
        let error = dominant(wanted(&nan, Vectors::Left, 4, &config(solver), None, 1)).unwrap_err();
        assert_eq!(error, LinalgError::NotFinite { rows: 30, cols: 40, count: 1 });
        let found = dominant(wanted(&zero, Vectors::Left, 4, &config(solver), None, 1)).unwrap();
        assert_orthonormal(&found.basis);
        assert_eq!(found.captured, 1.0);
    }
}

#[test]
fn a_rank_above_the_short_side_is_clamped() {
    let g = falling(6, 9, 9, DType::F32);
    let found = dominant(wanted(&g, Vectors::Right, 50, &SubspaceConfig::default(), None, 1)).unwrap();
    assert_eq!(found.basis.dims(), [9, 6]);
    assert!((found.captured - 1.0).abs() < 1e-6);
}

#[test]
fn several_at_once_are_found_to_the_bit_as_each_by_itself() {
    let zero = falling(24, 40, 9, DType::F32).zeros_like();
    let thin = falling(40, 3, 7, DType::F32);
    let matrices = [
        falling(48, 96, 1, DType::F32),
        falling(96, 48, 2, DType::F32),
        // Of rank 3, without anything in it, too small for a power iteration, and with NaN.
        thin.clone().matmul(thin.clone().transpose()),
        zero.clone(),
        falling(10, 9, 3, DType::F32),
        zero.recip().sub_scalar(f32::INFINITY),
    ];
    let all = SubspaceConfig::default();
    let previous = dominant(wanted(&matrices[0], Vectors::Left, 12, &all, None, 3)).unwrap().basis;
    let of = |k: usize| {
        let side = if k == 1 { Vectors::Right } else { Vectors::Left };
        wanted(&matrices[k], side, 8 + k, &all, Some(&previous).filter(|_| k < 2), 11 + k as u64)
    };
    let together = dominant_of_all(&(0..matrices.len()).map(of).collect::<Vec<_>>());
    for (k, found) in together.into_iter().enumerate() {
        match (found, dominant(of(k))) {
            (Ok(found), Ok(alone)) => {
                assert_eq!(flat(&found.basis), flat(&alone.basis), "{k}");
                assert_eq!((found.captured, found.overlap), (alone.captured, alone.overlap), "{k}");
                assert_eq!(found.overlap.is_some(), k < 2);
                assert_orthonormal(&found.basis);
            }
            (Err(found), Err(alone)) => assert_eq!((found, k), (alone, 5)),
            _ => panic!("{k}"),
        }
    }
}

#[test]
fn nearly_dependent_columns_are_told_from_columns_of_different_length() {
    let columns = |lean: f32| {
        let data = vec![1.0, lean, 0.0, 1.0 - lean, 0.0, 0.0_f32];
        let y = Tensor::<2>::from_data(TensorData::new(data, [3, 2]), &test_device());
        // The second column is a million times as long.
        y.mul(Tensor::from_data(TensorData::new(vec![1.0, 1e6_f32], [1, 2]), &test_device()))
    };
    for (lean, by_factor) in [(0.0, true), (0.5, true), (0.99999, false), (1.0, false)] {
        let y = columns(lean);
        assert_eq!(orthonormal::by_cholesky(std::slice::from_ref(&y)).unwrap()[0].is_some(), by_factor, "{lean}");
        assert_orthonormal(&orthonormal::orthonormal(vec![y]).unwrap()[0]);
    }
}

/// With the host in the place of the kernel for eigenvectors, where there is no GPU.
#[test]
fn stacked_matrices_have_the_subspaces_that_each_has_by_itself() {
    let one = SubspaceConfig::default();
    for (m, n) in [(48, 96), (96, 48)] {
        for side in [Vectors::Left, Vectors::Right] {
            let matrices: Vec<_> = (0..3).map(|k| falling(m, n, 20 + k, DType::F32)).collect();
            let first: Vec<_> = matrices.iter().map(|g| wanted(g, side, 12, &one, None, 5)).collect();
            let found = stacked::find(&first.iter().collect::<Vec<_>>()).unwrap();
            let bases: Vec<_> = found.into_iter().map(|found| found.unwrap()).collect();
            let moved: Vec<_> =
                (0..3).map(|k| matrices[k].clone() + falling(m, n, 30 + k as u64, DType::F32) * 0.01).collect();
            let again: Vec<_> =
                moved.iter().zip(&bases).map(|(g, basis)| wanted(g, side, 12, &one, Some(&basis.basis), 6)).collect();
            let again = stacked::find(&again.iter().collect::<Vec<_>>()).unwrap();
            for (k, found) in bases.iter().chain(again.iter().flatten()).enumerate() {
                let g = if k < 3 { &matrices[k] } else { &moved[k - 3] };
                let exact = dominant(wanted(g, side, 12, &config(Solver::Exact), None, 0)).unwrap();
                assert!(found.captured >= 0.999 * exact.captured, "{} of {}", found.captured, exact.captured);
                assert!(found.captured <= exact.captured + 1e-5);
                assert_orthonormal(&found.basis);
                assert_signs(&found.basis);
                assert_eq!(found.overlap.is_some(), k >= 3);
                assert!(found.overlap.is_none_or(|overlap| overlap > 0.9 && overlap < 1.00001));
                // The largest singular vectors one by one.
                let difference = flat(&exact.basis.narrow(1, 0, 2).sub(found.basis.clone().narrow(1, 0, 2)));
                assert!(difference.iter().all(|entry| entry.abs() < 2e-3), "{difference:?}");
            }
            assert_eq!(again.len(), 3);
        }
    }
}

#[test]
fn what_cannot_stay_on_the_device_is_left_to_the_host() {
    let thin = falling(40, 3, 7, DType::F32);
    let all = SubspaceConfig::default();
    let nan = falling(40, 40, 1, DType::F32).mul_scalar(f64::NAN);
    let [low, good] = [thin.clone().matmul(thin.transpose()), falling(40, 40, 2, DType::F32)];
    let zero = low.zeros_like();
    let matrices = [low, good, nan, zero];
    let asked: Vec<_> = matrices.iter().map(|g| wanted(g, Vectors::Left, 8, &all, None, 1)).collect();
    let found = stacked::find(&asked.iter().collect::<Vec<_>>()).unwrap();
    assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, false, false]);
    let found = dominant_of_all(&asked);
    assert_orthonormal(&found[0].as_ref().unwrap().basis);
    assert!(found[2].is_err());
    assert_eq!(found[3].as_ref().unwrap().captured, 1.0);
}

/// Of steep spectra the columns that are carried along beside the known ones are nearly combinations of these.
#[test]
fn steep_spectra_stay_on_the_device_once_a_basis_is_known() {
    let all = SubspaceConfig::default();
    for power in [2, 3] {
        let g = falling_with([96, 160], 3, DType::F32, power);
        let moved = g.clone() + falling_with([96, 160], 4, DType::F32, power) * 0.1;
        let previous = dominant(wanted(&g, Vectors::Left, 24, &config(Solver::Exact), None, 0)).unwrap().basis;
        let asked = wanted(&moved, Vectors::Left, 24, &all, Some(&previous), 5);
        let found = stacked::find(&[&asked]).unwrap().remove(0);
        let found = found.unwrap_or_else(|| panic!("left to the host with power {power}"));
        let exact = dominant(wanted(&moved, Vectors::Left, 24, &config(Solver::Exact), None, 0)).unwrap();
        assert!(found.captured >= 0.999 * exact.captured, "{} of {}", found.captured, exact.captured);
        assert_orthonormal(&found.basis);
    }
}
