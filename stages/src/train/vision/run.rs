//! The training loop of classifiers, to be read from top to bottom.

use std::time::Instant;

use burn::tensor::{Device, Tensor};
use sepia_engine::stage::{Progress, StageContext, StageError};

use super::{
    gradients::VisionGradients,
    method::{At, Forward, VisionData, VisionMethod},
    optimizer::VisionOptimizer,
    params::{ClassifierKnobs, ClassifierParams, VisionMethodParams},
    scores::{Scores, classify_split, smoothed_loss},
};
use crate::{
    data::{ImageBatch, ImageFolder, ImageSplit, epoch_order},
    device,
    metric::trace::StableRanks,
    model::vision::{Form, Kind, VisionConfig, VisionModel, load_vision, save_vision},
    train::{State, Throughput, TimeShare, guard::Guard, peak_memory_bytes},
};

/// Trains a classifier and writes what the method deploys, which is returned, to the output `model`.
///
/// Inputs: `data` (images) and, optionally, `init` (a model to continue) and `teacher` (one to learn from). Everything random derives from the seed, the
/// purpose and the step or epoch; a run that was stopped and resumed ends in the same bytes as one that was not.
///
/// # Errors
/// When inputs and parameters do not fit, training diverges, or a file cannot be read or written.
pub fn run_vision<M: VisionMethodParams>(
    params: &ClassifierParams<M>,
    knobs: &ClassifierKnobs,
    method: &mut dyn VisionMethod,
    ctx: &mut StageContext<'_>,
) -> Result<VisionModel, StageError> {
    device::with_threads(ctx.threads(), || {
        let device = device::open(ctx)?;
        device::note_machine(ctx);
        let folder = ImageFolder::open(&ctx.input("data")?)?;
        let (train, validation) = (folder.train()?, folder.validation()?);
        if train.len() < params.batch_size {
            let message =
                format!("a batch of {} images is more than the training split's {}", params.batch_size, train.len());
            return Err(StageError::new(message).param("batch_size"));
        }
        let teacher = model_of("teacher", &folder, ctx, &device)?;
        let model = initial_model(params, &folder, teacher.as_ref(), ctx, &device)?;
        let (meta, batch_size, seed) = (&folder.meta, params.batch_size, ctx.rng_seed("method data", 0));
        let data = VisionData { train: &train, meta, batch_size, device: &device, seed, teacher: teacher.as_ref() };
        let run = Run {
            steps_per_epoch: (train.len() / params.batch_size) as u64,
            optimizer: VisionOptimizer::new(params.optimizer, params.weight_decay),
            ranks: StableRanks::default(),
            rank_time: TimeShare::default(),
            guard: Guard::default(),
            seen: Scores::default(),
            done: 0,
            params,
            knobs,
            method,
            ctx,
            device: &device,
            data,
            validation: &validation,
        };
        run.train(model)
    })
}

/// Everything but the model.
struct Run<'a, 'b, M> {
    params: &'a ClassifierParams<M>,
    knobs: &'a ClassifierKnobs,
    method: &'a mut dyn VisionMethod,
    ctx: &'a mut StageContext<'b>,
    /// Without autodiff.
    device: &'a Device,
    data: VisionData<'a>,
    validation: &'a ImageSplit,
    steps_per_epoch: u64,
    optimizer: VisionOptimizer,
    ranks: StableRanks,
    rank_time: TimeShare,
    guard: Guard,
    /// Of the training images of this epoch so far.
    seen: Scores,
    /// Updates done.
    done: u64,
}

impl<M: VisionMethodParams> Run<'_, '_, M> {
    fn train(mut self, model: VisionModel) -> Result<VisionModel, StageError> {
        let mut model = self.begin(model)?;
        let total = self.params.epochs * self.steps_per_epoch;
        let mut speed = Throughput::default();
        let mut order = Vec::new();
        while self.done < total {
            let (epoch, within) = (self.done / self.steps_per_epoch, self.done % self.steps_per_epoch);
            if within == 0 || order.is_empty() {
                order = epoch_order(self.data.train.len(), self.ctx.rng_seed("epoch", epoch));
            }
            let first = within as usize * self.params.batch_size;
            let batch = &order[first..first + self.params.batch_size];
            let (loss, lr);
            (model, loss, lr) = self.update(model, batch)?;
            speed.add(self.params.batch_size as u64);
            let ended = self.done.is_multiple_of(self.steps_per_epoch);
            if self.done.is_multiple_of(self.knobs.log_every.max(1)) || ended {
                let rate = speed.read();
                self.record(loss, lr, rate, total)?;
            }
            if ended {
                model = self.end_epoch(model)?;
                speed.restart();
            }
            self.checkpoint(&model)?;
        }
        self.finish(model)
    }

    fn at(&self) -> At {
        At {
            epoch: self.done / self.steps_per_epoch,
            epochs: self.params.epochs,
            step: self.done,
            steps_per_epoch: self.steps_per_epoch,
        }
    }

    /// One step. Returns the model, the mean loss of the batch and the learning rate.
    fn update(&mut self, model: VisionModel, batch: &[usize]) -> Result<(VisionModel, f64, f64), StageError> {
        device::hand_over(self.device)?;
        let (params, at) = (self.params, self.at());
        let augment = (params.augment, self.ctx.rng_seed("augment", self.done));
        let batch = ImageBatch::new(self.data.train, self.data.meta, batch, Some(augment), self.device);
        let mut model = self.method.before_step(at, model)?;
        let mut pass = self.method.pass(at, &model);
        let tracked = model.tracked();
        let logits = tracked.forward(Tensor::from_inner(batch.images.clone()), &mut pass);
        let plain = logits.clone().inner();
        let labels = batch.labels.clone();
        let forward = Forward { model: &tracked, images: &batch.images, logits: &logits, features: pass.features() };
        let extra = self.method.extra_loss(forward, &self.data)?;
        let loss = smoothed_loss(logits, Tensor::from_inner(batch.labels), params.label_smoothing);
        let mean = loss.clone().div_scalar(params.batch_size as f64);
        let mut tape = extra.into_iter().fold(mean, |sum, extra| sum + extra).backward();
        let scores = Scores::of(&plain, &labels, f64::from(loss.into_scalar::<f32>()));
        let mut gradients = VisionGradients::collect(tracked, &mut tape);
        self.method.add_gradients(at, &model, &mut gradients)?;
        let (norm, bad) = gradients.norm();
        let schedule = &params.schedule;
        let (total, warmup) = (params.epochs * self.steps_per_epoch, params.warmup_epochs * self.steps_per_epoch);
        let scheduled = params.lr * schedule.multiplier(at.step, total, warmup, params.min_lr_ratio);
        let lr = self.method.lr(at, scheduled);
        if scores.loss().is_finite() && norm.is_finite() {
            if params.grad_clip > 0.0 && norm > params.grad_clip {
                gradients.scale(params.grad_clip / (norm + 1e-6));
            }
            let method = &*self.method;
            let decays = |name: &str, kind: Kind| {
                let usual = params.decay_vectors || matches!(kind, Kind::Weight | Kind::U | Kind::V);
                method.decays(name, kind, usual)
            };
            self.optimizer.step(&mut model, gradients, lr, decays);
            model.learn_statistics(&pass);
            model = self.method.after_step(at, lr, model)?;
            self.seen.add(scores);
        } else {
            self.guard.skip(self.done + 1, bad.as_deref().unwrap_or("the loss"))?;
        }
        self.done += 1;
        device::hand_over(self.device)?;
        Ok((model, scores.loss(), lr))
    }

    fn end_epoch(&mut self, model: VisionModel) -> Result<VisionModel, StageError> {
        let at = self.at();
        let model = self.method.after_epoch(at, model, &mut self.optimizer, &self.data)?;
        self.ctx.metric("train_accuracy", self.done, self.seen.accuracy())?;
        self.seen = Scores::default();
        for (name, value) in self.method.figures() {
            self.ctx.metric(&name, self.done, value)?;
        }
        self.note();
        if self.params.rank_every > 0 && at.epoch.is_multiple_of(self.params.rank_every) {
            self.trace_ranks(&model)?;
        }
        if self.params.eval_every > 0 && at.epoch.is_multiple_of(self.params.eval_every) && at.epoch < at.epochs {
            let validated = self.method.validated(model.clone(), &self.data)?;
            let found = self.evaluate(&validated);
            self.ctx.metric("val_loss", self.done, found.loss())?;
            self.ctx.metric("val_accuracy", self.done, found.accuracy())?;
        }
        self.ctx.flush_metrics()?;
        Ok(model)
    }

    /// The stable rank of every layer's channel matrix, by a few products with a vector that is kept between epochs.
    fn trace_ranks(&mut self, model: &VisionModel) -> Result<(), StageError> {
        let start = Instant::now();
        for layer in model.layers() {
            let found = self.ranks.measure(&layer.path, &layer.matrix(Form::Channel))?;
            self.ctx.metric(&format!("stable_rank/{}", layer.path), self.done, found)?;
        }
        self.rank_time.add_since(start);
        Ok(())
    }

    fn evaluate(&self, model: &VisionModel) -> Scores {
        classify_split(model, (self.validation, self.data.meta), self.params.batch_size, self.device)
    }

    fn note(&mut self) {
        for note in self.method.notes() {
            self.ctx.note(&note);
        }
    }

    fn record(&mut self, loss: f64, lr: f64, rate: f64, total: u64) -> Result<(), StageError> {
        for (name, value) in [("loss", loss), ("lr", lr), ("images_per_second", rate)] {
            self.ctx.metric(name, self.done, value)?;
        }
        let accuracy = self.seen.accuracy();
        self.ctx.progress(&Progress {
            done: self.done,
            total,
            unit: "step".to_owned(),
            figures: vec![("loss".to_owned(), loss), ("accuracy".to_owned(), accuracy), ("images/s".to_owned(), rate)],
        });
        Ok(())
    }

    fn checkpoint(&mut self, model: &VisionModel) -> Result<(), StageError> {
        let Self { ctx, method, optimizer, ranks, guard, seen, device, done, .. } = self;
        ctx.checkpoint(*done, |folder| {
            save_vision(model, &folder.join("model"))?;
            let mut state = State::new(device);
            optimizer.save(&mut state);
            method.save(&mut state);
            ranks.save(&mut state);
            state.put_count("skipped", guard.skipped);
            state.put_count("seen/loss_bits", seen.loss_sum.to_bits());
            state.put_count("seen/correct", seen.correct);
            state.put_count("seen/images", seen.images);
            state.write(folder)
        })
    }

    /// The model to go on with: of the newest checkpoint, or the initial one with what the method makes of it.
    fn begin(&mut self, model: VisionModel) -> Result<VisionModel, StageError> {
        let Some((step, folder)) = self.ctx.resume()? else {
            let model = self.method.attach(model, &self.data)?;
            self.note();
            if self.params.rank_every > 0 {
                self.trace_ranks(&model)?;
            }
            return Ok(model);
        };
        let mut state = State::read(&folder, self.device)?;
        self.optimizer.load(&mut state)?;
        self.method.load(&mut state)?;
        self.ranks.load(&mut state)?;
        self.guard.skipped = state.count("skipped")?;
        let loss_sum = f64::from_bits(state.count("seen/loss_bits")?);
        self.seen = Scores { loss_sum, correct: state.count("seen/correct")?, images: state.count("seen/images")? };
        self.done = step;
        load_vision(&folder.join("model"), self.device)
    }

    fn finish(self, model: VisionModel) -> Result<VisionModel, StageError> {
        let state_bytes = self.optimizer.bytes();
        let model = self.method.deployed(model, &self.data)?;
        let found = self.evaluate(&model);
        let mut results = vec![
            ("val_accuracy".to_owned(), found.accuracy()),
            ("val_loss".to_owned(), found.loss()),
            ("parameters".to_owned(), model.parameters() as f64),
            ("dense_parameters".to_owned(), model.dense_parameters() as f64),
            ("macs".to_owned(), model.macs() as f64),
            ("dense_macs".to_owned(), model.dense_macs() as f64),
            ("optimizer_state_bytes".to_owned(), state_bytes as f64),
            ("skipped_updates".to_owned(), self.guard.skipped as f64),
        ];
        results.extend(self.method.results());
        if self.params.rank_every > 0 {
            results.push(("rank_time_share".to_owned(), self.rank_time.share()));
        }
        results.extend(peak_memory_bytes().map(|bytes| ("peak_memory_bytes".to_owned(), bytes as f64)));
        for note in self.method.notes() {
            self.ctx.note(&note);
        }
        save_vision(&model, &self.ctx.output("model")?)?;
        for (name, value) in results {
            self.ctx.result(&name, value)?;
        }
        Ok(model)
    }
}

/// The model that is connected to an input port, if there is one.
fn model_of(
    port: &str,
    data: &ImageFolder,
    ctx: &StageContext<'_>,
    device: &Device,
) -> Result<Option<VisionModel>, StageError> {
    let Some(folder) = ctx.input_opt(port) else { return Ok(None) };
    let model = load_vision(&folder, device)?;
    fits_data(model.config(), &data.meta).map_err(|error| StageError::new(format!("input `{port}`: {error}")))?;
    Ok(Some(model))
}

/// The model of the input `init`, else what a teacher knows, else a new one.
fn initial_model<M: VisionMethodParams>(
    params: &ClassifierParams<M>,
    data: &ImageFolder,
    teacher: Option<&VisionModel>,
    ctx: &StageContext<'_>,
    device: &Device,
) -> Result<VisionModel, StageError> {
    let meta = &data.meta;
    let image_size = [meta.height, meta.width];
    let init = model_of("init", data, ctx, device)?;
    let port = if init.is_some() { "init" } else { "teacher" };
    if let Some(model) = init.or_else(|| teacher.cloned()) {
        if params.model.is_some() {
            let message = format!("the model's sizes come from the input `{port}`");
            return Err(StageError::new(message).param("model").help("leave `model` out"));
        }
        return Ok(model);
    }
    let Some(model) = params.model.clone() else {
        return Err(StageError::new("no model is named")
            .param("model")
            .help("name one: model = { name = \"resnet-20\" }"));
    };
    if let Err((field, why)) = model.fits(image_size) {
        return Err(StageError::new(why).param(format!("model.{field}")));
    }
    let config = VisionConfig { model, channels: meta.channels, image_size, classes: meta.classes };
    Ok(VisionModel::new(config, |name| ctx.rng_seed(&format!("init {name}"), 0), device))
}

/// Whether a model was made for images like these.
///
/// # Errors
/// When sizes or the number of classes differ.
pub(crate) fn fits_data(config: &VisionConfig, meta: &crate::data::ImageMeta) -> Result<(), StageError> {
    let model = (config.channels, config.image_size, config.classes);
    let data = (meta.channels, [meta.height, meta.width], meta.classes);
    if model == data {
        return Ok(());
    }
    let say = |(channels, [height, width], classes): (usize, [usize; 2], usize)| {
        format!("{channels}x{height}x{width} images of {classes} classes")
    };
    Err(StageError::new(format!("the model was made for {}, but the data has {}", say(model), say(data))))
}
