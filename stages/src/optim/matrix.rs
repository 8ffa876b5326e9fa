//! The optimisers that run inside a projection: each sees a matrix and returns a direction.

use burn::tensor::{DType, Device, Tensor};
use sepia_engine::stage::StageError;

use super::{
    adafactor::{AdafactorConfig, Factored, clip_rms},
    quant8::{EightBit, Quantised},
};
use crate::{
    ops::{held, is_half, widened},
    train::{AdamHyper, AdamState, State},
};

/// Which optimiser.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MatrixOptimizer {
    /// Adam.
    Adam(AdamHyper),
    /// Adam with moments in 8 bits; small matrices keep theirs in f32.
    Adam8bit(AdamHyper, EightBit),
    /// Adafactor, with decoupled weight decay.
    Adafactor(AdafactorConfig, f64),
    /// Plain gradient descent.
    Sgd,
}

impl MatrixOptimizer {
    /// Decoupled weight decay.
    #[must_use]
    pub fn weight_decay(&self) -> f64 {
        match self {
            Self::Adam(hyper) | Self::Adam8bit(hyper, _) => hyper.weight_decay,
            Self::Adafactor(_, weight_decay) => *weight_decay,
            Self::Sgd => 0.0,
        }
    }

    /// Bytes that its state of a matrix will take, held in so many bytes a number: what [`MatrixState::bytes`] says then.
    #[must_use]
    pub fn state_bytes(&self, [m, n]: [usize; 2], float: u64) -> u64 {
        let count = (m * n) as u64;
        match self {
            Self::Adam(_) => 2 * count * float,
            Self::Adam8bit(_, eight) if m * n < eight.min_size => 2 * count * 4,
            // A byte an entry and four a block, for both moments.
            Self::Adam8bit(_, eight) => 2 * (count + 4 * count.div_ceil(eight.block_size.max(1) as u64)),
            Self::Adafactor(config, _) => ((m + n) as u64 + if config.beta1 > 0.0 { count } else { 0 }) * float,
            Self::Sgd => 0,
        }
    }
}

/// A direction and the factor to subtract it with: `W -= factor * direction`.
#[derive(Debug, Clone)]
pub struct Direction {
    /// Shaped like the gradient.
    pub tensor: Tensor<2>,
    /// Holds the learning rate.
    pub factor: f64,
}

/// The state of one matrix under one optimiser.
#[derive(Debug, Clone)]
pub struct MatrixState {
    config: MatrixOptimizer,
    shape: [usize; 2],
    kind: Kind,
}

#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "one per matrix, and never moved about")]
enum Kind {
    Adam { hyper: AdamHyper, moments: AdamState },
    Adam8bit { hyper: AdamHyper, m: Quantised, v: Quantised, t: u64 },
    Adafactor { config: AdafactorConfig, second: Factored, first: Option<Tensor<2>> },
    Sgd,
}

impl MatrixState {
    /// Nothing seen yet, for gradients `[m, n]` in f32 or f64; the state is held in `dtype`.
    #[must_use]
    pub fn new(config: MatrixOptimizer, shape: [usize; 2], device: &Device, dtype: DType) -> Self {
        let count = shape[0] * shape[1];
        let adam =
            |hyper, dtype| Kind::Adam { hyper, moments: AdamState::new(&Tensor::zeros([count], (device, dtype))) };
        let wide = if is_half(dtype) { DType::F32 } else { dtype };
        let kind = match config {
            MatrixOptimizer::Adam(hyper) => adam(hyper, dtype),
            MatrixOptimizer::Adam8bit(hyper, eight) if count < eight.min_size => adam(hyper, wide),
            MatrixOptimizer::Adam8bit(hyper, eight) => Kind::Adam8bit {
                hyper,
                m: Quantised::zeros(count, &eight, true, device),
                v: Quantised::zeros(count, &eight, false, device),
                t: 0,
            },
            MatrixOptimizer::Adafactor(config, _) => Kind::Adafactor {
                config,
                second: Factored::new(shape, device, dtype),
                first: (config.beta1 > 0.0).then(|| Tensor::zeros(shape, (device, dtype))),
            },
            MatrixOptimizer::Sgd => Kind::Sgd,
        };
        Self { config, shape, kind }
    }

    /// The optimiser.
    #[must_use]
    pub fn config(&self) -> &MatrixOptimizer {
        &self.config
    }

    /// Shape of its gradients.
    #[must_use]
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Takes in a gradient.
    ///
    /// # Errors
    /// When 8-bit moments on the host cannot be read.
    pub fn direction(&mut self, gradient: Tensor<2>, lr: f64) -> Result<Direction, StageError> {
        let shape = self.shape;
        Ok(match &mut self.kind {
            Kind::Adam { hyper, moments } => {
                let (tensor, factor) = moments.direction(gradient.reshape([-1]), hyper);
                Direction { tensor: tensor.reshape(shape), factor: lr * factor }
            }
            Kind::Adam8bit { hyper, m, v, t } => {
                let dtype = gradient.dtype();
                let mut full = AdamState { m: m.values(dtype), v: v.values(dtype), t: *t };
                let (tensor, factor) = full.direction(gradient.reshape([-1]), hyper);
                m.store(full.m)?;
                v.store(full.v)?;
                *t = full.t;
                Direction { tensor: tensor.reshape(shape), factor: lr * factor }
            }
            Kind::Adafactor { config, second, first } => {
                let update = clip_rms(second.normalise(&gradient, config), config.clip_threshold).mul_scalar(lr);
                let tensor = match first {
                    None => update,
                    Some(first) => {
                        let dtype = first.dtype();
                        let fresh = update.mul_scalar(1.0 - config.beta1);
                        first.inplace(|old| held(widened(old).mul_scalar(config.beta1).add(fresh), dtype));
                        widened(first.clone())
                    }
                };
                Direction { tensor, factor: 1.0 }
            }
            Kind::Sgd => Direction { tensor: gradient, factor: lr },
        })
    }

    /// Forgets the moments, not the step count.
    pub fn clear(&mut self) {
        match &mut self.kind {
            Kind::Adam { moments, .. } => {
                moments.m.inplace(|m| m.zeros_like());
                moments.v.inplace(|v| v.zeros_like());
            }
            Kind::Adam8bit { m, v, .. } => {
                m.clear();
                v.clear();
            }
            Kind::Adafactor { second, first, .. } => {
                second.row.inplace(|row| row.zeros_like());
                second.col.inplace(|col| col.zeros_like());
                if let Some(first) = first {
                    first.inplace(|first| first.zeros_like());
                }
            }
            Kind::Sgd => {}
        }
    }

    /// Numbers held, whatever their width.
    #[must_use]
    pub fn floats(&self) -> usize {
        let count = self.shape[0] * self.shape[1];
        match &self.kind {
            Kind::Adam { moments, .. } => moments.m.shape().num_elements() + moments.v.shape().num_elements(),
            Kind::Adam8bit { .. } => 2 * count,
            Kind::Adafactor { second, first, .. } => second.floats() + first.as_ref().map_or(0, |_| count),
            Kind::Sgd => 0,
        }
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.kind {
            Kind::Adam { moments, .. } => moments.bytes() as usize,
            Kind::Adam8bit { m, v, .. } => m.bytes() + v.bytes(),
            Kind::Adafactor { second, .. } => self.floats() * second.row.dtype().size(),
            Kind::Sgd => 0,
        }
    }

    /// Adds everything that the next step depends on to a saved state.
    pub fn save(&self, at: &str, state: &mut State) {
        match &self.kind {
            Kind::Adam { moments, .. } => {
                state.put_tensor(&format!("{at}/m"), moments.m.clone());
                state.put_tensor(&format!("{at}/v"), moments.v.clone());
                state.put_count(&format!("{at}/t"), moments.t);
            }
            Kind::Adam8bit { m, v, t, .. } => {
                m.save(&format!("{at}/m"), state);
                v.save(&format!("{at}/v"), state);
                state.put_count(&format!("{at}/t"), *t);
            }
            Kind::Adafactor { second, first, .. } => {
                second.save(at, state);
                if let Some(first) = first {
                    state.put_tensor(&format!("{at}/first"), first.clone());
                }
            }
            Kind::Sgd => {}
        }
    }

    /// Takes up a saved state.
    ///
    /// # Errors
    /// When an entry is missing.
    pub fn load(&mut self, at: &str, state: &mut State) -> Result<(), StageError> {
        match &mut self.kind {
            Kind::Adam { moments, .. } => {
                moments.m = state.take_tensor(&format!("{at}/m"))?;
                moments.v = state.take_tensor(&format!("{at}/v"))?;
                moments.t = state.count(&format!("{at}/t"))?;
            }
            Kind::Adam8bit { m, v, t, .. } => {
                m.load(&format!("{at}/m"), state)?;
                v.load(&format!("{at}/v"), state)?;
                *t = state.count(&format!("{at}/t"))?;
            }
            Kind::Adafactor { second, first, .. } => {
                second.load(at, state)?;
                if let Some(first) = first {
                    *first = state.take_tensor(&format!("{at}/first"))?;
                }
            }
            Kind::Sgd => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;
    use crate::{
        random::Rng,
        testing::{alone, test_device},
        train::AdamFlavour,
        vectors::flat,
    };

    const ADAM: AdamHyper = AdamHyper { flavour: AdamFlavour::Hf, betas: [0.9, 0.999], eps: 1e-6, weight_decay: 0.0 };

    fn all() -> Vec<MatrixOptimizer> {
        vec![
            MatrixOptimizer::Adam(ADAM),
            MatrixOptimizer::Adam8bit(ADAM, EightBit { block_size: 16, min_size: 0, ..EightBit::default() }),
            MatrixOptimizer::Adafactor(AdafactorConfig::default(), 0.0),
            MatrixOptimizer::Adafactor(AdafactorConfig { beta1: 0.0, ..AdafactorConfig::default() }, 0.0),
            MatrixOptimizer::Sgd,
        ]
    }

    fn gradient(seed: u64) -> Tensor<2> {
        Tensor::from_data(TensorData::new(Rng::new(seed).normal(24, 1.0), [4, 6]), &test_device())
    }

    #[test]
    fn a_state_saved_and_loaded_goes_on_bit_for_bit() {
        for config in all() {
            let mut one = MatrixState::new(config, [4, 6], &test_device(), DType::F32);
            for seed in 0..3 {
                let _ = alone(|| one.direction(gradient(seed), 0.1).unwrap());
            }
            let save = |matrix: &MatrixState| {
                let mut state = State::new(&test_device());
                matrix.save("w", &mut state);
                state
            };
            let saved = save(&one);
            let mut two = MatrixState::new(config, [4, 6], &test_device(), DType::F32);
            two.load("w", &mut saved.clone()).unwrap();
            assert_eq!(save(&two), saved);
            let next = |matrix: &mut MatrixState| {
                let found = alone(|| matrix.direction(gradient(9), 0.1).unwrap());
                (flat(&found.tensor), found.factor)
            };
            assert_eq!(next(&mut one), next(&mut two), "{config:?}");
        }
    }

    #[test]
    fn eight_bits_follow_full_moments_at_a_quarter_of_the_bytes() {
        let [full, eight] = [all()[0], all()[1]].map(|config| {
            let mut state = MatrixState::new(config, [4, 6], &test_device(), DType::F32);
            let mut last = None;
            for seed in 0..20 {
                last = Some(state.direction(gradient(seed), 0.1).unwrap());
            }
            (state, flat(&last.unwrap().tensor))
        });
        let size = full.1.iter().map(|x| x * x).sum::<f64>().sqrt();
        let apart = full.1.iter().zip(&eight.1).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
        assert!(apart < 0.05 * size, "{apart} of {size}");
        assert_eq!(full.0.bytes(), 2 * 24 * 4);
        assert_eq!(eight.0.bytes(), 2 * (24 + 2 * 4));
        assert_eq!(full.0.floats(), eight.0.floats());
    }

    #[test]
    fn small_matrices_keep_full_moments() {
        let config = MatrixOptimizer::Adam8bit(ADAM, EightBit::default());
        let state = MatrixState::new(config, [4, 6], &test_device(), DType::F32);
        assert_eq!(state.bytes(), 2 * 24 * 4);
    }

    #[test]
    fn clearing_makes_the_next_step_a_first_one_but_for_the_count() {
        let mut state = MatrixState::new(all()[0], [4, 6], &test_device(), DType::F32);
        let _ = state.direction(gradient(1), 0.1).unwrap();
        state.clear();
        let cleared = state.direction(gradient(2), 0.1).unwrap();
        let mut fresh = MatrixState::new(all()[0], [4, 6], &test_device(), DType::F32);
        let first = fresh.direction(gradient(2), 0.1).unwrap();
        assert_eq!(flat(&cleared.tensor), flat(&first.tensor));
        assert!(cleared.factor < first.factor);
    }
}
