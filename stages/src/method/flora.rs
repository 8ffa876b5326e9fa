//! Flora: Adafactor whose first moment lives in a random projection (Hao et al. 2024).
//!
//! The short side is compressed by a normal matrix `A` with entries N(0, 1/r), drawn from a seed whenever it is needed and
//! never stored. `E[A^T A] = I`, so coming back is unbiased, but one draw is no projection. Every `kappa` steps the seed
//! changes and the moment is carried over: `M <- down_new(up_old(M))`. The second moment is Adafactor's.

use burn::tensor::{DType, Device, Tensor, TensorData};
use schemars::JsonSchema;
use sepia_engine::stage::{Check, StageError, derive_seed};
use serde::{Deserialize, Serialize};

use super::{
    Matrix, MatrixCost, MethodParams, MethodSetup, check_rank,
    per_matrix::{MatrixMethod, PerMatrix},
    projection::{Refresh, StepReport},
};
use crate::{
    ops,
    optim::{AdafactorConfig, Factored, clip_rms},
    random::Rng,
    train::{Method, State},
};

/// Least root mean square of a weight when the learning rate is scaled by it.
const LEAST_WEIGHT_RMS: f64 = 1e-3;
/// Matrices longer than this many times their width keep a full first moment: that leaves embeddings out.
const MAX_ASPECT: usize = 4;

/// Flora: Adafactor whose first moment lives in a random projection.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FloraParams {
    /// Dimension of the projection (tau). Matrices with a shorter side, or longer than four times their width, keep a full
    /// first moment.
    pub rank: usize,
    /// Updates between two projections.
    pub kappa: u64,
    /// Whether the learning rate is multiplied by the weight's root mean square.
    pub scale_parameter: bool,
    /// Whether the gradient itself goes through a projection, a new one each update, as when micro-batches are accumulated
    /// in compressed form: `up(sum of down(G))`.
    pub compress_gradient: bool,
    /// The constants of Adafactor.
    pub adafactor: AdafactorConfig,
}

impl Default for FloraParams {
    fn default() -> Self {
        let adafactor = AdafactorConfig::default();
        Self { rank: 256, kappa: 1000, scale_parameter: false, compress_gradient: false, adafactor }
    }
}

impl MethodParams for FloraParams {
    const STAGE: &'static str = "flora";
    const SOURCE: &'static str =
        r#"Hao et al. 2024, "Flora: Low-Rank Adapters Are Secretly Gradient Compressors", arXiv 2402.03293"#;

    fn check(&self, at: &str, check: &mut Check<'_>) {
        check_rank(self.rank, at, check);
        if self.kappa == 0 {
            check.problem(format!("{at}.kappa"), "`kappa` must be at least 1", "1000 is usual");
        }
    }

    fn build(&self, setup: &MethodSetup) -> Box<dyn Method> {
        let config = FloraConfig { params: *self, weight_decay: setup.hyper.weight_decay };
        Box::new(PerMatrix::<Flora>::new(config, setup))
    }

    fn cost(&self, matrix: Matrix) -> Option<MatrixCost> {
        let [m, n] = matrix.shape;
        let moment = if projects(matrix.shape, self.rank) { self.rank * m.max(n) } else { m * n };
        Some(matrix.dense((moment + m + n) as u64 * matrix.float))
    }
}

/// What [`Flora`] is made from.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct FloraConfig {
    /// Flora's own parameters.
    pub params: FloraParams,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// The first moment of one matrix.
#[derive(Debug, Clone)]
enum Moment {
    /// In the projection: `[r, n]` where m < n, else `[m, r]`.
    Projected(Tensor<2>),
    /// As large as the matrix, where a projection would save nothing.
    Full(Tensor<2>),
}

/// One matrix under Flora.
#[derive(Debug, Clone)]
pub struct Flora {
    config: FloraConfig,
    shape: [usize; 2],
    seed: u64,
    second: Factored,
    moment: Moment,
}

impl Flora {
    /// `(1-b1) u + b1 up(M)`; then, where it is time, M is carried over to a new projection; then M takes in `down(u)`.
    fn projected_step(&mut self, t: u64, moment: Tensor<2>, update: Tensor<2>, kept: Tensor<2>) -> Tensor<2> {
        let beta1 = self.config.params.adafactor.beta1;
        let kappa = self.config.params.kappa.max(1);
        // The projection of the steps before this one; the step count runs from 1, as in the public code.
        let old = self.basis("moment", t / kappa, &update);
        let dtype = self.second.row.dtype();
        let whole = up(&old, moment.clone(), self.shape);
        let out = whole.clone().mul_scalar(beta1).add(kept);
        let (basis, moment) = if (t + 1).is_multiple_of(kappa) {
            let new = self.basis("moment", (t + 1) / kappa, &update);
            let moved = down(&new, whole);
            (new, moved)
        } else {
            (old, moment)
        };
        let fresh = down(&basis, update).mul_scalar(1.0 - beta1);
        self.moment = Moment::Projected(ops::held(moment.mul_scalar(beta1).add(fresh), dtype));
        out
    }

    /// The random matrix for one purpose: `[r, m]` where m < n, else `[n, r]`.
    fn basis(&self, purpose: &str, index: u64, like: &Tensor<2>) -> Tensor<2> {
        let [m, n] = self.shape;
        let r = self.config.params.rank.max(1);
        let shape = if m < n { [r, m] } else { [n, r] };
        let draws = Rng::new(derive_seed(self.seed, purpose, index)).normal(shape[0] * shape[1], (r as f64).powf(-0.5));
        Tensor::from_data(TensorData::new(draws, shape), (&like.device(), like.dtype()))
    }
}

impl MatrixMethod for Flora {
    type Config = FloraConfig;

    fn new(config: FloraConfig, shape: [usize; 2], device: &Device, dtype: DType, seed: u64) -> Self {
        let [m, n] = shape;
        let r = config.params.rank.max(1);
        let zeros = |shape: [usize; 2]| Tensor::zeros(shape, (device, dtype));
        let moment = if !projects(shape, r) {
            Moment::Full(zeros(shape))
        } else if m < n {
            Moment::Projected(zeros([r, n]))
        } else {
            Moment::Projected(zeros([m, r]))
        };
        Self { config, shape, seed, second: Factored::new(shape, device, dtype), moment }
    }

    fn step(
        &mut self,
        weight: Tensor<2>,
        gradient: &Tensor<2>,
        lr: f64,
    ) -> Result<(Tensor<2>, StepReport), StageError> {
        let constants = self.config.params.adafactor;
        let t = self.second.t;
        let gradient = if self.config.params.compress_gradient && matches!(self.moment, Moment::Projected(_)) {
            let basis = self.basis("gradient", t, gradient);
            up(&basis, down(&basis, gradient.clone()), self.shape)
        } else {
            gradient.clone()
        };
        let update = self.second.normalise(&gradient, &constants);
        let kept = update.clone().mul_scalar(1.0 - constants.beta1);
        let update = match &self.moment {
            Moment::Full(moment) => {
                let mixed = ops::widened(moment.clone()).mul_scalar(constants.beta1).add(kept);
                self.moment = Moment::Full(ops::held(mixed.clone(), moment.dtype()));
                mixed
            }
            Moment::Projected(moment) => self.projected_step(t, ops::widened(moment.clone()), update, kept),
        };
        let mut rate = lr;
        let update = clip_rms(update, constants.clip_threshold);
        let update = if self.config.params.scale_parameter {
            let rms = ops::mean(weight.clone().square()).sqrt().reshape([1, 1]).clamp_min(LEAST_WEIGHT_RMS);
            rate = 1.0;
            update.mul(rms.mul_scalar(lr))
        } else {
            update
        };
        let weight = ops::subtract(weight, update, rate, 1.0 - lr * self.config.weight_decay);
        Ok((weight, StepReport { refresh: Refresh::NotDue, skipped: None }))
    }

    fn floats(&self) -> usize {
        let (Moment::Projected(moment) | Moment::Full(moment)) = &self.moment;
        moment.shape().num_elements() + self.second.floats()
    }

    fn bytes(&self) -> usize {
        self.floats() * self.second.row.dtype().size()
    }

    fn save(&self, at: &str, state: &mut State) {
        let (Moment::Projected(moment) | Moment::Full(moment)) = &self.moment;
        state.put_tensor(&format!("{at}/moment"), moment.clone());
        self.second.save(at, state);
    }

    fn load(&mut self, at: &str, state: &mut State) -> Result<(), StageError> {
        let (Moment::Projected(moment) | Moment::Full(moment)) = &mut self.moment;
        *moment = state.take_tensor(&format!("{at}/moment"))?;
        self.second.load(at, state)
    }
}

/// Whether a matrix's moment is projected: its short side holds the rank and it is not too long.
#[must_use]
pub fn projects([m, n]: [usize; 2], rank: usize) -> bool {
    m.min(n) >= rank && m.max(n) <= MAX_ASPECT * m.min(n)
}

/// `A G` where `A` is `[r, m]`, `G A` where it is `[n, r]`.
fn down(basis: &Tensor<2>, matrix: Tensor<2>) -> Tensor<2> {
    let [m, n] = matrix.dims();
    if m < n { ops::product(basis.clone(), matrix) } else { ops::product(matrix, basis.clone()) }
}

/// `A^T C` or `C A^T`, a matrix of this shape.
fn up(basis: &Tensor<2>, compressed: Tensor<2>, [m, n]: [usize; 2]) -> Tensor<2> {
    let back = basis.clone().transpose();
    if m < n { ops::product(back, compressed) } else { ops::product(compressed, back) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{alone, test_device};
    use crate::vectors::{assert_close, assert_near, flat, tensor, vector};

    #[test]
    fn vector_flora_projection() {
        let vector = vector("flora_projection");
        let (a, g) = (tensor(&vector.input("A"), DType::F64), tensor(&vector.input("G"), DType::F64));
        let c = down(&a, g.clone());
        assert_close(&c, &vector.expected("C"), vector.tol());
        assert_close(&up(&a, c, g.dims()), &vector.expected("decompressed"), vector.tol());
        // The tall case is its mirror image.
        let c = down(&a.clone().transpose(), g.clone().transpose());
        assert_close(&up(&a.transpose(), c, [4, 3]).transpose(), &vector.expected("decompressed"), vector.tol());
    }

    fn with(params: FloraParams) -> FloraConfig {
        FloraConfig { params, weight_decay: 0.0 }
    }

    fn normal(shape: [usize; 2], seed: u64) -> Tensor<2> {
        Tensor::from_data(TensorData::new(Rng::new(seed).normal(shape[0] * shape[1], 1.0), shape), &test_device())
    }

    fn run(mut flora: Flora, mut weight: Tensor<2>, seeds: std::ops::Range<u64>) -> (Tensor<2>, Flora) {
        for seed in seeds {
            weight = alone(|| flora.step(weight.clone(), &normal(weight.dims(), seed), 0.01).unwrap().0);
        }
        (weight, flora)
    }

    #[test]
    fn a_saved_state_goes_on_bit_for_bit_across_a_change_of_projection() {
        for shape in [[12, 20], [20, 12], [4, 40]] {
            let params =
                FloraParams { rank: 4, kappa: 2, scale_parameter: true, compress_gradient: true, ..Default::default() };
            let config = FloraConfig { params, weight_decay: 0.1 };
            let new = || Flora::new(config, shape, &test_device(), DType::F32, 3);
            let start = normal(shape, 99);
            let (whole, _) = run(new(), start.clone(), 0..6);
            let (half, flora) = run(new(), start, 0..3);
            let (mut resumed, mut state) = (new(), State::new(&test_device()));
            flora.save("w", &mut state);
            resumed.load("w", &mut state).unwrap();
            assert_eq!(flat(&run(resumed, half, 3..6).0), flat(&whole));
        }
    }

    #[test]
    fn state_is_the_projected_moment_and_adafactors_rows_and_columns() {
        let of = |shape, rank| {
            let config = with(FloraParams { rank, ..FloraParams::default() });
            Flora::new(config, shape, &test_device(), DType::F32, 3).floats()
        };
        assert_eq!(of([64, 128], 16), 16 * 128 + 64 + 128);
        assert_eq!(of([128, 64], 16), 16 * 128 + 64 + 128);
        // A side shorter than the rank, or a long matrix: the full moment.
        assert_eq!(of([8, 16], 16), 8 * 16 + 8 + 16);
        assert_eq!(of([32, 160], 16), 32 * 160 + 32 + 160);
    }

    #[test]
    fn the_moment_changes_its_projection_at_multiples_of_kappa() {
        let params = FloraParams { rank: 4, kappa: 3, ..FloraParams::default() };
        let flora = |kappa| Flora::new(with(FloraParams { kappa, ..params }), [12, 20], &test_device(), DType::F32, 3);
        let start = normal([12, 20], 9);
        for (steps, same) in [(2, true), (3, true), (4, false)] {
            let one = flat(&run(flora(3), start.clone(), 0..steps).0);
            let other = flat(&run(flora(1000), start.clone(), 0..steps).0);
            assert_eq!(one == other, same, "after {steps} steps");
        }
    }

    #[test]
    fn the_first_step_is_adafactors_without_its_moment() {
        let shape = [12, 20];
        let gradient = normal(shape, 1);
        let mut flora =
            Flora::new(with(FloraParams { rank: 4, ..FloraParams::default() }), shape, &test_device(), DType::F32, 3);
        let moved = flora.step(gradient.zeros_like(), &gradient, 1.0).unwrap().0;
        let constants = AdafactorConfig::default();
        let update = Factored::new(shape, &test_device(), DType::F32).normalise(&gradient, &constants);
        for (found, expected) in flat(&moved).iter().zip(flat(&update)) {
            assert_near(*found, -0.1 * expected, 1e-6);
        }
    }
}
