//! What LoRA, ReLoRA and low-rank training share: factors in the model, trained by AdamW.

use burn::{
    module::Param,
    tensor::{Tensor, TensorData},
};
use sepia_engine::stage::StageError;

use super::MethodSetup;
use crate::{
    model::{Adapter, AdapterOptions, Linear, Llama},
    ops::{held, widened},
    random::Rng,
    train::{Moments, State, Target},
};

/// AdamW over the factors.
pub(super) struct Factors {
    pub(super) moments: Moments,
    /// The learning rate of B is this many times that of A.
    lr_ratio: f64,
}

impl Factors {
    pub(super) fn new(setup: &MethodSetup, lr_ratio: f64) -> Self {
        Self { moments: Moments::new(setup.hyper, setup.state.dtype()), lr_ratio }
    }

    /// The updated factor.
    pub(super) fn update(&mut self, target: Target<'_>, factor: Tensor<2>, grad: Tensor<2>) -> Tensor<2> {
        let ratio = if target.path.ends_with("lora_b") { self.lr_ratio } else { 1.0 };
        self.moments.step(target.path, factor, grad, target.lr * ratio)
    }

    pub(super) fn save(&self, state: &mut State) {
        self.moments.save("method", state);
    }

    pub(super) fn load(&mut self, state: &mut State) -> Result<(), StageError> {
        self.moments.load("method", state)
    }
}

/// Puts factors `A` `[r, in]` and `B` `[out, r]` beside a weight, which is frozen.
pub(super) fn attach(linear: &mut Linear, a: Tensor<2>, b: Tensor<2>, options: AdapterOptions) {
    linear.weight = linear.weight.clone().set_require_grad(false);
    let (lora_a, lora_b) = (Param::from_tensor(a), Param::from_tensor(b));
    linear.adapter = Some(Adapter { lora_a, lora_b, lora_scale: None, merged: None, options });
}

/// The plain model: every branch merged into its weight, in f32, and held as the weight was.
pub(super) fn merged(mut model: Llama) -> Llama {
    for (_, linear) in model.targets_mut() {
        if let Some(adapter) = linear.adapter.take() {
            let (delta, before) = (adapter.delta(), linear.weight.val().inner());
            let dtype = before.dtype();
            let weight = if adapter.options.replaces { delta } else { widened(before).add(delta) };
            linear.weight = Param::from_tensor(held(weight, dtype));
        }
    }
    model
}

/// Kaiming-uniform with a = sqrt(5): uniform in +-1/sqrt(in), `[r, in]`.
pub(super) fn kaiming_uniform([r, n]: [usize; 2], seed: u64, like: &Tensor<2>) -> Tensor<2> {
    let (mut rng, steps) = (Rng::new(seed), 1_u64 << 53);
    let bound = (n.max(1) as f64).powf(-0.5);
    let draw = |_| ((2.0 * (rng.below(steps) as f64 / steps as f64) - 1.0) * bound) as f32;
    let values: Vec<f32> = (0..r * n).map(draw).collect();
    Tensor::from_data(TensorData::new(values, [r, n]), (&like.device(), like.dtype()))
}

/// Refuses a rank above the shorter side: the branch would be larger than the weight.
pub(super) fn fitting_rank(rank: usize, path: &str, [m, n]: [usize; 2]) -> Result<usize, StageError> {
    if rank <= m.min(n) {
        return Ok(rank);
    }
    Err(StageError::new(format!("rank {rank} is above the shorter side of {path}, which is {m} x {n}"))
        .help(format!("give a rank of at most {}", m.min(n)))
        .param("method.rank"))
}
