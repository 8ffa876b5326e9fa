//! NumPy archives: a zip file of `.npy` arrays.

use sepia_engine::stage::{ResolvedFile, StageError};

use super::{
    source::{Images, Part},
    zip::Archive,
};

/// Names of an array of images and of its labels, for each part, in the order in which they are looked for.
const TRAIN: &[(&str, &str)] = &[("x_train", "y_train"), ("train_images", "train_labels")];
const VALIDATION: &[(&str, &str)] =
    &[("x_test", "y_test"), ("val_images", "val_labels"), ("test_images", "test_labels"), ("x_val", "y_val")];
const EITHER: &[(&str, &str)] = &[("images", "labels"), ("x", "y"), ("arr_0", "arr_1")];

/// One archive with bytes as images, `[n, h, w]`, `[n, h, w, c]` or `[n, c, h, w]`, and whole numbers as labels.
pub(super) fn read(files: &[ResolvedFile], part: Part) -> Result<Images, StageError> {
    let [file] = files else {
        return Err(StageError::new(format!("a split is read from one .npz archive, not from {} files", files.len())));
    };
    let wrong = |why: String| StageError::unreadable(&file.path, why);
    let bytes = fs_err::read(&file.path)?;
    let archive = Archive::parse(&bytes).map_err(&wrong)?;
    let names = archive.names();
    let named = match part {
        Part::Train => TRAIN,
        Part::Validation => VALIDATION,
    };
    let has = |name: &str| names.iter().any(|known| known.strip_suffix(".npy") == Some(name));
    let Some((images, labels)) = named.iter().chain(EITHER).find(|(images, labels)| has(images) && has(labels)) else {
        let (images, labels) = named[0];
        let message = format!("it has no arrays `{images}` and `{labels}`, but {}", names.join(", "));
        return Err(wrong(message));
    };
    let array = |name: &str| -> Result<Array, StageError> {
        let bytes = archive.read(&format!("{name}.npy")).map_err(|why| wrong(format!("`{name}`: {why}")))?;
        Array::parse(&bytes).map_err(|why| wrong(format!("`{name}`: {why}")))
    };
    let (images, labels) = (array(images)?, array(labels)?);
    if images.kind != "u1" {
        return Err(wrong(format!("its images are of type `{}`; bytes, `u1`, can be read", images.kind)));
    }
    let count = images.shape.first().copied().unwrap_or(0);
    let labels = labels.whole_numbers().map_err(|why| wrong(format!("labels: {why}")))?;
    if labels.len() != count {
        return Err(wrong(format!("it has {count} images, but {} labels", labels.len())));
    }
    let (size, last) = match images.shape[..] {
        [_, height, width] => ([1, height, width], false),
        [_, height, width, channels @ (1 | 3)] => ([channels, height, width], true),
        [_, channels @ (1 | 3), height, width] => ([channels, height, width], false),
        _ => return Err(wrong(format!("its images have the shape {:?}", images.shape))),
    };
    let pixels = if last { channels_first(&images.values, size) } else { images.values };
    Ok(Images { size, pixels, labels, class_names: Vec::new() })
}

fn channels_first(values: &[u8], [channels, height, width]: [usize; 3]) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(values.len());
    for image in values.chunks_exact((channels * height * width).max(1)) {
        for channel in 0..channels {
            pixels.extend(image.iter().skip(channel).step_by(channels));
        }
    }
    pixels
}

/// One `.npy` array, values as they are stored.
struct Array {
    /// NumPy's type without its byte order: `u1`, `i8`.
    kind: String,
    shape: Vec<usize>,
    values: Vec<u8>,
}

impl Array {
    /// The format of `numpy.lib.format`: a magic string, two version bytes, the length of a header, and the header as a
    /// Python dictionary.
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        if !bytes.starts_with(b"\x93NUMPY") || bytes.len() < 12 {
            return Err("it does not begin as a .npy file does".to_owned());
        }
        let (length, start) = match bytes[6] {
            1 => (usize::from(u16::from_le_bytes([bytes[8], bytes[9]])), 10),
            _ => (u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize, 12),
        };
        let header = bytes.get(start..start + length).ok_or("it ends within its header")?;
        let header = String::from_utf8_lossy(header);
        let field = |name: &str| -> Result<&str, String> {
            let at = header.find(&format!("'{name}':")).ok_or(format!("its header has no `{name}`"))?;
            Ok(header[at + name.len() + 3..].trim_start())
        };
        let descr = field("descr")?.trim_start_matches('\'');
        let descr = descr.split('\'').next().unwrap_or_default();
        if descr.starts_with('>') {
            return Err(format!("its type `{descr}` is big endian"));
        }
        if field("fortran_order")?.starts_with("True") {
            return Err("it is stored column by column (Fortran order)".to_owned());
        }
        let inside = field("shape")?.trim_start_matches('(').split(')').next().unwrap_or_default();
        let sizes = inside.split(',').map(str::trim).filter(|size| !size.is_empty());
        let shape: Vec<usize> =
            sizes.map(|size| size.parse().map_err(|_| format!("its shape is ({inside})"))).collect::<Result<_, _>>()?;
        let kind = descr.trim_start_matches(['<', '|', '=']).to_owned();
        let width: usize = kind.get(1..).and_then(|width| width.parse().ok()).unwrap_or(0);
        let values = bytes[start + length..].to_vec();
        let expected = shape.iter().try_fold(width, |product, size| product.checked_mul(*size));
        if width == 0 || expected != Some(values.len()) {
            return Err(format!("its header says {shape:?} of `{descr}`, but {} bytes follow", values.len()));
        }
        Ok(Self { kind, shape, values })
    }

    fn whole_numbers(&self) -> Result<Vec<u16>, String> {
        if !matches!(self.kind.as_str(), "u1" | "u2" | "u4" | "u8" | "i1" | "i2" | "i4" | "i8") {
            return Err(format!("they are of type `{}`, not whole numbers", self.kind));
        }
        let width = self.values.len() / self.shape.iter().product::<usize>().max(1);
        let number = |bytes: &[u8]| {
            // Little endian; what is negative or large is above u16 either way.
            let value = bytes.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
            u16::try_from(value).map_err(|_| "a label is negative or above 65,535".to_owned())
        };
        self.values.chunks_exact(width.max(1)).map(number).collect()
    }
}
