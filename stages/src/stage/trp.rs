//! `trp`: a classifier trained so that its decomposition costs little.

use sepia_engine::stage::{Check, Port, Stage, StageContext, StageError};

use super::{IMAGES, MODEL, factorize::report_ranks};
use crate::{
    method::trp::{TrpMethod, TrpParams},
    model::vision::save_vision,
    train::vision::{ClassifierKnobs, ClassifierParams, run_vision},
};

/// The stage kind.
#[derive(Debug)]
pub struct TrpStage;

impl Stage for TrpStage {
    const KIND: &'static str = "trp";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[
        Port::new("data", IMAGES, "what to train and validate on"),
        Port::new("init", MODEL, "a classifier to continue instead of a new one").optional(),
    ];
    const OUTPUTS: &'static [Port] = &[
        Port::new("model", MODEL, "the decomposed model, stored as its factors"),
        Port::new("trained", MODEL, "the dense model before the decomposition"),
    ];
    const SEEDED: bool = true;
    const ON_DEVICE: bool = true;

    type Params = ClassifierParams<TrpParams>;
    type Knobs = ClassifierKnobs;

    fn check(params: &Self::Params, check: &mut Check<'_>) {
        params.check(check);
    }

    fn run(params: &Self::Params, knobs: &Self::Knobs, ctx: &mut StageContext<'_>) -> Result<(), StageError> {
        let mut method = TrpMethod::new(&params.method);
        run_vision(params, knobs, &mut method, ctx)?;
        if let Some(trained) = method.trained() {
            save_vision(trained, &ctx.output("trained")?)?;
        }
        report_ranks(ctx)
    }
}
