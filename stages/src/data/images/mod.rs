//! Labelled images: read from the usual formats, kept as a folder of bytes, drawn as batches.

mod augment;
mod batch;
mod cifar;
mod folder;
mod idx;
mod npz;
mod source;
mod tree;
mod zip;

pub use augment::Augmentation;
pub use batch::{ImageBatch, epoch_order};
pub use folder::{ImageFolder, ImageMeta, ImageSplit};
pub use source::{ImageFormat, Part, read_images};
