//! `maestro`: a classifier whose ranks are learned while it trains.

use sepia_engine::stage::{Check, Port, Stage, StageContext, StageError};

use super::{IMAGES, MODEL, factorize::report_ranks};
use crate::{
    method::maestro::{MaestroMethod, MaestroParams},
    model::vision::save_vision,
    train::vision::{ClassifierKnobs, ClassifierParams, run_vision},
};

/// The stage kind.
#[derive(Debug)]
pub struct MaestroStage;

impl Stage for MaestroStage {
    const KIND: &'static str = "maestro";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[
        Port::new("data", IMAGES, "what to train and validate on"),
        Port::new("init", MODEL, "a dense classifier to continue instead of a new one").optional(),
    ];
    const OUTPUTS: &'static [Port] = &[
        Port::new("model", MODEL, "the model cut to its ranks; a layer whose factors are not smaller is dense"),
        Port::new("factors", MODEL, "the same with every layer as ordered factors, for `reduce-ranks`"),
    ];
    const SEEDED: bool = true;
    const ON_DEVICE: bool = true;

    type Params = ClassifierParams<MaestroParams>;
    type Knobs = ClassifierKnobs;

    fn check(params: &Self::Params, check: &mut Check<'_>) {
        params.check(check);
    }

    fn run(params: &Self::Params, knobs: &Self::Knobs, ctx: &mut StageContext<'_>) -> Result<(), StageError> {
        let mut method = MaestroMethod::new(&params.method, ctx.rng_seed("method", 0));
        run_vision(params, knobs, &mut method, ctx)?;
        if let Some(trained) = method.trained() {
            save_vision(trained, &ctx.output("factors")?)?;
        }
        report_ranks(ctx)
    }
}
