//! The gradient projection that GaLore and Fira share: which side, when the basis is renewed, down and up.
//!
//! Invariants: the side is decided once from the weight's shape and stored, never inferred from the shape of a projected
//! matrix; a basis is only ever replaced by a whole new one; the step count is what decides when, and it counts optimiser
//! steps that were taken, so accumulation, skipped steps and restarts do not shift it.

use burn::tensor::{DType, Tensor};
use schemars::JsonSchema;
use sepia_engine::stage::{Check, StageError, derive_seed};
use serde::{Deserialize, Serialize};

use super::check_rank;
use crate::{
    linalg::{
        subspace::{Dominant, SubspaceConfig, Wanted, at_once, dominant_of_all},
        svd::{LinalgError, Vectors},
    },
    ops::{Products, held, widened},
    train::State,
};

/// Which side of the gradient is projected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProjType {
    /// The short side: right when rows >= columns (square included), else left.
    #[default]
    Std,
    /// The long side: left when rows >= columns, else right.
    ReverseStd,
    /// Left singular vectors.
    Left,
    /// Right singular vectors.
    Right,
    /// Both sides: `R = P^T G Q`, rank x rank.
    Full,
}

/// The side that was decided for one matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// `R = P^T G`, `[r, n]`.
    Left,
    /// `R = G Q`, `[m, r]`.
    Right,
    /// `R = P^T G Q`, `[r, r]`.
    Both,
}

impl ProjType {
    /// The side for a weight `[m, n]` in torch layout.
    #[must_use]
    pub fn side(self, [m, n]: [usize; 2]) -> Side {
        match self {
            Self::Std if m >= n => Side::Right,
            Self::Std => Side::Left,
            Self::ReverseStd if m >= n => Side::Left,
            Self::ReverseStd => Side::Right,
            Self::Left => Side::Left,
            Self::Right => Side::Right,
            Self::Full => Side::Both,
        }
    }
}

/// What happens to the moments when the basis is renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MomentsAtRefresh {
    /// They are kept, in coordinates of the old basis, as the published code does.
    #[default]
    Keep,
    /// They start again from zero. Not in the papers.
    Reset,
}

/// How gradients are projected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProjectionConfig {
    /// Dimension of the subspace; clamped to the shorter side of each matrix.
    pub rank: usize,
    /// Steps between two bases.
    pub update_proj_gap: u64,
    /// Which side is projected.
    pub proj_type: ProjType,
    /// How the basis is computed.
    pub subspace: SubspaceConfig,
    /// What happens to the moments when the basis is renewed.
    pub moments_at_refresh: MomentsAtRefresh,
}

impl Default for ProjectionConfig {
    fn default() -> Self {
        Self {
            rank: 128,
            update_proj_gap: 200,
            proj_type: ProjType::Std,
            subspace: SubspaceConfig::default(),
            moments_at_refresh: MomentsAtRefresh::Keep,
        }
    }
}

impl ProjectionConfig {
    /// Reports what cannot work; `at` is the dotted path of the method.
    pub fn check(&self, at: &str, check: &mut Check<'_>) {
        check_rank(self.rank, at, check);
        if self.update_proj_gap == 0 {
            let help = "200 is usual; 50 to 1000 makes little difference";
            check.problem(format!("{at}.update_proj_gap"), "`update_proj_gap` must be at least 1", help);
        }
    }
}

/// What became of the basis at one step.
#[derive(Debug, Clone, PartialEq)]
pub enum Refresh {
    /// It was not time yet.
    NotDue,
    /// A new basis.
    New {
        /// Share of this gradient's energy inside it.
        captured: f64,
        /// `||P_old^T P_new||_F^2 / r`; none at the first step.
        overlap: Option<f64>,
    },
    /// The computation failed: the old basis stays, and the next step tries again.
    Kept(LinalgError),
}

/// What happened at one step of one matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// What became of the basis.
    pub refresh: Refresh,
    /// Set when the step was left out: weight, moments and basis are as before.
    pub skipped: Option<LinalgError>,
}

/// The projection of one matrix.
#[derive(Debug, Clone)]
pub struct Projection {
    config: ProjectionConfig,
    shape: [usize; 2],
    side: Side,
    rank: usize,
    seed: u64,
    /// What the basis is held in.
    dtype: DType,
    products: Products,
    t: u64,
    overdue: bool,
    /// What the next refresh finds done: see [`Projection::prepare`].
    prepared: Option<Result<Refresh, LinalgError>>,
    /// `P`, `[m, r]`, when the left side is projected.
    left: Option<Tensor<2>>,
    /// `Q`, `[n, r]`, when the right side is projected.
    right: Option<Tensor<2>>,
}

impl Projection {
    /// Without a basis yet, for a weight `[m, n]` in torch layout. `seed` belongs to this matrix. The basis is held in
    /// `dtype` if that has 16 bits, else as it is found; as in the public code it is found in f32 either way.
    #[must_use]
    pub fn new(config: ProjectionConfig, shape: [usize; 2], dtype: DType, seed: u64) -> Self {
        let side = config.proj_type.side(shape);
        let rank = config.rank.clamp(1, shape[0].min(shape[1]).max(1));
        let (products, prepared) = (Products::default(), None);
        Self {
            config,
            shape,
            side,
            rank,
            seed,
            dtype,
            products,
            t: 0,
            overdue: false,
            prepared,
            left: None,
            right: None,
        }
    }

    /// How exact the products with the basis shall be; exact where this is not said. How it is found is not changed by it.
    pub fn set_products(&mut self, products: Products) {
        self.products = products;
    }

    /// Shape of the matrix `[m, n]`.
    #[must_use]
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The side.
    #[must_use]
    pub fn side(&self) -> Side {
        self.side
    }

    /// The rank in use.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The rank asked for, where the matrix was too small for it.
    #[must_use]
    pub fn clamped_from(&self) -> Option<usize> {
        (self.rank < self.config.rank).then_some(self.config.rank)
    }

    /// Shape of a projected gradient.
    #[must_use]
    pub fn projected(&self) -> [usize; 2] {
        match self.side {
            Side::Left => [self.rank, self.shape[1]],
            Side::Right => [self.shape[0], self.rank],
            Side::Both => [self.rank, self.rank],
        }
    }

    /// Steps taken.
    #[must_use]
    pub fn t(&self) -> u64 {
        self.t
    }

    /// Whether moments shall be cleared after a refresh.
    #[must_use]
    pub fn clears_moments(&self, refresh: &Refresh) -> bool {
        let renewed = matches!(refresh, Refresh::New { overlap: Some(_), .. });
        renewed && self.config.moments_at_refresh == MomentsAtRefresh::Reset
    }

    /// Whether the next step renews the basis.
    #[must_use]
    pub fn is_due(&self) -> bool {
        let first = self.left.is_none() && self.right.is_none();
        first || self.overdue || self.t.is_multiple_of(self.config.update_proj_gap.max(1))
    }

    /// Renews the basis from this gradient where it is time: at steps 1, T+1, 2T+1, ...
    ///
    /// # Errors
    /// When there is no basis to fall back on, or the gradient holds NaN or infinity: the step must then be left out.
    pub fn refresh(&mut self, gradient: &Tensor<2>) -> Result<Refresh, LinalgError> {
        let first = self.left.is_none() && self.right.is_none();
        if !self.is_due() {
            return Ok(Refresh::NotDue);
        }
        if self.prepared.is_none() {
            Self::renew(&mut [(&mut *self, gradient.clone())]);
        }
        match self.prepared.take().unwrap_or(Ok(Refresh::NotDue)) {
            Ok(refresh) => {
                self.overdue = false;
                Ok(refresh)
            }
            Err(error @ LinalgError::NotFinite { .. }) => Err(error),
            Err(error) if first => Err(error),
            Err(error) => {
                self.overdue = true;
                Ok(Refresh::Kept(error))
            }
        }
    }

    /// Begins a step: [`refresh`](Self::refresh), and `clear` where moments shall begin anew.
    ///
    /// # Errors
    /// The report of a step that must be left out.
    pub fn begin(&mut self, gradient: &Tensor<2>, clear: impl FnOnce()) -> Result<Refresh, StepReport> {
        let refresh =
            self.refresh(gradient).map_err(|error| StepReport { refresh: Refresh::NotDue, skipped: Some(error) })?;
        if self.clears_moments(&refresh) {
            clear();
        }
        Ok(refresh)
    }

    /// Renews the bases of all these projections that are due, ahead of their next refresh, from the gradients that it will be
    /// given: several at once, for the host's share of the work is then done on several threads, and on a GPU matrices of one
    /// shape are stacked. On the CPU the bits are the same.
    pub fn prepare<'p>(all: impl Iterator<Item = (&'p mut Self, impl FnOnce() -> Tensor<2>)>) {
        let due: Vec<_> = all.filter(|(projection, _)| projection.is_due()).collect();
        let mut due = due.into_iter();
        while let Some((projection, gradient)) = due.next() {
            let gradient = gradient();
            let others = at_once(&gradient.device()).saturating_sub(1);
            let mut group = vec![(projection, gradient)];
            group.extend(due.by_ref().take(others).map(|(projection, gradient)| (projection, gradient())));
            Self::renew(&mut group);
        }
    }

    fn renew(group: &mut [(&mut Self, Tensor<2>)]) {
        let previous: Vec<Vec<Option<Tensor<2>>>> = group
            .iter()
            .map(|(projection, _)| projection.sides().map(|(_, _, old)| old.cloned().map(widened)).collect())
            .collect();
        let wanted: Vec<Wanted<'_>> = group
            .iter()
            .zip(&previous)
            .flat_map(|((projection, matrix), previous)| {
                projection.sides().zip(previous).map(|((side, purpose, _), previous)| Wanted {
                    matrix,
                    side,
                    r: projection.rank,
                    config: &projection.config.subspace,
                    previous: previous.as_ref(),
                    seed: derive_seed(projection.seed, purpose, projection.t),
                })
            })
            .collect();
        let mut found = dominant_of_all(&wanted).into_iter();
        for (projection, _) in group {
            let sides = projection.sides().count();
            // All of its own first: an error must not leave one of them to the next projection.
            let own: Vec<_> = found.by_ref().take(sides).collect();
            let own: Result<Vec<Dominant>, LinalgError> = own.into_iter().collect();
            projection.prepared = Some(own.map(|own| projection.adopt(own)));
        }
    }

    /// Of the bases there shall be: the side, what its seed is derived for, and the basis there is.
    fn sides(&self) -> impl Iterator<Item = (Vectors, &'static str, Option<&Tensor<2>>)> {
        let left = (self.side != Side::Right).then_some((Vectors::Left, "left basis", self.left.as_ref()));
        let right = (self.side != Side::Left).then_some((Vectors::Right, "right basis", self.right.as_ref()));
        left.into_iter().chain(right)
    }

    /// Takes up new bases, of its sides in their order.
    fn adopt(&mut self, found: Vec<Dominant>) -> Refresh {
        let overlaps: Vec<f64> = found.iter().filter_map(|found| found.overlap).collect();
        let overlap = (!overlaps.is_empty()).then(|| overlaps.iter().sum::<f64>() / overlaps.len() as f64);
        let captured = found.iter().map(|found| found.captured).fold(1.0, f64::min);
        let mut bases = found.into_iter().map(|found| held(found.basis, self.dtype));
        let left = if self.side == Side::Right { None } else { bases.next() };
        (self.left, self.right) = (left, bases.next());
        Refresh::New { captured, overlap }
    }

    /// Counts a step.
    pub fn advance(&mut self) {
        self.t += 1;
    }

    /// The gradient `[m, n]` in coordinates of the basis.
    #[must_use]
    pub fn down(&self, gradient: &Tensor<2>) -> Tensor<2> {
        let mut projected = gradient.clone();
        if let Some(left) = &self.left {
            projected = self.products.of(widened(left.clone()).transpose(), projected);
        }
        if let Some(right) = &self.right {
            projected = self.products.of(projected, widened(right.clone()));
        }
        projected
    }

    /// Coordinates back as a matrix `[m, n]`.
    #[must_use]
    pub fn up(&self, coordinates: Tensor<2>) -> Tensor<2> {
        let mut full = coordinates;
        if let Some(left) = &self.left {
            full = self.products.of(widened(left.clone()), full);
        }
        if let Some(right) = &self.right {
            full = self.products.of(full, widened(right.clone()).transpose());
        }
        full
    }

    /// Floats held by the basis.
    #[must_use]
    pub fn floats(&self) -> usize {
        [&self.left, &self.right].into_iter().flatten().map(|basis| basis.shape().num_elements()).sum()
    }

    /// Bytes held by the basis.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let size = |basis: &Tensor<2>| basis.shape().num_elements() * basis.dtype().size();
        [&self.left, &self.right].into_iter().flatten().map(size).sum()
    }

    /// Adds everything that later steps depend on to a saved state.
    pub fn save(&self, at: &str, state: &mut State) {
        state.put_count(&format!("{at}/steps"), self.t);
        state.put_count(&format!("{at}/overdue"), u64::from(self.overdue));
        for (name, basis) in [("left", &self.left), ("right", &self.right)] {
            if let Some(basis) = basis {
                state.put_tensor(&format!("{at}/{name}"), basis.clone());
            }
        }
    }

    /// Takes up a saved state.
    ///
    /// # Errors
    /// When an entry is missing.
    pub fn load(&mut self, at: &str, state: &mut State) -> Result<(), StageError> {
        let mut basis = |name: &str| {
            let name = format!("{at}/{name}");
            if state.has(&name) { state.take_tensor(&name).map(Some) } else { Ok(None) }
        };
        (self.left, self.right) = (basis("left")?, basis("right")?);
        self.t = state.count(&format!("{at}/steps"))?;
        self.overdue = state.count(&format!("{at}/overdue"))? != 0;
        Ok(())
    }
}

/// Shape of a projected gradient of a matrix `[m, n]`, and the numbers of the basis.
#[must_use]
pub fn predicted_sizes(config: ProjectionConfig, shape: [usize; 2]) -> ([usize; 2], usize) {
    let projection = Projection::new(config, shape, DType::F32, 0);
    let basis = match projection.side {
        Side::Left => shape[0] * projection.rank,
        Side::Right => shape[1] * projection.rank,
        Side::Both => (shape[0] + shape[1]) * projection.rank,
    };
    (projection.projected(), basis)
}

/// Predicted optimiser floats of one matrix under this projection: two moments of R's shape, and the basis.
#[must_use]
pub fn predicted_floats(config: ProjectionConfig, shape: [usize; 2]) -> (usize, usize) {
    let ([a, b], basis) = predicted_sizes(config, shape);
    (2 * a * b, basis)
}
