//! Fira: GaLore plus the part of the gradient that GaLore discards, scaled by what Adam did to the kept part (Chen et al.
//! 2024).
//!
//! The paper and its public code differ, and both are offered:
//!
//! - [`Variant::Repo`] (default: the published figures were presumably made with it): the residual is
//!   `(I - scale * P P^T) G`, it is scaled by norms without bias correction, and it moves the weight with the full
//!   learning rate, not `scale * lr`.
//! - [`Variant::Paper`]: the residual is `(I - P P^T) G`, norms include the bias correction, and `scale` multiplies both
//!   parts.
//!
//! Either way a limiter lets the norm of the scaled residual grow by at most a factor gamma a step. If the first residual
//! is zero (a layer above starts at zero), the public limiter then throttles for over a thousand steps; the guard, on by
//! default, does not store norms below 1e-12.

use burn::tensor::{DType, Device, Tensor};
use schemars::JsonSchema;
use sepia_engine::stage::{Check, StageError};
use serde::{Deserialize, Serialize};

use super::{
    Matrix, MatrixCost, MethodParams, MethodSetup, check_positive,
    per_matrix::{MatrixMethod, PerMatrix},
    projection::{MomentsAtRefresh, ProjType, Projection, ProjectionConfig, Side, StepReport, predicted_sizes},
};
use crate::{
    linalg::subspace::SubspaceConfig,
    ops,
    train::{AdamHyper, AdamState, Method, State},
};

/// Guards the two divisions by norms.
const NORM_EPS: f64 = 1e-8;
/// Norms below this are not stored by the guarded limiter.
const GUARD: f64 = 1e-12;

/// Whose rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// As the public code computes.
    #[default]
    Repo,
    /// As the paper's algorithm says.
    Paper,
}

/// How finely the residual is scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// One factor per index of the long side.
    #[default]
    Column,
    /// One factor for the matrix ("Fira-matrix").
    Matrix,
}

/// The optimiser inside the subspace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FiraOptimizer {
    /// Adam; the form of eps is that of its flavour.
    Adam(AdamHyper),
    /// `v = 0.9 v + 0.1 R^2`, `N = R / (sqrt(v) + 1e-6)`; no bias correction, no weight decay.
    RmsProp,
}

/// Fira: GaLore plus the rest of the gradient, scaled by what the optimiser did to the projected part.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FiraParams {
    /// Dimension of the subspace; clamped to the shorter side of each matrix. The papers use a quarter of d_model.
    pub rank: usize,
    /// Updates between two bases (T).
    pub update_proj_gap: u64,
    /// What a projected update is multiplied by (alpha). The papers use 0.25 below 1B parameters and 0.0625 above.
    pub scale: f64,
    /// Which side of the gradient is projected.
    pub proj_type: ProjType,
    /// `repo`, as the public code computes (the published figures were presumably made with it), or `paper`.
    pub variant: Variant,
    /// How finely the residual is scaled.
    pub level: Level,
    /// By how much the residual's norm may grow an update.
    pub gamma: f64,
    /// Whether that growth is limited at all.
    pub limiter: bool,
    /// Whether a first residual of zero is kept from locking the limiter for a thousand updates, as it does in the public
    /// code.
    pub zero_start_guard: bool,
    /// The optimiser inside the subspace. Embedding, head and norms have AdamW whatever is chosen here.
    pub optimizer: FiraInner,
    /// How the basis is computed.
    pub subspace: SubspaceConfig,
    /// What happens to the moments when the basis is renewed.
    pub moments_at_refresh: MomentsAtRefresh,
}

/// The optimiser inside the subspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FiraInner {
    /// Adam.
    #[default]
    Adam,
    /// RMSProp with decay 0.9, without bias correction and weight decay.
    RmsProp,
}

impl Default for FiraParams {
    fn default() -> Self {
        let ProjectionConfig { rank, update_proj_gap, proj_type, subspace, moments_at_refresh } =
            ProjectionConfig::default();
        Self {
            rank,
            update_proj_gap,
            scale: 0.25,
            proj_type,
            variant: Variant::Repo,
            level: Level::Column,
            gamma: 1.01,
            limiter: true,
            zero_start_guard: true,
            optimizer: FiraInner::Adam,
            subspace,
            moments_at_refresh,
        }
    }
}

impl FiraParams {
    fn config(&self, hyper: AdamHyper) -> FiraConfig {
        let Self { rank, update_proj_gap, proj_type, subspace, moments_at_refresh, .. } = *self;
        FiraConfig {
            projection: ProjectionConfig { rank, update_proj_gap, proj_type, subspace, moments_at_refresh },
            scale: self.scale,
            variant: self.variant,
            level: self.level,
            gamma: self.gamma,
            limiter: self.limiter,
            zero_start_guard: self.zero_start_guard,
            optimizer: match self.optimizer {
                FiraInner::Adam => FiraOptimizer::Adam(hyper),
                FiraInner::RmsProp => FiraOptimizer::RmsProp,
            },
        }
    }
}

impl MethodParams for FiraParams {
    const STAGE: &'static str = "fira";
    const SOURCE: &'static str = r#"Chen et al. 2024, "Fira: Can We Achieve Full-rank Training of LLMs Under Low-rank Constraint?", arXiv 2410.01623"#;

    fn check(&self, at: &str, check: &mut Check<'_>) {
        self.config(AdamHyper::default()).projection.check(at, check);
        check_positive(self.scale, "scale", at, check);
        if !(self.gamma.is_finite() && self.gamma >= 1.0) {
            check.problem(format!("{at}.gamma"), format!("`gamma` is {}, but must be at least 1", self.gamma), "");
        }
        if self.proj_type == ProjType::Full && self.level == Level::Column {
            let message = "with proj_type = \"full\" no side of the gradient is left to scale column by column";
            check.problem(format!("{at}.level"), message, "write level = \"matrix\"");
        }
    }

    fn build(&self, setup: &MethodSetup) -> Box<dyn Method> {
        Box::new(PerMatrix::<Fira>::new(self.config(setup.hyper), setup))
    }

    /// Besides GaLore's state, the norm that limits the next one, which is always f32: 1 % of growth is less than bf16
    /// can tell.
    fn cost(&self, matrix: Matrix) -> Option<MatrixCost> {
        let (projected, basis) = predicted_sizes(self.config(AdamHyper::default()).projection, matrix.shape);
        let [a, b] = projected;
        let moments = if self.optimizer == FiraInner::Adam { 2 * a * b } else { a * b };
        Some(matrix.dense((moments + basis) as u64 * matrix.float + 4))
    }
}

/// What [`Fira`] is made from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FiraConfig {
    /// The projection.
    pub projection: ProjectionConfig,
    /// What a projected update is multiplied by.
    pub scale: f64,
    /// Whose rule.
    pub variant: Variant,
    /// How finely the residual is scaled.
    pub level: Level,
    /// By how much the residual's norm may grow a step.
    pub gamma: f64,
    /// Whether the limiter runs at all.
    pub limiter: bool,
    /// Whether a zero norm is kept from locking the limiter.
    pub zero_start_guard: bool,
    /// The optimiser inside the subspace.
    pub optimizer: FiraOptimizer,
}

/// Bounds the growth of the residual's norm. Everything stays on the device.
#[derive(Debug, Clone)]
pub struct Limiter {
    gamma: f64,
    guarded: bool,
    /// The last limited norm, `[1, 1]`; negative before the first.
    previous: Tensor<2>,
}

impl Limiter {
    /// Before the first step.
    #[must_use]
    pub fn new(gamma: f64, guarded: bool, device: &Device, dtype: DType) -> Self {
        Self { gamma, guarded, previous: Tensor::full([1, 1], -1.0, (device, dtype)) }
    }

    /// What a residual of this norm `[1, 1]` must be divided by: `max(norm / previous, gamma) / gamma`, 1 at first. The
    /// limited norm is remembered.
    #[must_use]
    pub fn divisor(&mut self, norm: Tensor<2>) -> Tensor<2> {
        let first = self.previous.clone().lower_elem(0.0);
        let growth = norm.clone().div(self.previous.clone().add_scalar(NORM_EPS));
        let divisor = growth.clamp_min(self.gamma).div_scalar(self.gamma).mask_fill(first, 1.0);
        let stored = norm.clone().div(divisor.clone());
        self.previous = if self.guarded {
            let keep = norm.lower_elem(GUARD);
            stored.mask_where(keep, self.previous.clone())
        } else {
            stored
        };
        divisor
    }
}

#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "one per matrix, and never moved about")]
enum Moments {
    Adam(AdamHyper, AdamState),
    RmsProp(Tensor<2>),
}

impl Moments {
    fn clear(&mut self) {
        match self {
            Self::Adam(_, state) => {
                state.m.inplace(|m| m.zeros_like());
                state.v.inplace(|v| v.zeros_like());
            }
            Self::RmsProp(second) => second.inplace(|v| v.zeros_like()),
        }
    }
}

/// One matrix under Fira.
#[derive(Debug, Clone)]
pub struct Fira {
    config: FiraConfig,
    projection: Projection,
    moments: Moments,
    limiter: Limiter,
}

impl Fira {
    /// The projection.
    #[must_use]
    pub fn projection(&self) -> &Projection {
        &self.projection
    }

    /// The direction, what it is multiplied by, and the weight decay.
    fn normalise(&mut self, r: &Tensor<2>) -> (Tensor<2>, f64, f64) {
        match &mut self.moments {
            Moments::Adam(adam, state) => {
                let (n, correction) = state.direction(r.clone().reshape([-1]), adam);
                (n.reshape(r.dims()), correction, adam.weight_decay)
            }
            Moments::RmsProp(second) => {
                let dtype = second.dtype();
                let squared = r.clone().square().mul_scalar(0.1);
                second.inplace(|v| ops::held(ops::widened(v).mul_scalar(0.9).add(squared), dtype));
                (r.clone().div(ops::widened(second.clone()).sqrt().add_scalar(1e-6)), 1.0, 0.0)
            }
        }
    }

    /// `phi`: by how much the optimiser scaled each column of the long side (or the matrix), to be broadcast over `G`.
    fn factors(&self, n: &Tensor<2>, r: &Tensor<2>, [rows, cols]: [usize; 2]) -> Tensor<2> {
        let side = self.projection.side();
        if self.config.level == Level::Matrix || side == Side::Both {
            return norm(n).div(norm(r).add_scalar(NORM_EPS));
        }
        // The public code takes the longer side of R, a tie per row; only a square R as large as G can tie on the left.
        let tie = rows == cols && [rows, cols] == r.dims();
        let dim = usize::from(side == Side::Right || tie);
        let norms = |tensor: &Tensor<2>| tensor.clone().square().sum_dim(dim).sqrt();
        norms(n).div(norms(r).add_scalar(NORM_EPS))
    }
}

impl MatrixMethod for Fira {
    type Config = FiraConfig;

    /// With `proj_type = "full"` the residual has no long side left, so the level is `matrix` there.
    fn new(config: FiraConfig, shape: [usize; 2], device: &Device, dtype: DType, seed: u64) -> Self {
        let projection = Projection::new(config.projection, shape, dtype, seed);
        let shape = projection.projected();
        let moments = match config.optimizer {
            FiraOptimizer::Adam(adam) => {
                Moments::Adam(adam, AdamState::new(&Tensor::zeros([shape[0] * shape[1]], (device, dtype))))
            }
            FiraOptimizer::RmsProp => Moments::RmsProp(Tensor::zeros(shape, (device, dtype))),
        };
        let wide = if ops::is_half(dtype) { DType::F32 } else { dtype };
        let limiter = Limiter::new(config.gamma, config.zero_start_guard, device, wide);
        Self { config, projection, moments, limiter }
    }

    fn step(
        &mut self,
        weight: Tensor<2>,
        gradient: &Tensor<2>,
        lr: f64,
    ) -> Result<(Tensor<2>, StepReport), StageError> {
        let refresh = match self.projection.begin(gradient, || self.moments.clear()) {
            Ok(refresh) => refresh,
            Err(report) => return Ok((weight, report)),
        };
        let r = self.projection.down(gradient);
        let (n, correction, weight_decay) = self.normalise(&r);
        self.projection.advance();
        let scale = self.config.scale;
        // The share of the kept part that the residual lacks, and the rates of both parts.
        let (n, share, rate_kept, rate_residual) = match self.config.variant {
            Variant::Repo => (n, scale, lr * correction * scale, lr * correction),
            Variant::Paper => (n.mul_scalar(correction), 1.0, lr * scale, lr * scale),
        };
        let phi = self.factors(&n, &r, gradient.dims());
        let (residual, norm) = ops::residual(gradient, self.projection.up(r), share, phi);
        let divisor = self.config.limiter.then(|| self.limiter.divisor(norm));
        let kept = (self.projection.up(n), rate_kept);
        let weight = ops::subtract_two(weight, kept, (residual, divisor, rate_residual), 1.0 - lr * weight_decay);
        Ok((weight, StepReport { refresh, skipped: None }))
    }

    fn floats(&self) -> usize {
        // One more for the limiter's norm.
        let moments = match &self.moments {
            Moments::Adam(_, state) => state.m.shape().num_elements() + state.v.shape().num_elements(),
            Moments::RmsProp(second) => second.shape().num_elements(),
        };
        moments + self.projection.floats() + 1
    }

    fn bytes(&self) -> usize {
        let moments = match &self.moments {
            Moments::Adam(_, state) => state.bytes() as usize,
            Moments::RmsProp(second) => second.shape().num_elements() * second.dtype().size(),
        };
        moments + self.projection.bytes() + self.limiter.previous.dtype().size()
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
        match &self.moments {
            Moments::Adam(_, adam) => {
                state.put_tensor(&format!("{at}/m"), adam.m.clone());
                state.put_tensor(&format!("{at}/v"), adam.v.clone());
                state.put_count(&format!("{at}/t"), adam.t);
            }
            Moments::RmsProp(second) => state.put_tensor(&format!("{at}/v"), second.clone()),
        }
        state.put_tensor(&format!("{at}/limiter"), self.limiter.previous.clone());
    }

    fn load(&mut self, at: &str, state: &mut State) -> Result<(), StageError> {
        self.projection.load(at, state)?;
        match &mut self.moments {
            Moments::Adam(_, adam) => {
                adam.m = state.take_tensor(&format!("{at}/m"))?;
                adam.v = state.take_tensor(&format!("{at}/v"))?;
                adam.t = state.count(&format!("{at}/t"))?;
            }
            Moments::RmsProp(second) => *second = state.take_tensor(&format!("{at}/v"))?,
        }
        self.limiter.previous = state.take_tensor(&format!("{at}/limiter"))?;
        Ok(())
    }
}

/// Frobenius norm, `[1, 1]`.
fn norm(tensor: &Tensor<2>) -> Tensor<2> {
    ops::total(tensor.clone().square()).sqrt().reshape([1, 1])
}

#[cfg(test)]
#[path = "fira_tests.rs"]
mod tests;
