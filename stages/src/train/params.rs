//! What a manifest says about training.

use schemars::JsonSchema;
use sepia_engine::stage::{Check, Dtype};
use serde::{Deserialize, Serialize};

use super::{AdamFlavour, AdamHyper, Held, Schedule, ScheduleKind};
use crate::{
    method::{FullParams, MethodParams},
    model::ModelParams,
};

/// Training of a LLaMA-style decoder on tokens, by one method or by any (`M`).
///
/// Windows of `seq_len` tokens start at random places of the training split. Matrices of attention and MLP learn at
/// `lr`, embedding, head and norms at `lr_rest`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(bound = "M: MethodParams")]
pub struct TrainParams<M = FullParams> {
    /// The model: a preset or sizes. Left out when the input `init` is connected.
    #[serde(default)]
    pub model: ModelParams,
    /// How gradients of the attention and MLP matrices become updates.
    #[serde(default)]
    pub method: M,
    /// Updates of the weights.
    pub max_steps: u64,
    /// Windows in one forward pass.
    #[serde(default = "default_batch_size")]
    pub batch_size: usize,
    /// Tokens in a window.
    #[serde(default = "default_seq_len")]
    pub seq_len: usize,
    /// Forward passes whose gradients make one update.
    #[serde(default = "default_grad_accum")]
    pub grad_accum: usize,
    /// Largest learning rate, of the matrices of attention and MLP.
    #[serde(default = "default_lr")]
    pub lr: f64,
    /// Largest learning rate of embedding, head and norms; `lr` when left out.
    #[serde(default)]
    pub lr_rest: Option<f64>,
    /// Updates over which the learning rate rises from 0; a tenth of `max_steps` when left out.
    #[serde(default)]
    pub warmup_steps: Option<u64>,
    /// The learning rate at the end, as a part of the largest.
    #[serde(default = "default_min_lr_ratio")]
    pub min_lr_ratio: f64,
    /// The learning rate after the warm-up.
    #[serde(default)]
    pub schedule: ScheduleKind,
    /// Decay of AdamW's two moments.
    #[serde(default = "default_betas")]
    pub betas: [f64; 2],
    /// AdamW's epsilon. 1e-6, as in the code of GaLore and Fira (their papers say 1e-8).
    #[serde(default = "default_eps")]
    pub eps: f64,
    /// Decoupled weight decay.
    #[serde(default)]
    pub weight_decay: f64,
    /// Where epsilon enters AdamW: `hf`, as in the code behind the published results of GaLore and Fira, so that a
    /// difference between methods is never one between two AdamWs; or `torch`.
    #[serde(default)]
    pub adam: AdamFlavour,
    /// What weights are held in, and their gradients with them. `f32`: master weights, of which `dtype = "bf16"` or `"f16"`
    /// computes with a copy. `bf16`, with `dtype = "bf16"`: half the memory, and the model is stored in bf16; each update
    /// is computed in f32 and rounded to the nearest, so what is below a 512th of a weight is lost, as it is in the public
    /// code of GaLore and Fira, which trains this way.
    #[serde(default, skip_serializing_if = "Held::is_default")]
    pub weights_dtype: Held,
    /// What the optimiser's state is held in: moments and the bases of projections. Updates are computed in f32 either way.
    /// The public code of GaLore and Fira holds both in bf16. Moments in 8 bits and single figures stay what they are.
    #[serde(default, skip_serializing_if = "Held::is_default")]
    pub state_dtype: Held,
    /// Gradients longer than this (Euclidean norm over all parameters) are shortened to it; 0 turns it off. The papers
    /// clip the 7b model alone; 1.0 changes little in a run that goes well and saves one that does not.
    #[serde(default = "default_grad_clip")]
    pub grad_clip: f64,
    /// Whether each block's weights are updated as soon as its gradients are known, so that the gradients of one block at a
    /// time are held. The result is the same, on the CPU to the bit; `grad_accum` must be 1 and `grad_clip` 0.
    #[serde(default)]
    pub per_layer: bool,
    /// Whether activations of one block at a time are held: each block is run again in the backward pass, for a third more
    /// computation. The result is the same, on the CPU to the bit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gradient_checkpointing: bool,
    /// Updates between two evaluations on the validation split; 0 for one at the end alone.
    #[serde(default)]
    pub eval_every: u64,
    /// Batches of each evaluation before the last. The one at the end covers the whole split.
    #[serde(default = "default_eval_batches")]
    pub eval_batches: usize,
    /// Updates between two measurements of the stable rank of every matrix of attention and MLP, as the model would be
    /// stored then (`stable_rank/model.layers.0.mlp.up_proj`); 0 for none.
    #[serde(default)]
    pub rank_every: u64,
}

fn default_batch_size() -> usize {
    16
}

fn default_seq_len() -> usize {
    128
}

fn default_grad_accum() -> usize {
    1
}

fn default_lr() -> f64 {
    1e-3
}

fn default_min_lr_ratio() -> f64 {
    0.1
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn default_eps() -> f64 {
    1e-6
}

fn default_grad_clip() -> f64 {
    1.0
}

fn default_eval_batches() -> usize {
    20
}

/// What does not change the result of training.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainKnobs {
    /// Updates between two records of loss, learning rate, gradient norm and speed.
    pub log_every: u64,
}

impl Default for TrainKnobs {
    fn default() -> Self {
        Self { log_every: 1 }
    }
}

impl<M: MethodParams> TrainParams<M> {
    /// AdamW's part.
    #[must_use]
    pub fn adam(&self) -> AdamHyper {
        AdamHyper { flavour: self.adam, betas: self.betas, eps: self.eps, weight_decay: self.weight_decay }
    }

    /// The learning rate of embedding, head and norms.
    #[must_use]
    pub fn lr_rest(&self) -> f64 {
        self.lr_rest.unwrap_or(self.lr)
    }

    /// The schedule with its defaults filled in.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        Schedule { kind: self.schedule, total: self.max_steps, warmup: self.warmup(), min_ratio: self.min_lr_ratio }
    }

    fn warmup(&self) -> u64 {
        self.warmup_steps.unwrap_or(self.max_steps / 10)
    }

    /// Tokens of one update.
    #[must_use]
    pub fn tokens_per_step(&self) -> u64 {
        (self.batch_size * self.seq_len * self.grad_accum) as u64
    }

    /// Reports what cannot work, and states what is known of the model on the port `model`.
    pub fn check(&self, check: &mut Check<'_>) {
        self.method.check("method", check);
        self.method.check_schedule("method", &self.schedule, check);
        self.method.check_batch("method", self.batch_size, check);
        self.check_held(check);
        self.check_ranges(check);
        self.check_schedule(check);
        self.check_data(check);
        self.check_model(check);
    }

    fn check_ranges(&self, check: &mut Check<'_>) {
        let counts = [
            ("max_steps", self.max_steps as usize),
            ("batch_size", self.batch_size),
            ("seq_len", self.seq_len),
            ("grad_accum", self.grad_accum),
            ("eval_batches", self.eval_batches),
        ];
        for (name, count) in counts {
            if count == 0 {
                check.problem(name, format!("`{name}` must be at least 1"), "");
            }
        }
        let refused = [("grad_accum", self.grad_accum > 1), ("grad_clip", self.grad_clip > 0.0)];
        for (name, _) in refused.into_iter().filter(|(_, set)| self.per_layer && *set) {
            let message = format!("`per_layer` never holds all gradients, which `{name}` needs");
            let none = if name == "grad_accum" { 1 } else { 0 };
            check.problem(name, message, format!("write {name} = {none}, or leave `per_layer` out"));
        }
        if self.per_layer && check.dtype() == Dtype::F16 {
            let message =
                "`per_layer` updates parts of the model before it is known whether a gradient overflows in f16";
            check.problem("per_layer", message, "leave it out, or write dtype = \"bf16\"");
        }
        let mut range = |name: &str, value: f64, fits: bool, allowed: &str| {
            if !fits {
                check.problem(name, format!("`{name}` is {value}, but must be {allowed}"), "");
            }
        };
        let positive = |value: f64| value.is_finite() && value > 0.0;
        range("lr", self.lr, positive(self.lr), "above 0");
        if let Some(lr_rest) = self.lr_rest {
            range("lr_rest", lr_rest, positive(lr_rest), "above 0");
        }
        range("eps", self.eps, positive(self.eps), "above 0");
        range("min_lr_ratio", self.min_lr_ratio, (0.0..=1.0).contains(&self.min_lr_ratio), "between 0 and 1");
        range("weight_decay", self.weight_decay, (0.0..1.0).contains(&self.weight_decay), "at least 0 and below 1");
        range("grad_clip", self.grad_clip, self.grad_clip.is_finite() && self.grad_clip >= 0.0, "at least 0");
        for beta in self.betas {
            range("betas", beta, (0.0..1.0).contains(&beta), "at least 0 and below 1");
        }
    }

    fn check_schedule(&self, check: &mut Check<'_>) {
        let (warmup, total) = (self.warmup(), self.max_steps);
        if warmup >= total && total > 0 {
            let message = format!("warmup_steps {warmup} must be below max_steps {total}");
            check.problem("warmup_steps", message, "a tenth of max_steps is usual, and the default");
        }
        match self.schedule {
            ScheduleKind::JaggedCosine { every, restart_warmup, adjust } => {
                if every == 0 || total % every != 0 {
                    let message = format!("max_steps {total} is not a multiple of `every` {every}");
                    check.problem("schedule.every", message, "");
                } else if adjust + warmup > every {
                    let message = format!("adjust {adjust} + warmup_steps {warmup} must not exceed `every` {every}");
                    check.problem("schedule.adjust", message, "");
                }
                if restart_warmup >= every {
                    let message = format!("restart_warmup {restart_warmup} must be below `every` {every}");
                    check.problem("schedule.restart_warmup", message, "");
                }
            }
            ScheduleKind::Step { every, factor } => {
                if every == 0 {
                    check.problem("schedule.every", "`every` must be at least 1", "");
                }
                if !(factor.is_finite() && factor > 0.0) {
                    check.problem("schedule.factor", format!("`factor` is {factor}, but must be above 0"), "");
                }
            }
            ScheduleKind::Cosine | ScheduleKind::Linear | ScheduleKind::Constant => {}
        }
    }

    fn check_data(&self, check: &mut Check<'_>) {
        if let Some(max) = check.fact("data", "train_tokens_max")
            && let Some((param, message)) = self.split_too_small(max as u64, "at most ")
        {
            check.problem(param, message, "lower batch_size or seq_len, or add text");
        }
        if check.fact("data", "validation_tokens_max").is_some_and(|max| max < 2.0) {
            check.problem("max_steps", "the validation split has fewer than two tokens", "raise its `validation`");
        }
    }

    /// Why a training split of this many tokens does not do: the parameter and the sentence.
    #[must_use]
    pub fn split_too_small(&self, tokens: u64, at_most: &str) -> Option<(&'static str, String)> {
        let needed = (self.seq_len as u64 + 1) * self.batch_size as u64;
        (tokens < needed).then(|| {
            let (batch_size, seq_len) = (self.batch_size, self.seq_len);
            let message = format!(
                "one batch of {batch_size} windows of {seq_len} + 1 tokens needs {needed} tokens, but the training split \
                 has {at_most}{tokens}"
            );
            ("batch_size", message)
        })
    }

    fn check_model(&self, check: &mut Check<'_>) {
        let continued = !check.facts("init").is_empty();
        if continued || (self.model.is_empty() && check.is_connected("init")) {
            if continued && !self.model.is_empty() {
                check.problem("model", "the model's sizes come from the input `init`", "leave `model` out");
            }
            for (name, value) in check.facts("init") {
                check.state("model", &name, value);
            }
            return;
        }
        self.model.check("model", check);
        let Some(vocab_size) = check.fact("data", "vocab_size") else { return };
        if let Some(config) = self.model.config(vocab_size as usize, self.seq_len) {
            for (name, value) in config.facts() {
                check.state("model", name, value as f64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sepia_engine::stage::Facts;

    use super::*;

    fn params(more: serde_json::Value) -> TrainParams {
        let mut all = serde_json::json!({ "max_steps": 100, "model": { "preset": "9m" } });
        for (name, value) in more.as_object().unwrap() {
            all[name] = value.clone();
        }
        serde_json::from_value(all).unwrap()
    }

    fn check(params: &TrainParams, inputs: &BTreeMap<String, Vec<Facts>>) -> (BTreeMap<String, Facts>, Vec<String>) {
        let mut check = Check::new(inputs, camino::Utf8Path::new("."));
        params.check(&mut check);
        let (facts, problems) = check.finish();
        (facts, problems.into_iter().map(|problem| format!("{}: {}", problem.param, problem.message)).collect())
    }

    fn data(vocab_size: f64, train: f64) -> BTreeMap<String, Vec<Facts>> {
        let facts = [("vocab_size".to_owned(), vocab_size), ("train_tokens_max".to_owned(), train)].into();
        [("data".to_owned(), vec![facts])].into()
    }

    #[test]
    fn good_parameters_pass_and_the_models_figures_are_known_before_it_exists() {
        let (facts, problems) = check(&params(serde_json::json!({})), &data(32_000.0, 1e6));
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(facts["model"]["parameters"], 8_995_968.0);
        assert_eq!(facts["model"]["seq_len"], 128.0);
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let bad = params(serde_json::json!({
            "model": { "preset": "9m", "n_head": 3 }, "warmup_steps": 100, "lr": -1.0, "betas": [0.9, 1.0],
            "min_lr_ratio": 2.0, "batch_size": 64,
        }));
        let (_, problems) = check(&bad, &data(256.0, 5000.0));
        assert_eq!(
            problems,
            [
                "lr: `lr` is -1, but must be above 0",
                "min_lr_ratio: `min_lr_ratio` is 2, but must be between 0 and 1",
                "betas: `betas` is 1, but must be at least 0 and below 1",
                "warmup_steps: warmup_steps 100 must be below max_steps 100",
                "batch_size: one batch of 64 windows of 128 + 1 tokens needs 8256 tokens, but the training split has \
                 at most 5000",
                "model.n_head: d_model 128 cannot be divided among 3 heads",
            ]
        );
    }

    #[test]
    fn per_layer_updates_are_refused_where_all_gradients_are_needed() {
        let (_, problems) =
            check(&params(serde_json::json!({ "per_layer": true, "grad_accum": 2 })), &data(256.0, 1e6));
        assert_eq!(
            problems,
            [
                "grad_accum: `per_layer` never holds all gradients, which `grad_accum` needs",
                "grad_clip: `per_layer` never holds all gradients, which `grad_clip` needs",
            ]
        );
        let fine = params(serde_json::json!({ "per_layer": true, "grad_clip": 0 }));
        assert_eq!(check(&fine, &data(256.0, 1e6)).1, Vec::<String>::new());
        let facts = data(256.0, 1e6);
        let mut check = Check::new(&facts, camino::Utf8Path::new(".")).computing_in(Dtype::F16);
        fine.check(&mut check);
        let [problem] = &check.finish().1[..] else { panic!("one problem") };
        assert!(problem.message.ends_with("before it is known whether a gradient overflows in f16"), "{problem:?}");
    }

    #[test]
    fn restarts_of_optimiser_and_schedule_must_meet() {
        let of = |method: serde_json::Value, schedule: serde_json::Value| {
            let mut all = serde_json::json!({ "max_steps": 120, "model": { "preset": "9m" }, "warmup_steps": 5 });
            (all["method"], all["schedule"]) = (method, schedule);
            let params: TrainParams<crate::method::ReloraParams> = serde_json::from_value(all).unwrap();
            let facts = data(256.0, 1e6);
            let mut check = Check::new(&facts, camino::Utf8Path::new("."));
            params.check(&mut check);
            check.finish().1.into_iter().map(|problem| problem.message).collect::<Vec<_>>()
        };
        let jagged = serde_json::json!({ "kind": "jagged-cosine", "every": 30, "restart_warmup": 5 });
        let merge = |every: u64| serde_json::json!({ "rank": 32, "merge_every": every });
        assert_eq!(of(merge(30), jagged.clone()), Vec::<String>::new());
        assert_eq!(of(merge(60), jagged.clone()), Vec::<String>::new());
        assert_eq!(
            of(merge(40), jagged.clone()),
            ["the optimiser restarts every 40 updates (`merge_every`), but the learning rate every 30 \
                 (`schedule.every`)"]
        );
        // Merges alone may come at any time: they keep what the model computes.
        let both = serde_json::json!({ "rank": 32, "merge_every": 10, "reset_every": 30 });
        assert_eq!(of(both, jagged), Vec::<String>::new());
        let adjusted = serde_json::json!({ "kind": "jagged-cosine", "every": 30, "restart_warmup": 5, "adjust": 10 });
        assert_eq!(
            of(merge(30), adjusted),
            ["`adjust` 10 moves the restarts of the learning rate away from those of the optimiser, which fall on \
                 multiples of 30"]
        );
    }

    #[test]
    fn a_continued_model_brings_its_own_sizes() {
        let mut inputs = data(256.0, 1e6);
        inputs.insert("init".to_owned(), vec![[("d_model".to_owned(), 64.0)].into()]);
        let (facts, problems) = check(&params(serde_json::json!({ "model": {} })), &inputs);
        assert_eq!((facts["model"]["d_model"], problems.len()), (64.0, 0));
        let (_, problems) = check(&params(serde_json::json!({})), &inputs);
        assert_eq!(problems, ["model: the model's sizes come from the input `init`"]);
    }

    #[test]
    fn a_jagged_cosine_must_fit_the_run() {
        let schedule = serde_json::json!({ "kind": "jagged-cosine", "every": 30, "restart_warmup": 5 });
        let (_, problems) = check(&params(serde_json::json!({ "schedule": schedule })), &data(256.0, 1e6));
        assert_eq!(problems, ["schedule.every: max_steps 100 is not a multiple of `every` 30"]);
    }
}
