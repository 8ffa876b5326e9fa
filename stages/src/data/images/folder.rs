//! The image folder that `image-dataset` writes and every stage for classifiers reads.
//!
//! `train.bin` and `validation.bin` hold the pixels as bytes, channel after channel, row after row, image after image;
//! `train_labels.bin` and `validation_labels.bin` the labels as u16, little endian; `meta.json` says the sizes, and mean
//! and deviation of each channel over the training split.

use camino::{Utf8Path, Utf8PathBuf};
use sepia_engine::stage::StageError;
use serde::{Deserialize, Serialize};

use super::source::Images;

const FORMAT: u32 = 1;

/// `meta.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageMeta {
    /// Version of the folder's layout.
    pub format: u32,
    /// Channels of an image.
    pub channels: usize,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// Number of classes: every label is below it.
    pub classes: usize,
    /// Their names, where the source says them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_names: Vec<String>,
    /// Images in `train.bin`.
    pub train_images: usize,
    /// Images in `validation.bin`.
    pub validation_images: usize,
    /// Mean of each channel of the training split, of pixels as 0 to 1.
    pub mean: Vec<f64>,
    /// Their standard deviation; 1 for a channel that never changes.
    pub std: Vec<f64>,
}

/// Labelled images of one split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSplit {
    /// Channels, height and width.
    pub size: [usize; 3],
    /// Channel after channel, row after row, image after image.
    pub pixels: Vec<u8>,
    /// One for each image.
    pub labels: Vec<u16>,
    /// Names of the classes, where the source says them.
    pub class_names: Vec<String>,
}

impl From<Images> for ImageSplit {
    fn from(images: Images) -> Self {
        let Images { size, pixels, labels, class_names } = images;
        Self { size, pixels, labels, class_names }
    }
}

impl ImageSplit {
    /// Number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Bytes of one image.
    #[must_use]
    pub fn image_len(&self) -> usize {
        self.size.iter().product()
    }

    /// The pixels of one image.
    #[must_use]
    pub fn image(&self, index: usize) -> &[u8] {
        let length = self.image_len();
        &self.pixels[index * length..(index + 1) * length]
    }

    /// The images of these numbers, in this order.
    #[must_use]
    pub fn pick(&self, indices: &[usize]) -> Self {
        let pixels = indices.iter().flat_map(|index| self.image(*index)).copied().collect();
        let labels = indices.iter().map(|index| self.labels[*index]).collect();
        Self { size: self.size, pixels, labels, class_names: self.class_names.clone() }
    }

    /// Mean and standard deviation of each channel, of pixels as 0 to 1.
    #[must_use]
    pub fn moments(&self) -> (Vec<f64>, Vec<f64>) {
        let [channels, height, width] = self.size;
        let count = (self.len() * height * width).max(1) as f64;
        let mut means = Vec::new();
        let mut deviations = Vec::new();
        for channel in 0..channels {
            let (mut sum, mut squares) = (0u64, 0u64);
            for image in self.pixels.chunks_exact(self.image_len().max(1)) {
                for pixel in &image[channel * height * width..(channel + 1) * height * width] {
                    sum += u64::from(*pixel);
                    squares += u64::from(*pixel) * u64::from(*pixel);
                }
            }
            let mean = sum as f64 / count;
            let variance = (squares as f64 / count - mean * mean).max(0.0);
            means.push(mean / 255.0);
            deviations.push(if variance > 0.0 { variance.sqrt() / 255.0 } else { 1.0 });
        }
        (means, deviations)
    }
}

/// An image folder, opened.
#[derive(Debug)]
pub struct ImageFolder {
    folder: Utf8PathBuf,
    /// What `meta.json` says.
    pub meta: ImageMeta,
}

impl ImageFolder {
    /// Writes a folder.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(
        folder: &Utf8Path,
        train: &ImageSplit,
        validation: &ImageSplit,
        classes: usize,
    ) -> Result<ImageMeta, StageError> {
        let [channels, height, width] = train.size;
        let (mean, std) = train.moments();
        let meta = ImageMeta {
            format: FORMAT,
            channels,
            height,
            width,
            classes,
            class_names: train.class_names.clone(),
            train_images: train.len(),
            validation_images: validation.len(),
            mean,
            std,
        };
        fs_err::create_dir_all(folder)?;
        for (name, split) in [("train", train), ("validation", validation)] {
            fs_err::write(folder.join(format!("{name}.bin")), &split.pixels)?;
            let labels: Vec<u8> = split.labels.iter().flat_map(|label| label.to_le_bytes()).collect();
            fs_err::write(folder.join(format!("{name}_labels.bin")), labels)?;
        }
        let text = serde_json::to_string_pretty(&meta).map_err(std::io::Error::other)?;
        fs_err::write(folder.join("meta.json"), text + "\n")?;
        Ok(meta)
    }

    /// Reads the folder's `meta.json`.
    ///
    /// # Errors
    /// When it is missing, damaged, or of another format.
    pub fn open(folder: &Utf8Path) -> Result<Self, StageError> {
        let path = folder.join("meta.json");
        let text = fs_err::read_to_string(&path)?;
        let meta: ImageMeta = serde_json::from_str(&text).map_err(|error| StageError::unreadable(&path, error))?;
        let channels = meta.channels;
        if meta.format != FORMAT || [meta.mean.len(), meta.std.len()] != [channels; 2] {
            let why = format!("format {} is not known to this binary, which reads {FORMAT}", meta.format);
            return Err(StageError::unreadable(&path, why));
        }
        Ok(Self { folder: folder.to_owned(), meta })
    }

    /// The training split.
    ///
    /// # Errors
    /// When a file is missing or does not fit `meta.json`.
    pub fn train(&self) -> Result<ImageSplit, StageError> {
        self.split("train", self.meta.train_images)
    }

    /// The validation split.
    ///
    /// # Errors
    /// When a file is missing or does not fit `meta.json`.
    pub fn validation(&self) -> Result<ImageSplit, StageError> {
        self.split("validation", self.meta.validation_images)
    }

    fn split(&self, name: &str, images: usize) -> Result<ImageSplit, StageError> {
        let ImageMeta { channels, height, width, classes, .. } = self.meta;
        let read = |file: String, expected: usize| {
            let path = self.folder.join(file);
            let bytes = fs_err::read(&path)?;
            if bytes.len() != expected {
                return Err(StageError::unreadable(&path, format!("{} bytes instead of {expected}", bytes.len())));
            }
            Ok((path, bytes))
        };
        let (_, pixels) = read(format!("{name}.bin"), images * channels * height * width)?;
        let (path, labels) = read(format!("{name}_labels.bin"), images * 2)?;
        let labels: Vec<u16> = labels.as_chunks::<2>().0.iter().map(|label| u16::from_le_bytes(*label)).collect();
        if let Some(index) = labels.iter().position(|label| usize::from(*label) >= classes) {
            let why = format!("image {index} has label {}, but there are {classes} classes", labels[index]);
            return Err(StageError::unreadable(&path, why));
        }
        let class_names = self.meta.class_names.clone();
        Ok(ImageSplit { size: [channels, height, width], pixels, labels, class_names })
    }
}
