//! The training loop, to be read from top to bottom.

use std::time::Instant;

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use camino::Utf8Path;
use sepia_engine::stage::{Progress, StageContext, StageError};

use super::{
    Batches, Gradients, Method, Rest, State, TrainKnobs, TrainParams,
    batches::Batch,
    eval::{Evaluation, evaluate},
    gradients::{load_weights, save_weights},
    guard::Guard,
    per_layer,
    report::{Throughput, TimeShare, peak_memory_bytes},
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
    /// Updates done.
    done: u64,
}

/// The model, the mean loss per token, the norm of the gradient, and the parameter where it is not finite.
type Updated = (Llama, f64, f64, Option<String>);

impl<'a, 'b, M: MethodParams> Run<'a, 'b, M> {
    fn new(
        params: &'a TrainParams<M>,
        knobs: &'a TrainKnobs,
        method: &'a mut dyn Method,
        ctx: &'a mut StageContext<'b>,
    ) -> Result<(Self, Llama), StageError> {
        let device = device::open(ctx)?.autodiff();
        let data = TokenFolder::open(&ctx.input("data")?)?;
        if let Some((param, message)) = params.split_too_small(data.meta.train_tokens as u64, "") {
            return Err(StageError::new(message).param(param).help("lower batch_size or seq_len, or add text"));
        }
        let (train, validation) = (data.train()?, data.validation()?);
        let unigram_loss = unigram_loss(&train, &validation, data.meta.vocab_size);
        let model = method.attach(initial_model(params, &data, ctx, &device)?)?;
        let mut run = Self {
            rope: model.rope(params.seq_len, &device),
            batches: Batches::new(train, params.seq_len),
            rest: Rest::new(params.adam(), method.rest()),
            ranks: StableRanks::default(),
            rank_time: TimeShare::default(),
            guard: Guard::default(),
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
        let model = run.resume(model)?;
        Ok((run, model))
    }

    fn train(mut self, mut model: Llama) -> Result<(), StageError> {
        if self.done == 0 && self.params.rank_every > 0 {
            self.trace_ranks(&model)?;
        }
        let mut speed = Throughput::default();
        while self.done < self.params.max_steps {
            let (loss, grad_norm);
            (model, loss, grad_norm) = self.update(model)?;
            speed.add(self.params.tokens_per_step());
            if self.done.is_multiple_of(self.knobs.log_every.max(1)) || self.done == self.params.max_steps {
                let rate = speed.read();
                self.record(loss, grad_norm, rate)?;
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

    /// One update of all weights, or none when the loss or a gradient is not finite. Returns the model, the mean loss per
    /// token, and the norm of the gradient before clipping.
    fn update(&mut self, model: Llama) -> Result<(Llama, f64, f64), StageError> {
        let params = self.params;
        let seed = self.ctx.rng_seed("batches", self.done);
        let batches = self.batches.step(seed, params.batch_size, params.grad_accum, &self.device);
        let (mut model, loss, norm, bad) = match &batches[..] {
            [batch] if params.per_layer => self.update_per_layer(model, batch)?,
            _ => self.update_whole(model, &batches)?,
        };
        if loss.is_finite() && norm.is_finite() {
            model = self.method.after_step(self.done, model)?;
            for note in self.method.notes() {
                self.ctx.note(&note);
            }
        } else {
            let place = if loss.is_finite() { bad } else { self.first_not_finite(&model, &batches) };
            self.guard.skip(self.done + 1, place.as_deref().unwrap_or("the loss"))?;
        }
        self.done += 1;
        Ok((model, loss, norm))
    }

    /// The update's count and its learning rates, of targeted matrices and of the rest.
    fn rates(&self) -> (u64, f64, f64) {
        let factor = self.params.schedule().multiplier(self.done);
        (self.done, self.params.lr * factor, self.params.lr_rest() * factor)
    }

    /// The model, the mean loss, the gradient's norm, and where it is not finite.
    fn update_whole(&mut self, mut model: Llama, batches: &[Batch]) -> Result<Updated, StageError> {
        let params = self.params;
        let tokens = params.tokens_per_step() as f64;
        let mut total = 0.0;
        let mut gradients: Option<Gradients> = None;
        for batch in batches {
            let logits = model.forward(batch.inputs.clone(), &self.rope);
            let loss = ops::cross_entropy_sum(logits, batch.targets.clone());
            // Divided by the tokens of the whole update: gradients of its batches then simply add up.
            let mut tape = loss.clone().div_scalar(tokens).backward();
            total += f64::from(loss.into_scalar::<f32>());
            let found = Gradients::collect(&model, &mut tape);
            match &mut gradients {
                Some(sum) => sum.add(found),
                None => gradients = Some(found),
            }
        }
        let loss = total / tokens;
        let mut gradients = gradients.unwrap_or_default();
        let (norm, bad) = gradients.norm();
        if loss.is_finite() && norm.is_finite() {
            if params.grad_clip > 0.0 && norm > params.grad_clip {
                gradients.scale(params.grad_clip / (norm + 1e-6));
            }
            let rates = self.rates();
            model = gradients.apply(model, self.method, &mut self.rest, rates)?;
        }
        Ok((model, loss, norm, bad))
    }

    /// The same with the gradients of one part of the model at a time. From a part whose gradient is not finite on,
    /// nothing more is updated.
    fn update_per_layer(&mut self, model: Llama, batch: &Batch) -> Result<Updated, StageError> {
        let (rates, tokens) = (self.rates(), self.params.tokens_per_step() as f64);
        let (mut squares, mut bad) = (0.0, None);
        let Self { method, rest, rope, .. } = self;
        let (model, total) = per_layer::step(model, batch, rope, tokens, |model, gradients, loss| {
            let (norm, place) = gradients.norm();
            squares += norm * norm;
            bad = bad.take().or(place);
            let fine = loss.is_finite() && squares.is_finite();
            if fine { gradients.apply(model, &mut **method, rest, rates) } else { Ok(model) }
        })?;
        Ok((model, total / tokens, squares.sqrt(), bad))
    }

    /// The first part of the forward pass whose output is not finite.
    fn first_not_finite(&self, model: &Llama, batches: &[Batch]) -> Option<String> {
        let model = model.valid();
        let mut found = None;
        for batch in batches {
            let logits = model.forward_watched(batch.inputs.clone(), &self.rope, |name, x| {
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

    fn record(&mut self, loss: f64, grad_norm: f64, rate: f64) -> Result<(), StageError> {
        let lr = self.params.lr * self.params.schedule().multiplier(self.done - 1);
        let mut figures = vec![("loss", loss), ("lr", lr), ("grad_norm", grad_norm), ("tokens_per_second", rate)];
        figures.extend(self.method.figures());
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
        let Self { ctx, method, rest, ranks, guard, device, done, .. } = self;
        ctx.checkpoint(*done, |folder| {
            let mut state = State::new(&device.clone().without_autodiff());
            save_weights(model, &mut state);
            method.save(&mut state);
            rest.save(&mut state);
            ranks.save(&mut state);
            state.put_count("skipped", guard.skipped);
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
        if let Some(bytes) = peak_memory_bytes() {
            self.ctx.result("peak_memory_bytes", bytes as f64)?;
        }
        Ok(())
    }
}

fn all_finite(x: &Tensor<2>) -> bool {
    // One infinity or NaN makes the sum of absolute values infinite or NaN.
    x.clone().abs().sum().into_scalar::<f32>().is_finite()
}

/// The model of the input `init`, or a new one.
fn initial_model<M: MethodParams>(
    params: &TrainParams<M>,
    data: &TokenFolder,
    ctx: &StageContext<'_>,
    device: &Device,
) -> Result<Llama, StageError> {
    let vocab_size = data.meta.vocab_size;
    if let Some(folder) = ctx.input_opt("init") {
        if !params.model.is_empty() {
            let message = "the model's sizes come from the input `init`";
            return Err(StageError::new(message).param("model").help("leave `model` out"));
        }
        let model = model::load(&folder, device)?;
        if !model.factor_ranks().is_empty() {
            let message = "the model of `init` is factored, and training begins from whole matrices";
            return Err(StageError::new(message).help("connect the model as it was before `factorize`"));
        }
        if model.config().vocab_size < vocab_size {
            let known = model.config().vocab_size;
            let message = format!("the data has {vocab_size} token ids, but the model of `init` knows {known}");
            return Err(StageError::new(message).help("use the tokenizer that the model was trained with"));
        }
        return Ok(model);
    }
    let config = params.model.config(vocab_size, params.seq_len).ok_or_else(|| {
        StageError::new("the model's sizes are not complete")
            .param("model")
            .help("name a preset, { preset = \"9m\" }, or give d_model, n_layer and n_head")
    })?;
    if config.vocab_size < vocab_size {
        let message = format!("vocab_size {} is below that of the data, {vocab_size}", config.vocab_size);
        return Err(StageError::new(message).param("model.vocab_size").help("leave it out to take the data's"));
    }
    Ok(Llama::new(config, |name| ctx.rng_seed(&format!("init {name}"), 0), device))
}
