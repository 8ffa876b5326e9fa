//! Layers of a model: truncated, or with factors in place of their weight.

use burn::tensor::Tensor;
use faer::Mat;
use sepia_engine::stage::StageError;

use super::{
    Keep, RankRule, RankRuleError, Sigma, Truncated, decouple, split, split_weighted, truncate, truncate_filters,
};
use crate::{
    linalg::{
        host::{to_device, to_host},
        svd::{LinalgError, singular_values},
    },
    model::vision::{BatchNorm, FactorError, Form, Geometry, Layer, Role},
};

/// Why a layer cannot be factorised.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The layer cannot be factorised so.
    #[error(transparent)]
    Factor(#[from] FactorError),
    /// The rule gives a rank that cannot be had.
    #[error("`{path}`: {source}")]
    Rank {
        /// The layer.
        path: String,
        /// What is wrong.
        source: RankRuleError,
    },
    /// Its weight cannot be decomposed.
    #[error("`{path}`: {source}")]
    Linalg {
        /// The layer.
        path: String,
        /// What is wrong.
        source: LinalgError,
    },
}

impl From<LayerError> for StageError {
    fn from(error: LayerError) -> Self {
        StageError::new(error.to_string())
    }
}

/// Names the layer whose weight is at fault.
fn linalg(layer: &Layer) -> impl Fn(LinalgError) -> LayerError + use<> {
    let path = layer.path.clone();
    move |source| LayerError::Linalg { path: path.clone(), source }
}

/// The matrix of a layer without autodiff, on the host.
fn host(layer: &Layer, form: Form) -> Result<Mat<f64>, LayerError> {
    to_host(&layer.matrix(form)).map_err(linalg(layer))
}

/// The rank that a rule gives a layer in a form. Of the decoupled form, the largest over all filters.
///
/// # Errors
/// When the layer cannot be factorised in this form, or the rule gives a rank that cannot be had.
pub fn rank_by_rule(layer: &Layer, form: Form, rule: RankRule) -> Result<usize, LayerError> {
    layer.check(form, 1)?;
    let matrix = layer.geometry.matrix(form);
    let rank = |s: &[f64]| rule.rank(matrix, s).map_err(|source| LayerError::Rank { path: layer.path.clone(), source });
    if !rule.needs_spectrum() {
        return rank(&[]);
    }
    let whole = host(layer, form)?;
    let filters = whole.nrows() / matrix[0].max(1);
    // One matrix, or of the decoupled form one a filter.
    let ranks = (0..filters.max(1)).map(|filter| {
        let s = singular_values(whole.subrows(filter * matrix[0], matrix[0])).map_err(linalg(layer))?;
        rank(&s)
    });
    ranks.collect::<Result<Vec<_>, _>>().map(|ranks| ranks.into_iter().max().unwrap_or(1))
}

/// Puts the best factors of this rank in place of a layer's weight, with a new BatchNorm between them if asked for.
///
/// Singular values are split by square roots, but for the spatial form, whose second factor takes them all (as in TRP).
///
/// # Errors
/// When the layer has no factors of this form and rank, or its weight cannot be decomposed.
pub fn factorize_layer(layer: &mut Layer, form: Form, rank: usize, extra_norm: bool) -> Result<(), LayerError> {
    layer.check(form, rank)?;
    let whole = host(layer, form)?;
    let dense = layer.dense();
    let (device, dtype) = (dense.device(), dense.dtype());
    if let (Form::Decoupled, Geometry::Conv(conv)) = (form, layer.geometry) {
        let found = decouple(&whole, conv.outputs, Keep::Rank(rank)).map_err(linalg(layer))?;
        layer.decouple(to_device(&found.point, &device, dtype), to_device(&found.depth, &device, dtype))?;
        return Ok(());
    }
    let sigma = if form == Form::Spatial { Sigma::Second } else { Sigma::Balanced };
    let (left, right) = split(&whole, rank, sigma).map_err(linalg(layer))?;
    let convolution = matches!(layer.geometry, Geometry::Conv(_));
    let norm = (extra_norm && convolution).then(|| BatchNorm::new(format!("{}.bn", layer.path), rank, &device));
    layer.factorize(form, to_device(&left, &device, dtype), to_device(&right, &device, dtype), norm)?;
    Ok(())
}

/// The same in the channel form with factors that are best where the layer's inputs are large. `input_squares` are sums of
/// squares over a sample, of each input or input channel.
///
/// # Errors
/// As [`factorize_layer`].
pub fn factorize_layer_weighted(layer: &mut Layer, rank: usize, input_squares: &[f64]) -> Result<(), LayerError> {
    layer.check(Form::Channel, rank)?;
    let whole = host(layer, Form::Channel)?;
    // Every entry of a kernel sees its input channel.
    let patch = whole.ncols() / input_squares.len().max(1);
    let squares: Vec<f64> = input_squares.iter().flat_map(|square| std::iter::repeat_n(*square, patch)).collect();
    let (left, right) = split_weighted(&whole, rank, &squares).map_err(linalg(layer))?;
    let dense = layer.dense();
    let (device, dtype) = (dense.device(), dense.dtype());
    layer.factorize(Form::Channel, to_device(&left, &device, dtype), to_device(&right, &device, dtype), None)?;
    Ok(())
}

/// Truncates a dense layer in place. Returns the sub-gradient of the nuclear norm as the weight is held,
/// `[out, in * kh * kw]`, and the rank that is left.
///
/// # Errors
/// When the layer has no such form, or its weight cannot be decomposed.
pub fn truncate_layer(layer: &mut Layer, form: Form, keep: Keep) -> Result<(Tensor<2>, usize), LayerError> {
    layer.check(form, 1)?;
    let whole = host(layer, form)?;
    let found: Truncated = match (form, layer.geometry) {
        (Form::Decoupled, Geometry::Conv(conv)) => truncate_filters(&whole, conv.outputs, keep),
        _ => truncate(&whole, keep),
    }
    .map_err(linalg(layer))?;
    let dense = layer.dense();
    let (device, dtype) = (dense.device(), dense.dtype());
    // The layer itself knows how a form's matrix lies in its weight.
    layer.set_matrix(form, to_device(&found.subgradient, &device, dtype));
    let subgradient = layer.dense();
    layer.set_matrix(form, to_device(&found.matrix, &device, dtype));
    Ok((subgradient, found.rank))
}

/// Whether factors of this form and rank have fewer parameters than the weight.
#[must_use]
pub fn pays(layer: &Layer, form: Form, rank: usize) -> bool {
    layer.geometry.factored_parameters(form, rank) < layer.geometry.parameters()
}

/// Layers that rank rules of the papers speak of: all but the first, the last, and the 1x1 convolutions beside blocks.
#[must_use]
pub fn is_body(layer: &Layer) -> bool {
    layer.role == Role::Body
}

/// Whether a layer is a convolution in groups, which has no factors.
#[must_use]
pub fn is_grouped(layer: &Layer) -> bool {
    matches!(layer.geometry, Geometry::Conv(conv) if conv.groups != 1)
}
