//! Normalisation layers.

use burn::tensor::{Device, Tensor, module};

use super::pass::{Mode, Pass, Statistics};
use crate::ops::{self, Norm, Normalized};

/// Added to variances, as torch does in BatchNorm.
pub(super) const BATCH_NORM_EPS: f64 = 1e-5;
/// Share of a batch in the running statistics, as in torch.
pub(super) const BATCH_NORM_MOMENTUM: f64 = 0.1;
/// Added to variances in LayerNorm, as in DeiT.
const LAYER_NORM_EPS: f64 = 1e-6;

/// BatchNorm over the channels of maps.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    /// Its place in the model: `layer2.0.bn1`.
    pub path: String,
    /// Gain, `[channels]`.
    pub weight: Tensor<1>,
    /// `[channels]`.
    pub bias: Tensor<1>,
    /// Not trained, `[channels]`.
    pub running_mean: Tensor<1>,
    /// Not trained, unbiased, `[channels]`.
    pub running_var: Tensor<1>,
}

impl BatchNorm {
    /// Gain 1, bias 0, mean 0, variance 1.
    #[must_use]
    pub fn new(path: impl Into<String>, channels: usize, device: &Device) -> Self {
        let (ones, zeros) = (Tensor::ones([channels], device), Tensor::zeros([channels], device));
        Self { path: path.into(), weight: ones.clone(), bias: zeros.clone(), running_mean: zeros, running_var: ones }
    }

    /// Number of channels.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.weight.dims()[0]
    }

    /// With a ReLU behind, if so asked.
    pub(super) fn maps(&self, x: Tensor<4>, relu: bool, pass: &mut Pass<'_>) -> Tensor<4> {
        let norm = Norm { weight: self.weight.clone(), bias: self.bias.clone(), eps: BATCH_NORM_EPS, relu };
        match pass.mode() {
            Mode::Eval => ops::batch_norm(x, norm, self.running_mean.clone(), self.running_var.clone()),
            Mode::Train => {
                let [batch, _, h, w] = x.dims();
                let Normalized { output, mean, variance } = ops::batch_norm_train(x, norm);
                pass.statistics.insert(self.path.clone(), Statistics { mean, variance, count: batch * h * w });
                output
            }
        }
    }

    /// Moves the running statistics towards those of a batch: `share` of the batch, the rest as it was.
    pub(super) fn learn(&mut self, found: &Statistics, share: f64) {
        let mix = |old: &Tensor<1>, new: Tensor<1>| old.clone().mul_scalar(1.0 - share) + new.mul_scalar(share);
        let count = found.count.max(2) as f64;
        self.running_mean = mix(&self.running_mean, found.mean.clone());
        self.running_var = mix(&self.running_var, found.variance.clone().mul_scalar(count / (count - 1.0)));
    }
}

/// LayerNorm over the width of each row.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    /// Its place in the model: `blocks.0.norm1`.
    pub path: String,
    /// Gain, `[width]`.
    pub weight: Tensor<1>,
    /// `[width]`.
    pub bias: Tensor<1>,
}

impl LayerNorm {
    /// Gain 1, bias 0.
    #[must_use]
    pub fn new(path: impl Into<String>, width: usize, device: &Device) -> Self {
        Self { path: path.into(), weight: Tensor::ones([width], device), bias: Tensor::zeros([width], device) }
    }

    pub(super) fn rows(&self, x: Tensor<2>) -> Tensor<2> {
        module::layer_norm(x, self.weight.clone(), Some(self.bias.clone()), LAYER_NORM_EPS)
    }
}
