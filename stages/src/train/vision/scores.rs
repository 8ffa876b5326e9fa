//! How well a classifier does.

use burn::tensor::{Device, Int, Tensor};

use crate::{
    data::{ImageBatch, ImageMeta, ImageSplit},
    model::vision::{Pass, VisionModel},
    ops,
};

/// Loss and accuracy over some images.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Scores {
    /// Sum of the images' cross entropies, in nats.
    pub loss_sum: f64,
    /// Images whose class has the highest logit (the first of equals).
    pub correct: u64,
    /// Images in all.
    pub images: u64,
}

impl Scores {
    /// From logits `[n, classes]` and the summed loss.
    #[must_use]
    pub fn of(logits: &Tensor<2>, labels: &Tensor<1, Int>, loss_sum: f64) -> Self {
        let [images, classes] = logits.dims();
        let logits = logits.to_data().convert::<f32>();
        let labels = labels.to_data().convert::<i64>();
        let (logits, labels) =
            (logits.as_slice::<f32>().unwrap_or_default(), labels.as_slice::<i64>().unwrap_or_default());
        let right = |(row, label): (&[f32], &i64)| {
            let best =
                row.iter().enumerate().fold(0, |best, (class, logit)| if *logit > row[best] { class } else { best });
            best as i64 == *label
        };
        let correct = logits.chunks_exact(classes.max(1)).zip(labels).filter(|pair| right(*pair)).count();
        Self { loss_sum, correct: correct as u64, images: images as u64 }
    }

    /// Adds those of other images.
    pub fn add(&mut self, other: Self) {
        self.loss_sum += other.loss_sum;
        self.correct += other.correct;
        self.images += other.images;
    }

    /// Mean cross entropy in nats.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.images.max(1) as f64
    }

    /// Share of images that are classified right, 0 to 1.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.images.max(1) as f64
    }
}

/// The scores of a model in evaluation mode.
#[must_use]
pub fn classify(model: &VisionModel, batch: &ImageBatch) -> Scores {
    let logits = model.forward(batch.images.clone(), &mut Pass::eval());
    let loss = ops::cross_entropy_sum(logits.clone(), batch.labels.clone()).into_scalar::<f32>();
    Scores::of(&logits, &batch.labels, f64::from(loss))
}

/// The same over a whole split.
#[must_use]
pub fn classify_split(
    model: &VisionModel,
    (split, meta): (&ImageSplit, &ImageMeta),
    batch_size: usize,
    device: &Device,
) -> Scores {
    let order: Vec<usize> = (0..split.len()).collect();
    let batches = order.chunks(batch_size).map(|indices| ImageBatch::new(split, meta, indices, None, device));
    let mut found = Scores::default();
    batches.for_each(|batch| found.add(classify(model, &batch)));
    found
}

/// Sum over images of the cross entropy with smoothed labels: `1 - smoothing` for the label, and `smoothing` divided
/// equally among all classes. Logits `[n, classes]`, result `[1]`.
#[must_use]
pub fn smoothed_loss(logits: Tensor<2>, labels: Tensor<1, Int>, smoothing: f64) -> Tensor<1> {
    if smoothing <= 0.0 {
        return ops::cross_entropy_sum(logits, labels);
    }
    // -sum q log p = logsumexp - z_label + smoothing (z_label - mean z)
    let [images, classes] = logits.dims();
    let of_label = ops::total(logits.clone().gather(1, labels.clone().reshape([images, 1])));
    let mean = ops::total(logits.clone()).div_scalar(classes as f64);
    ops::cross_entropy_sum(logits, labels) + (of_label - mean).mul_scalar(smoothing)
}

#[cfg(test)]
mod tests {
    use burn::tensor::activation;

    use super::*;
    use crate::testing::test_device;

    #[test]
    fn smoothing_is_the_cross_entropy_with_a_mixed_target() {
        let device = test_device();
        let logits = Tensor::<2>::from_floats([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], &device);
        let labels = Tensor::<1, Int>::from_ints([2, 0], &device);
        let target = Tensor::<2>::from_floats([[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]], &device);
        let expected = (activation::log_softmax(logits.clone(), 1) * target).sum().neg().into_scalar::<f32>();
        let found = smoothed_loss(logits.clone(), labels.clone(), 0.3).into_scalar::<f32>();
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        let scores = Scores::of(&logits, &labels, 2.0);
        assert_eq!((scores.correct, scores.images, scores.loss()), (0, 2, 1.0));
    }
}
