//! GaLore: the gradient is projected to a low-rank subspace before the optimiser sees it (Zhao et al. 2024).
//!
//! The weight stays dense and is trained whole; moments live in the subspace. Per step: `R = down(G)`, an optimiser step
//! on R gives `N`, `W -= lr * scale * up(N)`, then decoupled weight decay with the plain learning rate. The basis is the
//! top-r singular basis of the gradient at steps 1, T+1, 2T+1, ...; the moments are kept across a change of basis.

use burn::tensor::{DType, Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::projection::{Projection, ProjectionConfig, Refresh};
use crate::{
    linalg::svd::LinalgError,
    optim::{
        adam::decay,
        matrix::{MatrixOptimizer, MatrixState},
        state::{SavedState, StateError},
    },
};

/// GaLore's own parameters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GaloreConfig {
    /// The projection.
    pub projection: ProjectionConfig,
    /// What a projected update is multiplied by (alpha of the paper); not divided by the rank.
    pub scale: f64,
    /// The optimiser inside the subspace.
    pub optimizer: MatrixOptimizer,
}

impl Default for GaloreConfig {
    fn default() -> Self {
        Self { projection: ProjectionConfig::default(), scale: 0.25, optimizer: MatrixOptimizer::default() }
    }
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
    device: Device,
}

impl Galore {
    /// For a weight `[m, n]` in torch layout; `seed` belongs to this matrix.
    #[must_use]
    pub fn new(config: GaloreConfig, shape: [usize; 2], device: &Device, dtype: DType, seed: u64) -> Self {
        let projection = Projection::new(config.projection, shape, seed);
        let optimizer = MatrixState::new(config.optimizer, projection.projected(), device, dtype);
        Self { config, projection, optimizer, device: device.clone() }
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
    ) -> Result<(Tensor<2>, StepReport), StateError> {
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

    /// Everything that the next step depends on.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn save(&self) -> Result<SavedState, StateError> {
        let mut state = SavedState::default();
        self.projection.save(&mut state)?;
        state.put_all("optimizer.", self.optimizer.save()?);
        Ok(state)
    }

    /// Takes up a saved state.
    ///
    /// # Errors
    /// When an entry is missing or shaped otherwise.
    pub fn load(&mut self, state: &SavedState) -> Result<(), StateError> {
        self.projection.load(state, &self.device)?;
        self.optimizer.load(&state.scope("optimizer."))
    }
}

#[cfg(test)]
#[path = "galore_tests.rs"]
mod tests;
