//! The optimisers that run inside a projection: each sees a matrix and returns a direction.

use burn::tensor::{DType, Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    adafactor::{AdafactorConfig, Factored, clip_rms},
    adam::{AdamConfig, AdamState},
    quant8::{CodeTable, Quantised},
    state::{SavedState, StateError},
};

/// Which optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum MatrixOptimizer {
    /// Adam with moments in the matrix's own type.
    Adam(AdamConfig),
    /// Adam with moments in 8 bits.
    Adam8bit(Adam8bitConfig),
    /// Adafactor.
    Adafactor(AdafactorConfig),
    /// Plain gradient descent.
    Sgd,
}

/// Adam with block-wise 8-bit moments.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Adam8bitConfig {
    /// The constants of Adam.
    pub adam: AdamConfig,
    /// Entries that share one scale; libraries have used 2048 and 256.
    pub block_size: usize,
    /// How the codes are spread.
    pub table: CodeTable,
    /// Matrices with fewer entries keep full moments.
    pub min_size: usize,
}

impl Default for Adam8bitConfig {
    fn default() -> Self {
        Self { adam: AdamConfig::default(), block_size: 256, table: CodeTable::Dynamic, min_size: 4096 }
    }
}

impl Default for MatrixOptimizer {
    fn default() -> Self {
        Self::Adam(AdamConfig::default())
    }
}

impl MatrixOptimizer {
    /// Decoupled weight decay.
    #[must_use]
    pub fn weight_decay(&self) -> f64 {
        match self {
            Self::Adam(adam) => adam.weight_decay,
            Self::Adam8bit(eight) => eight.adam.weight_decay,
            Self::Adafactor(config) => config.weight_decay,
            Self::Sgd => 0.0,
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
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Adam(AdamState<2>),
    Adam8bit { m: Quantised, v: Quantised, t: u64 },
    Adafactor { second: Factored, first: Option<Tensor<2>> },
    Sgd,
}

impl MatrixState {
    /// Nothing seen yet, for gradients `[m, n]`.
    #[must_use]
    pub fn new(config: MatrixOptimizer, shape: [usize; 2], device: &Device, dtype: DType) -> Self {
        let zeros = || Tensor::<2>::zeros(shape, (device, dtype));
        let kind = match config {
            MatrixOptimizer::Adam(_) => Kind::Adam(AdamState::new(&zeros())),
            MatrixOptimizer::Adam8bit(eight) if shape[0] * shape[1] < eight.min_size => {
                Kind::Adam(AdamState::new(&zeros()))
            }
            MatrixOptimizer::Adam8bit(eight) => Kind::Adam8bit {
                m: Quantised::zeros(shape, eight.block_size, eight.table, true),
                v: Quantised::zeros(shape, eight.block_size, eight.table, false),
                t: 0,
            },
            MatrixOptimizer::Adafactor(config) => {
                Kind::Adafactor { second: Factored::new(shape, device, dtype), first: (config.beta1 > 0.0).then(zeros) }
            }
            MatrixOptimizer::Sgd => Kind::Sgd,
        };
        Self { config, kind }
    }

    /// Takes in a gradient.
    ///
    /// # Errors
    /// When 8-bit moments cannot be read from the device.
    pub fn direction(&mut self, gradient: Tensor<2>, lr: f64) -> Result<Direction, StateError> {
        Ok(match (&mut self.kind, self.config) {
            (Kind::Adam(state), config) => {
                let adam = adam_of(config);
                let tensor = state.direction(gradient, &adam);
                Direction { tensor, factor: lr * adam.correction(state.t) }
            }
            (Kind::Adam8bit { m, v, t }, config) => {
                let adam = adam_of(config);
                let (device, dtype) = (gradient.device(), gradient.dtype());
                let mut full = AdamState { m: m.to_tensor(&device, dtype), v: v.to_tensor(&device, dtype), t: *t };
                let tensor = full.direction(gradient, &adam);
                m.store(&host(&full.m, "m")?);
                v.store(&host(&full.v, "v")?);
                *t = full.t;
                Direction { tensor, factor: lr * adam.correction(full.t) }
            }
            (Kind::Adafactor { second, first }, MatrixOptimizer::Adafactor(config)) => {
                let update = clip_rms(second.normalise(&gradient, &config), config.clip_threshold).mul_scalar(lr);
                let tensor = match first {
                    None => update,
                    Some(first) => {
                        let fresh = update.mul_scalar(1.0 - config.beta1);
                        first.inplace(|old| old.mul_scalar(config.beta1).add(fresh));
                        first.clone()
                    }
                };
                Direction { tensor, factor: 1.0 }
            }
            (Kind::Adafactor { .. } | Kind::Sgd, _) => Direction { tensor: gradient, factor: lr },
        })
    }

    /// Forgets the moments, not the step count.
    pub fn clear(&mut self) {
        match &mut self.kind {
            Kind::Adam(state) => {
                state.m.inplace(|m| m.zeros_like());
                state.v.inplace(|v| v.zeros_like());
            }
            Kind::Adam8bit { m, v, .. } => {
                let count = m.values().len();
                m.store(&vec![0.0; count]);
                v.store(&vec![0.0; count]);
            }
            Kind::Adafactor { second, first } => {
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
        match &self.kind {
            Kind::Adam(state) => state.floats(),
            Kind::Adam8bit { m, v, .. } => m.values().len() + v.values().len(),
            Kind::Adafactor { second, first } => {
                second.floats() + first.as_ref().map_or(0, |first| first.shape().num_elements())
            }
            Kind::Sgd => 0,
        }
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.kind {
            Kind::Adam(state) => state.floats() * state.m.dtype().size(),
            Kind::Adam8bit { m, v, .. } => m.bytes() + v.bytes(),
            Kind::Adafactor { second, .. } => self.floats() * second.row.dtype().size(),
            Kind::Sgd => 0,
        }
    }

    /// Everything that the next step depends on.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn save(&self) -> Result<SavedState, StateError> {
        let mut state = SavedState::default();
        match &self.kind {
            Kind::Adam(adam) => {
                state.put("m", &adam.m)?;
                state.put("v", &adam.v)?;
                state.put_u64("t", adam.t);
            }
            Kind::Adam8bit { m, v, t } => {
                m.save("m", &mut state);
                v.save("v", &mut state);
                state.put_u64("t", *t);
            }
            Kind::Adafactor { second, first } => {
                second.save(&mut state)?;
                if let Some(first) = first {
                    state.put("first", first)?;
                }
            }
            Kind::Sgd => {}
        }
        Ok(state)
    }

    /// Takes up a saved state.
    ///
    /// # Errors
    /// When an entry is missing or shaped otherwise.
    pub fn load(&mut self, state: &SavedState) -> Result<(), StateError> {
        match &mut self.kind {
            Kind::Adam(adam) => {
                let (shape, device) = (adam.m.dims(), adam.m.device());
                *adam = AdamState {
                    m: state.tensor("m", shape, &device)?,
                    v: state.tensor("v", shape, &device)?,
                    t: state.u64("t")?,
                };
            }
            Kind::Adam8bit { m, v, t } => {
                m.load("m", state)?;
                v.load("v", state)?;
                *t = state.u64("t")?;
            }
            Kind::Adafactor { second, first } => {
                second.load(state)?;
                if let Some(first) = first {
                    *first = state.tensor("first", first.dims(), &first.device())?;
                }
            }
            Kind::Sgd => {}
        }
        Ok(())
    }
}

fn adam_of(config: MatrixOptimizer) -> AdamConfig {
    match config {
        MatrixOptimizer::Adam(adam) => adam,
        MatrixOptimizer::Adam8bit(eight) => eight.adam,
        MatrixOptimizer::Adafactor(_) | MatrixOptimizer::Sgd => AdamConfig::default(),
    }
}

fn host(tensor: &Tensor<2>, name: &str) -> Result<Vec<f32>, StateError> {
    tensor.try_to_vec_as().map_err(|error| StateError::Unreadable { name: name.to_owned(), why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;
    use crate::{random::Rng, vectors::flat};

    fn all() -> Vec<MatrixOptimizer> {
        vec![
            MatrixOptimizer::default(),
            MatrixOptimizer::Adam8bit(Adam8bitConfig { block_size: 16, min_size: 0, ..Adam8bitConfig::default() }),
            MatrixOptimizer::Adafactor(AdafactorConfig::default()),
            MatrixOptimizer::Adafactor(AdafactorConfig { beta1: 0.0, ..AdafactorConfig::default() }),
            MatrixOptimizer::Sgd,
        ]
    }

    fn gradient(seed: u64) -> Tensor<2> {
        Tensor::from_data(TensorData::new(Rng::new(seed).normal(24, 1.0), [4, 6]), &Device::flex())
    }

    #[test]
    fn a_state_saved_and_loaded_goes_on_bit_for_bit() {
        for config in all() {
            let mut one = MatrixState::new(config, [4, 6], &Device::flex(), DType::F32);
            for seed in 0..3 {
                let _ = one.direction(gradient(seed), 0.1).unwrap();
            }
            let saved = one.save().unwrap();
            let mut two = MatrixState::new(config, [4, 6], &Device::flex(), DType::F32);
            two.load(&saved).unwrap();
            assert_eq!(two.save().unwrap(), saved);
            let (a, b) = (one.direction(gradient(9), 0.1).unwrap(), two.direction(gradient(9), 0.1).unwrap());
            assert_eq!((flat(&a.tensor), a.factor), (flat(&b.tensor), b.factor), "{config:?}");
        }
    }

    #[test]
    fn eight_bits_follow_full_moments_at_a_quarter_of_the_bytes() {
        let [full, eight] = [all()[0], all()[1]].map(|config| {
            let mut state = MatrixState::new(config, [4, 6], &Device::flex(), DType::F32);
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
        let config = MatrixOptimizer::Adam8bit(Adam8bitConfig::default());
        let state = MatrixState::new(config, [4, 6], &Device::flex(), DType::F32);
        assert_eq!(state.bytes(), 2 * 24 * 4);
    }

    #[test]
    fn clearing_makes_the_next_step_a_first_one_but_for_the_count() {
        let mut state = MatrixState::new(all()[0], [4, 6], &Device::flex(), DType::F32);
        let _ = state.direction(gradient(1), 0.1).unwrap();
        state.clear();
        let cleared = state.direction(gradient(2), 0.1).unwrap();
        let mut fresh = MatrixState::new(all()[0], [4, 6], &Device::flex(), DType::F32);
        let first = fresh.direction(gradient(2), 0.1).unwrap();
        assert_eq!(flat(&cleared.tensor), flat(&first.tensor));
        assert!(cleared.factor < first.factor);
    }
}
