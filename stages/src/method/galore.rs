//! GaLore: the gradient is projected to a low-rank subspace before the optimiser sees it (Zhao et al. 2024).
//!
//! The weight stays dense and is trained whole; moments live in the subspace. Per step: `R = down(G)`, an optimiser step
//! on R gives `N`, `W -= lr * scale * up(N)`, then decoupled weight decay with the plain learning rate. The basis is the
//! top-r singular basis of the gradient at steps 1, T+1, 2T+1, ...; the moments are kept across a change of basis.

use burn::tensor::{DType, Device, Tensor};
use schemars::JsonSchema;
use sepia_engine::stage::{Check, StageError};
use serde::{Deserialize, Serialize};

use super::{
    Matrix, MatrixCost, MethodParams, MethodSetup, check_positive,
    per_matrix::{MatrixMethod, PerMatrix},
    projection::{MomentsAtRefresh, ProjType, Projection, ProjectionConfig, StepReport, predicted_sizes},
};
use crate::{
    linalg::subspace::SubspaceConfig,
    ops,
    optim::{AdafactorConfig, EightBit, MatrixOptimizer, MatrixState},
    train::{AdamHyper, Method, State},
};

/// GaLore: every gradient of an attention or MLP matrix is projected to a low-rank subspace before the optimiser sees it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GaloreParams {
    /// Dimension of the subspace; clamped to the shorter side of each matrix. The papers use a quarter of d_model.
    pub rank: usize,
    /// Updates between two bases (T).
    pub update_proj_gap: u64,
    /// What a projected update is multiplied by (alpha); not divided by the rank. The papers use 0.25.
    pub scale: f64,
    /// Which side of the gradient is projected.
    pub proj_type: ProjType,
    /// The optimiser inside the subspace.
    pub optimizer: InnerOptimizer,
    /// What trains embedding, head and norms.
    pub rest: RestOptimizer,
    /// How moments are stored with `optimizer = "adam8bit"`.
    pub eight_bit: EightBit,
    /// Constants of `optimizer = "adafactor"`.
    pub adafactor: AdafactorConfig,
    /// How the basis is computed.
    pub subspace: SubspaceConfig,
    /// What happens to the moments when the basis is renewed.
    pub moments_at_refresh: MomentsAtRefresh,
}

/// What trains embedding, head and norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RestOptimizer {
    /// AdamW, as for every other method: a comparison is then one of what is done to the matrices.
    #[default]
    AdamW,
    /// The `optimizer` chosen for the subspace, as in the public code; without projection and without `scale`.
    Same,
}

/// The optimiser inside the subspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InnerOptimizer {
    /// Adam.
    #[default]
    Adam,
    /// Adam with moments in 8 bits.
    Adam8bit,
    /// Adafactor.
    Adafactor,
    /// Plain gradient descent.
    Sgd,
}

impl Default for GaloreParams {
    fn default() -> Self {
        let ProjectionConfig { rank, update_proj_gap, proj_type, subspace, moments_at_refresh } =
            ProjectionConfig::default();
        Self {
            rank,
            update_proj_gap,
            scale: 0.25,
            proj_type,
            optimizer: InnerOptimizer::Adam,
            rest: RestOptimizer::AdamW,
            eight_bit: EightBit::default(),
            adafactor: AdafactorConfig::default(),
            subspace,
            moments_at_refresh,
        }
    }
}

impl GaloreParams {
    pub(super) fn config(&self, hyper: AdamHyper) -> GaloreConfig {
        let Self { rank, update_proj_gap, proj_type, subspace, moments_at_refresh, .. } = *self;
        GaloreConfig {
            projection: ProjectionConfig { rank, update_proj_gap, proj_type, subspace, moments_at_refresh },
            scale: self.scale,
            optimizer: match self.optimizer {
                InnerOptimizer::Adam => MatrixOptimizer::Adam(hyper),
                InnerOptimizer::Adam8bit => MatrixOptimizer::Adam8bit(hyper, self.eight_bit),
                InnerOptimizer::Adafactor => MatrixOptimizer::Adafactor(self.adafactor, hyper.weight_decay),
                InnerOptimizer::Sgd => MatrixOptimizer::Sgd,
            },
        }
    }
}

impl MethodParams for GaloreParams {
    const STAGE: &'static str = "galore";
    const SOURCE: &'static str = r#"Zhao et al. 2024, "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection", arXiv 2403.03507"#;

    fn check(&self, at: &str, check: &mut Check<'_>) {
        self.config(AdamHyper::default()).projection.check(at, check);
        check_positive(self.scale, "scale", at, check);
        if self.eight_bit.block_size == 0 {
            check.problem(format!("{at}.eight_bit.block_size"), "`block_size` must be at least 1", "256 is usual");
        }
    }

    fn build(&self, setup: &MethodSetup) -> Box<dyn Method> {
        let config = self.config(setup.hyper);
        let method = PerMatrix::<Galore>::new(config, setup);
        Box::new(match self.rest {
            RestOptimizer::AdamW => method,
            RestOptimizer::Same => method.with_rest(config.optimizer),
        })
    }

    fn cost(&self, matrix: Matrix) -> Option<MatrixCost> {
        let config = self.config(AdamHyper::default());
        let (projected, basis) = predicted_sizes(config.projection, matrix.shape);
        let state = config.optimizer.state_bytes(projected, matrix.float);
        Some(matrix.dense(state + basis as u64 * matrix.float))
    }
}

/// What [`Galore`] is made from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GaloreConfig {
    /// The projection.
    pub projection: ProjectionConfig,
    /// What a projected update is multiplied by.
    pub scale: f64,
    /// The optimiser inside the subspace.
    pub optimizer: MatrixOptimizer,
}

/// One matrix under GaLore.
#[derive(Debug, Clone)]
pub struct Galore {
    config: GaloreConfig,
    projection: Projection,
    optimizer: MatrixState,
}

impl Galore {
    /// The projection.
    #[must_use]
    pub fn projection(&self) -> &Projection {
        &self.projection
    }
}

impl MatrixMethod for Galore {
    type Config = GaloreConfig;

    fn new(config: GaloreConfig, shape: [usize; 2], device: &Device, dtype: DType, seed: u64) -> Self {
        let projection = Projection::new(config.projection, shape, dtype, seed);
        let optimizer = MatrixState::new(config.optimizer, projection.projected(), device, dtype);
        Self { config, projection, optimizer }
    }

    fn step(
        &mut self,
        weight: Tensor<2>,
        gradient: &Tensor<2>,
        lr: f64,
    ) -> Result<(Tensor<2>, StepReport), StageError> {
        let refresh = match self.projection.begin(gradient, || self.optimizer.clear()) {
            Ok(refresh) => refresh,
            Err(report) => return Ok((weight, report)),
        };
        let direction = self.optimizer.direction(self.projection.down(gradient), lr)?;
        self.projection.advance();
        let update = self.projection.up(direction.tensor);
        let keep = 1.0 - lr * self.config.optimizer.weight_decay();
        let weight = ops::subtract(weight, update, direction.factor * self.config.scale, keep);
        Ok((weight, StepReport { refresh, skipped: None }))
    }

    fn floats(&self) -> usize {
        self.optimizer.floats() + self.projection.floats()
    }

    fn bytes(&self) -> usize {
        self.optimizer.bytes() + self.projection.bytes()
    }

    fn projection_mut(&mut self) -> Option<&mut Projection> {
        Some(&mut self.projection)
    }

    fn reads_device(&self) -> bool {
        self.projection.is_due()
    }

    fn clamped(&self) -> Option<(usize, usize)> {
        self.projection.clamped_from().map(|asked| (asked, self.projection.rank()))
    }

    fn save(&self, at: &str, state: &mut State) {
        self.projection.save(at, state);
        self.optimizer.save(at, state);
    }

    fn load(&mut self, at: &str, state: &mut State) -> Result<(), StageError> {
        self.projection.load(at, state)?;
        self.optimizer.load(at, state)
    }
}

#[cfg(test)]
#[path = "galore_tests.rs"]
mod tests;
