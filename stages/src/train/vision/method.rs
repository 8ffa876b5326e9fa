//! What a training method for classifiers is.

use burn::tensor::{Device, Tensor};
use sepia_engine::stage::StageError;

use super::{
    gradients::VisionGradients,
    optimizer::VisionOptimizer,
    scores::{Scores, classify},
};
use crate::{
    data::{ImageBatch, ImageMeta, ImageSplit, epoch_order},
    model::vision::{Kind, Pass, VisionModel},
    train::State,
};

/// Where in the run it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Epochs done.
    pub epoch: u64,
    /// Epochs in all.
    pub epochs: u64,
    /// Updates done in all.
    pub step: u64,
    /// Updates in an epoch.
    pub steps_per_epoch: u64,
}

/// The training data, for methods that need it besides the gradients: to recalibrate BatchNorm, to measure activations,
/// to try ranks.
#[derive(Debug)]
pub struct VisionData<'a> {
    /// The training split.
    pub train: &'a ImageSplit,
    /// Its sizes and normalisation.
    pub meta: &'a ImageMeta,
    /// Images in a batch.
    pub batch_size: usize,
    /// Without autodiff.
    pub device: &'a Device,
    /// Seed of everything that is drawn here.
    pub seed: u64,
    /// The model of the input `teacher`.
    pub teacher: Option<&'a VisionModel>,
}

/// The forward pass of a step, on the tape but for the images.
#[derive(Clone, Copy)]
pub struct Forward<'a> {
    /// [Tracked](VisionModel::tracked).
    pub model: &'a VisionModel,
    /// `[batch, channels, h, w]`, without autodiff.
    pub images: &'a Tensor<4>,
    /// `[batch, classes]`.
    pub logits: &'a Tensor<2>,
    /// [What the blocks have left](Pass::features), where the method's pass keeps it.
    pub features: &'a [Tensor<2>],
}

impl VisionData<'_> {
    /// A fixed random sample of training images, as they are.
    #[must_use]
    pub fn sample(&self, images: usize) -> ImageBatch {
        let mut order = epoch_order(self.train.len(), self.seed);
        order.truncate(images);
        ImageBatch::new(self.train, self.meta, &order, None, self.device)
    }

    /// Replaces BatchNorm's running statistics by the plain mean over batches of the training split, as it is; over at
    /// most `max_batches`.
    pub fn recalibrate(&self, model: &mut VisionModel, max_batches: Option<usize>) {
        if model.batch_norms_mut().is_empty() {
            return;
        }
        let order = epoch_order(self.train.len(), self.seed);
        let batches = order.chunks_exact(self.batch_size).take(max_batches.unwrap_or(usize::MAX));
        for (index, indices) in batches.enumerate() {
            let batch = ImageBatch::new(self.train, self.meta, indices, None, self.device);
            let mut pass = Pass::train();
            drop(model.forward(batch.images, &mut pass));
            model.mix_statistics(&pass, 1.0 / (index + 1) as f64);
        }
    }

    /// Loss and accuracy on a batch.
    #[must_use]
    pub fn scores(&self, model: &VisionModel, batch: &ImageBatch) -> Scores {
        classify(model, batch)
    }
}

/// How a classifier is trained besides plain gradient steps.
///
/// The loop calls the hooks in the order in which they stand here. A model that comes in goes out again, changed or not;
/// when a layer is factored or cut, its parameters get other names or shapes: state of the optimizer is kept by name, so
/// what belongs to a vanished name is dropped, a new name begins without state, and state whose length no longer fits
/// must be mapped with [`VisionOptimizer::edit`] or dropped with [`VisionOptimizer::restart`].
pub trait VisionMethod: Send {
    /// Changes a new model before the first step. Not called after a resume: the checkpoint holds the changed model.
    ///
    /// # Errors
    /// When the model does not fit the method.
    fn attach(&mut self, model: VisionModel, data: &VisionData<'_>) -> Result<VisionModel, StageError> {
        let _ = data;
        Ok(model)
    }

    /// Before the forward pass of each step.
    ///
    /// # Errors
    /// When that cannot be done.
    fn before_step(&mut self, at: At, model: VisionModel) -> Result<VisionModel, StageError> {
        let _ = at;
        Ok(model)
    }

    /// The forward pass of a step: which components of factored layers it uses. Must be in training mode.
    fn pass(&mut self, at: At, model: &VisionModel) -> Pass<'static> {
        let _ = (at, model);
        Pass::train()
    }

    /// What a step minimises besides the mean loss, `[1]` on the tape of the forward pass.
    ///
    /// # Errors
    /// When that cannot be done.
    fn extra_loss(&mut self, forward: Forward<'_>, data: &VisionData<'_>) -> Result<Option<Tensor<1>>, StageError> {
        let _ = (forward, data);
        Ok(None)
    }

    /// Adds terms to the gradients of the mean loss (of the values that the step began with), before clipping.
    ///
    /// # Errors
    /// When that cannot be done.
    fn add_gradients(
        &mut self,
        at: At,
        model: &VisionModel,
        gradients: &mut VisionGradients,
    ) -> Result<(), StageError> {
        let _ = (at, model, gradients);
        Ok(())
    }

    /// The learning rate of a step, from the one that the schedule gives.
    fn lr(&self, at: At, scheduled: f64) -> f64 {
        let _ = at;
        scheduled
    }

    /// Whether weight decay applies to a parameter; `usual` is what holds without a method.
    fn decays(&self, name: &str, kind: Kind, usual: bool) -> bool {
        let _ = (name, kind);
        usual
    }

    /// After all parameters of a step have changed at this learning rate. Not called where the step was left out.
    ///
    /// # Errors
    /// When that cannot be done.
    fn after_step(&mut self, at: At, lr: f64, model: VisionModel) -> Result<VisionModel, StageError> {
        let _ = (at, lr);
        Ok(model)
    }

    /// After the last step of each epoch; `at.epoch` counts it as done.
    ///
    /// # Errors
    /// When that cannot be done.
    fn after_epoch(
        &mut self,
        at: At,
        model: VisionModel,
        optimizer: &mut VisionOptimizer,
        data: &VisionData<'_>,
    ) -> Result<VisionModel, StageError> {
        let _ = (at, optimizer, data);
        Ok(model)
    }

    /// The model to be validated during training, from the one that is trained.
    ///
    /// # Errors
    /// When that cannot be done.
    fn validated(&self, model: VisionModel, data: &VisionData<'_>) -> Result<VisionModel, StageError> {
        let _ = data;
        Ok(model)
    }

    /// The model to be deployed, from the one that was trained: really small.
    ///
    /// # Errors
    /// When that cannot be done.
    fn deployed(&mut self, model: VisionModel, data: &VisionData<'_>) -> Result<VisionModel, StageError> {
        self.validated(model, data)
    }

    /// The model as training left it, where the deployed one is another: TRP's dense weights, Maestro's ordered factors.
    /// Asked for after [`deployed`](Self::deployed).
    fn trained(&self) -> Option<&VisionModel> {
        None
    }

    /// What happened since the last call and is worth a line in the log.
    fn notes(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// Figures of the epoch that has ended, to be recorded with its last step.
    fn figures(&mut self) -> Vec<(String, f64)> {
        Vec::new()
    }

    /// Figures of the whole run.
    fn results(&mut self) -> Vec<(String, f64)> {
        Vec::new()
    }

    /// Adds to `state` everything that later steps depend on, besides the model and the optimizer.
    fn save(&self, state: &mut State) {
        let _ = state;
    }

    /// Takes back what [`save`](Self::save) saved.
    ///
    /// # Errors
    /// When something is missing.
    fn load(&mut self, state: &mut State) -> Result<(), StageError> {
        let _ = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::vision::{Architecture, VisionParams},
        testing::classifier,
        testing::test_device,
    };

    /// Running means and variances of all norms, one after the other.
    fn statistics(model: &mut VisionModel) -> Vec<f32> {
        let norms = model.batch_norms_mut().into_iter();
        let tensors = norms.flat_map(|norm| [norm.running_mean.clone(), norm.running_var.clone()]);
        tensors.flat_map(|tensor| tensor.try_into_vec_as::<f32>().unwrap()).collect()
    }

    /// What a cut network's norms remember is of the network before: after this, they know whole batches of the training
    /// images, each counted alike, and nothing else.
    #[test]
    fn recalibrated_norms_have_the_mean_of_all_whole_batches() {
        let device = test_device();
        let train = ImageSplit {
            size: [1, 8, 8],
            pixels: (0..12 * 64u32).map(|i| (i * i % 251) as u8).collect(),
            labels: (0..12).map(|i| i % 10).collect(),
            class_names: Vec::new(),
        };
        let (mean, std) = train.moments();
        let [channels, height, width] = train.size;
        let (class_names, images) = (Vec::new(), train.len());
        let meta = ImageMeta {
            format: 1,
            channels,
            height,
            width,
            classes: 10,
            class_names,
            train_images: images,
            validation_images: 0,
            mean,
            std,
        };
        let data = VisionData { train: &train, meta: &meta, batch_size: 5, device: &device, seed: 7, teacher: None };
        let resnet = VisionParams { width: Some(4), ..VisionParams::of(Architecture::Resnet20) };
        let mut model = classifier(resnet, 8);
        for norm in model.batch_norms_mut() {
            norm.running_mean = norm.running_mean.clone().add_scalar(7.0);
            norm.running_var = norm.running_var.clone().mul_scalar(100.0);
        }
        let order = epoch_order(images, 7);
        let [first, second] = [&order[..5], &order[5..10]].map(|indices| {
            let mut pass = Pass::train();
            drop(model.forward(ImageBatch::new(&train, &meta, indices, None, &device).images, &mut pass));
            let mut of_one = model.clone();
            of_one.mix_statistics(&pass, 1.0);
            statistics(&mut of_one)
        });
        let apart = |model: &mut VisionModel, expected: &dyn Fn(usize) -> f32| {
            let found = statistics(model);
            assert_eq!(found.len(), first.len());
            found.iter().enumerate().map(|(i, x)| (x - expected(i)).abs()).fold(0.0, f32::max)
        };
        let mut short = model.clone();
        data.recalibrate(&mut short, Some(1));
        assert_eq!(apart(&mut short, &|i| first[i]), 0.0);
        data.recalibrate(&mut model, None);
        assert!(apart(&mut model, &|i| f32::midpoint(first[i], second[i])) < 1e-5);
        assert!(apart(&mut model, &|i| first[i]) > 1e-3, "the two batches must differ");
    }
}
