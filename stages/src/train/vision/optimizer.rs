//! The optimizers of classifiers: SGD with momentum, and AdamW.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use rayon::prelude::*;
use schemars::JsonSchema;
use sepia_engine::stage::StageError;
use serde::{Deserialize, Serialize};

use super::gradients::VisionGradients;
use crate::{
    model::vision::{Kind, VisionModel},
    ops::{PIECE, on_host, simd, to_tensor},
    train::{AdamFlavour, AdamHyper, AdamState, State},
};

/// Which optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", rename_all = "lowercase", deny_unknown_fields)]
pub enum OptimizerParams {
    /// SGD as in torch: `g += wd w; b = momentum b + g; w -= lr b`.
    Sgd {
        /// Share of the last direction in the next.
        #[serde(default = "default_momentum")]
        momentum: f64,
        /// Nesterov's form: `w -= lr (g + momentum b)`.
        #[serde(default)]
        nesterov: bool,
    },
    /// AdamW as in torch.
    Adamw {
        /// Decay of the two moments.
        #[serde(default = "default_betas")]
        betas: [f64; 2],
        /// Keeps the division finite.
        #[serde(default = "default_eps")]
        eps: f64,
    },
}

fn default_momentum() -> f64 {
    0.9
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn default_eps() -> f64 {
    1e-8
}

impl Default for OptimizerParams {
    fn default() -> Self {
        Self::Sgd { momentum: default_momentum(), nesterov: false }
    }
}

/// An optimizer with its state, by the names of parameters.
#[derive(Debug)]
pub struct VisionOptimizer {
    params: OptimizerParams,
    weight_decay: f64,
    momentum: BTreeMap<String, Tensor<1>>,
    adam: BTreeMap<String, AdamState>,
}

impl VisionOptimizer {
    /// Without state.
    #[must_use]
    pub fn new(params: OptimizerParams, weight_decay: f64) -> Self {
        Self { params, weight_decay, momentum: BTreeMap::new(), adam: BTreeMap::new() }
    }

    /// Drops all state, as after a change of structure.
    pub fn restart(&mut self) {
        self.momentum.clear();
        self.adam.clear();
    }

    /// Drops the state of one parameter.
    pub fn forget(&mut self, name: &str) {
        self.momentum.remove(name);
        self.adam.remove(name);
    }

    /// Maps each part of a parameter's state, flat: a cut factor keeps the state of what is left of it. Moves it to
    /// `new_name`.
    pub fn edit(&mut self, name: &str, new_name: &str, mut map: impl FnMut(Tensor<1>) -> Tensor<1>) {
        if let Some(state) = self.momentum.remove(name) {
            self.momentum.insert(new_name.to_owned(), map(state));
        }
        if let Some(AdamState { m, v, t }) = self.adam.remove(name) {
            self.adam.insert(new_name.to_owned(), AdamState { m: map(m), v: map(v), t });
        }
    }

    /// Bytes of all state.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let momentum = self.momentum.values().map(|state| (state.shape().num_elements() * state.dtype().size()) as u64);
        momentum.sum::<u64>() + self.adam.values().map(AdamState::bytes).sum::<u64>()
    }

    /// Updates every parameter that has a gradient. `decays` says which are decayed.
    pub(super) fn step(
        &mut self,
        model: &mut VisionModel,
        mut gradients: VisionGradients,
        lr: f64,
        decays: impl Fn(&str, Kind) -> bool,
    ) {
        let mut seen = Vec::new();
        for mut parameter in model.parameters_mut().into_iter().filter(|parameter| parameter.is_trained()) {
            seen.push(parameter.name.clone());
            let Some(gradient) = gradients.take(&parameter.name) else { continue };
            let decay = if decays(&parameter.name, parameter.kind) { self.weight_decay } else { 0.0 };
            let value = parameter.value.flat();
            let updated = self.update(&parameter.name, value, gradient, lr, decay);
            parameter.value.set_flat(updated);
        }
        let known = |name: &String| seen.contains(name);
        self.momentum.retain(|name, _| known(name));
        self.adam.retain(|name, _| known(name));
    }

    fn update(&mut self, name: &str, value: Tensor<1>, gradient: Tensor<1>, lr: f64, decay: f64) -> Tensor<1> {
        let length = value.dims();
        match self.params {
            OptimizerParams::Sgd { momentum, nesterov } => {
                let old = self.momentum.remove(name).filter(|state| state.dims() == length);
                let buffer = old.unwrap_or_else(|| value.zeros_like());
                let constants = Sgd { lr, decay, momentum, nesterov };
                let (value, buffer) = constants.step(value, buffer, gradient);
                self.momentum.insert(name.to_owned(), buffer);
                value
            }
            OptimizerParams::Adamw { betas, eps } => {
                let hyper = AdamHyper { flavour: AdamFlavour::Torch, betas, eps, weight_decay: decay };
                let old = self.adam.remove(name).filter(|state| state.m.dims() == length);
                let mut state = old.unwrap_or_else(|| AdamState::new(&value));
                let value = state.step(value, gradient, lr, &hyper);
                self.adam.insert(name.to_owned(), state);
                value
            }
        }
    }

    pub(super) fn save(&self, state: &mut State) {
        for (name, buffer) in &self.momentum {
            state.put_tensor(&format!("momentum/{name}"), buffer.clone());
        }
        for (name, AdamState { m, v, t }) in &self.adam {
            state.put_tensor(&format!("adam/m/{name}"), m.clone());
            state.put_tensor(&format!("adam/v/{name}"), v.clone());
            state.put_count(&format!("adam/t/{name}"), *t);
        }
    }

    pub(super) fn load(&mut self, state: &mut State) -> Result<(), StageError> {
        self.restart();
        for name in state.names("momentum/") {
            let buffer = state.take_tensor(&format!("momentum/{name}"))?;
            self.momentum.insert(name, buffer);
        }
        for name in state.names("adam/m/") {
            let m = state.take_tensor(&format!("adam/m/{name}"))?;
            let v = state.take_tensor(&format!("adam/v/{name}"))?;
            let t = state.count(&format!("adam/t/{name}"))?;
            self.adam.insert(name, AdamState { m, v, t });
        }
        Ok(())
    }
}

/// One step of SGD. A buffer of zeros stands for none: `0 momentum + g` is torch's first buffer, `g`.
#[derive(Debug, Clone, Copy)]
struct Sgd {
    lr: f64,
    decay: f64,
    momentum: f64,
    nesterov: bool,
}

impl Sgd {
    fn step(&self, value: Tensor<1>, buffer: Tensor<1>, gradient: Tensor<1>) -> (Tensor<1>, Tensor<1>) {
        match (on_host(value), on_host(buffer), on_host(gradient)) {
            (Ok(mut value), Ok(mut buffer), Ok(gradient)) => {
                let values = value.storage_mut::<f32>().par_chunks_mut(PIECE);
                let buffers = buffer.storage_mut::<f32>().par_chunks_mut(PIECE);
                values
                    .zip(buffers)
                    .zip(gradient.storage::<f32>().par_chunks(PIECE))
                    .for_each(|((value, buffer), gradient)| self.on_slices(value, buffer, gradient));
                (to_tensor(value), to_tensor(buffer))
            }
            (value, buffer, gradient) => {
                let back = |tensor: Result<_, Tensor<1>>| tensor.map_or_else(|tensor| tensor, to_tensor);
                self.on_tensors(back(value), back(buffer), back(gradient))
            }
        }
    }

    fn on_slices(&self, value: &mut [f32], buffer: &mut [f32], gradient: &[f32]) {
        let [lr, decay, momentum] = [self.lr, self.decay, self.momentum].map(|number| number as f32);
        let nesterov = self.nesterov;
        simd(
            #[inline(always)]
            || {
                for ((w, b), &g) in value.iter_mut().zip(buffer).zip(gradient) {
                    let g = g + decay * *w;
                    *b = momentum * *b + g;
                    *w -= lr * if nesterov { g + momentum * *b } else { *b };
                }
            },
        );
    }

    fn on_tensors(&self, value: Tensor<1>, buffer: Tensor<1>, gradient: Tensor<1>) -> (Tensor<1>, Tensor<1>) {
        let gradient = gradient + value.clone().mul_scalar(self.decay);
        let buffer = buffer.mul_scalar(self.momentum) + gradient.clone();
        let direction =
            if self.nesterov { gradient + buffer.clone().mul_scalar(self.momentum) } else { buffer.clone() };
        (value - direction.mul_scalar(self.lr), buffer)
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::testing::test_device;

    #[test]
    fn sgd_is_torchs_on_slices_and_on_tensors() {
        // torch.optim.SGD(lr=0.1, momentum=0.9, weight_decay=0.01), w = 1, gradients 0.5 and -0.2, by hand:
        // b1 = 0.51, w1 = 0.949; b2 = 0.459 - 0.2 + 0.00949 = 0.26849, w2 = 0.922151.
        for nesterov in [false, true] {
            let sgd = Sgd { lr: 0.1, decay: 0.01, momentum: 0.9, nesterov };
            let tensor = |value: f32| Tensor::<1>::from_floats([value], &test_device());
            let mut on_host = (tensor(1.0), tensor(0.0));
            let mut on_device = on_host.clone();
            for gradient in [0.5, -0.2] {
                on_host = sgd.step(on_host.0, on_host.1, tensor(gradient));
                on_device = sgd.on_tensors(on_device.0, on_device.1, tensor(gradient));
            }
            let [found, other] = [on_host.0, on_device.0].map(|value| value.into_scalar::<f32>());
            assert!((found - other).abs() < 1e-6);
            if !nesterov {
                assert!((found - 0.922_151).abs() < 1e-6, "{found}");
            }
        }
    }
}
