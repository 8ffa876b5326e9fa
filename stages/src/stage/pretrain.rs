//! `pretrain`: a model trained in full with AdamW.

use sepia_engine::stage::{Check, Port, Stage, StageContext, StageError};

use super::{MODEL, TOKENS};
use crate::train::{FullAdamW, TrainKnobs, TrainParams, run_training};

/// The stage kind.
#[derive(Debug)]
pub struct Pretrain;

impl Stage for Pretrain {
    const KIND: &'static str = "pretrain";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[
        Port::new("data", TOKENS, "what to train and validate on"),
        Port::new("init", MODEL, "a model to continue instead of a new one").optional(),
    ];
    const OUTPUTS: &'static [Port] =
        &[Port::new("model", MODEL, "config.json, model.safetensors with Hugging Face names, tokenizer.json")];
    const SEEDED: bool = true;
    const ON_DEVICE: bool = true;

    type Params = TrainParams;
    type Knobs = TrainKnobs;

    fn check(params: &Self::Params, check: &mut Check<'_>) {
        params.check(check);
    }

    fn run(params: &Self::Params, knobs: &Self::Knobs, ctx: &mut StageContext<'_>) -> Result<(), StageError> {
        run_training(params, knobs, &mut FullAdamW::new(params.adam()), ctx)
    }
}
