//! `image-dataset`: labelled images from the usual formats.

use schemars::JsonSchema;
use sepia_engine::stage::{Check, InputFiles, NoKnobs, Port, Stage, StageContext, StageError, Written};
use serde::{Deserialize, Serialize};

use super::IMAGES;
use crate::data::{ImageFolder, ImageFormat, ImageSplit, Part, read_images};

/// Reads labelled images, and states mean and deviation of each channel over the training split.
///
/// Formats: `idx` (MNIST, Fashion-MNIST; plain or gzip), `cifar-10` and `cifar-100` (the binary versions), `folder` (one
/// folder for each class with PNG or JPEG files), `npz` (NumPy archives).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageDatasetParams {
    /// How the images are stored.
    pub format: ImageFormat,
    /// Files, or folders of them, of the training split.
    pub train: InputFiles,
    /// Files of the validation split; left out, a part of the training images is kept for it. An `npz` archive that holds
    /// both splits is named in both fields.
    #[serde(default)]
    pub validation: Option<InputFiles>,
    /// Part of each class's training images, the last ones, that is kept for validation where `validation` is left out.
    #[serde(default = "default_validation_part")]
    pub validation_part: f64,
    /// Number of classes; one more than the highest label of the training split when left out.
    #[serde(default)]
    pub classes: Option<usize>,
    /// Takes only the first so many training images of each class.
    #[serde(default)]
    pub max_per_class: Option<usize>,
}

fn default_validation_part() -> f64 {
    0.1
}

/// The stage kind.
#[derive(Debug)]
pub struct ImageDataset;

impl Stage for ImageDataset {
    const KIND: &'static str = "image-dataset";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[];
    const OUTPUTS: &'static [Port] = &[Port::new("data", IMAGES, "pixels and labels of both splits, with their sizes")];
    const SEEDED: bool = false;
    const ON_DEVICE: bool = false;

    type Params = ImageDatasetParams;
    type Knobs = NoKnobs;

    fn check(params: &Self::Params, check: &mut Check<'_>) {
        let part = params.validation_part;
        if params.validation.is_none() && !(part > 0.0 && part < 1.0) {
            let message = format!("`validation_part` is {part}, but must be above 0 and below 1");
            check.problem("validation_part", message, "0.1 keeps a tenth of each class");
        }
        for (name, count) in [("classes", params.classes), ("max_per_class", params.max_per_class)] {
            if count == Some(0) {
                check.problem(name, format!("`{name}` must be at least 1"), "");
            }
        }
        let known = match params.format {
            ImageFormat::Cifar10 => Some((3.0, 32.0, 10.0)),
            ImageFormat::Cifar100 => Some((3.0, 32.0, 100.0)),
            _ => None,
        };
        if let Some((channels, side, classes)) = known {
            for (name, value) in [("channels", channels), ("height", side), ("width", side), ("classes", classes)] {
                check.state("data", name, value);
            }
        }
    }

    fn run(params: &Self::Params, _: &Self::Knobs, ctx: &mut StageContext<'_>) -> Result<(), StageError> {
        let all =
            read_images(params.format, params.train.files(), Part::Train).map_err(|error| error.param("train"))?;
        let classes = number_of_classes(params, &all)?;
        let (train, validation) = match &params.validation {
            None => split_each_class(&all, classes, params.validation_part),
            Some(files) => {
                let validation = read_images(params.format, files.files(), Part::Validation)
                    .map_err(|error| error.param("validation"))?;
                fit(&all, &validation, classes)?;
                (all, validation)
            }
        };
        let train = match params.max_per_class {
            Some(most) => first_of_each_class(&train, classes, most),
            None => train,
        };
        if validation.is_empty() {
            return Err(StageError::new("no image is left for the validation split")
                .param("validation_part")
                .help("raise `validation_part`, or name files in `validation`"));
        }
        let meta = ImageFolder::write(&ctx.output("data")?, &train, &validation, classes)?;
        for (name, value) in [
            ("train_images", meta.train_images),
            ("validation_images", meta.validation_images),
            ("classes", meta.classes),
            ("channels", meta.channels),
            ("height", meta.height),
            ("width", meta.width),
        ] {
            ctx.result(name, value as f64)?;
        }
        Ok(())
    }
}

fn number_of_classes(params: &ImageDatasetParams, train: &ImageSplit) -> Result<usize, StageError> {
    let highest = train.labels.iter().copied().max().unwrap_or(0);
    let found = (usize::from(highest) + 1).max(train.class_names.len());
    let fixed = match params.format {
        ImageFormat::Cifar10 => Some(10),
        ImageFormat::Cifar100 => Some(100),
        _ => params.classes,
    };
    let classes = fixed.unwrap_or(found);
    if found > classes {
        let files: Vec<&str> = params.train.written().iter().map(Written::as_str).collect();
        let message = format!("{} has the label {highest}, but there are {classes} classes", files.join(", "));
        return Err(StageError::new(message).param("classes").help("labels count from 0"));
    }
    Ok(classes)
}

/// Whether the validation split has images and labels like those of the training split.
fn fit(train: &ImageSplit, validation: &ImageSplit, classes: usize) -> Result<(), StageError> {
    let wrong = |message: String| Err(StageError::new(message).param("validation"));
    if train.size != validation.size {
        let [a, b] = [train.size, validation.size].map(|[c, h, w]| format!("{c}x{h}x{w}"));
        return wrong(format!("images of the validation split are {b}, those of the training split {a}"));
    }
    if train.class_names != validation.class_names {
        let message = format!(
            "the validation split has the classes {}, the training split {}",
            validation.class_names.join(", "),
            train.class_names.join(", ")
        );
        return wrong(message);
    }
    match validation.labels.iter().position(|label| usize::from(*label) >= classes) {
        None => Ok(()),
        Some(index) => {
            let label = validation.labels[index];
            wrong(format!("image {index} of the validation split has label {label}, but there are {classes} classes"))
        }
    }
}

/// The images' numbers, class by class.
fn by_class(split: &ImageSplit, classes: usize) -> Vec<Vec<usize>> {
    let mut found = vec![Vec::new(); classes];
    for (index, label) in split.labels.iter().enumerate() {
        found[usize::from(*label)].push(index);
    }
    found
}

/// The last part of each class apart; both in the order of the files.
fn split_each_class(all: &ImageSplit, classes: usize, part: f64) -> (ImageSplit, ImageSplit) {
    let (mut train, mut validation) = (Vec::new(), Vec::new());
    for indices in by_class(all, classes) {
        let kept = (indices.len() as f64 * part).round() as usize;
        let (first, last) = indices.split_at(indices.len() - kept);
        train.extend_from_slice(first);
        validation.extend_from_slice(last);
    }
    train.sort_unstable();
    validation.sort_unstable();
    (all.pick(&train), all.pick(&validation))
}

fn first_of_each_class(split: &ImageSplit, classes: usize, most: usize) -> ImageSplit {
    let mut kept: Vec<usize> =
        by_class(split, classes).into_iter().flat_map(|indices| indices.into_iter().take(most)).collect();
    kept.sort_unstable();
    split.pick(&kept)
}

#[cfg(test)]
#[path = "image_dataset_tests.rs"]
mod tests;
