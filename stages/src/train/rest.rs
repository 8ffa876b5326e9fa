//! What trains the parameters that no method targets: embedding, head and norms.

use std::collections::BTreeMap;

use burn::tensor::{DType, Tensor};
use sepia_engine::stage::StageError;

use super::{AdamHyper, Moments, State};
use crate::{
    ops,
    optim::{MatrixOptimizer, MatrixState},
};

/// AdamW, or what the method names instead.
#[derive(Debug)]
pub enum Rest {
    /// AdamW, changed in place.
    AdamW(Moments),
    /// Another optimiser, what its state is held in, and one for each parameter.
    Other(MatrixOptimizer, DType, BTreeMap<String, MatrixState>),
}

impl Rest {
    /// Without state yet, which will be held in `dtype`. `other` is what the method names.
    #[must_use]
    pub fn new(hyper: AdamHyper, other: Option<MatrixOptimizer>, dtype: DType) -> Self {
        match other {
            None => Self::AdamW(Moments::new(hyper, dtype)),
            Some(optimizer) => Self::Other(optimizer, dtype, BTreeMap::new()),
        }
    }

    /// One update of the parameter at `path`, of any shape and in f32; a vector counts as a matrix of one row.
    ///
    /// # Errors
    /// When a device cannot be read.
    pub fn step<const D: usize>(
        &mut self,
        path: &str,
        param: Tensor<D>,
        grad: Tensor<D>,
        lr: f64,
    ) -> Result<Tensor<D>, StageError> {
        match self {
            Self::AdamW(moments) => Ok(moments.step(path, param, grad, lr)),
            Self::Other(optimizer, dtype, states) => {
                let shape = param.dims();
                let columns = shape[D - 1].max(1);
                let matrix = [shape.iter().product::<usize>() / columns, columns];
                let device = grad.device();
                let state = states
                    .entry(path.to_owned())
                    .or_insert_with(|| MatrixState::new(*optimizer, matrix, &device, *dtype));
                let direction = state.direction(grad.reshape(matrix), lr)?;
                let keep = 1.0 - lr * optimizer.weight_decay();
                let param = ops::subtract(param.reshape(matrix), direction.tensor, direction.factor, keep);
                Ok(param.reshape(shape))
            }
        }
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::AdamW(moments) => moments.bytes(),
            Self::Other(_, _, states) => states.values().map(|state| state.bytes() as u64).sum(),
        }
    }

    /// Saves everything that later updates depend on.
    pub fn save(&self, state: &mut State) {
        match self {
            Self::AdamW(moments) => moments.save("rest", state),
            Self::Other(_, _, states) => {
                for (path, matrix) in states {
                    let [rows, columns] = matrix.shape();
                    state.put_count(&format!("rest/rows/{path}"), rows as u64);
                    state.put_count(&format!("rest/columns/{path}"), columns as u64);
                    matrix.save(&format!("rest/state/{path}"), state);
                }
            }
        }
    }

    /// Takes back what [`save`](Self::save) saved.
    ///
    /// # Errors
    /// When a part is missing.
    pub fn load(&mut self, state: &mut State) -> Result<(), StageError> {
        match self {
            Self::AdamW(moments) => moments.load("rest", state),
            Self::Other(optimizer, dtype, states) => {
                states.clear();
                for path in state.count_names("rest/rows/") {
                    let side = |name: &str| state.count(&format!("rest/{name}/{path}")).map(|side| side as usize);
                    let shape = [side("rows")?, side("columns")?];
                    let mut matrix = MatrixState::new(*optimizer, shape, state.device(), *dtype);
                    matrix.load(&format!("rest/state/{path}"), state)?;
                    states.insert(path, matrix);
                }
                Ok(())
            }
        }
    }
}
