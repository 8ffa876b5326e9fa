//! Maestro in the training loop.

use burn::tensor::{Tensor, TensorData};
use sepia_engine::stage::{Check, StageError};

use super::{Cut, Maestro, MaestroParams};
use crate::{
    model::vision::{Pass, VisionModel},
    train::{
        State,
        vision::{At, VisionData, VisionGradients, VisionMethod, VisionMethodParams, VisionOptimizer, VisionSetup},
    },
};

/// The hooks.
#[derive(Debug)]
pub struct MaestroMethod {
    params: MaestroParams,
    seed: u64,
    run: Option<Maestro>,
    /// After the last epoch: mean rank and penalty.
    figures: Vec<(String, f64)>,
    notes: Vec<String>,
    trained: Option<VisionModel>,
}

impl MaestroMethod {
    /// Before the first step.
    #[must_use]
    pub fn new(params: &MaestroParams, seed: u64) -> Self {
        let (figures, notes) = (Vec::new(), Vec::new());
        Self { params: params.clone(), seed, run: None, figures, notes, trained: None }
    }

    fn recalibrated(&self, mut model: VisionModel, data: &VisionData<'_>) -> VisionModel {
        data.recalibrate(&mut model, self.params.recalibration_batches);
        model
    }
}

/// Keeps of the optimizer's state what belongs to the components that are left.
fn cut_state(cut: &Cut, model: &VisionModel, optimizer: &mut VisionOptimizer) -> Result<(), StageError> {
    let name = |factor: &str| format!("{}.{factor}", cut.path);
    let crate::model::vision::Weight::Factored(factors) = &model.layer(&cut.path)?.weight else { return Ok(()) };
    let ([rows, _], [_, columns]) = (factors.u.dims(), factors.v.dims());
    let Cut { from, to, .. } = *cut;
    optimizer.edit(&name("u"), &name("u"), |state: Tensor<1>| {
        state.reshape([rows, from]).narrow(1, 0, to).reshape([rows * to])
    });
    optimizer.edit(&name("v"), &name("v"), |state: Tensor<1>| {
        state.reshape([from, columns]).narrow(0, 0, to).reshape([to * columns])
    });
    Ok(())
}

impl VisionMethodParams for MaestroParams {
    const STAGE: &'static str = "maestro";
    const SOURCE: &'static str = r#"Horvath et al. 2024, "Maestro: Uncovering Low-Rank Structures via Trainable Decomposition", arXiv 2308.14929"#;

    fn check(&self, at: &str, check: &mut Check<'_>) {
        self.check(at, check);
    }

    fn build(&self, setup: &VisionSetup) -> Box<dyn VisionMethod> {
        Box::new(MaestroMethod::new(self, setup.seed))
    }
}

impl VisionMethod for MaestroMethod {
    fn attach(&mut self, mut model: VisionModel, _: &VisionData<'_>) -> Result<VisionModel, StageError> {
        self.run = Some(Maestro::attach(&self.params, self.seed, &mut model)?);
        Ok(model)
    }

    fn pass(&mut self, _: At, _: &VisionModel) -> Pass<'static> {
        let drawn = self.run.as_mut().map(Maestro::draw).unwrap_or_default();
        drawn.into_iter().fold(Pass::train(), |pass, (path, rank)| pass.with_rank(&path, rank))
    }

    fn add_gradients(&mut self, _: At, model: &VisionModel, gradients: &mut VisionGradients) -> Result<(), StageError> {
        let Some(run) = &self.run else { return Ok(()) };
        for (name, term) in run.penalties(model)? {
            gradients.add(&name, term);
        }
        Ok(())
    }

    fn after_epoch(
        &mut self,
        at: At,
        mut model: VisionModel,
        optimizer: &mut VisionOptimizer,
        _: &VisionData<'_>,
    ) -> Result<VisionModel, StageError> {
        let Some(run) = &mut self.run else { return Ok(model) };
        if self.params.shrink {
            let cuts = run.shrink(&mut model)?;
            for cut in &cuts {
                cut_state(cut, &model, optimizer)?;
            }
            if !cuts.is_empty() {
                let lines: Vec<String> =
                    cuts.iter().map(|cut| format!("{} {} -> {}", cut.path, cut.from, cut.to)).collect();
                self.notes.push(format!("after epoch {}: {}", at.epoch, lines.join(", ")));
            }
        }
        let ranks = run.known_ranks();
        self.figures = vec![
            ("mean_rank".to_owned(), ranks.iter().sum::<usize>() as f64 / ranks.len().max(1) as f64),
            ("group_lasso".to_owned(), run.penalty(&model)?),
            ("footprint".to_owned(), model.parameters() as f64),
        ];
        Ok(model)
    }

    fn validated(&self, model: VisionModel, data: &VisionData<'_>) -> Result<VisionModel, StageError> {
        Ok(self.recalibrated(model, data))
    }

    fn deployed(&mut self, mut model: VisionModel, data: &VisionData<'_>) -> Result<VisionModel, StageError> {
        let Some(run) = &mut self.run else { return Ok(model) };
        run.shrink(&mut model)?;
        let model = self.recalibrated(model, data);
        self.trained = Some(model.clone());
        match &self.run {
            Some(run) => run.dense_or_factored(model),
            None => Ok(model),
        }
    }

    fn trained(&self) -> Option<&VisionModel> {
        self.trained.as_ref()
    }

    fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    fn figures(&mut self) -> Vec<(String, f64)> {
        std::mem::take(&mut self.figures)
    }

    fn save(&self, state: &mut State) {
        let Some(run) = &self.run else { return };
        let (pass, taken) = run.position();
        state.put_count("maestro/pass", pass);
        state.put_count("maestro/taken", taken);
        // In the order of the model, which decides what a number of the sampler means.
        for (index, (path, rank)) in run.layers().iter().zip(run.known_ranks()).enumerate() {
            state.put_data(&format!("maestro/rank/{index:04}/{path}"), TensorData::new(vec![*rank as f32], [1]));
        }
    }

    fn load(&mut self, state: &mut State) -> Result<(), StageError> {
        let (mut layers, mut ranks) = (Vec::new(), Vec::new());
        for name in state.names("maestro/rank/") {
            let rank = state.take_data(&format!("maestro/rank/{name}"))?.try_into_vec::<f32>();
            let rank =
                rank.map_err(|error| StageError::new(format!("the checkpoint's rank of `{name}`: {error:?}")))?;
            ranks.push(rank.first().copied().unwrap_or(1.0) as usize);
            layers.push(name.split_once('/').map_or(name.clone(), |(_, path)| path.to_owned()));
        }
        let position = (state.count("maestro/pass")?, state.count("maestro/taken")?);
        self.run = Some(Maestro::resume(&self.params, self.seed, layers, &ranks, position));
        Ok(())
    }
}
