//! Low-rank training from scratch: every targeted weight is `B A` and nothing else (Kamalakara et al. 2022).

use burn::{
    module::Param,
    tensor::{Tensor, TensorData},
};
use schemars::JsonSchema;
use sepia_engine::stage::{Check, StageError, derive_seed};
use serde::{Deserialize, Serialize};

use super::{
    Matrix, MatrixCost, MethodParams, MethodSetup,
    adapters::{self, Factors},
    check_positive, check_rank,
};
use crate::{
    linalg::factor::{Kept, spectral_factors},
    model::{AdapterOptions, Llama},
    ops::{mean, widened},
    random::Rng,
    train::{Method, State, Target},
};

/// How the factors start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LowRankInit {
    /// The best rank-r approximation of the dense initial weight, its singular values shared equally.
    #[default]
    Spectral,
    /// Its directions, with every singular value 1.
    SpectralOnes,
    /// Normal, so that entries of `B A` have the variance of the dense initial weight's.
    Normal,
}

/// Low-rank training: each matrix of attention and MLP is a product `B A` from the start.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LowRankParams {
    /// Inner dimension of the product.
    pub rank: usize,
    /// What the product is multiplied by.
    pub scale: f64,
    /// How the factors start.
    pub init: LowRankInit,
}

impl Default for LowRankParams {
    fn default() -> Self {
        Self { rank: 128, scale: 1.0, init: LowRankInit::Spectral }
    }
}

impl MethodParams for LowRankParams {
    const STAGE: &'static str = "low-rank";
    const SOURCE: &'static str =
        r#"Kamalakara et al. 2022, "Exploring Low Rank Training of Deep Neural Networks", arXiv 2209.13569"#;

    fn check(&self, at: &str, check: &mut Check<'_>) {
        check_rank(self.rank, at, check);
        check_positive(self.scale, "scale", at, check);
    }

    fn build(&self, setup: &MethodSetup) -> Box<dyn Method> {
        Box::new(LowRank { params: *self, factors: Factors::new(setup, 1.0), seed: setup.seed })
    }

    /// The dense weight is gone: one zero stands in its place.
    fn cost(&self, matrix: Matrix) -> Option<MatrixCost> {
        Some(matrix.factors(self.rank, 1))
    }
}

struct LowRank {
    params: LowRankParams,
    factors: Factors,
    seed: u64,
}

impl LowRank {
    /// `B` `[out, r]` and `A` `[r, in]` with `scale * B A` near `weight`.
    fn start(&self, path: &str, weight: &Tensor<2>) -> Result<(Tensor<2>, Tensor<2>), StageError> {
        let rank = adapters::fitting_rank(self.params.rank, path, weight.dims())?;
        // Both factors carry half of the division by the scale.
        let share = self.params.scale.sqrt().recip();
        let kept = match self.params.init {
            LowRankInit::Normal => return Ok(self.normal(path, weight, rank, share)),
            LowRankInit::Spectral => Kept::Values,
            LowRankInit::SpectralOnes => Kept::Ones,
        };
        let (b, a) = spectral_factors(weight, rank, kept)
            .map_err(|error| StageError::new(format!("{path} cannot be factorised: {error}")))?;
        Ok((b.mul_scalar(share), a.mul_scalar(share)))
    }

    fn normal(&self, path: &str, weight: &Tensor<2>, rank: usize, share: f64) -> (Tensor<2>, Tensor<2>) {
        let [m, n] = weight.dims();
        let std = f64::from(mean(widened(weight.clone()).square()).into_scalar::<f32>()).sqrt();
        // An entry of B A has the variance r * std_B^2 * std_A^2.
        let each = (std / (rank as f64).sqrt()).sqrt() * share;
        let draw = |name: &str, shape: [usize; 2]| {
            let seed = derive_seed(self.seed, &format!("{path} {name}"), 0);
            let values = Rng::new(seed).normal(shape[0] * shape[1], each);
            Tensor::from_data(TensorData::new(values, shape), (&weight.device(), weight.dtype()))
        };
        (draw("lora_b", [m, rank]), draw("lora_a", [rank, n]))
    }
}

impl Method for LowRank {
    fn attach(&mut self, mut model: Llama) -> Result<Llama, StageError> {
        for (path, linear) in model.targets_mut() {
            let weight = linear.weight.val();
            let (b, a) = self.start(&path, &weight.clone().inner())?;
            let on_device = |factor: Tensor<2>| if weight.is_autodiff() { Tensor::from_inner(factor) } else { factor };
            let options = AdapterOptions { heads: 1, scale: self.params.scale, replaces: true, dropout: None };
            let (a, b) = (on_device(a), on_device(b));
            // The dense weight is gone: one zero stands in its place.
            linear.weight = Param::from_tensor(Tensor::zeros([1, 1], (&weight.device(), weight.dtype())));
            adapters::attach(linear, a, b, options);
        }
        Ok(model)
    }

    fn update(&mut self, target: Target<'_>, weight: Tensor<2>, grad: Tensor<2>) -> Result<Tensor<2>, StageError> {
        Ok(self.factors.update(target, weight, grad))
    }

    fn finished(&self, model: Llama) -> Result<Llama, StageError> {
        Ok(adapters::merged(model))
    }

    fn state_bytes(&self) -> u64 {
        self.factors.moments.bytes()
    }

    fn save(&self, state: &mut State) {
        self.factors.save(state);
    }

    fn load(&mut self, state: &mut State) -> Result<(), StageError> {
        self.factors.load(state)
    }
}
