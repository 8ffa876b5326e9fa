//! What one forward pass is told, and what it brings back besides its output.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use crate::ops::Conv;

/// How BatchNorm behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// By its running statistics.
    #[default]
    Eval,
    /// By the statistics of the batch, which the pass collects.
    Train,
}

/// What a layer was given.
#[derive(Debug)]
pub enum Seen<'a> {
    /// `[rows, in]`, by a linear layer.
    Rows(&'a Tensor<2>),
    /// `[batch, in, h, w]`, by a convolution.
    Maps(&'a Tensor<4>, Conv),
}

/// Called with a layer's path and its input.
type Watch<'a> = dyn FnMut(&str, &Seen<'_>) + 'a;

/// One forward pass.
#[derive(Default)]
pub struct Pass<'a> {
    mode: Mode,
    ranks: BTreeMap<String, usize>,
    watch: Option<&'a mut Watch<'a>>,
    features: Option<Vec<Tensor<2>>>,
    /// Mean and biased variance of each BatchNorm's input, with the number of values per channel, by the norm's path:
    /// without autodiff, only of passes in [`Mode::Train`]. See [`VisionModel::learn_statistics`].
    ///
    /// [`VisionModel::learn_statistics`]: super::VisionModel::learn_statistics
    pub statistics: BTreeMap<String, Statistics>,
}

/// Statistics of one BatchNorm's input.
#[derive(Debug, Clone)]
pub struct Statistics {
    /// `[channels]`.
    pub mean: Tensor<1>,
    /// Biased, `[channels]`.
    pub variance: Tensor<1>,
    /// Values per channel.
    pub count: usize,
}

impl<'a> Pass<'a> {
    /// To evaluate.
    #[must_use]
    pub fn eval() -> Self {
        Self::default()
    }

    /// To train.
    #[must_use]
    pub fn train() -> Self {
        Self { mode: Mode::Train, ..Self::default() }
    }

    /// Uses only the first `rank` components of the factored layer at `path` (Maestro's ordered dropout).
    #[must_use]
    pub fn with_rank(mut self, path: &str, rank: usize) -> Self {
        self.ranks.insert(path.to_owned(), rank);
        self
    }

    /// Shows every layer's input to `watch`.
    #[must_use]
    pub fn watched(mut self, watch: &'a mut Watch<'a>) -> Self {
        self.watch = Some(watch);
        self
    }

    /// Keeps what every block leaves.
    #[must_use]
    pub fn keeping_features(mut self) -> Self {
        self.features = Some(Vec::new());
        self
    }

    /// What the blocks have left, in their order, `[rows, width]` or maps as `[batch, channels * h * w]`: nothing unless the
    /// pass [keeps](Self::keeping_features) it. They are the stem and every block of a ResNet, every convolution of
    /// a VGG and every hidden layer of an MLP or of LeNet, each with its ReLU, and every block of a transformer.
    #[must_use]
    pub fn features(&self) -> &[Tensor<2>] {
        self.features.as_deref().unwrap_or_default()
    }

    pub(super) fn keep(&mut self, feature: impl FnOnce() -> Tensor<2>) {
        if let Some(features) = &mut self.features {
            features.push(feature());
        }
    }

    /// Runs parts inside a block, of which nothing is kept.
    pub(super) fn within<T>(&mut self, run: impl FnOnce(&mut Self) -> T) -> T {
        let features = self.features.take();
        let made = run(self);
        self.features = features;
        made
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    pub(super) fn rank_of(&self, path: &str) -> Option<usize> {
        self.ranks.get(path).copied()
    }

    pub(super) fn see(&mut self, path: &str, seen: Seen<'_>) {
        if let Some(watch) = &mut self.watch {
            watch(path, &seen);
        }
    }
}
