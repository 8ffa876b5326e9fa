//! AdamW, in the two forms that papers' results rest on.
//!
//! They differ in where `eps` enters and in the order of weight decay (`beta` corrections as usual, `t` from 1):
//!
//! - `Hf`, of the GaLore and Fira code: `w -= lr sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)`, then
//!   `w -= lr wd w`. The effective eps at step 1 is 32 times larger than torch's.
//! - `Torch`: `w -= lr wd w`, then `w -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)`.

use burn::tensor::{DType, Tensor};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[cfg(feature = "cuda")]
use crate::ops::on_gpu;
use crate::ops::{PIECE, held, on_host, simd, to_tensor, widened};

/// Which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AdamFlavour {
    /// The form of the code behind GaLore's and Fira's results (an older `transformers.AdamW`).
    #[default]
    Hf,
    /// The form of `torch.optim.AdamW`.
    Torch,
}

/// What is the same for all parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamHyper {
    /// Which form.
    pub flavour: AdamFlavour,
    /// Decay of the two moments.
    pub betas: [f64; 2],
    /// Keeps the division finite.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

impl Default for AdamHyper {
    /// The constants of the GaLore code.
    fn default() -> Self {
        Self { flavour: AdamFlavour::Hf, betas: [0.9, 0.999], eps: 1e-6, weight_decay: 0.0 }
    }
}

/// The moments of one parameter, whatever its shape: all tensors are flat.
///
/// They may be held in bf16. An update then computes with them in f32 and rounds them when it puts them away; with
/// `beta2` of 0.999 a second moment in bf16 grows and does not shrink, since a change of 1/1000 rounds to nothing. So it
/// is in the public code of GaLore and Fira, too, whose moments are as wide as the weights.
#[derive(Debug, Clone)]
pub struct AdamState {
    /// Mean of gradients, `[n]`.
    pub m: Tensor<1>,
    /// Mean of squared gradients, `[n]`.
    pub v: Tensor<1>,
    /// Updates made.
    pub t: u64,
}

impl AdamState {
    /// Before the first update of a parameter like this one.
    #[must_use]
    pub fn new(like: &Tensor<1>) -> Self {
        Self { m: like.zeros_like(), v: like.zeros_like(), t: 0 }
    }

    /// The same with moments that are held in `dtype` if that has 16 bits.
    #[must_use]
    pub fn held_in(like: &Tensor<1>, dtype: DType) -> Self {
        Self { m: held(like.zeros_like(), dtype), v: held(like.zeros_like(), dtype), t: 0 }
    }

    /// Bytes of the two moments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        [&self.m, &self.v].map(|tensor| (tensor.shape().num_elements() * tensor.dtype().size()) as u64).iter().sum()
    }

    /// One update: the new value of `param` `[n]` for its gradient `[n]`, both in f32 or f64. On the CPU moments and parameter are changed
    /// in place, unless someone else holds them.
    #[must_use]
    pub fn step(&mut self, param: Tensor<1>, grad: Tensor<1>, lr: f64, hyper: &AdamHyper) -> Tensor<1> {
        self.t += 1;
        let coefficients = Coefficients::new(self.t, lr, hyper);
        #[cfg(feature = "cuda")]
        if on_gpu(&param) {
            let [param, m, v] = sepia_kernels::adam(param, grad, self.m.clone(), self.v.clone(), coefficients.on_gpu());
            (self.m, self.v) = (m, v);
            return param;
        }
        let dtype = self.m.dtype();
        // The gradient holds the moments' places while they are away.
        let m = widened(std::mem::replace(&mut self.m, grad.clone()));
        let v = widened(std::mem::replace(&mut self.v, grad.clone()));
        let (param, m, v) = match (on_host(param), on_host(m), on_host(v), on_host(grad)) {
            (Ok(mut param), Ok(mut m), Ok(mut v), Ok(grad)) => {
                param
                    .storage_mut::<f32>()
                    .par_chunks_mut(PIECE)
                    .zip(m.storage_mut::<f32>().par_chunks_mut(PIECE))
                    .zip(v.storage_mut::<f32>().par_chunks_mut(PIECE))
                    .zip(grad.storage::<f32>().par_chunks(PIECE))
                    .for_each(|(((param, m), v), grad)| coefficients.on_slices(param, m, v, grad));
                (to_tensor(param), to_tensor(m), to_tensor(v))
            }
            (param, m, v, grad) => {
                let back = |tensor: Result<_, Tensor<1>>| tensor.map_or_else(|tensor| tensor, to_tensor);
                coefficients.on_tensors(back(param), back(m), back(v), back(grad))
            }
        };
        (self.m, self.v) = (held(m, dtype), held(v, dtype));
        param
    }
}

/// One update as `w <- before w - rate m / (scale sqrt(v) + eps)`, then `w <- after w`: both forms are of this kind.
#[derive(Debug, Clone, Copy)]
struct Coefficients {
    betas: [f64; 2],
    eps: f64,
    before: f64,
    rate: f64,
    scale: f64,
    after: f64,
}

impl Coefficients {
    fn new(t: u64, lr: f64, hyper: &AdamHyper) -> Self {
        let t = i32::try_from(t).unwrap_or(i32::MAX);
        let correct = hyper.betas.map(|beta| 1.0 - beta.powi(t));
        let decay = 1.0 - lr * hyper.weight_decay;
        let (betas, eps) = (hyper.betas, hyper.eps);
        match hyper.flavour {
            AdamFlavour::Hf => {
                Self { betas, eps, before: 1.0, rate: lr * correct[1].sqrt() / correct[0], scale: 1.0, after: decay }
            }
            AdamFlavour::Torch => {
                Self { betas, eps, before: decay, rate: lr / correct[0], scale: correct[1].sqrt().recip(), after: 1.0 }
            }
        }
    }

    #[cfg(feature = "cuda")]
    fn on_gpu(&self) -> sepia_kernels::Adam {
        let Self { betas, eps, before, rate, scale, after } = *self;
        let [eps, before, rate, scale, after] = [eps, before, rate, scale, after].map(|number| number as f32);
        let rest = betas.map(|beta| (1.0 - beta) as f32);
        sepia_kernels::Adam { betas: betas.map(|beta| beta as f32), rest, eps, before, rate, scale, after }
    }

    fn on_slices(&self, param: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32]) {
        let [b1, b2] = self.betas.map(|beta| beta as f32);
        let [c1, c2] = self.betas.map(|beta| (1.0 - beta) as f32);
        let [eps, before, rate, scale, after] =
            [self.eps, self.before, self.rate, self.scale, self.after].map(|number| number as f32);
        simd(
            #[inline(always)]
            || {
                for (((w, m), v), &g) in param.iter_mut().zip(m).zip(v).zip(grad) {
                    *m = b1 * *m + c1 * g;
                    *v = b2 * *v + c2 * (g * g);
                    *w = (before * *w - rate * *m / (scale * v.sqrt() + eps)) * after;
                }
            },
        );
    }

    /// The direction takes the gradient's place.
    fn direction_on_slices(&self, grad: &mut [f32], m: &mut [f32], v: &mut [f32]) {
        let [b1, b2] = self.betas.map(|beta| beta as f32);
        let [c1, c2] = self.betas.map(|beta| (1.0 - beta) as f32);
        let [eps, scale] = [self.eps, self.scale].map(|number| number as f32);
        simd(
            #[inline(always)]
            || {
                for ((g, m), v) in grad.iter_mut().zip(m).zip(v) {
                    *m = b1 * *m + c1 * *g;
                    *v = b2 * *v + c2 * (*g * *g);
                    *g = *m / (scale * v.sqrt() + eps);
                }
            },
        );
    }

    /// The direction and the two moments.
    fn direction_on_tensors(&self, m: Tensor<1>, v: Tensor<1>, grad: Tensor<1>) -> (Tensor<1>, Tensor<1>, Tensor<1>) {
        let [b1, b2] = self.betas;
        let m = m.mul_scalar(b1) + grad.clone().mul_scalar(1.0 - b1);
        let v = v.mul_scalar(b2) + (grad.clone() * grad).mul_scalar(1.0 - b2);
        (m.clone() / v.clone().sqrt().mul_scalar(self.scale).add_scalar(self.eps), m, v)
    }

    fn on_tensors(
        &self,
        param: Tensor<1>,
        m: Tensor<1>,
        v: Tensor<1>,
        grad: Tensor<1>,
    ) -> (Tensor<1>, Tensor<1>, Tensor<1>) {
        let (direction, m, v) = self.direction_on_tensors(m, v, grad);
        let param = (param.mul_scalar(self.before) - direction.mul_scalar(self.rate)).mul_scalar(self.after);
        (param, m, v)
    }
}

impl AdamState {
    /// Takes in a gradient `[n]` and returns the normalised direction `[n]` and the factor to subtract it with besides
    /// the learning rate: `step` without the weight, for methods that do something else with the direction.
    #[must_use]
    pub fn direction(&mut self, grad: Tensor<1>, hyper: &AdamHyper) -> (Tensor<1>, f64) {
        self.t += 1;
        // The weight's part of the coefficients is not used: the direction is `m / (scale sqrt(v) + eps)`.
        let coefficients = Coefficients::new(self.t, 1.0, hyper);
        let dtype = self.m.dtype();
        let away = Tensor::zeros([1], (&grad.device(), grad.dtype()));
        let m = widened(std::mem::replace(&mut self.m, away.clone()));
        let v = widened(std::mem::replace(&mut self.v, away));
        let (direction, m, v) = match (on_host(m), on_host(v), on_host(grad)) {
            (Ok(mut m), Ok(mut v), Ok(mut grad)) => {
                grad.storage_mut::<f32>()
                    .par_chunks_mut(PIECE)
                    .zip(m.storage_mut::<f32>().par_chunks_mut(PIECE))
                    .zip(v.storage_mut::<f32>().par_chunks_mut(PIECE))
                    .for_each(|((grad, m), v)| coefficients.direction_on_slices(grad, m, v));
                (to_tensor(grad), to_tensor(m), to_tensor(v))
            }
            (m, v, grad) => {
                let back = |tensor: Result<_, Tensor<1>>| tensor.map_or_else(|tensor| tensor, to_tensor);
                coefficients.direction_on_tensors(back(m), back(v), back(grad))
            }
        };
        (self.m, self.v) = (held(m, dtype), held(v, dtype));
        (direction, coefficients.rate)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, TensorData};

    use super::*;
    use crate::testing::test_device;
    use crate::testing::{floats, vector};

    fn assert_vector(id: &str, flavour: AdamFlavour) {
        let entry = vector(id);
        let inputs = &entry["inputs"];
        let number = |name: &str| inputs[name].as_f64().unwrap();
        let hyper = AdamHyper { flavour, betas: [0.9, 0.999], eps: number("eps"), weight_decay: 0.0 };
        // f64, so that the vector's tolerance tests the formula and not the rounding.
        let device = test_device();
        let tensor = |value: f64| Tensor::<1>::from_data(TensorData::new(vec![value], [1]), (&device, DType::F64));
        let mut w = tensor(number("w0"));
        let mut state = AdamState::new(&w);
        for (grad, expected) in floats(&inputs["grads"]).into_iter().zip(floats(&entry["expected"]["w"])) {
            w = state.step(w, tensor(grad), number("lr"), &hyper);
            let found = w.clone().into_scalar::<f64>();
            assert!((found - expected).abs() < 1e-10, "{id}: {found} instead of {expected}");
        }
    }

    #[test]
    fn slices_and_tensors_agree() {
        let device = test_device();
        let random = |seed| {
            let values = crate::random::Rng::new(seed).normal(1000, 1.0);
            Tensor::<1>::from_data(TensorData::new(values, [1000]), &device)
        };
        for flavour in [AdamFlavour::Hf, AdamFlavour::Torch] {
            let hyper = AdamHyper { flavour, betas: [0.9, 0.99], eps: 1e-6, weight_decay: 0.1 };
            let (param, grad) = (random(1), random(2));
            let mut state = AdamState::new(&param);
            let found = state.step(param.clone(), grad.clone(), 0.1, &hyper);
            let zeros = param.zeros_like();
            let coefficients = Coefficients::new(1, 0.1, &hyper);
            let (expected, m, v) = coefficients.on_tensors(param.clone(), zeros.clone(), zeros.clone(), grad.clone());
            for (found, expected) in [(found, expected), (state.m, m), (state.v, v)] {
                assert!((found - expected).abs().max().into_scalar::<f32>() < 1e-6);
            }

            let mut state = AdamState::new(&param);
            let (found, rate) = state.direction(grad.clone(), &hyper);
            let coefficients = Coefficients::new(1, 1.0, &hyper);
            let (expected, m, v) = coefficients.direction_on_tensors(zeros.clone(), zeros, grad);
            assert_eq!(rate, coefficients.rate);
            for (found, expected) in [(found, expected), (state.m, m), (state.v, v)] {
                assert!((found - expected).abs().max().into_scalar::<f32>() < 1e-6);
            }
        }
    }

    #[test]
    fn moments_in_bf16_follow_those_in_f32_and_take_half_the_bytes() {
        let device = test_device();
        let random = |seed| {
            let values = crate::random::Rng::new(seed).normal(1000, 1.0);
            Tensor::<1>::from_data(TensorData::new(values, [1000]), &device)
        };
        let hyper = AdamHyper::default();
        let (mut exact, mut narrow) = (random(1), random(1));
        let mut states = [AdamState::new(&exact), AdamState::held_in(&narrow, DType::BF16)];
        for seed in 2..12 {
            exact = states[0].step(exact, random(seed), 0.1, &hyper);
            narrow = states[1].step(narrow, random(seed), 0.1, &hyper);
            let [(one, _), (other, _)] = states.clone().map(|mut state| state.direction(random(seed), &hyper));
            assert!((one - other).abs().max().into_scalar::<f32>() < 0.05);
        }
        let apart = (exact - narrow).abs().max().into_scalar::<f32>();
        assert!(apart > 0.0 && apart < 0.02, "{apart}");
        assert_eq!(states.each_ref().map(AdamState::bytes), [8000, 4000]);
        assert_eq!([states[1].m.dtype(), states[1].v.dtype()], [DType::BF16; 2]);
    }

    #[test]
    fn both_forms_follow_their_vectors() {
        assert_vector("adam_scalar_hf", AdamFlavour::Hf);
        assert_vector("adam_scalar_torch", AdamFlavour::Torch);
    }
}
