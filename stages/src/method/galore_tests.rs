//! GaLore against the vectors, and the known bugs of other codes.

use burn::tensor::TensorData;
use serde_json::Value;

use super::*;
use crate::{
    linalg::subspace::{Solver, SubspaceConfig},
    method::projection::{MomentsAtRefresh, ProjType, Refresh, Side, predicted_floats},
    optim::{AdafactorConfig, CodeTable, EightBit},
    random::Rng,
    testing::{alone, test_device},
    train::{AdamFlavour, AdamHyper},
    vectors::{Rows, Vector, assert_close, flat, tensor, vector},
};

const EXACT: SubspaceConfig = SubspaceConfig { solver: Solver::Exact, iterations: 2, oversample: 8 };

const ADAM: AdamHyper = AdamHyper { flavour: AdamFlavour::Hf, betas: [0.9, 0.999], eps: 1e-6, weight_decay: 0.0 };
const EIGHT: EightBit = EightBit { block_size: 256, table: CodeTable::Dynamic, min_size: 0 };

fn proj_type(name: &str) -> ProjType {
    serde_json::from_value(Value::String(name.to_owned())).unwrap()
}

fn config(rank: usize, gap: u64, proj_type: ProjType, scale: f64, adam: AdamHyper) -> GaloreConfig {
    let projection =
        ProjectionConfig { rank, update_proj_gap: gap, proj_type, subspace: EXACT, ..ProjectionConfig::default() };
    GaloreConfig { projection, scale, optimizer: MatrixOptimizer::Adam(adam) }
}

fn config_of(vector: &Vector, flavour: AdamFlavour) -> GaloreConfig {
    let (eps, weight_decay) = (vector.input("eps"), vector.input("weight_decay"));
    let adam = AdamHyper { flavour, betas: vector.input("betas"), eps, weight_decay };
    let mode: String = vector.input("mode");
    config(vector.input("rank"), vector.input("gap"), proj_type(&mode), vector.input("scale"), adam)
}

/// Runs a vector's gradients and compares the weight after each.
fn run(id: &str, flavour: AdamFlavour, steps: &str, dtype: DType) -> Galore {
    let vector = vector(id);
    let (mut weight, grads): (_, Vec<Rows>) = (tensor(&vector.input("W0"), dtype), vector.input("grads"));
    let mut galore = Galore::new(config_of(&vector, flavour), weight.dims(), &weight.device(), dtype, 0);
    for (index, rows) in grads.iter().enumerate() {
        let (next, report) = galore.step(weight, &tensor(rows, dtype), vector.input("lr")).unwrap();
        assert!(report.skipped.is_none());
        assert_close(&next, &vector.expected(&format!("{steps}/{index}/W")), vector.tol());
        weight = next;
    }
    galore
}

fn both(id: &str) {
    for dtype in [DType::F64, DType::F32] {
        let galore = run(id, AdamFlavour::Hf, "steps", dtype);
        let expected: [usize; 2] = vector(id).expected("state_shape");
        assert_eq!(galore.projection().projected(), expected);
    }
}

#[test]
fn vector_galore_wide_2steps() {
    both("galore_wide_2steps");
    let vector = vector("galore_wide_2steps");
    let galore = run("galore_wide_2steps", AdamFlavour::Hf, "steps", DType::F64);
    let p = galore.projection.up(tensor(&vec![vec![1.0, 0.0], vec![0.0, 1.0]], DType::F64));
    assert_close(&p.clone().matmul(p.transpose()), &vector.expected("projector_PPt"), 1e-9);
}

#[test]
fn vector_galore_tall_2steps_wd() {
    both("galore_tall_2steps_wd");
}

#[test]
fn vector_galore_reverse_std() {
    both("galore_reverse_std");
}

#[test]
fn vector_galore_full() {
    both("galore_full");
}

#[test]
fn vector_galore_paper_adam() {
    for dtype in [DType::F64, DType::F32] {
        run("galore_paper_adam", AdamFlavour::Torch, "steps", dtype);
    }
}

#[test]
fn vector_galore_refresh_gauge() {
    for dtype in [DType::F64, DType::F32] {
        run("galore_refresh_gauge", AdamFlavour::Hf, "convention_A", dtype);
    }
}

#[test]
fn vector_galore_square_layout() {
    let vector = vector("galore_square_layout");
    let adam = AdamHyper { eps: vector.input("eps"), ..ADAM };
    let config = config(vector.input("rank"), 200, ProjType::Std, vector.input("scale"), adam);
    let out_in = tensor(&vector.input("G_out_in"), DType::F64);
    let lr: f64 = vector.input("lr");
    let step = |gradient: Tensor<2>| {
        let mut galore = Galore::new(config, [3, 3], &test_device(), DType::F64, 0);
        galore.step(gradient.zeros_like(), &gradient, lr).unwrap().0
    };
    // In torch layout; and wrongly, with the rule applied to burn's own layout. Both are shown in torch layout.
    let right = step(out_in.clone());
    assert_close(&right, &vector.expected("first_step_W/0/W_in_out_in_layout"), vector.tol());
    let wrong = step(out_in.transpose()).transpose();
    assert_close(&wrong, &vector.expected("first_step_W/1/W_in_out_in_layout"), vector.tol());
}

#[test]
fn vector_galore_side_table() {
    for row in vector("galore_side_table").expected::<Vec<Value>>("rows") {
        let shape: [usize; 2] = serde_json::from_value(row["shape"].clone()).unwrap();
        let config =
            ProjectionConfig { rank: 2, proj_type: proj_type(row["mode"].as_str().unwrap()), ..Default::default() };
        let projection = Projection::new(config, shape, DType::F64, 0);
        let side = if projection.side() == Side::Left { "left" } else { "right" };
        assert_eq!(
            (side, Value::from(projection.projected().to_vec())),
            (row["side"].as_str().unwrap(), row["state_shape"].clone())
        );
    }
}

#[test]
fn vector_galore_state_floats() {
    let vector = vector("galore_state_floats");
    let rank: usize = vector.input("r");
    for row in vector.expected::<Vec<Value>>("std") {
        let shape: [usize; 2] = serde_json::from_value(row["shape"].clone()).unwrap();
        let config = ProjectionConfig { rank, ..ProjectionConfig::default() };
        let (moments, basis) = predicted_floats(config, shape);
        assert_eq!((moments, basis), (count(&row["moments"]), count(&row["basis"])));
        // And measured, from tensors that exist.
        let gradient = normal(shape, 1);
        let galore = Galore::new(
            GaloreConfig { projection: config, scale: 0.25, optimizer: MatrixOptimizer::Adam(ADAM) },
            shape,
            &test_device(),
            DType::F32,
            1,
        );
        assert_eq!(after(galore, &[gradient]).1.floats(), count(&row["total"]));
    }
}

fn count(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn normal(shape: [usize; 2], seed: u64) -> Tensor<2> {
    Tensor::from_data(TensorData::new(Rng::new(seed).normal(shape[0] * shape[1], 1.0), shape), &test_device())
}

fn saved(galore: &Galore) -> State {
    let mut state = State::new(&test_device());
    galore.save("w", &mut state);
    state
}

/// The weight and the state after steps from a zero weight with lr 0.1.
fn after(mut galore: Galore, gradients: &[Tensor<2>]) -> (Tensor<2>, Galore) {
    let mut weight = gradients[0].zeros_like();
    for gradient in gradients {
        weight = alone(|| galore.step(weight, gradient, 0.1).unwrap().0);
    }
    (weight, galore)
}

fn small(rank: usize, gap: u64, optimizer: MatrixOptimizer, shape: [usize; 2]) -> Galore {
    let config = GaloreConfig { optimizer, ..config(rank, gap, ProjType::Std, 1.0, ADAM) };
    Galore::new(config, shape, &test_device(), DType::F32, 7)
}

// Pitfall 6 of the public codes: reverse_std on a wide matrix with r >= m, whose projection is square.
#[test]
fn reverse_std_works_where_the_projected_gradient_is_square() {
    let config = config(3, 10, ProjType::ReverseStd, 1.0, ADAM);
    let mut galore = Galore::new(config, [3, 5], &test_device(), DType::F32, 0);
    assert_eq!((galore.projection().side(), galore.projection().projected()), (Side::Right, [3, 3]));
    let (weight, _) = galore.step(normal([3, 5], 1), &normal([3, 5], 2), 0.1).unwrap();
    assert_eq!(weight.dims(), [3, 5]);
}

// Pitfall 7: a rank above the short side.
#[test]
fn a_rank_above_the_short_side_is_clamped_and_reported() {
    let galore = small(50, 10, MatrixOptimizer::Adam(ADAM), [4, 6]);
    assert_eq!((galore.projection().rank(), galore.projection().clamped_from()), (4, Some(50)));
    assert_eq!(small(4, 10, MatrixOptimizer::Adam(ADAM), [4, 6]).projection().clamped_from(), None);
}

// Pitfall 8: a convolution goes through its channel matrix, is refreshed, and its update is what the optimiser returned.
#[test]
fn a_convolution_trains_as_its_channel_matrix() {
    let kernel =
        Tensor::<4>::from_data(TensorData::new(Rng::new(3).normal(4 * 2 * 3 * 3, 1.0), [4, 2, 3, 3]), &test_device());
    let channel: Tensor<2> = kernel.reshape([4, 18]);
    let mut galore = small(2, 1, MatrixOptimizer::Adam(ADAM), [4, 18]);
    let (one, first) = galore.step(channel.zeros_like(), &channel, 0.1).unwrap();
    let (_, second) = galore.step(one.clone(), &normal([4, 18], 4), 0.1).unwrap();
    assert!(matches!(first.refresh, Refresh::New { overlap: None, .. }));
    assert!(matches!(second.refresh, Refresh::New { overlap: Some(_), .. }));
    // Adam's first normalised step is +-1 in the subspace: an update proportional to the raw gradient would not be.
    let coordinates = flat(&galore_first_coordinates(&channel, &one));
    assert!(coordinates.iter().all(|x| (x.abs() - 0.1).abs() < 5e-3), "{coordinates:?}");
}

fn galore_first_coordinates(gradient: &Tensor<2>, weight: &Tensor<2>) -> Tensor<2> {
    let mut projection =
        Projection::new(small(2, 1, MatrixOptimizer::Adam(ADAM), [4, 18]).config.projection, [4, 18], DType::F32, 7);
    projection.refresh(gradient).unwrap();
    projection.down(weight)
}

// Pitfall 10: the step count rises by one a step, so bias corrections and refreshes come at 1, 2, 3, ...; and decay acts
// on the whole matrix.
#[test]
fn steps_are_counted_once_and_refreshes_come_at_one_plus_multiples_of_the_gap() {
    let eight = MatrixOptimizer::Adam8bit(ADAM, EIGHT);
    for optimizer in [MatrixOptimizer::Adam(ADAM), eight] {
        let mut galore = small(2, 3, optimizer, [4, 6]);
        let mut refreshed = Vec::new();
        for step in 1..=8 {
            let (_, report) = galore.step(normal([4, 6], 9), &normal([4, 6], step), 0.1).unwrap();
            if matches!(report.refresh, Refresh::New { .. }) {
                refreshed.push(step);
            }
            assert_eq!(galore.projection().t(), step);
            assert_eq!(saved(&galore).count("w/t").unwrap(), step);
        }
        assert_eq!(refreshed, [1, 4, 7]);
    }
}

#[test]
fn weight_decay_acts_on_the_whole_matrix_in_every_optimiser() {
    let adam = AdamHyper { weight_decay: 0.5, ..ADAM };
    let all = [
        MatrixOptimizer::Adam(adam),
        MatrixOptimizer::Adam8bit(adam, EIGHT),
        MatrixOptimizer::Adafactor(AdafactorConfig::default(), 0.5),
    ];
    for optimizer in all {
        let mut galore = small(1, 10, optimizer, [3, 4]);
        let zero = Tensor::<2>::zeros([3, 4], &test_device());
        let (weight, _) = galore.step(zero.ones_like(), &zero, 0.1).unwrap();
        assert!(flat(&weight).iter().all(|x| (x - 0.95).abs() < 1e-6), "{optimizer:?} {weight}");
    }
}

// Pitfall 11: NaN, at the first step and later.
#[test]
fn a_gradient_with_nan_leaves_everything_as_it_was_and_says_so() {
    let mut data = vec![0.5_f32; 24];
    data[5] = f32::INFINITY;
    let broken = Tensor::<2>::from_data(TensorData::new(data, [4, 6]), &test_device());
    let start = normal([4, 6], 1);
    for before in [0, 2] {
        let mut galore = small(2, 2, MatrixOptimizer::Adam(ADAM), [4, 6]);
        for seed in 0..before {
            let _ = galore.step(start.clone(), &normal([4, 6], seed), 0.1).unwrap();
        }
        let before_it = saved(&galore);
        let (weight, report) = galore.step(start.clone(), &broken, 0.1).unwrap();
        assert_eq!(flat(&weight), flat(&start));
        assert_eq!(saved(&galore), before_it);
        let why = report.skipped.unwrap().to_string();
        insta::allow_duplicates! {
            insta::assert_snapshot!(why, @"the 4x6 matrix has 1 entries that are NaN or infinite");
        }
        // The refresh that was due is made up for.
        let (_, report) = galore.step(start.clone(), &normal([4, 6], 8), 0.1).unwrap();
        assert!(matches!(report.refresh, Refresh::New { .. }));
    }
}

#[test]
fn full_rank_sgd_with_scale_one_is_plain_sgd_and_adam_is_not_adam() {
    let gradient = normal([4, 6], 5);
    let (weight, _) = after(small(4, 1, MatrixOptimizer::Sgd, [4, 6]), std::slice::from_ref(&gradient));
    let apart = flat(&weight.add(gradient.clone().mul_scalar(0.1)));
    assert!(apart.iter().all(|x| x.abs() < 1e-6), "{apart:?}");
    let (weight, _) = after(small(4, 1, MatrixOptimizer::Adam(ADAM), [4, 6]), &[gradient]);
    assert!(flat(&weight).iter().any(|x| (x.abs() - 0.1).abs() > 1e-2));
}

#[test]
fn a_saved_state_goes_on_bit_for_bit_with_every_optimiser() {
    let eight = MatrixOptimizer::Adam8bit(ADAM, EIGHT);
    let factor = MatrixOptimizer::Adafactor(AdafactorConfig::default(), 0.0);
    for optimizer in [MatrixOptimizer::Adam(ADAM), eight, factor, MatrixOptimizer::Sgd] {
        for proj_type in [ProjType::Std, ProjType::ReverseStd, ProjType::Full] {
            let projection = ProjectionConfig { rank: 3, update_proj_gap: 2, proj_type, ..ProjectionConfig::default() };
            let config = GaloreConfig { projection, scale: 0.25, optimizer };
            let new = || Galore::new(config, [20, 30], &test_device(), DType::F32, 3);
            let gradients: Vec<Tensor<2>> = (0..6).map(|seed| normal([20, 30], seed)).collect();
            let (whole, _) = after(new(), &gradients);
            let (half, galore) = after(new(), &gradients[..3]);
            let mut resumed = new();
            resumed.load("w", &mut saved(&galore)).unwrap();
            let mut weight = half;
            for gradient in &gradients[3..] {
                weight = alone(|| resumed.step(weight, gradient, 0.1).unwrap().0);
            }
            assert_eq!(flat(&weight), flat(&whole), "{optimizer:?} {proj_type:?}");
        }
    }
}

#[test]
fn eight_bit_moments_cost_a_quarter_and_small_ones_are_left_alone() {
    let eight = MatrixOptimizer::Adam8bit(ADAM, EightBit::default());
    let gradient = normal([64, 128], 1);
    let full = after(small(64, 10, MatrixOptimizer::Adam(ADAM), [64, 128]), std::slice::from_ref(&gradient)).1;
    let stored = after(small(64, 10, eight, [64, 128]), &[gradient]).1;
    assert_eq!(full.bytes() - stored.bytes(), 2 * (4 * 64 * 128 - (64 * 128 + 4 * 32)));
    assert_eq!(small(2, 10, eight, [4, 6]).optimizer.bytes(), 2 * 2 * 6 * 4);
}

#[test]
fn moments_can_start_again_at_a_refresh() {
    let run = |moments_at_refresh| {
        let mut config = small(2, 1, MatrixOptimizer::Adam(ADAM), [4, 6]).config;
        config.projection.moments_at_refresh = moments_at_refresh;
        let galore = Galore::new(config, [4, 6], &test_device(), DType::F32, 7);
        saved(&after(galore, &[normal([4, 6], 1), normal([4, 6], 2)]).1)
    };
    let (kept, reset) = (run(MomentsAtRefresh::Keep), run(MomentsAtRefresh::Reset));
    assert_ne!(kept, reset);
    assert_eq!(reset.count("w/t").unwrap(), 2);
}

#[test]
fn a_gradient_that_cannot_be_used_leaves_the_others_their_bases() {
    let config = ProjectionConfig { rank: 4, proj_type: ProjType::Full, ..ProjectionConfig::default() };
    let make = |seed| Projection::new(config, [16, 24], DType::F32, seed);
    let gradient = |values| Tensor::<2>::from_data(TensorData::new(values, [16, 24]), &test_device());
    let mut values = Rng::new(3).normal(16 * 24, 1.0);
    let good = gradient(values.clone());
    values[5] = f32::NAN;
    let bad = gradient(values);
    let (mut broken, mut fine, mut alone) = (make(1), make(2), make(2));
    // Of two threads, so that both are found at once.
    let both = crate::device::with_threads(2, || {
        let all = [(&mut broken, &bad), (&mut fine, &good)];
        Projection::prepare(all.into_iter().map(|(projection, gradient)| (projection, || gradient.clone())));
        Ok(())
    });
    both.unwrap();
    assert!(broken.refresh(&bad).is_err());
    let (Ok(Refresh::New { captured, .. }), Ok(Refresh::New { captured: expected, .. })) =
        (fine.refresh(&good), alone.refresh(&good))
    else {
        panic!("a basis each")
    };
    // The same to the bit where the host finds them; stacked with others on a GPU, nearly.
    let near = if test_device() == Device::flex() { 0.0 } else { 1e-5 };
    assert!((captured - expected).abs() <= near);
    let pairs = flat(&fine.down(&good)).into_iter().zip(flat(&alone.down(&good)));
    assert!(pairs.into_iter().all(|(found, expected)| (found - expected).abs() <= 10.0 * near));
    assert_eq!(fine.down(&good).dims(), [4, 4]);
}
