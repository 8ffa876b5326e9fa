//! Maestro finds the singular value decomposition of a linear map by training alone.

use burn::tensor::{DType, Tensor, TensorData};
use faer::Mat;

use super::{Draw, Lasso, LassoKind, Sampler, SamplerKind};
use crate::{
    linalg::{
        host::{to_device, to_host},
        svd::singular_values,
    },
    random::Rng,
    testing::test_device,
    vectors::{assert_near, flat, vector},
};

/// Trains `U V^T` `[m, r]`, `[r, n]` towards `||(W - U_b V_b^T) X||_F^2 / 2` with sampled `b`, on one layer.
fn train(w: &Mat<f64>, x: &Mat<f64>, lambda: f64, lr: f64, steps: usize) -> (Tensor<2>, Tensor<2>) {
    let device = test_device();
    let (m, n) = (w.nrows(), w.ncols());
    let r = m.min(n);
    let draw = |seed, rows: usize, cols: usize| {
        let data = TensorData::new(Rng::new(seed).normal(rows * cols, 0.3), [rows, cols]);
        Tensor::<2>::from_data(data, (&device, DType::F64))
    };
    let (mut u, mut v) = (draw(1, m, r), draw(2, r, n));
    let gram = to_device(&(x * x.transpose()), &device, DType::F64); // [n, n]
    let target = to_device(w, &device, DType::F64);
    let mut sampler = Sampler::new(SamplerKind::PerLayer, 3, &[r]);
    for step in 0..steps {
        let Draw::One(_, b) = sampler.draw() else { unreachable!() };
        // The rate falls off towards the end, since the draws make the gradient noisy.
        let lr = lr * (1.0 - step as f64 / steps as f64);
        let (lead, tail) = (u.clone().narrow(1, 0, b), v.clone().narrow(0, 0, b));
        let error = lead.clone().matmul(tail.clone()).sub(target.clone()).matmul(gram.clone());
        let (grad_u, grad_v) = (error.clone().matmul(tail.clone().transpose()), lead.clone().transpose().matmul(error));
        let lasso = Lasso::new(
            &flat(&u.clone().square().sum_dim(0)),
            &flat(&v.clone().square().sum_dim(1)),
            LassoKind::Hierarchical,
        );
        let (slope_u, slope_v) = lasso.slopes();
        let row =
            |slopes: Vec<f64>, shape| Tensor::<2>::from_data(TensorData::new(slopes, shape), (&device, DType::F64));
        let (shrink_u, shrink_v) = (u.clone().mul(row(slope_u, [1, r])), v.clone().mul(row(slope_v, [r, 1])));
        let (lead, tail) = (lead.sub(grad_u.mul_scalar(lr)), tail.sub(grad_v.mul_scalar(lr)));
        u = u.slice_assign([0..m, 0..b], lead).sub(shrink_u.mul_scalar(lr * lambda));
        v = v.slice_assign([0..b, 0..n], tail).sub(shrink_v.mul_scalar(lr * lambda));
    }
    (u, v)
}

/// `||W - U_b V_b^T||_F^2` for every b.
fn losses(w: &Mat<f64>, (u, v): &(Tensor<2>, Tensor<2>)) -> Vec<f64> {
    let (u, v) = (to_host(u).unwrap(), to_host(v).unwrap());
    (1..=u.ncols()).map(|b| (w - u.subcols(0, b) * v.subrows(0, b)).squared_norm_l2()).collect()
}

#[test]
fn vector_maestro_svd_limit() {
    let vector = vector("maestro_svd_limit");
    let rows: Vec<Vec<f64>> = vector.input("W");
    let w = Mat::from_fn(2, 2, |i, j| rows[i][j]);
    let found = losses(&w, &train(&w, &Mat::identity(2, 2), 0.0, 0.2, 4000));
    let expected: Vec<f64> = vector.expected("loss_b");
    for (found, expected) in found.iter().zip(&expected) {
        assert_near(*found, *expected, 1e-3);
    }
    assert_near(found.iter().sum::<f64>() / 2.0, vector.expected("mean_loss"), 1e-3);
}

#[test]
fn a_map_of_rank_three_is_found_in_order_and_its_dead_columns_vanish() {
    let mut rng = Rng::new(11);
    let mut draw = |rows: usize, cols: usize| {
        let values = rng.normal(rows * cols, 0.6);
        Mat::from_fn(rows, cols, |i, j| f64::from(values[i * cols + j]))
    };
    let w = draw(9, 3) * draw(3, 6);
    let s = singular_values(w.as_ref()).unwrap();
    let found = train(&w, &Mat::identity(6, 6), 5e-3, 0.1, 6000);
    for (b, loss) in losses(&w, &found).iter().enumerate() {
        let tail: f64 = s[b + 1..].iter().map(|s| s * s).sum();
        assert!((loss - tail).abs() < 2e-2 * s[0] * s[0], "b = {}: {loss}, the decomposition leaves {tail}", b + 1);
    }
    let lasso =
        Lasso::new(&flat(&found.0.square().sum_dim(0)), &flat(&found.1.square().sum_dim(1)), LassoKind::Hierarchical);
    assert_eq!(lasso.kept(1e-5), 3, "{:?}", lasso.importance());
}

#[test]
fn the_identity_on_three_samples_gives_their_principal_components() {
    let values = Rng::new(4).normal(30, 1.0);
    let x = Mat::from_fn(10, 3, |i, j| f64::from(values[i * 3 + j]));
    let s = singular_values(x.as_ref()).unwrap();
    let scaled = Mat::from_fn(10, 3, |i, j| x[(i, j)] / s[0]);
    let s: Vec<f64> = s.iter().map(|value| value / s[0]).collect();
    let (u, v) = train(&Mat::identity(10, 10), &scaled, 1e-3, 0.2, 8000);
    let (u, v) = (to_host(&u).unwrap(), to_host(&v).unwrap());
    for b in 1..=3 {
        let left = &scaled - u.subcols(0, b) * (v.subrows(0, b) * &scaled);
        let tail: f64 = s[b..].iter().map(|s| s * s).sum();
        assert!((left.squared_norm_l2() - tail).abs() < 3e-2, "b = {b}: {} and {tail}", left.squared_norm_l2());
    }
}
