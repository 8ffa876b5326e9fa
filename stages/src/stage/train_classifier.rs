//! `train-classifier` and its front ends: an image classifier trained by a method that the manifest chooses.
//!
//! `train-classifier` takes any method, by name: `method = { name = "maestro", lambda = 1e-4 }`. `trp` and `maestro` are the
//! same for one method each, whose parameters need no name: `method = { lambda = 1e-4 }`.

use std::marker::PhantomData;

use sepia_engine::stage::{Check, Port, Stage, StageContext, StageError};

use super::{IMAGES, MODEL, factorize::report_ranks};
use crate::{
    model::vision::save_vision,
    train::vision::{ClassifierKnobs, ClassifierParams, VisionMethodParams, VisionSetup, run_vision},
};

const DATA: Port = Port::new("data", IMAGES, "what to train and validate on");
const INIT: Port = Port::new("init", MODEL, "a classifier to continue instead of a new one").optional();
const TEACHER: Port = Port::new("teacher", MODEL, "a trained classifier to learn from (pela)").optional();

/// The stage kind for a method, or for all of them.
#[derive(Debug)]
pub struct TrainClassifier<M>(PhantomData<M>);

impl<M: VisionMethodParams> Stage for TrainClassifier<M> {
    const KIND: &'static str = M::STAGE;
    const VERSION: u32 = 2;
    const INPUTS: &'static [Port] = if M::TAUGHT { &[DATA, INIT, TEACHER] } else { &[DATA, INIT] };
    const OUTPUTS: &'static [Port] = &[
        Port::new("model", MODEL, "config.json, with the ranks of factored layers, and model.safetensors"),
        Port::new(
            "trained",
            MODEL,
            "as training left it: TRP's dense weights, Maestro's ordered factors, else the model",
        ),
    ];
    const SEEDED: bool = true;
    const ON_DEVICE: bool = true;

    type Params = ClassifierParams<M>;
    type Knobs = ClassifierKnobs;

    fn check(params: &Self::Params, check: &mut Check<'_>) {
        params.check(check);
    }

    fn run(params: &Self::Params, knobs: &Self::Knobs, ctx: &mut StageContext<'_>) -> Result<(), StageError> {
        let setup = VisionSetup { seed: ctx.rng_seed("method", 0), lr: params.lr, weight_decay: params.weight_decay };
        let mut method = params.method.build(&setup);
        let deployed = run_vision(params, knobs, method.as_mut(), ctx)?;
        save_vision(method.trained().unwrap_or(&deployed), &ctx.output("trained")?)?;
        report_ranks(&deployed, ctx)
    }
}

#[cfg(test)]
#[path = "train_classifier_tests.rs"]
mod tests;
