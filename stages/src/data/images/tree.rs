//! Folders of images, one for each class.

use std::collections::BTreeSet;

use sepia_engine::stage::{ResolvedFile, StageError};
use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::JpegDecoder;
use zune_png::PngDecoder;

use super::source::Images;

/// Classes are the folders' names in order. All images have the size of the first; grey ones stay so if all are.
pub(super) fn read(files: &[ResolvedFile]) -> Result<Images, StageError> {
    let is_image = |file: &&ResolvedFile| {
        let extension = file.path.extension().unwrap_or_default().to_ascii_lowercase();
        matches!(extension.as_str(), "png" | "jpg" | "jpeg")
    };
    let files: Vec<&ResolvedFile> = files.iter().filter(is_image).collect();
    let Some(first) = files.first() else {
        return Err(
            StageError::new("there is no PNG or JPEG file").help("name a folder with one folder for each class")
        );
    };
    let class_of = |file: &ResolvedFile| file.name.split_once('/').map(|(class, _)| class.to_owned());
    let mut classes = BTreeSet::new();
    for file in &files {
        let Some(class) = class_of(file) else {
            return Err(StageError::new(format!("{} is in no class's folder", file.path))
                .help("name the folder that holds a folder for each class"));
        };
        classes.insert(class);
    }
    let class_names: Vec<String> = classes.into_iter().collect();
    let mut decoded = Vec::with_capacity(files.len());
    for file in &files {
        decoded.push(Decoded::read(file)?);
    }
    let grey = decoded.iter().all(|image| image.channels == 1);
    let (height, width) = (decoded[0].height, decoded[0].width);
    let size = [if grey { 1 } else { 3 }, height, width];
    let mut images = Images { size, class_names, ..Images::default() };
    for (file, image) in files.iter().zip(decoded) {
        if (image.height, image.width) != (height, width) {
            let (rows, columns, first) = (image.height, image.width, &first.path);
            let why = format!("it has {rows}x{columns} pixels, but {first} has {height}x{width}");
            return Err(StageError::unreadable(&file.path, why));
        }
        for channel in 0..size[0] {
            let from = channel.min(image.channels - 1);
            images.pixels.extend(image.pixels.iter().skip(from).step_by(image.channels));
        }
        let class = class_of(file).unwrap_or_default();
        let label = images.class_names.binary_search(&class).unwrap_or_default();
        images.labels.push(u16::try_from(label).map_err(|_| StageError::new("there are more than 65,536 classes"))?);
    }
    Ok(images)
}

/// One picture, its channels beside each other.
struct Decoded {
    height: usize,
    width: usize,
    /// 1 for grey, 3 for colour.
    channels: usize,
    pixels: Vec<u8>,
}

impl Decoded {
    fn read(file: &ResolvedFile) -> Result<Self, StageError> {
        let bytes = fs_err::read(&file.path)?;
        let found = if bytes.starts_with(b"\x89PNG") { png(&bytes) } else { jpeg(&bytes) };
        found.map_err(|why| StageError::unreadable(&file.path, why))
    }

    /// Drops an alpha channel.
    fn new([height, width]: [usize; 2], pixels: Vec<u8>) -> Result<Self, String> {
        let found = pixels.len() / (height * width).max(1);
        let channels = match found {
            1 | 2 => 1,
            3 | 4 => 3,
            _ => return Err("it has no pixels".to_owned()),
        };
        let pixels = if found == channels {
            pixels
        } else {
            pixels.chunks_exact(found).flat_map(|pixel| &pixel[..channels]).copied().collect()
        };
        Ok(Self { height, width, channels, pixels })
    }
}

fn png(bytes: &[u8]) -> Result<Decoded, String> {
    let options = DecoderOptions::new_fast().png_set_strip_to_8bit(true);
    let mut decoder = PngDecoder::new_with_options(ZCursor::new(bytes), options);
    let pixels = decoder.decode_raw().map_err(|error| error.to_string())?;
    let (width, height) = decoder.dimensions().ok_or("it has no size")?;
    Decoded::new([height, width], pixels)
}

fn jpeg(bytes: &[u8]) -> Result<Decoded, String> {
    let mut decoder = JpegDecoder::new(ZCursor::new(bytes));
    decoder.decode_headers().map_err(|error| error.to_string())?;
    if decoder.input_colorspace() == Some(ColorSpace::Luma) {
        decoder.set_options(DecoderOptions::new_fast().jpeg_set_out_colorspace(ColorSpace::Luma));
    }
    let pixels = decoder.decode().map_err(|error| error.to_string())?;
    let (width, height) = decoder.dimensions().ok_or("it has no size")?;
    Decoded::new([height, width], pixels)
}
