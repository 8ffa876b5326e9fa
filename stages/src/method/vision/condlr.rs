//! CondLR: factors that stay well conditioned, `W = U S V^T` with orthonormal `U` and `V` and `cond(S) <= e`.
//!
//! Source: Savostianova et al., "Robust low-rank training via approximate orthonormal constraints" (NeurIPS 2023), and its
//! public code. Each step is one of SGD on `U`, `S` and `V`; then `U` and `V` are replaced by the orthonormal factors of
//! their QR decompositions (with a positive diagonal of R, which is dropped), and the singular values of `S` are pressed
//! into an interval around their mean, or all made equal.
//!
//! The model holds `u = U S` and `v = V^T`, from whose gradients those of the three follow. Every layer's step is made on the
//! host in f64; the optimizer of the run, its weight decay and clipping act on the other parameters alone.

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use faer::Mat;
use schemars::JsonSchema;
use sepia_engine::stage::{Check, StageError};
use serde::{Deserialize, Serialize};

use super::low_rank;
use crate::{
    factor::{LayerError, RankRule},
    linalg::{
        host::{to_device, to_host},
        svd::{LinalgError, svd},
    },
    model::vision::{Form, Layer, VisionModel, Weight},
    train::{
        State,
        vision::{At, VisionData, VisionGradients, VisionMethod, VisionMethodParams, VisionSetup},
    },
};

/// What becomes of the small matrix between the orthonormal factors after each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CondlrCore {
    /// Its singular values are pressed into an interval around their mean, so that it has a `condition` at most.
    #[default]
    Bounded,
    /// `sqrt(tr(S S^T) / r)` times the orthonormal factor of its QR decomposition: all singular values are equal.
    Mean,
}

/// Well-conditioned low-rank training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CondlrParams {
    /// The rank of each layer: `{ compression = 2 }`, `{ ratio = 0.25 }`, `{ rank = 16 }`.
    pub ranks: RankRule,
    /// What keeps a layer well conditioned.
    pub core: CondlrCore,
    /// The largest condition number of a layer, above 1, where `core` is `bounded`. 1.1 and 1.5 in the paper.
    pub condition: f64,
    /// Momentum of the steps of `U`, `S` and `V`: 0.45 for VGG-16, 0.3 for LeNet-5.
    pub momentum: f64,
    /// Which layers: names, or patterns with `*` and `?`. When left out, all but the first and the last layer, 1x1
    /// shortcuts and the output projections of attention.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<String>>,
}

impl Default for CondlrParams {
    fn default() -> Self {
        Self {
            ranks: RankRule::Compression(2.0),
            core: CondlrCore::default(),
            condition: 1.5,
            momentum: 0.3,
            layers: None,
        }
    }
}

/// Presses singular values into `mean (1 -/+ (e - 1) / (e + 1))`, whose ends have the ratio e.
fn clamp(s: &[f64], e: f64) -> Vec<f64> {
    let mean = s.iter().sum::<f64>() / s.len().max(1) as f64;
    let part = (e - 1.0) / (e + 1.0);
    s.iter().map(|value| value.clamp(mean * (1.0 - part), mean * (1.0 + part))).collect()
}

/// The singular value that all are replaced by: `sqrt(sum s^2 / r)`.
fn mean_of(s: &[f64]) -> f64 {
    (s.iter().map(|value| value * value).sum::<f64>() / s.len().max(1) as f64).sqrt()
}

/// A square matrix with that one singular value, in the directions of its QR decomposition.
fn evened(matrix: &Mat<f64>) -> Mat<f64> {
    let size = matrix.nrows();
    let squares: f64 = matrix.col_iter().flat_map(|column| column.iter()).map(|value| value * value).sum();
    let each = (squares / size.max(1) as f64).sqrt();
    let q = orthonormal(matrix);
    Mat::from_fn(size, size, |i, j| each * q[(i, j)])
}

/// The same for a matrix.
fn conditioned(matrix: &Mat<f64>, e: f64) -> Result<Mat<f64>, LinalgError> {
    let found = svd(matrix.as_ref())?;
    let s = clamp(&found.s, e);
    let scaled = Mat::from_fn(found.u.nrows(), s.len(), |i, j| found.u[(i, j)] * s[j]);
    Ok(scaled * found.v.transpose())
}

/// The orthonormal factor of a tall matrix, with a positive diagonal of the other.
fn orthonormal(matrix: &Mat<f64>) -> Mat<f64> {
    let qr = matrix.qr();
    let (mut q, r) = (qr.compute_thin_Q(), qr.thin_R());
    for column in 0..q.ncols() {
        if r[(column, column)] < 0.0 {
            for row in 0..q.nrows() {
                q[(row, column)] = -q[(row, column)];
            }
        }
    }
    q
}

/// A matrix with the buffer of its momentum.
#[derive(Debug, Clone)]
struct Moving {
    value: Mat<f64>,
    buffer: Mat<f64>,
}

impl Moving {
    fn new(value: Mat<f64>) -> Self {
        let buffer = Mat::zeros(value.nrows(), value.ncols());
        Self { value, buffer }
    }

    fn step(&mut self, gradient: &Mat<f64>, lr: f64, momentum: f64) {
        self.buffer =
            Mat::from_fn(gradient.nrows(), gradient.ncols(), |i, j| momentum * self.buffer[(i, j)] + gradient[(i, j)]);
        self.value =
            Mat::from_fn(gradient.nrows(), gradient.ncols(), |i, j| self.value[(i, j)] - lr * self.buffer[(i, j)]);
    }
}

/// One layer: `U` `[m, r]`, `S` `[r, r]` and `V` `[n, r]`.
#[derive(Debug, Clone)]
struct Factors {
    u: Moving,
    s: Moving,
    v: Moving,
}

/// The three matrices by their names in checkpoints.
const PARTS: [&str; 3] = ["u", "s", "v"];

impl Factors {
    /// Of the weight that a layer's two factors stand for.
    fn of(layer: &Layer, params: &CondlrParams) -> Result<Self, LinalgError> {
        let rank = layer.factored().map_or(1, |(_, rank)| rank);
        let found = svd(to_host(&layer.dense())?.as_ref())?;
        let leading = |vectors: &Mat<f64>| vectors.subcols(0, rank).to_owned();
        let s = &found.s[..rank.min(found.s.len())];
        let s = match params.core {
            CondlrCore::Bounded => clamp(s, params.condition),
            CondlrCore::Mean => vec![mean_of(s); s.len()],
        };
        let core = Mat::from_fn(rank, rank, |i, j| if i == j { s[i] } else { 0.0 });
        Ok(Self { u: Moving::new(leading(&found.u)), s: Moving::new(core), v: Moving::new(leading(&found.v)) })
    }

    /// One step, from the gradients of `u = U S` and `v = V^T`.
    fn step(&mut self, [of_u, of_v]: [&Mat<f64>; 2], lr: f64, params: &CondlrParams) -> Result<(), LinalgError> {
        // All three before any of them changes.
        let for_u = of_u * self.s.value.transpose();
        let for_s = self.u.value.transpose() * of_u;
        let for_v = of_v.transpose().to_owned();
        for (part, gradient) in [(&mut self.u, for_u), (&mut self.s, for_s), (&mut self.v, for_v)] {
            part.step(&gradient, lr, params.momentum);
        }
        self.u.value = orthonormal(&self.u.value);
        self.v.value = orthonormal(&self.v.value);
        self.s.value = match params.core {
            CondlrCore::Bounded => conditioned(&self.s.value, params.condition)?,
            CondlrCore::Mean => evened(&self.s.value),
        };
        Ok(())
    }

    fn put_into(&self, layer: &mut Layer) -> Result<(), LayerError> {
        let dense = layer.dense();
        let (device, dtype) = (dense.device(), dense.dtype());
        let left = to_device(&(&self.u.value * &self.s.value), &device, dtype);
        let right = to_device(&self.v.value.transpose().to_owned(), &device, dtype);
        Ok(layer.factorize(Form::Channel, left, right, None)?)
    }

    fn parts(&mut self) -> [(&'static str, &mut Moving); 3] {
        let [u, s, v] = PARTS;
        [(u, &mut self.u), (s, &mut self.s), (v, &mut self.v)]
    }
}

struct Condlr {
    params: CondlrParams,
    layers: BTreeMap<String, Factors>,
    /// Of `u` and `v` of each layer, in the step that is being made.
    gradients: BTreeMap<String, [Mat<f64>; 2]>,
}

fn wrong(path: &str) -> impl Fn(LinalgError) -> StageError + use<'_> {
    move |error| StageError::new(format!("`{path}`: {error}"))
}

impl VisionMethodParams for CondlrParams {
    const STAGE: &'static str = "train-classifier";
    const SOURCE: &'static str =
        r#"Savostianova et al. 2023, "Robust low-rank training via approximate orthonormal constraints""#;

    fn check(&self, at: &str, check: &mut Check<'_>) {
        if let Some((message, help)) = self.ranks.problem() {
            check.problem(format!("{at}.ranks"), message, help);
        }
        if !(self.condition > 1.0 && self.condition.is_finite()) {
            let message = format!("a condition number of {} cannot be kept", self.condition);
            check.problem(format!("{at}.condition"), message, "give a number above 1");
        }
        if !(0.0..1.0).contains(&self.momentum) {
            let message = format!("`momentum` is {}, but must be at least 0 and below 1", self.momentum);
            check.problem(format!("{at}.momentum"), message, "");
        }
    }

    fn build(&self, _: &VisionSetup) -> Box<dyn VisionMethod> {
        Box::new(Condlr { params: self.clone(), layers: BTreeMap::new(), gradients: BTreeMap::new() })
    }
}

impl VisionMethod for Condlr {
    fn attach(&mut self, mut model: VisionModel, _: &VisionData<'_>) -> Result<VisionModel, StageError> {
        for path in low_rank::attach(&mut model, self.params.layers.as_deref(), self.params.ranks)? {
            let layer = model.layer_mut(&path)?;
            let factors = Factors::of(layer, &self.params).map_err(wrong(&path))?;
            factors.put_into(layer)?;
            self.layers.insert(path, factors);
        }
        Ok(model)
    }

    fn add_gradients(&mut self, _: At, model: &VisionModel, gradients: &mut VisionGradients) -> Result<(), StageError> {
        self.gradients.clear();
        for path in self.layers.keys() {
            let Weight::Factored(factors) = &model.layer(path)?.weight else { continue };
            let mut take = |name: String, shape: [usize; 2]| {
                let found = gradients.take(&name).map(|gradient| to_host(&gradient.reshape(shape)));
                found.unwrap_or_else(|| Ok(Mat::zeros(shape[0], shape[1]))).map_err(wrong(path))
            };
            let of_u = take(format!("{path}.u"), factors.u.dims())?;
            let of_v = take(format!("{path}.v"), factors.v.dims())?;
            self.gradients.insert(path.clone(), [of_u, of_v]);
        }
        Ok(())
    }

    fn after_step(&mut self, _: At, lr: f64, mut model: VisionModel) -> Result<VisionModel, StageError> {
        for (path, factors) in &mut self.layers {
            let Some([of_u, of_v]) = self.gradients.remove(path) else { continue };
            factors.step([&of_u, &of_v], lr, &self.params).map_err(wrong(path))?;
            factors.put_into(model.layer_mut(path)?)?;
        }
        Ok(model)
    }

    fn save(&self, state: &mut State) {
        for (path, factors) in &self.layers {
            for (part, moving) in factors.clone().parts() {
                for (what, matrix) in [("value", &moving.value), ("buffer", &moving.buffer)] {
                    let (rows, columns) = (matrix.nrows(), matrix.ncols());
                    let flat: Vec<f64> = (0..rows).flat_map(|i| (0..columns).map(move |j| matrix[(i, j)])).collect();
                    state.put_data(&format!("condlr/{part}/{what}/{path}"), TensorData::new(flat, [rows, columns]));
                }
            }
        }
    }

    fn load(&mut self, state: &mut State) -> Result<(), StageError> {
        self.layers.clear();
        for path in state.names("condlr/u/value/") {
            let mut read = |part: &str, what: &str| {
                let name = format!("condlr/{part}/{what}/{path}");
                let data = state.take_data(&name)?;
                let shape = data.shape().as_slice().to_vec();
                let flat = data.try_into_vec::<f64>();
                match (flat, &shape[..]) {
                    (Ok(flat), [rows, columns]) => Ok(Mat::from_fn(*rows, *columns, |i, j| flat[i * columns + j])),
                    _ => Err(StageError::new(format!("the checkpoint's `{name}` is damaged"))),
                }
            };
            let mut moving = |part: &str| -> Result<Moving, StageError> {
                Ok(Moving { value: read(part, "value")?, buffer: read(part, "buffer")? })
            };
            let [u, s, v] = PARTS;
            let factors = Factors { u: moving(u)?, s: moving(s)?, v: moving(v)? };
            self.layers.insert(path, factors);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        linalg::svd::singular_values,
        random::Rng,
        testing::lenet,
        vectors::{assert_near, vector},
    };

    fn random(rows: usize, columns: usize, seed: u64) -> Mat<f64> {
        let values = Rng::new(seed).normal(rows * columns, 1.0);
        Mat::from_fn(rows, columns, |i, j| f64::from(values[i * columns + j]))
    }

    #[test]
    fn vector_condlr_clamp() {
        let vector = vector("condlr_clamp");
        let sigma: Vec<f64> = vector.input("sigma");
        let bounds: Vec<f64> = vector.expected("bound_cond");
        let expected: Vec<Vec<f64>> = vector.expected("clamped");
        for ((e, expected), bound) in vector.input::<Vec<f64>>("e").into_iter().zip(expected).zip(bounds) {
            let found = clamp(&sigma, e);
            found.iter().zip(&expected).for_each(|(found, expected)| assert_near(*found, *expected, vector.tol()));
            assert!(found[0] / found[2] <= bound + 1e-9);
        }
        // The variant with the mean alone, of the values and of a matrix that has them.
        let mean: f64 = vector.expected("mean_variant_sqrt_a");
        assert_near(mean_of(&sigma), mean, vector.tol());
        let (u, v) = (orthonormal(&random(3, 3, 1)), orthonormal(&random(3, 3, 2)));
        let matrix = &u * Mat::from_fn(3, 3, |i, j| if i == j { sigma[i] } else { 0.0 }) * v.transpose();
        for value in singular_values(evened(&matrix).as_ref()).unwrap() {
            assert_near(value, mean, vector.tol());
        }
    }

    #[test]
    fn a_step_is_that_of_three_matrices_and_keeps_them_conditioned() {
        let params = CondlrParams { condition: 1.3, momentum: 0.0, ..CondlrParams::default() };
        let (u, v) = (orthonormal(&random(7, 3, 1)), orthonormal(&random(5, 3, 2)));
        let s = conditioned(&random(3, 3, 3), 1.3).unwrap();
        let mut factors = Factors { u: Moving::new(u.clone()), s: Moving::new(s.clone()), v: Moving::new(v.clone()) };
        // Of the loss <G, U S V^T> in the weight.
        let gradient = random(7, 5, 4);
        let (of_u, of_v) = (&gradient * &v, (&u * &s).transpose() * &gradient);
        factors.step([&of_u, &of_v], 0.1, &params).unwrap();
        let expected = orthonormal(&(&u - 0.1 * (&gradient * &v * s.transpose())));
        assert!((&factors.u.value - expected).norm_max() < 1e-12);
        let expected = conditioned(&(&s - 0.1 * (u.transpose() * &gradient * &v)), 1.3).unwrap();
        assert!((&factors.s.value - expected).norm_max() < 1e-12);
        for q in [&factors.u.value, &factors.v.value] {
            assert!((q.transpose() * q - Mat::<f64>::identity(3, 3)).norm_max() < 1e-12);
        }
        let values = singular_values(factors.s.value.as_ref()).unwrap();
        assert!(values[0] / values[2] <= 1.3 + 1e-9, "{values:?}");
    }

    #[test]
    fn a_core_of_equal_values_stays_one() {
        let params = CondlrParams { core: CondlrCore::Mean, ..CondlrParams::default() };
        let mut model = lenet();
        low_rank::attach(&mut model, Some(&["fc2".to_owned()]), RankRule::Rank(6)).unwrap();
        let mut factors = Factors::of(model.layer_mut("fc2").unwrap(), &params).unwrap();
        for seed in 0..3 {
            factors.step([&random(84, 6, seed), &random(6, 120, seed)], 0.1, &params).unwrap();
            let values = singular_values(factors.s.value.as_ref()).unwrap();
            assert!(values[0] / values[5] < 1.0 + 1e-9, "{values:?}");
        }
    }

    #[test]
    fn what_the_model_holds_is_the_product() {
        let mut model = lenet();
        low_rank::attach(&mut model, Some(&["fc2".to_owned()]), RankRule::Rank(6)).unwrap();
        let layer = model.layer_mut("fc2").unwrap();
        let factors = Factors::of(layer, &CondlrParams::default()).unwrap();
        factors.put_into(layer).unwrap();
        let values = singular_values(to_host(&layer.dense()).unwrap().as_ref()).unwrap();
        assert!(values[0] / values[5] <= 1.5 + 1e-4 && values[6] < 1e-5, "{values:?}");
    }
}
