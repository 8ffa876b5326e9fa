//! From files in any known format to one set of labelled images.

use schemars::JsonSchema;
use sepia_engine::stage::{ResolvedFile, StageError};
use serde::{Deserialize, Serialize};

use super::{cifar, idx, npz, tree};

/// How images are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ImageFormat {
    /// MNIST's format: a file of images and one of labels, plain or `.gz`.
    Idx,
    /// CIFAR-10's binary batches.
    #[serde(rename = "cifar-10")]
    Cifar10,
    /// CIFAR-100's binary files, with the fine labels.
    #[serde(rename = "cifar-100")]
    Cifar100,
    /// A folder for each class with PNG or JPEG files of one size.
    Folder,
    /// NumPy arrays: `x_train` and `y_train`, `train_images` and `train_labels`, or `images` and `labels`, for instance.
    Npz,
}

/// Which part of the data is read: archives may hold both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// To train on.
    Train,
    /// To validate on.
    Validation,
}

/// Labelled images in the order of their files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Images {
    /// Channels, height and width.
    pub(super) size: [usize; 3],
    /// Channel after channel, row after row, image after image.
    pub(super) pixels: Vec<u8>,
    /// One for each image.
    pub(super) labels: Vec<u16>,
    /// Names of the classes, where the files say them.
    pub(super) class_names: Vec<String>,
}

/// Reads one part of a data set.
///
/// # Errors
/// When a file is missing, damaged or of another size than it should be, or a label is out of range: the message names
/// the file.
pub fn read_images(format: ImageFormat, files: &[ResolvedFile], part: Part) -> Result<super::ImageSplit, StageError> {
    if files.is_empty() {
        return Err(StageError::new("there is no file to read"));
    }
    let images = match format {
        ImageFormat::Idx => idx::read(files)?,
        ImageFormat::Cifar10 => cifar::read(files, cifar::CIFAR_10)?,
        ImageFormat::Cifar100 => cifar::read(files, cifar::CIFAR_100)?,
        ImageFormat::Folder => tree::read(files)?,
        ImageFormat::Npz => npz::read(files, part)?,
    };
    if images.labels.is_empty() {
        return Err(StageError::new(format!("{} holds no image", files[0].path)));
    }
    Ok(images.into())
}

/// The bytes of a file, unpacked where they are gzip's.
pub(super) fn bytes_of(file: &ResolvedFile) -> Result<Vec<u8>, StageError> {
    let bytes = fs_err::read(&file.path)?;
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(bytes.as_slice()), &mut unpacked)
        .map_err(|error| StageError::unreadable(&file.path, format!("it is not whole gzip data: {error}")))?;
    Ok(unpacked)
}
