//! `train` and its front ends: a model trained by a method that the manifest chooses.
//!
//! `train` takes any method, by name: `method = { name = "galore", rank = 64 }`. `pretrain`, `relora`, `galore` and `fira`
//! are the same loop for one method each, whose parameters need no name: `method = { rank = 64 }`.

use std::marker::PhantomData;

use sepia_engine::stage::{Check, Dtype, Estimate, Port, Stage, StageContext, StageError};

use super::{MODEL, TOKENS};
use crate::{
    method::{FullParams, MethodParams, MethodSetup},
    ops::Products,
    train::{TrainKnobs, TrainParams, run_training},
};

/// The stage kind for a method, or for all of them.
#[derive(Debug)]
pub struct Train<M>(PhantomData<M>);

/// A model trained in full with AdamW.
pub type Pretrain = Train<FullParams>;

impl<M: MethodParams> Stage for Train<M> {
    const KIND: &'static str = M::STAGE;
    // 2: 16-bit trainings round differently since their operations bring their own backward passes.
    const VERSION: u32 = 2;
    const INPUTS: &'static [Port] = &[
        Port::new("data", TOKENS, "what to train and validate on"),
        Port::new("init", MODEL, "a model to continue instead of a new one").optional(),
    ];
    const OUTPUTS: &'static [Port] =
        &[Port::new("model", MODEL, "config.json, model.safetensors with Hugging Face names, tokenizer.json")];
    const SEEDED: bool = true;
    const ON_DEVICE: bool = true;
    const DTYPES: &'static [Dtype] = &[Dtype::F32, Dtype::Bf16, Dtype::F16];

    type Params = TrainParams<M>;
    type Knobs = TrainKnobs;

    fn check(params: &Self::Params, check: &mut Check<'_>) {
        params.check(check);
    }

    fn estimate(params: &Self::Params, check: &Check<'_>, dtype: Dtype) -> Estimate {
        params.estimate(check, dtype)
    }

    fn run(params: &Self::Params, knobs: &Self::Knobs, ctx: &mut StageContext<'_>) -> Result<(), StageError> {
        let setup = MethodSetup {
            hyper: params.adam(),
            state: params.state_dtype,
            products: Products::after(ctx.dtype()),
            seed: ctx.rng_seed("method", 0),
        };
        run_training(params, knobs, params.method.build(&setup).as_mut(), ctx)
    }
}

#[cfg(test)]
#[path = "train_tests.rs"]
mod tests;
