//! What a training method is.
//!
//! The loop computes one gradient per trainable parameter and hands those of the targeted matrices (linear layers of
//! attention and MLP) to a [`Method`], which turns each into the matrix's new value. Everything else goes to AdamW, unless
//! the method names another optimiser. So a method owns what it is about (moments, projections, factors) and nothing else; defaults do nothing.

use std::collections::BTreeMap;

use burn::tensor::{DType, Tensor};
use sepia_engine::stage::StageError;

use super::{AdamHyper, AdamState, checkpoint::State};
use crate::{model::Llama, optim::MatrixOptimizer};

/// Whether a parameter is one of the matrices that low-rank methods work on: the weights of linear layers whose name
/// contains `attn` or `mlp` (as in the public code of GaLore). Embedding, head and norms are not.
#[must_use]
pub fn is_target(path: &str, dims: usize) -> bool {
    dims == 2 && (path.contains("attn") || path.contains("mlp"))
}

/// One targeted matrix in one update.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Its path: `model.layers.0.self_attn.q_proj.weight`.
    pub path: &'a str,
    /// Updates made before this one: 0 at the first.
    pub update: u64,
    /// The learning rate of this update.
    pub lr: f64,
}

/// How gradients of the targeted matrices become updates.
pub trait Method: Send {
    /// Changes the model before the first step or after a resume, for example by adding factors to its parameters.
    ///
    /// # Errors
    /// When the model does not fit the method.
    fn attach(&mut self, model: Llama) -> Result<Llama, StageError> {
        Ok(model)
    }

    /// Looks at the gradients of an update by parameter path, flat, before its first matrix is updated: for what is better
    /// done for many matrices at once.
    fn prepare(&mut self, gradients: &BTreeMap<String, Tensor<1>>) {
        let _ = gradients;
    }

    /// The new value of a targeted matrix `[out, in]`, from its value and its gradient: accumulated, averaged over the
    /// step's tokens, clipped and finite. All three are without autodiff, and in f32 whatever the weights are held in.
    ///
    /// # Errors
    /// When the update cannot be made.
    fn update(&mut self, target: Target<'_>, weight: Tensor<2>, grad: Tensor<2>) -> Result<Tensor<2>, StageError>;

    /// What trains embedding, head and norms; AdamW where it names nothing.
    fn rest(&self) -> Option<MatrixOptimizer> {
        None
    }

    /// Acts on the model after all parameters of an update have changed (`update` counts from 0): merges, resets.
    ///
    /// # Errors
    /// When that cannot be done.
    fn after_step(&mut self, update: u64, model: Llama) -> Result<Llama, StageError> {
        let _ = update;
        Ok(model)
    }

    /// The plain model to be stored or evaluated, with whatever [`attach`](Self::attach) added merged into it.
    ///
    /// # Errors
    /// When that cannot be done.
    fn finished(&self, model: Llama) -> Result<Llama, StageError> {
        Ok(model)
    }

    /// Whether the next update will wait for the device anyway, to read something from it.
    fn reads_device(&self) -> bool {
        false
    }

    /// Bytes of the state it keeps for the targeted matrices, of the tensors as they are.
    fn state_bytes(&self) -> u64;

    /// What happened since the last call and is worth a line in the log.
    fn notes(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// Figures of the last update, and of those since the last call, to be recorded with it. What has to be read from the
    /// device for them is read here, where the loss is read too, and not in an update.
    ///
    /// # Errors
    /// When that cannot be read.
    fn figures(&mut self) -> Result<Vec<(&'static str, f64)>, StageError> {
        Ok(Vec::new())
    }

    /// Adds to `state` everything that later updates depend on.
    fn save(&self, state: &mut State);

    /// Takes back what [`save`](Self::save) saved.
    ///
    /// # Errors
    /// When something is missing.
    fn load(&mut self, state: &mut State) -> Result<(), StageError>;
}

/// Moments by parameter path, for every parameter that AdamW trains.
#[derive(Debug)]
pub struct Moments {
    hyper: AdamHyper,
    /// What they are held in.
    dtype: DType,
    states: BTreeMap<String, AdamState>,
}

impl Moments {
    /// No moments yet; they will be held in `dtype`.
    #[must_use]
    pub fn new(hyper: AdamHyper, dtype: DType) -> Self {
        Self { hyper, dtype, states: BTreeMap::new() }
    }

    /// One update of the parameter at `path`, of any shape.
    pub fn step<const D: usize>(&mut self, path: &str, param: Tensor<D>, grad: Tensor<D>, lr: f64) -> Tensor<D> {
        let shape = param.dims();
        let flat = param.reshape([-1]);
        if !self.states.contains_key(path) {
            self.states.insert(path.to_owned(), AdamState::held_in(&flat, self.dtype));
        }
        match self.states.get_mut(path) {
            Some(state) => state.step(flat, grad.reshape([-1]), lr, &self.hyper).reshape(shape),
            None => flat.reshape(shape),
        }
    }

    /// All moments, by parameter path.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut AdamState)> {
        self.states.iter_mut().map(|(path, state)| (path.as_str(), state))
    }

    /// Bytes of all moments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.states.values().map(AdamState::bytes).sum()
    }

    /// Saves all moments under `name`.
    pub fn save(&self, name: &str, state: &mut State) {
        for (path, moments) in &self.states {
            state.put_tensor(&format!("{name}/m/{path}"), moments.m.clone());
            state.put_tensor(&format!("{name}/v/{path}"), moments.v.clone());
            state.put_count(&format!("{name}/t/{path}"), moments.t);
        }
    }

    /// Takes back what was saved under `name`.
    ///
    /// # Errors
    /// When a part is missing.
    pub fn load(&mut self, name: &str, state: &mut State) -> Result<(), StageError> {
        self.states.clear();
        for path in state.names(&format!("{name}/m/")) {
            let m = state.take_tensor(&format!("{name}/m/{path}"))?;
            let v = state.take_tensor(&format!("{name}/v/{path}"))?;
            let t = state.count(&format!("{name}/t/{path}"))?;
            self.states.insert(path, AdamState { m, v, t });
        }
        Ok(())
    }
}

/// Every matrix trained in full by AdamW: the baseline.
#[derive(Debug)]
pub struct FullAdamW {
    moments: Moments,
}

impl FullAdamW {
    /// Without moments yet; they will be held in `dtype`.
    #[must_use]
    pub fn new(hyper: AdamHyper, dtype: DType) -> Self {
        Self { moments: Moments::new(hyper, dtype) }
    }
}

impl Method for FullAdamW {
    fn update(&mut self, target: Target<'_>, weight: Tensor<2>, grad: Tensor<2>) -> Result<Tensor<2>, StageError> {
        Ok(self.moments.step(target.path, weight, grad, target.lr))
    }

    fn state_bytes(&self) -> u64 {
        self.moments.bytes()
    }

    fn save(&self, state: &mut State) {
        self.moments.save("full", state);
    }

    fn load(&mut self, state: &mut State) -> Result<(), StageError> {
        self.moments.load("full", state)
    }
}

#[cfg(test)]
mod tests {
    use super::is_target;

    #[test]
    fn targets_are_the_matrices_of_attention_and_mlp() {
        assert!(is_target("model.layers.0.self_attn.o_proj.weight", 2));
        assert!(is_target("model.layers.3.mlp.gate_proj.weight", 2));
        assert!(!is_target("model.layers.0.post_attention_layernorm.weight", 1));
        assert!(!is_target("model.embed_tokens.weight", 2));
        assert!(!is_target("lm_head.weight", 2));
    }
}
