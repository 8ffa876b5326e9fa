//! Stable ranks during training: cheap enough for every epoch.
//!
//! `||W||_F^2 / ||W||_2^2` needs the largest singular value alone. It comes from a power iteration on the smaller of
//! `W W^T` and `W^T W`, whose vector is kept from one measurement to the next: weights move little between epochs, so a
//! few products are enough. No singular value decomposition is made.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;
use sepia_engine::stage::{StageError, derive_seed};

use crate::{random::Rng, train::State};

/// Products at most for one measurement.
const MAX_ITERATIONS: usize = 100;
/// The iteration ends when the squared singular value moves by less than this part of it.
const TOLERANCE: f64 = 1e-7;

/// Stable ranks of named matrices, with the vectors of their power iterations.
#[derive(Debug, Clone, Default)]
pub struct StableRanks {
    vectors: BTreeMap<String, Vec<f64>>,
}

impl StableRanks {
    /// The stable rank of a matrix `[m, n]`; 0 for a zero matrix.
    ///
    /// # Errors
    /// When it cannot be read from its device, or holds NaN or infinity.
    pub fn measure(&mut self, name: &str, matrix: &Tensor<2>) -> Result<f64, StageError> {
        let [m, n] = matrix.dims();
        let data = matrix.to_data().convert::<f32>();
        let values = data.as_slice::<f32>().map_err(|error| StageError::new(format!("`{name}`: {error}")))?;
        let side = m.min(n);
        let squares: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
        if !squares.is_finite() {
            return Err(StageError::new(format!("`{name}` holds NaN or infinity: training has diverged")));
        }
        if squares == 0.0 {
            return Ok(0.0);
        }
        let start = self.vectors.remove(name).filter(|vector| vector.len() == side);
        let mut vector = start.unwrap_or_else(|| {
            let drawn = Rng::new(derive_seed(0, name, 0)).normal(side, 1.0);
            drawn.into_iter().map(f64::from).collect()
        });
        let mut top = 0.0;
        for _ in 0..MAX_ITERATIONS {
            normalise(&mut vector);
            let next = if m <= n { over_rows(values, [m, n], &vector) } else { over_columns(values, [m, n], &vector) };
            // The Rayleigh quotient's square is the sharper estimate: |A v|^2 = v A A v for a unit v.
            let norm = next.iter().map(|value| value * value).sum::<f64>().sqrt();
            let moved = (norm - top).abs();
            (top, vector) = (norm, next);
            if moved <= TOLERANCE * top {
                break;
            }
        }
        normalise(&mut vector);
        self.vectors.insert(name.to_owned(), vector);
        Ok(if top > 0.0 { squares / top } else { 0.0 })
    }

    /// Adds the vectors to a checkpoint.
    pub fn save(&self, state: &mut State) {
        for (name, vector) in &self.vectors {
            state.put_data(&format!("stable rank/{name}"), TensorData::new(vector.clone(), [vector.len()]));
        }
    }

    /// Takes back what [`save`](Self::save) saved.
    ///
    /// # Errors
    /// When a vector is damaged.
    pub fn load(&mut self, state: &mut State) -> Result<(), StageError> {
        for name in state.names("stable rank/") {
            let data = state.take_data(&format!("stable rank/{name}"))?;
            let vector = data.as_slice::<f64>().map_err(|error| StageError::new(format!("`{name}`: {error}")))?;
            self.vectors.insert(name, vector.to_vec());
        }
        Ok(())
    }
}

fn normalise(vector: &mut [f64]) {
    let norm = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|value| *value /= norm);
    }
}

/// `W W^T v` for `v` `[m]`.
fn over_rows(values: &[f32], [m, n]: [usize; 2], vector: &[f64]) -> Vec<f64> {
    let inner = transposed_product(values, n, vector);
    product(values, [m, n], &inner)
}

/// `W^T W v` for `v` `[n]`.
fn over_columns(values: &[f32], [m, n]: [usize; 2], vector: &[f64]) -> Vec<f64> {
    let inner = product(values, [m, n], vector);
    transposed_product(values, n, &inner)
}

/// `W v`.
fn product(values: &[f32], [_, n]: [usize; 2], vector: &[f64]) -> Vec<f64> {
    let row = |row: &[f32]| row.iter().zip(vector).map(|(w, v)| f64::from(*w) * v).sum();
    values.par_chunks_exact(n.max(1)).map(row).collect()
}

/// `W^T v`: rows in blocks of a fixed size, whose sums are added in their order.
fn transposed_product(values: &[f32], n: usize, vector: &[f64]) -> Vec<f64> {
    const ROWS: usize = 64;
    let blocks: Vec<Vec<f64>> = values
        .par_chunks(n.max(1) * ROWS)
        .zip(vector.par_chunks(ROWS))
        .map(|(rows, vector)| {
            let mut sum = vec![0.0; n];
            for (row, factor) in rows.chunks_exact(n.max(1)).zip(vector) {
                for (sum, w) in sum.iter_mut().zip(row) {
                    *sum += f64::from(*w) * factor;
                }
            }
            sum
        })
        .collect();
    blocks.into_iter().fold(vec![0.0; n], |mut total, block| {
        total.iter_mut().zip(block).for_each(|(total, value)| *total += value);
        total
    })
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;

    use super::*;
    use crate::{
        linalg::{host::to_host, svd::singular_values},
        metric::rank::Spectrum,
        testing::test_device,
        vectors::{assert_near, tensor, vector},
    };

    #[test]
    fn vectors_stable_rank() {
        for id in ["rank_diag421", "rank_3x4", "rank_deficient", "rank_identity"] {
            let vector = vector(id);
            let found = StableRanks::default().measure("w", &tensor(&vector.input("W"), DType::F32)).unwrap();
            assert_near(found, vector.expected("stable_rank"), 1e-6);
        }
    }

    #[test]
    fn a_warm_start_agrees_with_the_exact_value_and_survives_a_checkpoint() {
        let device = test_device();
        let random = |seed, std| {
            let values = Rng::new(seed).normal(24 * 60, std);
            Tensor::<2>::from_data(TensorData::new(values, [24, 60]), &device)
        };
        let mut ranks = StableRanks::default();
        let mut weight = random(1, 1.0);
        for epoch in 0..4 {
            let s = singular_values(to_host(&weight).unwrap().as_ref()).unwrap();
            let exact = Spectrum::new(&s, 0.0).stable_rank();
            for weight in [weight.clone(), weight.clone().transpose()] {
                assert_near(ranks.measure("w", &weight).unwrap(), exact, 1e-3);
            }
            weight = weight + random(epoch + 2, 0.1);
        }
        let mut state = State::new(&device);
        ranks.save(&mut state);
        let mut read = StableRanks::default();
        read.load(&mut state).unwrap();
        assert_eq!(read.measure("w", &weight).unwrap(), ranks.measure("w", &weight).unwrap());
        assert_eq!(StableRanks::default().measure("w", &weight.zeros_like()).unwrap(), 0.0);
        let bad = Tensor::<2>::from_floats([[f32::NAN]], &device);
        assert!(StableRanks::default().measure("w", &bad).is_err());
    }
}
