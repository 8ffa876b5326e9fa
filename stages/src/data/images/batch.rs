//! Batches of images as tensors.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{
    augment::{Augmentation, place},
    folder::{ImageMeta, ImageSplit},
};
use crate::random::Rng;

/// Normalised images and their labels, without autodiff.
#[derive(Debug, Clone)]
pub struct ImageBatch {
    /// `[batch, channels, h, w]`, each channel with mean 0 and deviation 1 over the training split.
    pub images: Tensor<4>,
    /// `[batch]`.
    pub labels: Tensor<1, Int>,
}

/// The images' numbers in the order of one epoch, drawn from its seed.
#[must_use]
pub fn epoch_order(images: usize, seed: u64) -> Vec<usize> {
    let mut rng = Rng::new(seed);
    let mut order: Vec<usize> = (0..images).collect();
    for last in (1..images).rev() {
        order.swap(last, rng.below(last as u64 + 1) as usize);
    }
    order
}

impl ImageBatch {
    /// These images. With `augment`, each is moved and mirrored by draws from a seed.
    #[must_use]
    pub fn new(
        split: &ImageSplit,
        meta: &ImageMeta,
        indices: &[usize],
        augment: Option<(Augmentation, u64)>,
        device: &Device,
    ) -> Self {
        let [channels, height, width] = split.size;
        let area = height * width;
        let tables: Vec<[f32; 256]> = (0..channels)
            .map(|channel| {
                let (mean, std) = (meta.mean[channel], meta.std[channel]);
                std::array::from_fn(|pixel| ((pixel as f64 / 255.0 - mean) / std) as f32)
            })
            .collect();
        let mut rng = augment.map(|(_, seed)| Rng::new(seed));
        let mut values = vec![0.0f32; indices.len() * channels * area];
        for (index, target) in indices.iter().zip(values.chunks_exact_mut((channels * area).max(1))) {
            let moved = match (&augment, &mut rng) {
                (Some((augmentation, _)), Some(rng)) => augmentation.draw(rng),
                _ => (0, 0, false),
            };
            let source = split.image(*index);
            for (channel, table) in tables.iter().enumerate() {
                let at = channel * area..(channel + 1) * area;
                place(&source[at.clone()], &mut target[at], [height, width], moved, table);
            }
        }
        let labels: Vec<i32> = indices.iter().map(|index| i32::from(split.labels[*index])).collect();
        let count = indices.len();
        Self {
            images: Tensor::from_data(TensorData::new(values, [count, channels, height, width]), device),
            labels: Tensor::from_data(TensorData::new(labels, [count]), device),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test_device;

    fn split() -> ImageSplit {
        ImageSplit {
            size: [1, 2, 3],
            pixels: (0..24).map(|i| i * 10).collect(),
            labels: vec![0, 1, 2, 1],
            class_names: vec![],
        }
    }

    fn meta(split: &ImageSplit) -> ImageMeta {
        let (mean, std) = split.moments();
        ImageMeta {
            format: 1,
            channels: 1,
            height: 2,
            width: 3,
            classes: 3,
            class_names: vec![],
            train_images: 4,
            validation_images: 0,
            mean,
            std,
        }
    }

    #[test]
    fn the_training_split_has_mean_zero_and_deviation_one() {
        let split = split();
        let batch = ImageBatch::new(&split, &meta(&split), &[0, 1, 2, 3], None, &test_device());
        let values = batch.images.into_data();
        let values = values.as_slice::<f32>().unwrap();
        let mean = values.iter().sum::<f32>() / 24.0;
        let variance = values.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / 24.0;
        assert!(mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-5, "{mean} {variance}");
    }

    #[test]
    fn crops_and_flips_derive_from_their_seed() {
        let split = split();
        let meta = meta(&split);
        let augmentation = Augmentation { crop_padding: 1, flip: true };
        let draw = |seed| {
            let batch = ImageBatch::new(&split, &meta, &[3, 0], Some((augmentation, seed)), &test_device());
            batch.images.into_data()
        };
        assert_eq!(draw(4), draw(4));
        assert!((0..20).any(|seed| draw(seed) != draw(4)));
        // A crop by nothing, mirrored or not, keeps the values.
        let only_flip = Augmentation { crop_padding: 0, flip: true };
        let plain = ImageBatch::new(&split, &meta, &[1], None, &test_device()).images;
        let mirrored = plain.clone().flip([3]).into_data();
        let found: Vec<bool> = (0..20)
            .map(|seed| {
                let data =
                    ImageBatch::new(&split, &meta, &[1], Some((only_flip, seed)), &test_device()).images.into_data();
                assert!(data == mirrored || data == plain.to_data());
                data == mirrored
            })
            .collect();
        assert!(found.contains(&true) && found.contains(&false));
    }

    #[test]
    fn an_epoch_visits_every_image_once() {
        let mut order = epoch_order(100, 3);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
