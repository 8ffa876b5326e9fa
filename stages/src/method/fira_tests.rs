//! Fira against the vectors, and its limiter.

use burn::tensor::TensorData;

use super::*;
use crate::{
    linalg::subspace::{Solver, SubspaceConfig},
    method::projection::ProjType,
    random::Rng,
    testing::{alone, test_device},
    train::AdamFlavour,
    vectors::{Rows, Vector, assert_close, assert_near, flat, tensor, vector},
};

const EXACT: SubspaceConfig = SubspaceConfig { solver: Solver::Exact, iterations: 2, oversample: 8 };

const ADAM: AdamHyper = AdamHyper { flavour: AdamFlavour::Hf, betas: [0.9, 0.999], eps: 1e-6, weight_decay: 0.0 };

fn config_of(vector: &Vector) -> FiraConfig {
    let adam = AdamHyper {
        betas: vector.input("betas"),
        eps: vector.input("eps"),
        weight_decay: vector.input("weight_decay"),
        ..ADAM
    };
    let projection = ProjectionConfig {
        rank: vector.input("rank"),
        update_proj_gap: vector.input("gap"),
        proj_type: vector.input("mode"),
        subspace: EXACT,
        ..ProjectionConfig::default()
    };
    FiraConfig {
        projection,
        scale: vector.input("scale"),
        variant: vector.input("variant"),
        level: vector.input("level"),
        gamma: vector.input("gamma"),
        optimizer: FiraOptimizer::Adam(adam),
        ..small()
    }
}

fn run(id: &str) {
    let vector = vector(id);
    let grads: Vec<Rows> = vector.input("grads");
    for dtype in [DType::F64, DType::F32] {
        let mut weight = tensor(&vector.input("W0"), dtype);
        let mut fira = Fira::new(config_of(&vector), weight.dims(), &weight.device(), dtype, 0);
        for (index, rows) in grads.iter().enumerate() {
            weight = fira.step(weight, &tensor(rows, dtype), vector.input("lr")).unwrap().0;
            assert_close(&weight, &vector.expected(&format!("steps/{index}/W")), vector.tol());
            let stored: f64 = vector.expected(&format!("steps/{index}/S_norm_stored"));
            assert_near(flat(&fira.limiter.previous)[0], stored, 1e-5);
        }
    }
}

#[test]
fn vector_fira_repo_wide() {
    run("fira_repo_wide");
}

#[test]
fn vector_fira_repo_tall() {
    run("fira_repo_tall");
}

#[test]
fn vector_fira_repo_alpha1() {
    run("fira_repo_alpha1");
}

#[test]
fn vector_fira_paper_column() {
    run("fira_paper_column");
}

#[test]
fn vector_fira_paper_matrix() {
    run("fira_paper_matrix");
}

/// Divisor and stored norm after each of these norms.
fn trace(norms: &[f64], gamma: f64, guarded: bool) -> Vec<[f64; 2]> {
    let mut limiter = Limiter::new(gamma, guarded, &test_device(), DType::F64);
    let mut pass = |norm: &f64| {
        let divisor = limiter.divisor(tensor(&vec![vec![*norm]], DType::F64));
        [flat(&divisor)[0], flat(&limiter.previous)[0]]
    };
    norms.iter().map(&mut pass).collect()
}

fn assert_traces(found: &[[f64; 2]], expected: &[[f64; 2]], tol: f64) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
        assert_near(*found, *expected, tol);
    }
}

#[test]
fn vector_fira_limiter_trace() {
    let vector = vector("fira_limiter_trace");
    for guarded in [false, true] {
        let found = trace(&vector.input::<Vec<f64>>("norms"), vector.input("gamma"), guarded);
        assert_traces(&found, &vector.expected::<Vec<[f64; 2]>>("divisor_and_stored"), vector.tol());
    }
}

#[test]
fn vector_fira_limiter_zero_start() {
    let vector = vector("fira_limiter_zero_start");
    let gamma: f64 = vector.input("gamma");
    let found = trace(&vector.input::<Vec<f64>>("norms"), gamma, false);
    assert_traces(&found, &vector.expected::<Vec<[f64; 2]>>("divisor_and_stored"), vector.tol());
    let many: Vec<f64> = std::iter::once(0.0).chain(std::iter::repeat_n(1.0, 1500)).collect();
    let free = trace(&many, gamma, false).iter().skip(1).position(|[divisor, _]| *divisor <= 1.0).unwrap();
    // Counted with the step whose norm was 0.
    assert_eq!(free + 2, vector.expected::<usize>("steps_until_norm_1_allowed"));
    // With the guard the first real norm passes as it is.
    assert_traces(&trace(&[0.0, 1.0, 5.0], gamma, true)[1..], &[[1.0, 1.0], [4.950495, 1.0100000101]], 1e-7);
}

fn normal(shape: [usize; 2], seed: u64) -> Tensor<2> {
    Tensor::from_data(TensorData::new(Rng::new(seed).normal(shape[0] * shape[1], 1.0), shape), &test_device())
}

fn saved(fira: &Fira) -> State {
    let mut state = State::new(&test_device());
    fira.save("w", &mut state);
    state
}

fn small() -> FiraConfig {
    let projection = ProjectionConfig { rank: 3, update_proj_gap: 2, ..ProjectionConfig::default() };
    FiraConfig {
        projection,
        scale: 0.25,
        variant: Variant::Repo,
        level: Level::Column,
        gamma: 1.01,
        limiter: true,
        zero_start_guard: true,
        optimizer: FiraOptimizer::Adam(ADAM),
    }
}

#[test]
fn a_saved_state_goes_on_bit_for_bit() {
    for optimizer in [small().optimizer, FiraOptimizer::RmsProp] {
        for (variant, level) in [(Variant::Repo, Level::Column), (Variant::Paper, Level::Matrix)] {
            let config = FiraConfig { optimizer, variant, level, ..small() };
            let new = || Fira::new(config, [20, 30], &test_device(), DType::F32, 3);
            let run = |mut fira: Fira, mut weight: Tensor<2>, seeds: std::ops::Range<u64>| {
                for seed in seeds {
                    weight = alone(|| fira.step(weight, &normal([20, 30], seed), 0.1).unwrap().0);
                }
                (weight, fira)
            };
            let start = normal([20, 30], 99);
            let whole = run(new(), start.clone(), 0..6).0;
            let (half, fira) = run(new(), start, 0..3);
            let mut resumed = new();
            resumed.load("w", &mut saved(&fira)).unwrap();
            assert_eq!(flat(&run(resumed, half, 3..6).0), flat(&whole), "{optimizer:?}");
        }
    }
}

#[test]
fn state_is_galores_and_one_norm() {
    let mut fira = Fira::new(small(), [20, 30], &test_device(), DType::F32, 3);
    let _ = fira.step(normal([20, 30], 1), &normal([20, 30], 2), 0.1).unwrap();
    assert_eq!(fira.floats(), 2 * 3 * 30 + 3 * 20 + 1);
    assert_eq!(fira.bytes(), 4 * fira.floats());
    let config = FiraConfig { optimizer: FiraOptimizer::RmsProp, ..small() };
    let mut fira = Fira::new(config, [20, 30], &test_device(), DType::F32, 3);
    let _ = fira.step(normal([20, 30], 1), &normal([20, 30], 2), 0.1).unwrap();
    assert_eq!(fira.floats(), 3 * 30 + 3 * 20 + 1);
}

#[test]
fn every_side_and_shape_moves_the_whole_weight() {
    for proj_type in [ProjType::Std, ProjType::ReverseStd, ProjType::Left, ProjType::Right, ProjType::Full] {
        for shape in [[4, 6], [6, 4], [4, 4]] {
            for rank in [2, 4] {
                let projection = ProjectionConfig { rank, proj_type, ..small().projection };
                let mut fira = Fira::new(FiraConfig { projection, ..small() }, shape, &test_device(), DType::F32, 3);
                let (weight, _) = fira.step(Tensor::zeros(shape, &test_device()), &normal(shape, 2), 0.1).unwrap();
                assert!(flat(&weight).iter().all(|x| x.is_finite() && *x != 0.0), "{proj_type:?} {shape:?} {rank}");
            }
        }
    }
}

#[test]
fn the_limiter_can_be_left_out_and_bounds_a_jump_otherwise() {
    let run = |limiter| {
        let config = FiraConfig { limiter, variant: Variant::Paper, ..small() };
        let mut fira = Fira::new(config, [20, 30], &test_device(), DType::F32, 3);
        // First a gradient that the subspace holds, but for a thousandth; then one that it does not.
        let inside = normal([20, 3], 1).matmul(normal([3, 30], 2)).add(normal([20, 30], 3).mul_scalar(1e-3));
        let (weight, _) = fira.step(inside.zeros_like(), &inside, 0.1).unwrap();
        let (next, _) = fira.step(weight.clone(), &normal([20, 30], 4), 0.1).unwrap();
        flat(&next.sub(weight)).iter().map(|x| x * x).sum::<f64>().sqrt()
    };
    assert!(run(false) > 3.0 * run(true), "{} and {}", run(false), run(true));
}

#[test]
fn a_gradient_with_nan_leaves_everything_as_it_was() {
    let mut fira = Fira::new(small(), [2, 3], &test_device(), DType::F32, 3);
    let broken = tensor(&vec![vec![f64::NAN; 3]; 2], DType::F32);
    let start = normal([2, 3], 1);
    let before = saved(&fira);
    let (weight, report) = fira.step(start.clone(), &broken, 0.1).unwrap();
    assert_eq!(flat(&weight), flat(&start));
    assert!(report.skipped.is_some());
    assert_eq!(saved(&fira), before);
}
