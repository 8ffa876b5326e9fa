//! `train-classifier`: an image classifier trained by a method that the manifest chooses.

use std::marker::PhantomData;

use sepia_engine::stage::{Check, Port, Stage, StageContext, StageError};

use super::{IMAGES, MODEL};
use crate::train::vision::{ClassifierKnobs, ClassifierParams, VisionMethodParams, VisionSetup, run_vision};

/// The stage kind for a method, or for all of them.
#[derive(Debug)]
pub struct TrainClassifier<M>(PhantomData<M>);

impl<M: VisionMethodParams> Stage for TrainClassifier<M> {
    const KIND: &'static str = M::STAGE;
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[
        Port::new("data", IMAGES, "what to train and validate on"),
        Port::new("init", MODEL, "a classifier to continue instead of a new one").optional(),
    ];
    const OUTPUTS: &'static [Port] =
        &[Port::new("model", MODEL, "config.json, with the ranks of factored layers, and model.safetensors")];
    const SEEDED: bool = true;
    const ON_DEVICE: bool = true;

    type Params = ClassifierParams<M>;
    type Knobs = ClassifierKnobs;

    fn check(params: &Self::Params, check: &mut Check<'_>) {
        params.check(check);
    }

    fn run(params: &Self::Params, knobs: &Self::Knobs, ctx: &mut StageContext<'_>) -> Result<(), StageError> {
        let setup = VisionSetup { seed: ctx.rng_seed("method", 0), lr: params.lr, weight_decay: params.weight_decay };
        run_vision(params, knobs, params.method.build(&setup).as_mut(), ctx)
    }
}

#[cfg(test)]
#[path = "train_classifier_tests.rs"]
mod tests;
