//! `cuttlefish`: a classifier trained in full until its stable ranks settle, then as factors.

use sepia_engine::stage::{Check, Port, Stage, StageContext, StageError};

use super::{IMAGES, MODEL, PROFILE, cuttlefish_profile::read_profile, factorize::report_ranks};
use crate::{
    method::cuttlefish::{CuttlefishMethod, CuttlefishParams},
    train::vision::{ClassifierKnobs, ClassifierParams, run_vision},
};

/// The stage kind.
#[derive(Debug)]
pub struct CuttlefishStage;

impl Stage for CuttlefishStage {
    const KIND: &'static str = "cuttlefish";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[
        Port::new("data", IMAGES, "what to train and validate on"),
        Port::new("init", MODEL, "a dense classifier to continue instead of a new one").optional(),
        Port::new("profile", PROFILE, "timings that decide which layers are factorised").optional(),
    ];
    const OUTPUTS: &'static [Port] = &[Port::new("model", MODEL, "the factorised model, stored as its factors")];
    const SEEDED: bool = true;
    const ON_DEVICE: bool = true;

    type Params = ClassifierParams<CuttlefishParams>;
    type Knobs = ClassifierKnobs;

    fn check(params: &Self::Params, check: &mut Check<'_>) {
        params.check(check);
        if params.method.layers.is_some() && check.is_connected("profile") {
            let message = "`layers` and the input `profile` both say which layers are factorised";
            check.problem("method.layers", message, "keep one of them");
        }
    }

    fn run(params: &Self::Params, knobs: &Self::Knobs, ctx: &mut StageContext<'_>) -> Result<(), StageError> {
        let costs = match ctx.input_opt("profile") {
            Some(path) => Some(read_profile(&path)?.stacks),
            None => None,
        };
        let mut method = CuttlefishMethod::new(&params.method, params.weight_decay, costs);
        let deployed = run_vision(params, knobs, &mut method, ctx)?;
        report_ranks(&deployed, ctx)
    }
}
