//! GaLore: the gradient is projected to a low-rank subspace before the optimiser sees it (Zhao et al. 2024).
//!
//! The weight stays dense and is trained whole; moments live in the subspace. Per step: `R = down(G)`, an optimiser step
//! on R gives `N`, `W -= lr * scale * up(N)`, then decoupled weight decay with the plain learning rate. The basis is the
//! top-r singular basis of the gradient at steps 1, T+1, 2T+1, ...; the moments are kept across a change of basis.

use burn::tensor::{DType, Device, Tensor};
use sepia_engine::stage::StageError;

use super::projection::{Projection, ProjectionConfig, Refresh};
use crate::{
    linalg::svd::LinalgError,
    optim::{MatrixOptimizer, MatrixState, decay},
    train::State,
};

/// GaLore's own parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GaloreConfig {
    /// The projection.
    pub projection: ProjectionConfig,
    /// What a projected update is multiplied by (alpha of the paper); not divided by the rank.
    pub scale: f64,
    /// The optimiser inside the subspace.
    pub optimizer: MatrixOptimizer,
}

/// What happened at one step of one matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// What became of the basis.
    pub refresh: Refresh,
    /// Set when the step was left out: weight, moments and basis are as before.
    pub skipped: Option<LinalgError>,
}

/// One matrix under GaLore.
#[derive(Debug, Clone)]
pub struct Galore {
    config: GaloreConfig,
    projection: Projection,
    optimizer: MatrixState,
}

impl Galore {
    /// For a weight `[m, n]` in torch layout; `seed` belongs to this matrix.
    #[must_use]
    pub fn new(config: GaloreConfig, shape: [usize; 2], device: &Device, dtype: DType, seed: u64) -> Self {
        let projection = Projection::new(config.projection, shape, seed);
        let optimizer = MatrixState::new(config.optimizer, projection.projected(), device, dtype);
        Self { config, projection, optimizer }
    }

    /// The projection.
    #[must_use]
    pub fn projection(&self) -> &Projection {
        &self.projection
    }

    /// The updated weight `[m, n]`. The gradient is the accumulated and clipped one.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn step(
        &mut self,
        weight: Tensor<2>,
        gradient: &Tensor<2>,
        lr: f64,
    ) -> Result<(Tensor<2>, StepReport), StageError> {
        let refresh = match self.projection.refresh(gradient) {
            Ok(refresh) => refresh,
            Err(error) => return Ok((weight, StepReport { refresh: Refresh::NotDue, skipped: Some(error) })),
        };
        if self.projection.clears_moments(&refresh) {
            self.optimizer.clear();
        }
        let direction = self.optimizer.direction(self.projection.down(gradient), lr)?;
        self.projection.advance();
        // Scaled before it goes up: the projected side is the smaller one.
        let update = self.projection.up(direction.tensor.mul_scalar(direction.factor * self.config.scale));
        let weight = decay(weight.sub(update), lr, self.config.optimizer.weight_decay());
        Ok((weight, StepReport { refresh, skipped: None }))
    }

    /// Numbers held: moments and basis.
    #[must_use]
    pub fn state_floats(&self) -> usize {
        self.optimizer.floats() + self.projection.floats()
    }

    /// Bytes held by moments and basis.
    #[must_use]
    pub fn state_bytes(&self) -> usize {
        self.optimizer.bytes() + self.projection.bytes()
    }

    /// Adds everything that the next step depends on to a saved state.
    pub fn save(&self, at: &str, state: &mut State) {
        self.projection.save(at, state);
        self.optimizer.save(at, state);
    }

    /// Takes up a saved state.
    ///
    /// # Errors
    /// When an entry is missing.
    pub fn load(&mut self, at: &str, state: &mut State) -> Result<(), StageError> {
        self.projection.load(at, state)?;
        self.optimizer.load(at, state)
    }
}

#[cfg(test)]
#[path = "galore_tests.rs"]
mod tests;
