//! What methods that treat each matrix by itself share: one state for each targeted matrix of the model.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Tensor};
use sepia_engine::stage::{StageError, derive_seed};

use super::{
    MethodSetup,
    projection::{Projection, Refresh, StepReport},
};
use crate::{
    model::Llama,
    ops::widened,
    optim::MatrixOptimizer,
    train::{Method, State, Target},
};

/// The state of one matrix under one method.
pub trait MatrixMethod: Send + Sized {
    /// What it is made from.
    type Config: Send + Copy;

    /// Before the first step of a weight `[m, n]` in torch layout; `seed` belongs to the matrix. The state is held in
    /// `dtype`; what it is computed with comes in f32 or f64.
    fn new(config: Self::Config, shape: [usize; 2], device: &Device, dtype: DType, seed: u64) -> Self;

    /// The updated weight `[m, n]`, and what is to be told of the step. The gradient is the accumulated and clipped one.
    ///
    /// # Errors
    /// When the device cannot be read.
    fn step(&mut self, weight: Tensor<2>, gradient: &Tensor<2>, lr: f64)
    -> Result<(Tensor<2>, StepReport), StageError>;

    /// Its projection of gradients, if it is one whose basis is found from them.
    fn projection_mut(&mut self) -> Option<&mut Projection> {
        None
    }

    /// Whether the next step will read something from the device.
    fn reads_device(&self) -> bool {
        false
    }

    /// Numbers held, whatever their width.
    fn floats(&self) -> usize;

    /// Bytes held.
    fn bytes(&self) -> usize;

    /// The rank that was asked for, where the matrix was too small for it, and the rank in use.
    fn clamped(&self) -> Option<(usize, usize)> {
        None
    }

    /// Adds its state to a saved one.
    fn save(&self, at: &str, state: &mut State);

    /// Takes up a saved state.
    ///
    /// # Errors
    /// When something is missing.
    fn load(&mut self, at: &str, state: &mut State) -> Result<(), StageError>;
}

/// A [`Method`] over a `MatrixMethod`.
pub struct PerMatrix<M: MatrixMethod> {
    config: M::Config,
    rest: Option<MatrixOptimizer>,
    setup: MethodSetup,
    matrices: BTreeMap<String, M>,
    captured: Vec<f64>,
    overlap: Vec<f64>,
    notes: Vec<String>,
}

impl<M: MatrixMethod> PerMatrix<M> {
    /// Without state yet.
    #[must_use]
    pub fn new(config: M::Config, setup: &MethodSetup) -> Self {
        Self {
            config,
            rest: None,
            setup: *setup,
            matrices: BTreeMap::new(),
            captured: Vec::new(),
            overlap: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// With another optimiser than AdamW for embedding, head and norms.
    #[must_use]
    pub fn with_rest(self, optimizer: MatrixOptimizer) -> Self {
        Self { rest: Some(optimizer), ..self }
    }

    fn take_in(&mut self, path: &str, report: StepReport) {
        match report.refresh {
            Refresh::NotDue => {}
            Refresh::New { captured, overlap } => {
                self.captured.push(captured);
                self.overlap.extend(overlap);
            }
            Refresh::Kept(error) => self.notes.push(format!("{path}: the old basis is kept, {error}")),
        }
        if let Some(error) = report.skipped {
            self.notes.push(format!("{path}: not updated, {error}"));
        }
    }
}

impl<M: MatrixMethod> Method for PerMatrix<M> {
    fn attach(&mut self, mut model: Llama) -> Result<Llama, StageError> {
        for (path, linear) in model.targets_mut() {
            let path = format!("{path}.weight");
            let (weight, seed) = (linear.weight.val(), derive_seed(self.setup.seed, &path, 0));
            let dtype = self.setup.state.dtype();
            let mut matrix = M::new(self.config, weight.dims(), &weight.inner().device(), dtype, seed);
            if let Some(projection) = matrix.projection_mut() {
                projection.set_products(self.setup.products);
            }
            if let Some((asked, used)) = matrix.clamped() {
                self.notes.push(format!("{path}: rank {asked} is above the shorter side; {used} is used"));
            }
            self.matrices.insert(path, matrix);
        }
        Ok(model)
    }

    fn prepare(&mut self, gradients: &BTreeMap<String, Tensor<1>>) {
        let projections = self.matrices.iter_mut().filter_map(|(path, matrix)| {
            let (projection, gradient) = (matrix.projection_mut()?, gradients.get(path)?);
            let shape = projection.shape();
            Some((projection, move || widened(gradient.clone()).reshape(shape)))
        });
        Projection::prepare(projections);
    }

    fn update(&mut self, target: Target<'_>, weight: Tensor<2>, grad: Tensor<2>) -> Result<Tensor<2>, StageError> {
        let matrix = self.matrices.get_mut(target.path);
        let matrix = matrix.ok_or_else(|| StageError::new(format!("the method has no state for {}", target.path)))?;
        let (weight, report) = matrix.step(weight, &grad, target.lr)?;
        self.take_in(target.path, report);
        Ok(weight)
    }

    fn rest(&self) -> Option<MatrixOptimizer> {
        self.rest
    }

    fn reads_device(&self) -> bool {
        self.matrices.values().any(M::reads_device)
    }

    fn state_bytes(&self) -> u64 {
        self.matrices.values().map(|matrix| matrix.bytes() as u64).sum()
    }

    fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Means over the matrices whose basis was renewed since the last call.
    fn figures(&mut self) -> Result<Vec<(&'static str, f64)>, StageError> {
        let mean = |values: Vec<f64>| {
            let count = values.len();
            (count > 0).then(|| values.into_iter().sum::<f64>() / count as f64)
        };
        let captured = mean(std::mem::take(&mut self.captured)).map(|value| ("captured_energy", value));
        let overlap = mean(std::mem::take(&mut self.overlap)).map(|value| ("subspace_overlap", value));
        Ok(captured.into_iter().chain(overlap).collect())
    }

    fn save(&self, state: &mut State) {
        for (path, matrix) in &self.matrices {
            matrix.save(&format!("method/{path}"), state);
        }
    }

    fn load(&mut self, state: &mut State) -> Result<(), StageError> {
        for (path, matrix) in &mut self.matrices {
            matrix.load(&format!("method/{path}"), state)?;
        }
        Ok(())
    }
}
