//! Adam in the two forms that the literature mixes up.
//!
//! Both keep `m = b1 m + (1-b1) g` and `v = b2 v + (1-b2) g^2`. They differ in where eps enters: the form of Hugging
//! Face's old AdamW (used by the public GaLore and Fira code) adds it to `sqrt(v)` before the bias correction, so that
//! its effective size at step t is `eps / sqrt(1-b2^t)`; torch's form adds it after. Weight decay is decoupled, uses the
//! plain learning rate and is applied after the update, to the updated weight.

use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where eps enters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AdamFlavour {
    /// `N = m / (sqrt(v) + eps)`, step size `lr * sqrt(1-b2^t) / (1-b1^t)`.
    #[default]
    Hf,
    /// `N = (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps)`, step size `lr`.
    Torch,
}

/// Constants of Adam.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdamConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Keeps the division finite.
    pub eps: f64,
    /// Decoupled weight decay, times the learning rate.
    pub weight_decay: f64,
    /// Where eps enters.
    pub flavour: AdamFlavour,
}

impl Default for AdamConfig {
    /// The constants of the GaLore code.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-6, weight_decay: 0.0, flavour: AdamFlavour::Hf }
    }
}

impl AdamConfig {
    /// What the normalised update is multiplied by besides the learning rate, at step `t` (from 1).
    #[must_use]
    pub fn correction(&self, t: u64) -> f64 {
        match self.flavour {
            AdamFlavour::Hf => (1.0 - power(self.beta2, t)).sqrt() / (1.0 - power(self.beta1, t)),
            AdamFlavour::Torch => 1.0,
        }
    }
}

/// `base^t`, for any step count.
fn power(base: f64, t: u64) -> f64 {
    base.powf(t as f64)
}

/// The moments of one tensor, and how many steps they have seen.
#[derive(Debug, Clone)]
pub struct AdamState<const D: usize> {
    /// First moment, shaped like the gradient.
    pub m: Tensor<D>,
    /// Second moment, shaped like the gradient.
    pub v: Tensor<D>,
    /// Steps done.
    pub t: u64,
}

impl<const D: usize> AdamState<D> {
    /// Zero moments for gradients like this one.
    #[must_use]
    pub fn new(like: &Tensor<D>) -> Self {
        Self { m: like.zeros_like(), v: like.zeros_like(), t: 0 }
    }

    /// Takes in a gradient and returns the normalised direction `N`; the weight moves by
    /// `-lr * config.correction(state.t) * N`.
    #[must_use]
    pub fn direction(&mut self, gradient: Tensor<D>, config: &AdamConfig) -> Tensor<D> {
        self.t += 1;
        let scaled = gradient.clone().mul_scalar(1.0 - config.beta1);
        self.m.inplace(|m| m.mul_scalar(config.beta1).add(scaled));
        let squared = gradient.square().mul_scalar(1.0 - config.beta2);
        self.v.inplace(|v| v.mul_scalar(config.beta2).add(squared));
        match config.flavour {
            AdamFlavour::Hf => self.m.clone().div(self.v.clone().sqrt().add_scalar(config.eps)),
            AdamFlavour::Torch => {
                let first = 1.0 - power(config.beta1, self.t);
                let second = 1.0 - power(config.beta2, self.t);
                let root = self.v.clone().div_scalar(second).sqrt().add_scalar(config.eps);
                self.m.clone().div_scalar(first).div(root)
            }
        }
    }

    /// One whole step: the updated weight.
    #[must_use]
    pub fn step(&mut self, weight: Tensor<D>, gradient: Tensor<D>, lr: f64, config: &AdamConfig) -> Tensor<D> {
        let direction = self.direction(gradient, config);
        decay(weight.sub(direction.mul_scalar(lr * config.correction(self.t))), lr, config.weight_decay)
    }

    /// Floats held.
    #[must_use]
    pub fn floats(&self) -> usize {
        self.m.shape().num_elements() + self.v.shape().num_elements()
    }
}

/// Decoupled weight decay of an updated weight: `W -= lr * weight_decay * W`.
#[must_use]
pub fn decay<const D: usize>(weight: Tensor<D>, lr: f64, weight_decay: f64) -> Tensor<D> {
    if weight_decay == 0.0 { weight } else { weight.mul_scalar(1.0 - lr * weight_decay) }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};

    use super::*;
    use crate::vectors::{assert_near, vector};

    fn run(id: &str, flavour: AdamFlavour, dtype: DType, tol: f64) {
        let vector = vector(id);
        let config = AdamConfig { eps: vector.input("eps"), flavour, ..AdamConfig::default() };
        let device = Device::flex();
        let one = |value: f64| Tensor::<1>::from_data([value], (&device, dtype));
        let mut weight = one(vector.input("w0"));
        let mut state = AdamState::new(&weight);
        let expected: Vec<f64> = vector.expected("w");
        for (gradient, expected) in vector.input::<Vec<f64>>("grads").into_iter().zip(expected) {
            weight = state.step(weight, one(gradient), vector.input("lr"), &config);
            assert_near(weight.clone().try_into_scalar::<f64>().unwrap(), expected, tol);
        }
        assert_eq!((state.t, state.floats()), (3, 2));
    }

    #[test]
    fn vector_adam_scalar_hf() {
        run("adam_scalar_hf", AdamFlavour::Hf, DType::F64, 1e-10);
        run("adam_scalar_hf", AdamFlavour::Hf, DType::F32, 1e-6);
    }

    #[test]
    fn vector_adam_scalar_torch() {
        run("adam_scalar_torch", AdamFlavour::Torch, DType::F64, 1e-10);
        run("adam_scalar_torch", AdamFlavour::Torch, DType::F32, 1e-6);
    }

    #[test]
    fn decay_acts_on_the_updated_weight_with_the_plain_rate() {
        let device = Device::flex();
        let config = AdamConfig { weight_decay: 0.1, ..AdamConfig::default() };
        let plain = AdamConfig::default();
        let weight = Tensor::<1>::from_data([2.0], (&device, DType::F64));
        let gradient = Tensor::<1>::from_data([0.5], (&device, DType::F64));
        let with = AdamState::new(&weight).step(weight.clone(), gradient.clone(), 0.01, &config);
        let without = AdamState::new(&weight).step(weight, gradient, 0.01, &plain);
        let (with, without): (f64, f64) = (with.into_scalar(), without.into_scalar());
        assert_near(with, without * (1.0 - 0.01 * 0.1), 1e-14);
    }
}
