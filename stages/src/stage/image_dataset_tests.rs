//! Every format read from real files, and what is said of bad ones.

use std::io::Write as _;

use camino::{Utf8Path, Utf8PathBuf};

use super::*;
use crate::testing::{Bench, Recorder};

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn idx(sizes: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, sizes.len() as u8];
    sizes.iter().for_each(|size| bytes.extend(size.to_be_bytes()));
    bytes.extend(values);
    bytes
}

fn npy(descr: &str, shape: &str, values: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let header = format!("{header:<117}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values);
    bytes
}

/// A zip archive of named entries, packed or not.
fn archive(entries: &[(&str, Vec<u8>, bool)]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content, packed) in entries {
        let mut stored = content.clone();
        if *packed {
            let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
            deflate.write_all(content).unwrap();
            stored = deflate.finish().unwrap();
        }
        let mut crc = flate2::Crc::new();
        crc.update(content);
        let mut about = vec![0, 0, if *packed { 8 } else { 0 }, 0, 0, 0, 0, 0];
        [crc.sum(), stored.len() as u32, content.len() as u32].iter().for_each(|n| about.extend(n.to_le_bytes()));
        about.extend((name.len() as u16).to_le_bytes());
        about.extend([0, 0]);
        let start = bytes.len() as u32;
        bytes.extend([b"PK\x03\x04\x14\x00".as_slice(), &about, name.as_bytes(), &stored].concat());
        directory.extend([b"PK\x01\x02\x14\x00\x14\x00".as_slice(), &about, &[0; 10]].concat());
        directory.extend(start.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let start = bytes.len() as u32;
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    [entries.len() as u16; 2].iter().for_each(|n| bytes.extend(n.to_le_bytes()));
    [directory.len() as u32, start].iter().for_each(|n| bytes.extend(n.to_le_bytes()));
    bytes.extend([0, 0]);
    bytes
}

/// A PNG file of 8 bits a channel, its pixels in stored blocks.
fn png(path: &Utf8Path, [height, width]: [u32; 2], colour: u8, pixels: &[u8]) {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8], data: &[u8]| {
        let body = [kind, data].concat();
        let mut crc = flate2::Crc::new();
        crc.update(&body);
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(&body);
        bytes.extend(crc.sum().to_be_bytes());
    };
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, colour, 0, 0, 0]].concat();
    chunk(b"IHDR", &header);
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    for row in pixels.chunks(pixels.len() / height as usize) {
        zlib.write_all(&[0]).unwrap();
        zlib.write_all(row).unwrap();
    }
    chunk(b"IDAT", &zlib.finish().unwrap());
    chunk(b"IEND", &[]);
    fs_err::write(path, bytes).unwrap();
}

fn params(format: ImageFormat, train: Vec<Utf8PathBuf>) -> ImageDatasetParams {
    ImageDatasetParams {
        format,
        train: InputFiles::of(train),
        validation: None,
        validation_part: 0.5,
        classes: None,
        max_per_class: None,
    }
}

fn run(bench: &Bench, name: &str, params: &ImageDatasetParams) -> Result<ImageFolder, StageError> {
    let job = bench.job(name, &[], &["data"]);
    let output = job.outputs["data"].clone();
    Bench::run::<ImageDataset>(params, job, &mut Recorder::default())?;
    ImageFolder::open(&output)
}

fn write(bench: &Bench, name: &str, bytes: &[u8]) -> Utf8PathBuf {
    let path = bench.path(name);
    fs_err::create_dir_all(path.parent().unwrap()).unwrap();
    fs_err::write(&path, bytes).unwrap();
    path
}

/// Four images of 2x2 pixels: image i holds 4 i .. 4 i + 3, labels 0 1 0 1.
fn pixels() -> Vec<u8> {
    (0..16).collect()
}

fn check(folder: &ImageFolder, channels: usize) {
    let (train, validation) = (folder.train().unwrap(), folder.validation().unwrap());
    assert_eq!((train.size, train.labels.as_slice()), ([channels, 2, 2], &[0, 1][..]));
    assert_eq!(validation.labels, [0, 1]);
    if channels == 1 {
        assert_eq!((train.pixels, validation.pixels), ((0..8).collect(), (8..16).collect()));
        let mean = 3.5 / 255.0;
        assert!((folder.meta.mean[0] - mean).abs() < 1e-12, "{:?}", folder.meta);
    }
}

#[test]
fn idx_files_are_read_plain_and_packed_in_any_order() {
    let bench = Bench::new();
    let images = write(&bench, "images.gz", &gz(&idx(&[4, 2, 2], &pixels())));
    let labels = write(&bench, "labels", &idx(&[4], &[0, 1, 0, 1]));
    let found = run(&bench, "one", &params(ImageFormat::Idx, vec![images.clone(), labels.clone()])).unwrap();
    check(&found, 1);
    let other = run(&bench, "other", &params(ImageFormat::Idx, vec![labels, images])).unwrap();
    assert_eq!(other.meta, found.meta);
}

#[test]
fn archives_of_numpy_are_read() {
    let bench = Bench::new();
    let labels: Vec<u8> = [0i64, 1, 0, 1].iter().flat_map(|label| label.to_le_bytes()).collect();
    let archive = archive(&[
        ("x_train.npy", npy("|u1", "(4, 2, 2)", &pixels()), true),
        ("y_train.npy", npy("<i8", "(4,)", &labels), false),
    ]);
    let path = write(&bench, "data.npz", &archive);
    let cut = write(&bench, "cut.npz", &archive[..archive.len() - 9]);
    let error = run(&bench, "cut", &params(ImageFormat::Npz, vec![cut.clone()])).unwrap_err().to_string();
    assert_eq!(error, format!("{cut} cannot be read: it is not a whole zip archive"));
    check(&run(&bench, "npz", &params(ImageFormat::Npz, vec![path.clone()])).unwrap(), 1);
    let both = ImageDatasetParams { validation: Some(InputFiles::of(vec![path])), ..params(ImageFormat::Npz, vec![]) };
    let both = ImageDatasetParams { train: both.validation.clone().unwrap(), ..both };
    let error = run(&bench, "both", &both).unwrap_err().to_string();
    assert!(error.ends_with("it has no arrays `x_test` and `y_test`, but x_train.npy, y_train.npy"), "{error}");
}

#[test]
fn a_folder_for_each_class_is_read() {
    let bench = Bench::new();
    for (index, class) in ["boot", "coat", "boot", "coat"].iter().enumerate() {
        let path = bench.path(&format!("tree/{class}/{index}.png"));
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        let values = pixels()[4 * index..4 * index + 4].to_vec();
        png(&path, [2, 2], 0, &values);
    }
    let files: InputFiles = serde_json::from_value(serde_json::json!("tree")).unwrap();
    let found = files.resolve(&bench.path("")).unwrap();
    let split = read_images(ImageFormat::Folder, &found, Part::Train).unwrap();
    assert_eq!((split.labels.as_slice(), split.size), (&[0, 0, 1, 1][..], [1, 2, 2]));
    assert_eq!(split.class_names, ["boot", "coat"]);
    assert_eq!(split.image(1), [8, 9, 10, 11]);
    let path = bench.path("tree/boot/9.png");
    png(&path, [3, 2], 2, &[1, 2, 3].repeat(6));
    let found = files.resolve(&bench.path("")).unwrap();
    let error = read_images(ImageFormat::Folder, &found, Part::Train).unwrap_err().to_string();
    assert!(error.contains("tree/boot/9.png") && error.contains("it has 3x2 pixels, but"), "{error}");
}

#[test]
fn cifar_records_are_read_and_checked() {
    let bench = Bench::new();
    let record = |label: u8, fine: Option<u8>, value: u8| {
        let mut record: Vec<u8> = std::iter::once(label).chain(fine).collect();
        record.extend(std::iter::repeat_n(value, 3072));
        record
    };
    let ten: Vec<u8> = (0..4).flat_map(|i| record(i % 2 + 8, None, i)).collect();
    let path = write(&bench, "data_batch_1.bin", &ten);
    let found = run(&bench, "ten", &params(ImageFormat::Cifar10, vec![path])).unwrap();
    assert_eq!((found.meta.classes, found.meta.train_images, found.train().unwrap().size), (10, 2, [3, 32, 32]));
    let hundred: Vec<u8> = (0..4).flat_map(|i| record(1, Some(i % 2 + 98), i)).collect();
    let path = write(&bench, "train.bin", &hundred);
    let found = run(&bench, "hundred", &params(ImageFormat::Cifar100, vec![path])).unwrap();
    assert_eq!(found.train().unwrap().labels, [98, 99]);
    let path = write(&bench, "bad.bin", &record(10, None, 0));
    let error = run(&bench, "bad", &params(ImageFormat::Cifar10, vec![path])).unwrap_err().to_string();
    assert!(error.ends_with("image 0 has label 10, but CIFAR-10 has classes 0 to 9"), "{error}");
    let path = write(&bench, "short.bin", &ten[..5000]);
    let error = run(&bench, "short", &params(ImageFormat::Cifar10, vec![path])).unwrap_err().to_string();
    assert!(error.contains("short.bin") && error.contains("5000 bytes are not a multiple of 3073"), "{error}");
}

#[test]
fn damaged_files_are_named() {
    let bench = Bench::new();
    let images = write(&bench, "images", &idx(&[4, 2, 2], &pixels()));
    let says = |name: &str, train: Vec<Utf8PathBuf>, classes| {
        let params = ImageDatasetParams { classes, ..params(ImageFormat::Idx, train) };
        run(&bench, name, &params).unwrap_err().to_string()
    };
    let three = write(&bench, "three", &idx(&[3], &[0, 1, 0]));
    let error = says("a", vec![images.clone(), three.clone()], None);
    assert_eq!(error, format!("{images} has 4 images, but {three} has 3 labels"));
    let short = write(&bench, "short", &idx(&[5], &[0, 1, 0]));
    let error = says("b", vec![images.clone(), short.clone()], None);
    assert_eq!(error, format!("{short} cannot be read: its header says [5], but 3 values follow"));
    let high = write(&bench, "high", &idx(&[4], &[0, 1, 0, 7]));
    let error = says("c", vec![images.clone(), high.clone()], Some(3));
    assert_eq!(error, format!("{images}, {high} has the label 7, but there are 3 classes"));
    let broken = write(&bench, "broken.gz", &gz(&idx(&[4], &[0, 1, 0, 1]))[..20]);
    let error = says("d", vec![images.clone(), broken.clone()], None);
    assert!(error.starts_with(&format!("{broken} cannot be read: it is not whole gzip data")), "{error}");
    let text = write(&bench, "text", b"pixels");
    let error = says("e", vec![images, text.clone()], None);
    assert_eq!(error, format!("{text} cannot be read: it does not begin as an IDX file does"));
}

#[test]
fn the_images_that_ship_are_balanced() {
    let bench = Bench::new();
    let found = ImageFolder::open(&bench.fashion_images(50)).unwrap();
    assert_eq!((found.meta.train_images, found.meta.validation_images), (500, 1000));
    let validation = found.validation().unwrap();
    for class in 0..10 {
        assert_eq!(validation.labels.iter().filter(|label| **label == class).count(), 100);
    }
    assert!((found.meta.mean[0] - 0.286).abs() < 0.02 && (found.meta.std[0] - 0.353).abs() < 0.02, "{:?}", found.meta);
}
