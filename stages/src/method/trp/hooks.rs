//! TRP in the training loop.

use sepia_engine::stage::{Check, StageError};

use super::{Trp, TrpParams};
use crate::{
    model::vision::VisionModel,
    train::{
        State,
        vision::{At, VisionData, VisionGradients, VisionMethod, VisionMethodParams, VisionSetup},
    },
};

/// The hooks.
#[derive(Debug)]
pub struct TrpMethod {
    params: TrpParams,
    run: Option<Trp>,
    trained: Option<VisionModel>,
}

impl TrpMethod {
    /// Before the first step.
    #[must_use]
    pub fn new(params: &TrpParams) -> Self {
        Self { params: params.clone(), run: None, trained: None }
    }
}

impl VisionMethodParams for TrpParams {
    const STAGE: &'static str = "trp";
    const SOURCE: &'static str = r#"Xu et al. 2020, "TRP: Trained Rank Pruning for Efficient Deep Neural Networks""#;

    fn check(&self, at: &str, check: &mut Check<'_>) {
        self.check(at, check);
    }

    fn build(&self, _: &VisionSetup) -> Box<dyn VisionMethod> {
        Box::new(TrpMethod::new(self))
    }
}

impl VisionMethod for TrpMethod {
    fn attach(&mut self, model: VisionModel, _: &VisionData<'_>) -> Result<VisionModel, StageError> {
        self.run = Some(Trp::new(&self.params, &model)?);
        Ok(model)
    }

    fn before_step(&mut self, at: At, mut model: VisionModel) -> Result<VisionModel, StageError> {
        if let Some(run) = &mut self.run {
            run.before_step(at.step % at.steps_per_epoch.max(1), &mut model)?;
        }
        Ok(model)
    }

    fn add_gradients(&mut self, _: At, _: &VisionModel, gradients: &mut VisionGradients) -> Result<(), StageError> {
        let Some(run) = &self.run else { return Ok(()) };
        for (path, _) in run.layers() {
            if let Some(term) = run.penalty(path) {
                gradients.add(&format!("{path}.weight"), term);
            }
        }
        Ok(())
    }

    fn validated(&self, model: VisionModel, _: &VisionData<'_>) -> Result<VisionModel, StageError> {
        match &self.run {
            Some(run) => run.evaluated(model),
            None => Ok(model),
        }
    }

    fn deployed(&mut self, model: VisionModel, _: &VisionData<'_>) -> Result<VisionModel, StageError> {
        let Some(run) = &self.run else { return Ok(model) };
        self.trained = Some(model.clone());
        run.finished(model)
    }

    fn trained(&self) -> Option<&VisionModel> {
        self.trained.as_ref()
    }

    fn figures(&mut self) -> Vec<(String, f64)> {
        self.run.iter().map(|run| ("mean_rank".to_owned(), run.mean_rank())).collect()
    }

    fn results(&mut self) -> Vec<(String, f64)> {
        vec![("nuclear_per_step".to_owned(), self.params.nuclear_per_step())]
    }

    fn save(&self, state: &mut State) {
        if let Some(run) = &self.run {
            run.save(state);
        }
    }

    fn load(&mut self, state: &mut State) -> Result<(), StageError> {
        self.run = Some(Trp::load(&self.params, state)?);
        Ok(())
    }
}
