//! LoRA: a low-rank branch `s B A` beside a frozen weight (Hu et al. 2021), with LoRA+ (Hayou et al. 2024) and rsLoRA
//! (Kalajdzievski 2023).
//!
//! A is random and B zero, never both zero: the branch starts as nothing, and B's gradient is not zero. Embedding, head and
//! norms stay trainable.

use std::sync::Arc;

use burn::tensor::Tensor;
use schemars::JsonSchema;
use sepia_engine::stage::{Check, StageError, derive_seed};
use serde::{Deserialize, Serialize};

use super::{
    Matrix, MatrixCost, MethodParams, MethodSetup,
    adapters::{self, Factors},
    check_positive, check_rank,
};
use crate::{
    model::{AdapterOptions, Dropout, DropoutClock, Llama},
    random::Rng,
    train::{Method, State, Target},
};

/// What `B A` is multiplied by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LoraScaling {
    /// `alpha / rank`.
    #[default]
    Lora,
    /// `alpha / sqrt(rank)` (rsLoRA): for ranks of 64 and above.
    RsLora,
}

impl LoraScaling {
    /// The factor.
    #[must_use]
    pub fn factor(self, alpha: f64, rank: usize) -> f64 {
        match self {
            Self::Lora => alpha / rank as f64,
            Self::RsLora => alpha / (rank as f64).sqrt(),
        }
    }
}

/// How A is drawn; B is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LoraInit {
    /// Kaiming-uniform with a = sqrt(5): uniform in +-1/sqrt(in).
    #[default]
    Kaiming,
    /// Normal with standard deviation 1/rank.
    Normal,
}

impl LoraInit {
    /// A `[r, in]` for the weight's device and type.
    pub(super) fn draw(self, shape: [usize; 2], seed: u64, like: &Tensor<2>) -> Tensor<2> {
        match self {
            Self::Kaiming => adapters::kaiming_uniform(shape, seed, like),
            Self::Normal => {
                let draws = Rng::new(seed).normal(shape[0] * shape[1], (shape[0] as f64).recip());
                Tensor::from_data(burn::tensor::TensorData::new(draws, shape), (&like.device(), like.dtype()))
            }
        }
    }
}

/// LoRA: a low-rank branch beside each frozen matrix of attention and MLP.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LoraParams {
    /// Inner dimension of the branch.
    pub rank: usize,
    /// The branch is multiplied by alpha / rank (or alpha / sqrt(rank), see `scaling`).
    pub alpha: f64,
    /// What alpha is divided by.
    pub scaling: LoraScaling,
    /// Dropout of the branch's input.
    pub dropout: f64,
    /// How A is drawn.
    pub init: LoraInit,
    /// The learning rate of B over that of A (LoRA+ uses 16).
    pub lr_ratio: f64,
}

impl Default for LoraParams {
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0, scaling: LoraScaling::Lora, dropout: 0.0, init: LoraInit::Kaiming, lr_ratio: 1.0 }
    }
}

impl MethodParams for LoraParams {
    const STAGE: &'static str = "lora";
    const SOURCE: &'static str = "Hu et al. 2021, arXiv 2106.09685; LoRA+: Hayou et al. 2024, arXiv 2402.12354; rsLoRA: Kalajdzievski 2023, arXiv 2312.03732";

    fn check(&self, at: &str, check: &mut Check<'_>) {
        check_rank(self.rank, at, check);
        check_positive(self.alpha, "alpha", at, check);
        check_positive(self.lr_ratio, "lr_ratio", at, check);
        if !(0.0..1.0).contains(&self.dropout) {
            let message = format!("`dropout` is {}, but must be at least 0 and below 1", self.dropout);
            check.problem(format!("{at}.dropout"), message, "");
        }
    }

    fn build(&self, setup: &MethodSetup) -> Box<dyn Method> {
        Box::new(Lora::new(*self, setup))
    }

    fn cost(&self, matrix: Matrix) -> Option<MatrixCost> {
        Some(matrix.factors(self.rank, matrix.numbers()))
    }
}

/// LoRA over a model.
pub(super) struct Lora {
    pub(super) params: LoraParams,
    pub(super) factors: Factors,
    pub(super) seed: u64,
    clock: Arc<DropoutClock>,
}

impl Lora {
    pub(super) fn new(params: LoraParams, setup: &MethodSetup) -> Self {
        let clock = Arc::new(DropoutClock::new(setup.seed));
        Self { params, factors: Factors::new(setup, params.lr_ratio), seed: setup.seed, clock }
    }

    fn options(&self) -> AdapterOptions {
        let LoraParams { rank, alpha, scaling, dropout, .. } = self.params;
        let dropout = (dropout > 0.0).then(|| Dropout { rate: dropout, clock: Arc::clone(&self.clock) });
        AdapterOptions { heads: 1, scale: scaling.factor(alpha, rank), replaces: false, dropout }
    }

    /// A new A for the layer at `path`; `index` counts the draws of one layer.
    pub(super) fn draw_a(&self, path: &str, index: u64, weight: &Tensor<2>) -> Tensor<2> {
        let seed = derive_seed(self.seed, &format!("{path} lora_a"), index);
        self.params.init.draw([self.params.rank, weight.dims()[1]], seed, weight)
    }
}

impl Method for Lora {
    fn attach(&mut self, mut model: Llama) -> Result<Llama, StageError> {
        for (path, linear) in model.targets_mut() {
            let weight = linear.weight.val();
            let rank = adapters::fitting_rank(self.params.rank, &path, weight.dims())?;
            let a = self.draw_a(&path, 0, &weight);
            let b = Tensor::zeros([weight.dims()[0], rank], (&weight.device(), weight.dtype()));
            adapters::attach(linear, a, b, self.options());
        }
        Ok(model)
    }

    fn update(&mut self, target: Target<'_>, weight: Tensor<2>, grad: Tensor<2>) -> Result<Tensor<2>, StageError> {
        Ok(self.factors.update(target, weight, grad))
    }

    fn after_step(&mut self, update: u64, model: Llama) -> Result<Llama, StageError> {
        self.clock.set(update + 1, 0);
        Ok(model)
    }

    fn finished(&self, model: Llama) -> Result<Llama, StageError> {
        Ok(adapters::merged(model))
    }

    fn state_bytes(&self) -> u64 {
        self.factors.moments.bytes()
    }

    fn save(&self, state: &mut State) {
        let (update, drawn) = self.clock.now();
        state.put_count("method/dropout_update", update);
        state.put_count("method/dropout_drawn", drawn);
        self.factors.save(state);
    }

    fn load(&mut self, state: &mut State) -> Result<(), StageError> {
        self.clock.set(state.count("method/dropout_update")?, state.count("method/dropout_drawn")?);
        self.factors.load(state)
    }
}

#[cfg(test)]
mod tests {
    use burn::{
        module::{Module, Param},
        tensor::DType,
    };

    use super::*;
    use crate::{
        method::ReloraParams,
        model::Linear,
        ops::Products,
        testing::test_device,
        train::{AdamHyper, Held},
        vectors::{assert_close, assert_near, flat, tensor, vector},
    };

    #[test]
    fn vector_lora_scalings() {
        let vector = vector("lora_scalings");
        let alpha: f64 = vector.input("alpha");
        let ranks: Vec<usize> = vector.input("r");
        for (name, scaling) in [("lora", LoraScaling::Lora), ("rslora", LoraScaling::RsLora)] {
            for (rank, expected) in ranks.iter().zip(vector.expected::<Vec<f64>>(name)) {
                assert_near(scaling.factor(alpha, *rank), expected, vector.tol());
            }
        }
    }

    #[test]
    fn vector_adapter_param_counts() {
        let vector = vector("adapter_param_counts");
        let shape: [usize; 2] = [vector.input("out"), vector.input("in")];
        let params = LoraParams { rank: vector.input("r"), ..LoraParams::default() };
        let expected: usize = vector.expected("lora");
        let setup = MethodSetup { hyper: AdamHyper::default(), state: Held::F32, products: Products::Exact, seed: 1 };
        let lora = Lora::new(params, &setup);
        let weight = Tensor::zeros(shape, &test_device());
        let (a, b) = (lora.draw_a("x", 0, &weight), Tensor::zeros([shape[0], params.rank], &test_device()));
        let mut linear = Linear { weight: Param::from_tensor(weight), adapter: None };
        adapters::attach(&mut linear, a, b, lora.options());
        assert_eq!(linear.adapter.unwrap().num_params(), expected);
        assert_eq!(params.cost(Matrix { shape, float: 4 }).unwrap().trained, expected as u64);
        // The same factors, whatever they are called.
        let relora = ReloraParams { rank: params.rank, ..ReloraParams::default() };
        assert_eq!(relora.cost(Matrix { shape, float: 4 }).unwrap().trained, expected as u64);
    }

    /// Gradients of A and B for `y = s B A x` and the gradient of the layer's whole weight, by the chain through burn's
    /// tape.
    fn gradients(a: &Tensor<2>, b: &Tensor<2>, g: &Tensor<2>, scale: f64) -> (Tensor<2>, Tensor<2>) {
        let on_tape = |x: &Tensor<2>| Tensor::from_inner(x.clone()).require_grad();
        let (a, b) = (on_tape(a), on_tape(b));
        let delta = b.clone().matmul(a.clone()).mul_scalar(scale);
        let tape = delta.mul(Tensor::from_inner(g.clone())).sum().backward();
        (a.grad(&tape).unwrap(), b.grad(&tape).unwrap())
    }

    #[test]
    fn vector_lora_zero_zero() {
        let vector = vector("lora_zero_zero");
        let of = |name: &str| tensor(&vector.input(name), DType::F32);
        let scale: f64 = vector.input("scale");
        let (da, db) = gradients(&of("A"), &of("B"), &of("G"), scale);
        assert_close(&da, &vector.expected("dA"), vector.tol());
        assert_close(&db, &vector.expected("dB"), vector.tol());
        let (da, db) = gradients(&of("A_random"), &of("B"), &of("G"), scale);
        assert_close(&da, &vector.expected("dA_with_random_A"), vector.tol());
        assert_close(&db, &vector.expected("dB_with_random_A"), vector.tol());
    }

    #[test]
    fn both_draws_of_a_are_random_within_their_bounds() {
        let like = Tensor::<2>::zeros([1, 1], &test_device());
        let a = flat(&LoraInit::Kaiming.draw([50, 100], 1, &like));
        assert!(a.iter().all(|x| x.abs() <= 0.1) && a.iter().any(|x| x.abs() > 0.09));
        let variance = a.iter().map(|x| x * x).sum::<f64>() / a.len() as f64;
        assert_near(variance, 0.01 / 3.0, 2e-4);
        let a = flat(&LoraInit::Normal.draw([50, 100], 1, &like));
        assert_near(a.iter().map(|x| x * x).sum::<f64>() / a.len() as f64, 0.0004, 3e-5);
        assert_ne!(a, flat(&LoraInit::Normal.draw([50, 100], 2, &like)));
    }
}
