//! The training loop, to be read from top to bottom.

use std::time::Instant;

use burn::{
    module::Module,
    tensor::{Bool, DType, Device, Tensor},
};
use camino::Utf8Path;
use sepia_engine::stage::{self, Progress, StageContext, StageError};

use super::{
    Batches, Gradients, Method, Rest, State, TrainKnobs, TrainParams,
    batches::Batch,
    eval::{Evaluation, evaluate},
    gradients::{load_weights, save_weights},
    guard::Guard,
    initial::initial_model,
    loss_scale::{LossScale, LossScaleOnDevice},
    parts::{self, Pass},
    report::{Throughput, TimeShare, peak_memory_bytes},
    unread::{Figures, Unread},
};
use crate::{
    data::{Split, TokenFolder, unigram_loss},
    device,
    method::MethodParams,
    metric::trace::StableRanks,
    model::{self, Llama},
    ops::{self, Rope},
};

/// Trains a model and writes it to the output `model`.
///
/// Inputs: `data` (tokens) and, optionally, `init` (a model to continue). Everything random derives from the seed, the
/// purpose and the step; a run that was stopped and resumed ends in the same bytes as one that was not.
///
/// # Errors
/// When inputs and parameters do not fit, training diverges, or a file cannot be read or written.
pub fn run_training<M: MethodParams>(
    params: &TrainParams<M>,
    knobs: &TrainKnobs,
    method: &mut dyn Method,
    ctx: &mut StageContext<'_>,
) -> Result<(), StageError> {
    device::with_threads(ctx.threads(), || {
        let (run, model) = Run::new(params, knobs, method, ctx)?;
        run.train(model)
    })
}

/// Everything but the model, which the loop owns: handed on from update to update, its weights have one owner and are
/// changed in place.
struct Run<'a, 'b, M> {
    params: &'a TrainParams<M>,
    knobs: &'a TrainKnobs,
    method: &'a mut dyn Method,
    ctx: &'a mut StageContext<'b>,
    /// With autodiff.
    device: Device,
    data: TokenFolder,
    batches: Batches,
    validation: Split,
    unigram_loss: f64,
    rope: Rope,
    rest: Rest,
    ranks: StableRanks,
    rank_time: TimeShare,
    guard: Guard,
    /// For f16.
    loss_scale: Option<LossScale>,
    /// The same where the last update left it on the device: then that is what holds.
    scale_there: Option<LossScaleOnDevice>,
    /// Whether loss and norm stay on the device until they are logged: wherever to read them is to wait.
    leaves_unread: bool,
    unread: Unread,
    /// Mean loss and norm of the last update that was read.
    last: (f64, f64),
    /// When this began, until the first update is done; on a GPU, where kernels are compiled and tuned meanwhile.
    begun: Option<Instant>,
    /// Updates done.
    done: u64,
}

/// What an update tells about itself.
enum Told {
    /// The mean loss per token, the norm of the gradient before clipping, and the parameter where it is not finite.
    Read { loss: f64, norm: f64, bad: Option<String> },
    /// Still on the device.
    Unread(Box<Figures>),
}

impl<'a, 'b, M: MethodParams> Run<'a, 'b, M> {
    fn new(
        params: &'a TrainParams<M>,
        knobs: &'a TrainKnobs,
        method: &'a mut dyn Method,
        ctx: &'a mut StageContext<'b>,
    ) -> Result<(Self, Llama), StageError> {
        let begun = (ctx.device() != stage::Device::Cpu).then(Instant::now);
        let (device, dtype) = device::open_in(ctx)?;
        device::note_machine(ctx);
        let device = device.autodiff();
        let data = TokenFolder::open(&ctx.input("data")?)?;
        if let Some((param, message)) = params.split_too_small(data.meta.train_tokens as u64, "") {
            return Err(StageError::new(message).param(param).help("lower batch_size or seq_len, or add text"));
        }
        let (train, validation) = (data.train()?, data.validation()?);
        let unigram_loss = unigram_loss(&train, &validation, data.meta.vocab_size);
        let model = initial_model(params, &data, ctx, &device)?.computing_in(dtype);
        let model = method.attach(model.held_in(params.weights_dtype.dtype()))?;
        let mut run = Self {
            rope: model.rope(params.seq_len, &device),
            batches: Batches::new(train, params.seq_len),
            rest: Rest::new(params.adam(), method.rest(), params.state_dtype.dtype()),
            ranks: StableRanks::default(),
            rank_time: TimeShare::default(),
            guard: Guard::default(),
            loss_scale: (dtype == DType::F16).then(LossScale::default),
            scale_there: None,
            leaves_unread: ctx.device() != stage::Device::Cpu,
            unread: Unread::default(),
            last: (f64::NAN, f64::NAN),
            begun,
            done: 0,
            params,
            knobs,
            method,
            ctx,
            device,
            data,
            validation,
            unigram_loss,
        };
        if run.leaves_unread {
            run.batches.counted = Some(model.config().vocab_size);
        }
        let model = run.resume(model)?;
        Ok((run, model))
    }

    fn train(mut self, mut model: Llama) -> Result<(), StageError> {
        if self.done == 0 && self.params.rank_every > 0 {
            self.trace_ranks(&model)?;
        }
        let mut speed = Throughput::default();
        while self.done < self.params.max_steps {
            model = self.update(model)?;
            if let Some(begun) = self.begun.take() {
                self.read()?;
                self.ctx.result("startup_seconds", begun.elapsed().as_secs_f64())?;
            }
            speed.add(self.params.tokens_per_step());
            if self.done.is_multiple_of(self.knobs.log_every.max(1)) || self.done == self.params.max_steps {
                self.read()?;
                let rate = speed.read();
                self.record(rate)?;
            }
            if self.params.eval_every > 0 && self.done.is_multiple_of(self.params.eval_every) {
                let found = self.evaluate(&model, Some(self.params.eval_batches))?;
                self.ctx.metric("val_loss", self.done, found.loss())?;
                speed.restart();
            }
            if self.params.rank_every > 0 && self.done.is_multiple_of(self.params.rank_every) {
                self.trace_ranks(&model)?;
            }
            self.checkpoint(&model)?;
        }
        self.finish(&model)
    }

    /// One update of all weights, or none when the loss or a gradient is not finite.
    fn update(&mut self, model: Llama) -> Result<Llama, StageError> {
        device::hand_over(&self.device)?;
        let params = self.params;
        let seed = self.ctx.rng_seed("batches", self.done);
        let batches = self.batches.step(seed, params.batch_size, params.grad_accum, &self.device);
        let (mut model, told) = match &batches[..] {
            [batch] if params.per_layer => self.update_per_layer(model, batch)?,
            _ => self.update_whole(model, &batches)?,
        };
        let made = match told {
            Told::Unread(figures) => {
                self.unread.push(self.done + 1, *figures);
                true
            }
            Told::Read { loss, norm, bad } => {
                self.last = (loss, norm);
                let made = loss.is_finite() && norm.is_finite();
                if made && let Some(scale) = &mut self.loss_scale {
                    scale.made();
                }
                // A gradient too large for f16 is what its scale is for, a loss too large is not.
                let overflown = !made && loss.is_finite() && self.loss_scale.as_mut().is_some_and(LossScale::overflows);
                if !made && !overflown {
                    let place = if loss.is_finite() { bad } else { self.first_not_finite(&model, &batches) };
                    self.guard.skip(self.done + 1, place.as_deref().unwrap_or("the loss"))?;
                }
                made
            }
        };
        if made {
            model = self.method.after_step(self.done, model)?;
            for note in self.method.notes() {
                self.ctx.note(&note);
            }
        }
        self.done += 1;
        device::hand_over(&self.device)?;
        if self.unread.full() {
            self.read()?;
        }
        Ok(model)
    }

    /// Reads the figures that are still on the device.
    fn read(&mut self) -> Result<(), StageError> {
        if let Some(last) = self.unread.read(&mut self.guard)? {
            self.last = last;
        }
        self.read_scale()
    }

    /// Takes the loss scale back from the device.
    fn read_scale(&mut self) -> Result<(), StageError> {
        if let Some(there) = self.scale_there.take() {
            self.loss_scale = Some(there.read()?);
        }
        Ok(())
    }

    /// The update's count and its learning rates, of targeted matrices and of the rest.
    fn rates(&self) -> (u64, f64, f64) {
        let factor = self.params.schedule().multiplier(self.done);
        (self.done, self.params.lr * factor, self.params.lr_rest() * factor)
    }

    /// Whether this update leaves its figures on the device. Where the method waits for the device anyway, the update may
    /// as well be left out as a whole if something is not finite.
    fn leaves_unread(&self) -> bool {
        self.leaves_unread && !self.method.reads_device()
    }

    /// Puts the loss scale onto the device, where it is not there yet.
    fn put_scale(&mut self) {
        if let (Some(scale), None) = (&self.loss_scale, &self.scale_there) {
            let device = self.device.clone().without_autodiff();
            self.scale_there = Some(LossScaleOnDevice::new(scale, &device));
        }
    }

    fn update_whole(&mut self, mut model: Llama, batches: &[Batch]) -> Result<(Llama, Told), StageError> {
        let params = self.params;
        let tokens = params.tokens_per_step() as f64;
        let leaves_unread = self.leaves_unread();
        if leaves_unread {
            self.put_scale();
        } else {
            self.read_scale()?;
        }
        let there = self.scale_there.as_ref().map(LossScaleOnDevice::factor);
        let scale = self.loss_scale.filter(|_| there.is_none()).map_or(1.0, |scale| scale.factor());
        let mut losses = Vec::with_capacity(batches.len());
        let mut gradients: Option<Gradients> = None;
        for batch in batches {
            // Divided by the tokens of the whole update: gradients of its batches then simply add up.
            let (divisor, recompute) = (tokens / scale, params.gradient_checkpointing);
            let pass = Pass { batch, rope: &self.rope, divisor, scale: there.as_ref(), recompute };
            let (found, loss);
            (model, found, loss) = gradients_of(model, pass)?;
            losses.push(loss);
            match &mut gradients {
                Some(sum) => sum.add(found),
                None => gradients = Some(found),
            }
        }
        let mut gradients = gradients.unwrap_or_default();
        if leaves_unread
            && let Some(norm) = gradients.norm_on_device()
            && let Some(loss) = losses.iter().cloned().reduce(Tensor::add)
        {
            let loss = loss.div_scalar(tokens);
            let unscale = there.map(Tensor::recip);
            let norm = match &unscale {
                Some(unscale) => norm.mul(unscale.clone()),
                None => norm,
            };
            let factor = (params.grad_clip > 0.0)
                .then(|| norm.clone().add_scalar(1e-6).recip().mul_scalar(params.grad_clip).clamp_max(1.0));
            let factor = match (factor, unscale) {
                (Some(factor), Some(unscale)) => Some(factor.mul(unscale)),
                (factor, unscale) => factor.or(unscale),
            };
            let excused = self.scale_there.as_mut().map(|scale| scale.take_note(&loss, &norm));
            gradients.limit_on_device(factor.as_ref(), &not_finite(&loss, &norm));
            let rates = self.rates();
            model = gradients.apply(model, self.method, &mut self.rest, rates)?;
            return Ok((model, Told::Unread(Box::new(Figures { loss, norm, excused }))));
        }
        let loss = losses.into_iter().map(|loss| f64::from(loss.into_scalar::<f32>())).sum::<f64>() / tokens;
        let (norm, bad) = gradients.norm();
        let norm = norm / scale;
        if loss.is_finite() && norm.is_finite() {
            if params.grad_clip > 0.0 && norm > params.grad_clip {
                gradients.scale(params.grad_clip / (norm + 1e-6) / scale);
            } else if scale != 1.0 {
                gradients.scale(scale.recip());
            }
            let rates = self.rates();
            model = gradients.apply(model, self.method, &mut self.rest, rates)?;
        }
        Ok((model, Told::Read { loss, norm, bad }))
    }

    /// The same with the gradients of one part of the model at a time. From a part whose gradient is not finite on,
    /// nothing more is updated.
    fn update_per_layer(&mut self, model: Llama, batch: &Batch) -> Result<(Llama, Told), StageError> {
        let (rates, tokens) = (self.rates(), self.params.tokens_per_step() as f64);
        let leaves_unread = self.leaves_unread();
        let Self { method, rest, rope, params, .. } = self;
        let pass = Pass { batch, rope, divisor: tokens, scale: None, recompute: params.gradient_checkpointing };
        if leaves_unread {
            let mut squares: Option<Tensor<1>> = None;
            let (model, loss) = parts::step(model, pass, |model, mut gradients, loss| {
                let Some(norm) = gradients.norm_on_device() else { return Ok(model) };
                let sum = match squares.take() {
                    Some(sum) => sum + norm.square(),
                    None => norm.square(),
                };
                gradients.limit_on_device(None, &not_finite(loss, &sum));
                squares = Some(sum);
                gradients.apply(model, &mut **method, rest, rates)
            })?;
            let norm = squares.map_or_else(|| loss.zeros_like(), Tensor::sqrt);
            let figures = Figures { loss: loss.div_scalar(tokens), norm, excused: None };
            return Ok((model, Told::Unread(Box::new(figures))));
        }
        let (mut squares, mut bad) = (0.0, None);
        let mut total = None;
        let (model, loss) = parts::step(model, pass, |model, gradients, loss| {
            let loss = *total.get_or_insert_with(|| f64::from(loss.clone().into_scalar::<f32>())) / tokens;
            let (norm, place) = gradients.norm();
            squares += norm * norm;
            bad = bad.take().or(place);
            let fine = loss.is_finite() && squares.is_finite();
            if fine { gradients.apply(model, &mut **method, rest, rates) } else { Ok(model) }
        })?;
        let loss = f64::from(loss.into_scalar::<f32>()) / tokens;
        Ok((model, Told::Read { loss, norm: squares.sqrt(), bad }))
    }

    /// The first part of the forward pass whose output is not finite.
    fn first_not_finite(&self, model: &Llama, batches: &[Batch]) -> Option<String> {
        let model = model.valid();
        let mut found = None;
        for batch in batches {
            let logits = model.forward_watched(batch.inputs.clone().inner(), &self.rope, |name, x| {
                if found.is_none() && !all_finite(x) {
                    found = Some(name.to_owned());
                }
            });
            if found.is_none() && !all_finite(&logits) {
                found = Some("lm_head".to_owned());
            }
        }
        found
    }

    fn record(&mut self, rate: f64) -> Result<(), StageError> {
        let (loss, grad_norm) = self.last;
        let lr = self.params.lr * self.params.schedule().multiplier(self.done - 1);
        let mut figures = vec![("loss", loss), ("lr", lr), ("grad_norm", grad_norm), ("tokens_per_second", rate)];
        figures.extend(self.loss_scale.map(|scale| ("loss_scale", scale.factor())));
        figures.extend(self.method.figures()?);
        for (name, value) in figures {
            self.ctx.metric(name, self.done, value)?;
        }
        self.ctx.progress(&Progress {
            done: self.done,
            total: self.params.max_steps,
            unit: "step".to_owned(),
            figures: vec![("loss".to_owned(), loss), ("tok/s".to_owned(), rate)],
        });
        Ok(())
    }

    fn evaluate(&self, model: &Llama, max_batches: Option<usize>) -> Result<Evaluation, StageError> {
        let model = self.method.finished(model.valid())?;
        let device = self.device.clone().without_autodiff();
        let sizes = (self.params.seq_len, self.params.batch_size, max_batches);
        evaluate(&model, &self.validation, sizes, &device, |_, _| Ok(()))
    }

    /// The stable rank of every targeted matrix, by a few products with a vector that is kept between measurements.
    fn trace_ranks(&mut self, model: &Llama) -> Result<(), StageError> {
        let start = Instant::now();
        let mut model = self.method.finished(model.valid())?;
        for (path, linear) in model.targets_mut() {
            let found = self.ranks.measure(&path, &linear.weight.val())?;
            self.ctx.metric(&format!("stable_rank/{path}"), self.done, found)?;
        }
        self.rank_time.add_since(start);
        Ok(())
    }

    fn checkpoint(&mut self, model: &Llama) -> Result<(), StageError> {
        let Self { ctx, method, rest, ranks, guard, loss_scale, scale_there, unread, device, done, .. } = self;
        ctx.checkpoint(*done, |folder| {
            let _ = unread.read(guard)?;
            if let Some(there) = scale_there.take() {
                *loss_scale = Some(there.read()?);
            }
            let mut state = State::new(&device.clone().without_autodiff());
            save_weights(model, &mut state);
            method.save(&mut state);
            rest.save(&mut state);
            ranks.save(&mut state);
            state.put_count("skipped", guard.skipped);
            if let Some(scale) = loss_scale {
                scale.save(&mut state);
            }
            state.write(folder)
        })
    }

    fn resume(&mut self, model: Llama) -> Result<Llama, StageError> {
        let Some((step, folder)) = self.ctx.resume()? else { return Ok(model) };
        let mut state = State::read(&folder, &self.device.clone().without_autodiff())?;
        let model = load_weights(model, &mut state)?;
        self.method.load(&mut state)?;
        self.rest.load(&mut state)?;
        self.ranks.load(&mut state)?;
        self.guard.skipped = state.count("skipped")?;
        if let Some(scale) = &mut self.loss_scale {
            *scale = LossScale::load(&state)?;
        }
        self.done = step;
        Ok(model)
    }

    fn finish(self, model: &Llama) -> Result<(), StageError> {
        let found = self.evaluate(model, None)?;
        let model = self.method.finished(model.valid())?;
        let folder = self.ctx.output("model")?;
        let tokenizer = self.data.tokenizer();
        model::save(&model, &folder, Some(Utf8Path::new(&tokenizer)))?;
        self.ctx.result("val_loss", found.loss())?;
        self.ctx.result("val_perplexity", found.perplexity())?;
        self.ctx.result("unigram_perplexity", self.unigram_loss.exp())?;
        self.ctx.result("parameters", model.num_params() as f64)?;
        self.ctx.result("optimizer_state_bytes", (self.method.state_bytes() + self.rest.bytes()) as f64)?;
        self.ctx.result("skipped_updates", self.guard.skipped as f64)?;
        if self.params.rank_every > 0 {
            self.ctx.result("rank_time_share", self.rank_time.share())?;
        }
        if let Some(scale) = self.loss_scale {
            self.ctx.result("overflowed_updates", scale.overflowed as f64)?;
        }
        if let Some(bytes) = peak_memory_bytes() {
            self.ctx.result("peak_memory_bytes", bytes as f64)?;
        }
        Ok(())
    }
}

/// All gradients of a batch and its summed loss `[1]`, on one tape or block by block.
fn gradients_of(model: Llama, pass: Pass<'_>) -> Result<(Llama, Gradients, Tensor<1>), StageError> {
    if pass.recompute {
        return parts::gradients(model, pass);
    }
    let loss_of = |logits| ops::cross_entropy_sum(logits, pass.batch.targets.clone());
    let Some(occurrences) = &pass.batch.occurrences else {
        let loss = loss_of(model.forward(pass.batch.inputs.clone(), pass.rope));
        let found = Gradients::collect(&model, &mut pass.tape(&loss));
        return Ok((model, found, loss.inner()));
    };
    let (leaf, heads) = (parts::embedded(&model, pass.batch), model.heads(pass.batch.inputs.dims()));
    let loss = loss_of(model.forward_from(leaf.clone(), heads, pass.rope, |_, _| {}));
    let mut tape = pass.tape(&loss);
    let mut found = vec![Gradients::collect(&model, &mut tape)];
    found.extend(leaf.grad_remove(&mut tape).map(|rows| Gradients::of_embedding(&model, occurrences, rows)));
    found.reverse();
    Ok((model, Gradients::joined(found), loss.inner()))
}

/// `[1]`: whether the loss or the norm is infinite or NaN.
fn not_finite(loss: &Tensor<1>, norm: &Tensor<1>) -> Tensor<1, Bool> {
    // Infinities of opposite sign would cancel: a loss and a norm are not negative.
    (loss.clone() + norm.clone()).is_finite().bool_not()
}

fn all_finite(x: &Tensor<2>) -> bool {
    // One infinity or NaN makes the sum of absolute values infinite or NaN.
    ops::total(ops::widened(x.clone()).abs()).into_scalar::<f32>().is_finite()
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
