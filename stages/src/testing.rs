//! What tests share: the numeric test vectors, small classifiers, the images that ship, and a context to run stages in.

use burn::tensor::Device;
use camino::{Utf8Path, Utf8PathBuf};
use sepia_engine::stage::{
    self, InputFiles, Job, MetricPoint, Progress, Sink, Stage, StageContext, StageError, StopFlag, parse_metrics,
};

use crate::{
    data::ImageFormat,
    model::vision::{Architecture, VisionConfig, VisionModel, VisionParams},
    stage::{ImageDataset, ImageDatasetParams},
};

/// Where tests compute: on the CPU, or, with the variable `SEPIA_TEST_CUDA` and the feature `cuda`, on a GPU.
pub(crate) fn test_device() -> Device {
    #[cfg(feature = "cuda")]
    if on_gpu() {
        let _ = sepia_kernels::cublas::open(0, sepia_engine::device::Cublas::of_this_machine().files());
        return Device::cuda(0);
    }
    Device::flex()
}

/// Whether tests compute on a GPU.
pub(crate) fn on_gpu() -> bool {
    cfg!(feature = "cuda") && std::env::var_os("SEPIA_TEST_CUDA").is_some()
}

/// An update that stands alone, as those of a training do.
pub(crate) fn alone<T>(update: impl FnOnce() -> T) -> T {
    crate::device::hand_over(&test_device()).unwrap();
    let done = update();
    crate::device::hand_over(&test_device()).unwrap();
    done
}

/// How far apart two results of convolutions may be that f32 would have so near: on a GPU their operands are TF32, which is
/// 5e-4 of each product.
pub(crate) fn convolved(in_f32: f64) -> f64 {
    if on_gpu() { in_f32.max(1e-2) } else { in_f32 }
}

/// A new classifier for square images of one channel and ten classes.
pub(crate) fn classifier(model: VisionParams, side: usize) -> VisionModel {
    let config = VisionConfig { model, channels: 1, image_size: [side; 2], classes: 10 };
    VisionModel::new(config, |name| name.bytes().map(u64::from).sum(), &test_device())
}

/// LeNet for the images that ship.
pub(crate) fn lenet() -> VisionModel {
    classifier(VisionParams::of(Architecture::Lenet), 28)
}

/// The images and labels of a split (`train` or `test`) that ship.
pub(crate) fn fashion_files(split: &str) -> InputFiles {
    let folder = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/data/fashion-mnist");
    let path = |what: &str| folder.join(format!("{split}-{what}-ubyte.gz"));
    InputFiles::of(vec![path("images-idx3"), path("labels-idx1")])
}

/// One entry of `vectors.json`.
pub(crate) fn vector(id: &str) -> serde_json::Value {
    let text = include_str!("../vectors.json");
    let all: serde_json::Value = serde_json::from_str(text).unwrap();
    let list = all["vectors"].as_array().unwrap();
    list.iter().find(|entry| entry["id"] == id).unwrap_or_else(|| panic!("no vector {id}")).clone()
}

/// An array of numbers.
pub(crate) fn floats(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// Keeps what a stage reports.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) stop: StopFlag,
    pub(crate) resumed: Option<u64>,
    pub(crate) checkpoints: Vec<u64>,
    pub(crate) notes: Vec<String>,
}

impl Sink for Recorder {
    fn progress(&mut self, _: &Progress) {}

    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

    fn resumed(&mut self, step: u64) {
        self.resumed = Some(step);
    }

    fn checkpoint(&mut self, step: u64) {
        self.checkpoints.push(step);
    }
}

/// A folder to run stages in.
pub(crate) struct Bench {
    temp: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { temp: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8PathBuf::from_path_buf(self.temp.path().join(name)).unwrap()
    }

    /// A job whose outputs and metrics lie below `name`.
    pub(crate) fn job(&self, name: &str, inputs: &[(&str, &Utf8Path)], outputs: &[&str]) -> Job {
        let folder = self.path(name);
        fs_err::create_dir_all(&folder).unwrap();
        Job {
            seed: 17,
            threads: 2,
            inputs: inputs.iter().map(|(port, path)| ((*port).to_owned(), vec![path.to_path_buf()])).collect(),
            outputs: outputs.iter().map(|port| ((*port).to_owned(), folder.join(port))).collect(),
            metrics: folder.join("metrics.tsv"),
            checkpoints: Some(folder.join("checkpoints")),
            checkpoint_seconds: 3600,
            device: if on_gpu() { stage::Device::Cuda(0) } else { stage::Device::Cpu },
            ..Job::default()
        }
    }

    /// The data of the images that ship, so many training images of each class.
    pub(crate) fn fashion_images(&self, per_class: usize) -> Utf8PathBuf {
        let params = ImageDatasetParams {
            format: ImageFormat::Idx,
            train: fashion_files("train"),
            validation: Some(fashion_files("test")),
            validation_part: 0.1,
            classes: None,
            max_per_class: Some(per_class),
        };
        let job = self.job("data", &[], &["data"]);
        let output = job.outputs["data"].clone();
        Self::run::<ImageDataset>(&params, job, &mut Recorder::default()).unwrap();
        output
    }

    /// Runs a stage and returns its figures.
    pub(crate) fn run<S: Stage>(
        params: &S::Params,
        job: Job,
        sink: &mut Recorder,
    ) -> Result<Vec<MetricPoint>, StageError> {
        let metrics = job.metrics.clone();
        let stop = sink.stop.clone();
        let mut ctx = StageContext::new(job, sink, stop)?;
        let outcome = S::run(params, &S::Knobs::default(), &mut ctx);
        ctx.finish()?;
        outcome?;
        Ok(parse_metrics(&fs_err::read_to_string(metrics)?))
    }
}

/// The figure of a whole stage.
pub(crate) fn result(points: &[MetricPoint], name: &str) -> f64 {
    let found = points.iter().find(|point| point.name == name && point.step.is_none());
    found.unwrap_or_else(|| panic!("no result {name}")).value
}
