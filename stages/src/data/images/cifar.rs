//! The binary version of CIFAR: records of one or two labels and 3072 pixels.

use sepia_engine::stage::{ResolvedFile, StageError};

use super::source::{Images, bytes_of};

const PIXELS: usize = 3 * 32 * 32;

/// Which of the two.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    name: &'static str,
    /// Bytes of labels; the last is the one that counts.
    labels: usize,
    classes: u8,
}

pub(super) const CIFAR_10: Layout = Layout { name: "CIFAR-10", labels: 1, classes: 10 };
pub(super) const CIFAR_100: Layout = Layout { name: "CIFAR-100", labels: 2, classes: 100 };

/// All files, one after the other.
pub(super) fn read(files: &[ResolvedFile], layout: Layout) -> Result<Images, StageError> {
    let mut images = Images { size: [3, 32, 32], ..Images::default() };
    let Layout { name, labels, classes } = layout;
    let record = labels + PIXELS;
    for file in files {
        let bytes = bytes_of(file)?;
        if bytes.is_empty() || bytes.len() % record != 0 {
            let why = format!("{} bytes are not a multiple of {record}, a record of {name}", bytes.len());
            return Err(StageError::unreadable(&file.path, why));
        }
        for (index, record) in bytes.chunks_exact(record).enumerate() {
            let label = record[labels - 1];
            if label >= classes {
                let why = format!("image {index} has label {label}, but {name} has classes 0 to {}", classes - 1);
                return Err(StageError::unreadable(&file.path, why));
            }
            images.labels.push(u16::from(label));
            images.pixels.extend_from_slice(&record[labels..]);
        }
    }
    Ok(images)
}
