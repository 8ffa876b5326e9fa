//! MNIST's IDX format: two zero bytes, the type (8: bytes), the number of dimensions, each dimension as a big-endian
//! number of four bytes, and the values.

use sepia_engine::stage::{ResolvedFile, StageError};

use super::source::{Images, bytes_of};

/// One file of images `[n, h, w]` or `[n, c, h, w]` and one of labels `[n]`, in either order.
pub(super) fn read(files: &[ResolvedFile]) -> Result<Images, StageError> {
    let [first, second] = files else {
        return Err(StageError::new(format!(
            "IDX data is a file of images and one of labels, not {} files",
            files.len()
        ))
        .help("name both files, without those of the other split"));
    };
    let (a, b) = (Idx::read(first)?, Idx::read(second)?);
    let (images, labels) = match (a.sizes.len(), b.sizes.len()) {
        (3 | 4, 1) => (a, b),
        (1, 3 | 4) => (b, a),
        (x, y) => {
            let (one, other) = (&first.path, &second.path);
            let message = format!("{one} has {x} dimensions and {other} {y}: images have 3 or 4, labels 1");
            return Err(StageError::new(message));
        }
    };
    if images.sizes[0] != labels.sizes[0] {
        let message = format!(
            "{} has {} images, but {} has {} labels",
            images.file.path, images.sizes[0], labels.file.path, labels.sizes[0]
        );
        return Err(StageError::new(message));
    }
    let size = match images.sizes[1..] {
        [height, width] => [1, height, width],
        [channels, height, width] => [channels, height, width],
        _ => [0; 3],
    };
    if size.contains(&0) {
        return Err(StageError::unreadable(&images.file.path, "its images have no pixels"));
    }
    let labels = labels.values.iter().map(|label| u16::from(*label)).collect();
    Ok(Images { size, pixels: images.values, labels, class_names: Vec::new() })
}

struct Idx<'a> {
    file: &'a ResolvedFile,
    sizes: Vec<usize>,
    values: Vec<u8>,
}

impl<'a> Idx<'a> {
    fn read(file: &'a ResolvedFile) -> Result<Self, StageError> {
        let mut bytes = bytes_of(file)?;
        let wrong = |why: String| StageError::unreadable(&file.path, why);
        let &[0, 0, kind, dimensions, ..] = bytes.as_slice() else {
            return Err(wrong("it does not begin as an IDX file does".to_owned()));
        };
        if kind != 8 {
            return Err(wrong(format!("its values are of type {kind:#04x}; bytes, 0x08, can be read")));
        }
        let header = 4 + 4 * usize::from(dimensions);
        if bytes.len() < header {
            return Err(wrong(format!("it ends within its header, after {} bytes", bytes.len())));
        }
        let sizes: Vec<usize> =
            bytes[4..header].as_chunks::<4>().0.iter().map(|size| u32::from_be_bytes(*size) as usize).collect();
        let expected = sizes.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
        let values = bytes.split_off(header);
        if expected != Some(values.len()) {
            return Err(wrong(format!("its header says {sizes:?}, but {} values follow", values.len())));
        }
        Ok(Self { file, sizes, values })
    }
}
