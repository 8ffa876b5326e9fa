//! `evaluate`: loss and perplexity of a model on a split that it was not trained on.

use schemars::JsonSchema;
use sepia_engine::stage::{Check, Dtype, Estimate, NoKnobs, Port, Progress, Stage, StageContext, StageError};
use serde::{Deserialize, Serialize};

use super::{EVALUATION, MODEL, TOKENS};
use crate::{
    data::{TokenFolder, unigram_loss},
    device,
    model::{self, LlamaConfig},
    train::{Throughput, estimate::data_bytes, evaluate},
};

/// Evaluates a model on a whole split, the validation split if no other is named.
///
/// Windows of `seq_len` tokens follow each other without overlap, the last one shorter; every token but the split's
/// first is predicted once, and the mean is over tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvaluateParams {
    /// Tokens in a window; the longest that the model was made for when left out.
    #[serde(default)]
    pub seq_len: Option<usize>,
    /// Windows in one forward pass. The loss does not depend on it but for rounding.
    #[serde(default = "default_batch_size")]
    pub batch_size: usize,
    /// `validation`, or `test`: the data's last part, which should not have chosen anything either.
    #[serde(default)]
    pub split: EvaluatedSplit,
}

/// Which part of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EvaluatedSplit {
    /// The validation split.
    #[default]
    Validation,
    /// The test split; the text-dataset has to be asked for one.
    Test,
}

fn default_batch_size() -> usize {
    16
}

/// What the output holds. No timings: the same model and data give the same bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EvaluationReport {
    /// Mean loss in nats per token.
    pub(super) val_loss: f64,
    /// `exp(val_loss)`.
    pub(super) perplexity: f64,
    /// `val_loss` in bits, times tokens per byte of the split's text: comparable between tokenizers.
    pub(super) bits_per_byte: f64,
    /// Perplexity of the add-one smoothed unigram model of the training split, on the same tokens.
    pub(super) unigram_perplexity: f64,
    /// Tokens predicted: all of the split but its first.
    pub(super) tokens: u64,
    /// Tokens in a window.
    pub(super) seq_len: usize,
    /// Parameters of the model.
    pub(super) parameters: usize,
}

/// Size of the report: seven figures with their names, at most.
const REPORT_BYTES: u64 = 512;

/// The stage kind.
#[derive(Debug)]
pub struct Evaluate;

impl Stage for Evaluate {
    const KIND: &'static str = "evaluate";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[
        Port::new("model", MODEL, "what to evaluate"),
        Port::new("data", TOKENS, "whose validation or test split it is evaluated on"),
    ];
    const OUTPUTS: &'static [Port] = &[Port::new("evaluation", EVALUATION, "the figures as a JSON file")];
    const SEEDED: bool = false;
    const ON_DEVICE: bool = true;

    type Params = EvaluateParams;
    type Knobs = NoKnobs;

    fn check(params: &Self::Params, check: &mut Check<'_>) {
        for (name, count) in [("seq_len", params.seq_len), ("batch_size", Some(params.batch_size))] {
            if count == Some(0) {
                check.problem(name, format!("`{name}` must be at least 1"), "");
            }
        }
        if params.split == EvaluatedSplit::Test && check.fact("data", "test_tokens_max") == Some(0.0) {
            check.problem("split", "the data has no test split", "give its text-dataset a `test` above 0");
        }
        if let (Some(known), Some(data)) = (check.fact("model", "vocab_size"), check.fact("data", "vocab_size"))
            && data > known
        {
            let message = format!("the data has {data} token ids, but the model knows {known}");
            check.problem("batch_size", message, "evaluate on data of the tokenizer that the model was trained with");
        }
    }

    fn estimate(params: &Self::Params, check: &Check<'_>, dtype: Dtype) -> Estimate {
        let Some(config) = LlamaConfig::of_facts(&check.facts("model")) else { return Estimate::default() };
        let tokens = (params.batch_size * params.seq_len.unwrap_or(config.seq_len)) as u64;
        // Nothing is kept for a backward pass: the widest part of a block, or the logits and their softmax.
        let widest = (4 * config.d_model + 3 * config.d_ff).max(config.d_model + 2 * config.vocab_size) as u64;
        let parameters = config.parameters() as u64;
        Estimate {
            parameters: Some(parameters),
            weight_bytes: Some(parameters * dtype.bytes()),
            activation_bytes: Some(tokens * widest * dtype.bytes()),
            data_bytes: data_bytes(check),
            output_bytes: Some(REPORT_BYTES),
            ..Estimate::default()
        }
    }

    fn run(params: &Self::Params, _: &Self::Knobs, ctx: &mut StageContext<'_>) -> Result<(), StageError> {
        device::with_threads(ctx.threads(), || report(params, ctx))
    }
}

fn report(params: &EvaluateParams, ctx: &mut StageContext<'_>) -> Result<(), StageError> {
    let device = device::open(ctx)?;
    let data = TokenFolder::open(&ctx.input("data")?)?;
    let model = model::load(&ctx.input("model")?, &device)?;
    let config = *model.config();
    if config.vocab_size < data.meta.vocab_size {
        let message =
            format!("the data has {} token ids, but the model knows {}", data.meta.vocab_size, config.vocab_size);
        return Err(StageError::new(message).help("evaluate on data of the tokenizer that the model was trained with"));
    }
    let (split, tokens, bytes) = match params.split {
        EvaluatedSplit::Validation => (data.validation()?, data.meta.validation_tokens, data.meta.validation_bytes),
        EvaluatedSplit::Test => (data.test()?, data.meta.test_tokens, data.meta.test_bytes),
    };
    let seq_len = params.seq_len.unwrap_or(config.seq_len);
    let mut speed = Throughput::default();
    let found = evaluate(&model, &split, (seq_len, params.batch_size, None), &device, |done, total| {
        ctx.progress(&Progress { done, total, unit: "token".to_owned(), figures: Vec::new() });
        ctx.stop_if_asked()
    })?;
    speed.add(found.tokens);
    let rate = speed.read();
    if !found.loss().is_finite() {
        return Err(StageError::new("the model's loss is not finite: its weights hold NaN or infinity"));
    }
    let tokens_per_byte = tokens as f64 / bytes as f64;
    let report = EvaluationReport {
        val_loss: found.loss(),
        perplexity: found.perplexity(),
        bits_per_byte: found.loss() / std::f64::consts::LN_2 * tokens_per_byte,
        unigram_perplexity: unigram_loss(&data.train()?, &split, data.meta.vocab_size).exp(),
        tokens: found.tokens,
        seq_len,
        parameters: model.stored_parameters(),
    };
    let text = serde_json::to_string_pretty(&report).map_err(std::io::Error::other)?;
    fs_err::write(ctx.output("evaluation")?, text + "\n")?;
    ctx.result("val_loss", report.val_loss)?;
    ctx.result("perplexity", report.perplexity)?;
    ctx.result("bits_per_byte", report.bits_per_byte)?;
    ctx.result("unigram_perplexity", report.unigram_perplexity)?;
    ctx.result("parameters", report.parameters as f64)?;
    ctx.result("tokens_per_second", rate)
}
