//! SST, Sparse Spectral Training: the singular values of every matrix and a few singular vectors at a time (Zhao et al. 2024).
//!
//! `W = U diag(s) V^T` with all min(m, n) directions. Every update steps all singular values, which then stay at least 0, and
//! the vectors of `rank` directions, which are drawn anew every so many updates: half the probability is shared equally,
//! half goes by singular values. The gradients of vectors leave out the singular value ("enhanced": `g_U = G V`, `g_V = G^T
//! U`), and vectors are then made unit length again. After a sweep, as many draws as could reach every direction once, the
//! decomposition is made anew.
//!
//! What is trained in a step is few numbers; what is held is not: the whole matrix and its gradient stay beside the
//! factors. So this says what the method's updates do, not what its memory would be.

use burn::tensor::{DType, Device, IndexingUpdateOp, Int, Tensor, TensorData};
use schemars::JsonSchema;
use sepia_engine::stage::{Check, StageError, derive_seed};
use serde::{Deserialize, Serialize};

use super::{
    Matrix, MatrixCost, MethodParams, MethodSetup, check_rank,
    per_matrix::{MatrixMethod, PerMatrix},
    projection::{Refresh, StepReport},
};
use crate::{
    linalg::{
        host::{to_device, to_host},
        svd::{LinalgError, Svd, svd},
    },
    ops::product,
    random::Rng,
    train::{AdamHyper, AdamState, Held, Method, State},
};

/// SST: all singular values, and the singular vectors of a few directions at a time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SstParams {
    /// Directions whose vectors are trained at a time; the paper takes 6 % of the width and more.
    pub rank: usize,
    /// Updates between two draws of directions.
    pub every: u64,
    /// Updates after a draw over which the learning rate of vectors rises; their moments begin at zero then.
    pub warmup: u64,
}

impl Default for SstParams {
    fn default() -> Self {
        Self { rank: 64, every: 200, warmup: 20 }
    }
}

impl MethodParams for SstParams {
    const STAGE: &'static str = "sst";
    const SOURCE: &'static str = r#"Zhao et al. 2024, "Sparse Spectral Training and Inference on Euclidean and Hyperbolic Neural Networks", arXiv 2405.15481"#;

    fn check(&self, at: &str, check: &mut Check<'_>) {
        check_rank(self.rank, at, check);
        if self.every == 0 {
            check.problem(format!("{at}.every"), "`every` must be at least 1", "200 is usual");
        }
    }

    /// The factors are the state, and the weight is made from them.
    fn check_held(&self, weights: Held, state: Held, check: &mut Check<'_>) {
        for (name, held) in [("weights_dtype", weights), ("state_dtype", state)] {
            if held == Held::Bf16 {
                let message = "singular vectors in bf16 are neither of unit length nor orthogonal, and sst needs both";
                check.problem(name, message, format!("leave `{name}` out"));
            }
        }
    }

    fn build(&self, setup: &MethodSetup) -> Box<dyn Method> {
        Box::new(PerMatrix::<Sst>::new(SstConfig { params: *self, hyper: setup.hyper }, setup))
    }

    fn cost(&self, matrix: Matrix) -> Option<MatrixCost> {
        let [m, n] = matrix.shape;
        let (k, rank) = (m.min(n), self.rank.min(m.min(n)));
        let floats = k * (m + n + 3) + 2 * rank * (m + n);
        Some(matrix.dense(floats as u64 * matrix.float))
    }
}

/// What [`Sst`] is made from.
#[derive(Debug, Clone, Copy)]
pub struct SstConfig {
    /// SST's own parameters.
    pub params: SstParams,
    /// Adam's constants. Weight decay is that of the singular values.
    pub hyper: AdamHyper,
}

/// One matrix under SST.
#[derive(Debug, Clone)]
pub struct Sst {
    config: SstConfig,
    shape: [usize; 2],
    seed: u64,
    /// Updates made.
    t: u64,
    factors: Option<Factors>,
}

/// `U [m, k]`, `s [1, k]` and `V [n, k]` with what trains them.
#[derive(Debug, Clone)]
struct Factors {
    u: Tensor<2>,
    s: Tensor<2>,
    v: Tensor<2>,
    of_s: AdamState,
    /// Directions whose vectors are trained, ascending.
    active: Vec<i64>,
    of_u: AdamState,
    of_v: AdamState,
}

/// Half in equal parts, half by size: `(1 / k + s_i / sum s) / 2`.
fn probabilities(s: &[f64]) -> Vec<f64> {
    let (count, sum) = (s.len().max(1) as f64, s.iter().sum::<f64>());
    let by_size = |value: f64| if sum > 0.0 { value / sum } else { count.recip() };
    s.iter().map(|value| (count.recip() + by_size(*value)) / 2.0).collect()
}

/// So many different indices, ascending, one after the other by these weights.
fn draw(weights: &[f64], count: usize, seed: u64) -> Vec<i64> {
    let (mut rng, steps) = (Rng::new(seed), 1_u64 << 53);
    let mut left: Vec<(usize, f64)> = weights.iter().copied().enumerate().collect();
    let mut found = Vec::with_capacity(count);
    for _ in 0..count.min(weights.len()) {
        let mut rest = rng.below(steps) as f64 / steps as f64 * left.iter().map(|(_, weight)| weight).sum::<f64>();
        let reached = left.iter().position(|(_, weight)| {
            rest -= weight;
            rest < 0.0
        });
        let (index, _) = left.remove(reached.unwrap_or(left.len() - 1));
        found.push(index as i64);
    }
    found.sort_unstable();
    found
}

/// Gradients of the vectors of some directions, `G V` `[m, r]` and `G^T U` `[n, r]`.
fn enhanced(gradient: &Tensor<2>, u: Tensor<2>, v: Tensor<2>) -> [Tensor<2>; 2] {
    [product(gradient.clone(), v), product(gradient.clone().transpose(), u)]
}

/// Gradients of all singular values, `u_i^T G v_i`, `[1, k]`.
fn of_values(gradient: &Tensor<2>, u: &Tensor<2>, v: &Tensor<2>) -> Tensor<2> {
    product(gradient.clone(), v.clone()).mul(u.clone()).sum_dim(0)
}

/// Columns of unit length.
fn unit(columns: Tensor<2>) -> Tensor<2> {
    let lengths = columns.clone().square().sum_dim(0).sqrt().clamp_min(1e-12);
    columns.div(lengths)
}

impl Factors {
    fn of(weight: &Tensor<2>) -> Result<Self, LinalgError> {
        let Svd { u, s, v } = svd(to_host(weight)?.as_ref())?;
        let (device, dtype) = (weight.device(), weight.dtype());
        let s = Tensor::<1>::from_data(TensorData::from(&s[..]), (&device, dtype)).unsqueeze();
        let (u, v) = (to_device(&u, &device, dtype), to_device(&v, &device, dtype));
        let none = |like: &Tensor<2>| AdamState::new(&like.clone().reshape([-1]));
        let of_s = none(&s);
        Ok(Self { of_u: of_s.clone(), of_v: of_s.clone(), active: Vec::new(), u, s, v, of_s })
    }

    /// Draws the directions to train next, and forgets the moments of those before.
    fn draw(&mut self, rank: usize, seed: u64) -> Result<(), LinalgError> {
        let s = to_host(&self.s)?;
        let s: Vec<f64> = s.row(0).iter().copied().collect();
        self.active = draw(&probabilities(&s), rank, seed);
        self.of_u = AdamState::new(&self.columns(&self.u).reshape([-1]));
        self.of_v = AdamState::new(&self.columns(&self.v).reshape([-1]));
        Ok(())
    }

    fn indices(&self) -> Tensor<1, Int> {
        Tensor::from_data(TensorData::from(&self.active[..]), &self.u.device())
    }

    /// Those of the active directions.
    fn columns(&self, of: &Tensor<2>) -> Tensor<2> {
        of.clone().select(1, self.indices())
    }

    fn step(&mut self, gradient: &Tensor<2>, lr: f64, warm: f64, hyper: &AdamHyper) {
        let shape = self.s.dims();
        let of_s = of_values(gradient, &self.u, &self.v);
        let (u, v) = (self.columns(&self.u), self.columns(&self.v));
        let [of_u, of_v] = enhanced(gradient, u.clone(), v.clone());
        let flat = |tensor: Tensor<2>| tensor.reshape([-1]);
        let s = self.of_s.step(flat(self.s.clone()), flat(of_s), lr, hyper);
        self.s = s.reshape(shape).clamp_min(0.0);
        let still = AdamHyper { weight_decay: 0.0, ..*hyper };
        let moved = |state: &mut AdamState, old: Tensor<2>, gradient| {
            let new = state.step(flat(old.clone()), flat(gradient), lr * warm, &still).reshape(old.dims());
            unit(new) - old
        };
        let (of_u, of_v) = (moved(&mut self.of_u, u, of_u), moved(&mut self.of_v, v, of_v));
        self.u = self.u.clone().select_assign(1, self.indices(), of_u, IndexingUpdateOp::Add);
        self.v = self.v.clone().select_assign(1, self.indices(), of_v, IndexingUpdateOp::Add);
    }

    fn product(&self) -> Tensor<2> {
        product(self.u.clone().mul(self.s.clone()), self.v.clone().transpose())
    }

    fn states(&mut self) -> [(&'static str, &mut AdamState); 3] {
        [("of_s", &mut self.of_s), ("of_u", &mut self.of_u), ("of_v", &mut self.of_v)]
    }
}

impl Sst {
    fn rank(&self) -> usize {
        self.config.params.rank.clamp(1, self.shape[0].min(self.shape[1]).max(1))
    }
}

impl MatrixMethod for Sst {
    type Config = SstConfig;

    fn new(config: SstConfig, shape: [usize; 2], _: &Device, _: DType, seed: u64) -> Self {
        Self { config, shape, seed, t: 0, factors: None }
    }

    fn step(
        &mut self,
        weight: Tensor<2>,
        gradient: &Tensor<2>,
        lr: f64,
    ) -> Result<(Tensor<2>, StepReport), StageError> {
        let failed = |error: LinalgError| StageError::new(format!("a matrix cannot be decomposed: {error}"));
        let (every, rank) = (self.config.params.every.max(1), self.rank());
        let (index, since) = (self.t / every, self.t % every);
        let sweep = self.shape[0].min(self.shape[1]).div_ceil(rank) as u64;
        let mut factors = match self.factors.take() {
            Some(factors) if since > 0 || !index.is_multiple_of(sweep) => factors,
            _ => Factors::of(&weight).map_err(failed)?,
        };
        if since == 0 {
            factors.draw(rank, derive_seed(self.seed, "directions", index)).map_err(failed)?;
        }
        let warm = ((since + 1) as f64 / self.config.params.warmup.max(1) as f64).min(1.0);
        factors.step(gradient, lr, warm, &self.config.hyper);
        let weight = factors.product();
        self.factors = Some(factors);
        self.t += 1;
        Ok((weight, StepReport { refresh: Refresh::NotDue, skipped: None }))
    }

    fn reads_device(&self) -> bool {
        self.t.is_multiple_of(self.config.params.every.max(1))
    }

    fn floats(&self) -> usize {
        let Some(Factors { u, s, v, of_s, of_u, of_v, .. }) = &self.factors else { return 0 };
        let matrices: usize = [u, s, v].map(|tensor| tensor.shape().num_elements()).iter().sum();
        let moments: usize = [of_s, of_u, of_v].map(|state| 2 * state.m.shape().num_elements()).iter().sum();
        matrices + moments
    }

    fn bytes(&self) -> usize {
        self.floats() * self.factors.as_ref().map_or(0, |factors| factors.u.dtype().size())
    }

    fn clamped(&self) -> Option<(usize, usize)> {
        let asked = self.config.params.rank;
        (asked > self.rank()).then(|| (asked, self.rank()))
    }

    fn save(&self, at: &str, state: &mut State) {
        state.put_count(&format!("{at}/t"), self.t);
        let Some(mut factors) = self.factors.clone() else { return };
        for (name, tensor) in [("u", &factors.u), ("s", &factors.s), ("v", &factors.v)] {
            state.put_tensor(&format!("{at}/{name}"), tensor.clone());
        }
        let active: Vec<f64> = factors.active.iter().map(|index| *index as f64).collect();
        state.put_data(&format!("{at}/active"), TensorData::from(&active[..]));
        for (name, adam) in factors.states() {
            state.put_tensor(&format!("{at}/{name}/m"), adam.m.clone());
            state.put_tensor(&format!("{at}/{name}/v"), adam.v.clone());
            state.put_count(&format!("{at}/{name}/t"), adam.t);
        }
    }

    fn load(&mut self, at: &str, state: &mut State) -> Result<(), StageError> {
        self.t = state.count(&format!("{at}/t"))?;
        if self.t == 0 {
            return Ok(());
        }
        let active = state.take_data(&format!("{at}/active"))?;
        let active = active.try_into_vec::<f64>();
        let active = active.map_err(|_| StageError::new(format!("the checkpoint's `{at}/active` is damaged")))?;
        let active: Vec<i64> = active.into_iter().map(|index| index as i64).collect();
        let mut adam = |name: &str| -> Result<AdamState, StageError> {
            let m = state.take_tensor(&format!("{at}/{name}/m"))?;
            let v = state.take_tensor(&format!("{at}/{name}/v"))?;
            Ok(AdamState { m, v, t: state.count(&format!("{at}/{name}/t"))? })
        };
        let (of_s, of_u, of_v) = (adam("of_s")?, adam("of_u")?, adam("of_v")?);
        let mut tensor = |name: &str| state.take_tensor(&format!("{at}/{name}"));
        let (u, s, v) = (tensor("u")?, tensor("s")?, tensor("v")?);
        self.factors = Some(Factors { u, s, v, of_s, active, of_u, of_v });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test_device;
    use crate::vectors::{Rows, assert_close, assert_near, flat, tensor, vector};

    #[test]
    fn vector_sst_prob() {
        let vector = vector("sst_prob");
        let found = probabilities(&vector.input::<Vec<f64>>("sigma"));
        let expected: Vec<f64> = vector.expected("p");
        found.iter().zip(expected).for_each(|(found, expected)| assert_near(*found, expected, vector.tol()));
        assert_eq!(probabilities(&[0.0, 0.0]), [0.5, 0.5]);
    }

    #[test]
    fn vector_sst_enhanced_grad() {
        let vector = vector("sst_enhanced_grad");
        let gradient = tensor(&vector.input::<Rows>("G"), DType::F64);
        let identity: Rows = (0..3).map(|i| (0..3).map(|j| if i == j { 1.0 } else { 0.0 }).collect()).collect();
        let identity = tensor(&identity, DType::F64);
        let [of_u, of_v] = enhanced(&gradient, identity.clone(), identity.clone());
        assert_close(&of_u, &vector.expected("gU_columns"), vector.tol());
        assert_close(&of_v, &vector.expected("gV_columns"), vector.tol());
        let found = of_values(&gradient, &identity, &identity);
        assert_close(&found, &vec![vector.expected::<Vec<f64>>("g_sigma")], vector.tol());
    }

    #[test]
    fn directions_are_drawn_once_and_by_their_weights() {
        let mut seen = [0; 4];
        for seed in 0..2000 {
            let found = draw(&[0.0, 0.1, 0.3, 0.6], 2, seed);
            assert!(found.len() == 2 && found[0] < found[1] && found[0] > 0, "{found:?}");
            found.iter().for_each(|index| seen[*index as usize] += 1);
        }
        assert!(seen[1] < seen[2] && seen[2] < seen[3], "{seen:?}");
        assert_eq!(draw(&[0.2, 0.3, 0.5], 9, 1), [0, 1, 2]);
    }

    #[test]
    fn a_step_changes_all_values_and_only_the_vectors_that_were_drawn() {
        let values = |seed| Rng::new(seed).normal(30, 1.0).into_iter().map(f64::from).collect::<Vec<f64>>();
        let rows = |seed| values(seed).chunks(5).map(<[f64]>::to_vec).collect::<Rows>();
        let (weight, gradient) = (tensor(&rows(1), DType::F32), tensor(&rows(2), DType::F32));
        let params = SstParams { rank: 2, every: 3, warmup: 1 };
        let config = SstConfig { params, hyper: AdamHyper::default() };
        let mut sst = Sst::new(config, [6, 5], &test_device(), DType::F32, 7);
        let before = Factors::of(&weight).unwrap();
        let (after, _) = sst.step(weight, &gradient, 0.01).unwrap();
        let factors = sst.factors.as_ref().unwrap();
        assert_eq!(factors.active.len(), 2);
        for column in 0..5 {
            let at = |tensor: &Tensor<2>| flat(&tensor.clone().narrow(1, column, 1));
            let drawn = factors.active.contains(&(column as i64));
            assert_eq!(at(&factors.u) != at(&before.u), drawn, "{column}");
            assert_eq!(at(&factors.v) != at(&before.v), drawn, "{column}");
            assert_ne!(at(&factors.s), at(&before.s));
            assert_near(at(&factors.u).iter().map(|x| x * x).sum::<f64>(), 1.0, 1e-5);
        }
        let rebuilt = factors.product();
        assert!((rebuilt - after).abs().max().into_scalar::<f32>() < 1e-6);
        // Three draws of two reach five directions; then the decomposition is made anew, and values are ordered again.
        let mut weight = sst.factors.as_ref().unwrap().product();
        for _ in 1..10 {
            (weight, _) = sst.step(weight, &gradient, 0.01).unwrap();
        }
        assert_eq!((sst.t, sst.factors.as_ref().unwrap().of_s.t), (10, 1));
    }
}
