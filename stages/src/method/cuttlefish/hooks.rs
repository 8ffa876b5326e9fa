//! Cuttlefish in the training loop.

use sepia_engine::stage::{Check, StageError};

use super::{Cuttlefish, CuttlefishParams, StackCost};
use crate::{
    model::vision::{Kind, VisionModel},
    train::{
        State,
        vision::{At, VisionData, VisionGradients, VisionMethod, VisionMethodParams, VisionOptimizer, VisionSetup},
    },
};

/// The hooks.
#[derive(Debug)]
pub struct CuttlefishMethod {
    params: CuttlefishParams,
    weight_decay: f64,
    costs: Option<Vec<StackCost>>,
    run: Option<Cuttlefish>,
    notes: Vec<String>,
}

impl CuttlefishMethod {
    /// Before the first step. `costs` are the timings of a profile.
    #[must_use]
    pub fn new(params: &CuttlefishParams, weight_decay: f64, costs: Option<Vec<StackCost>>) -> Self {
        Self { params: params.clone(), weight_decay, costs, run: None, notes: Vec::new() }
    }
}

impl VisionMethodParams for CuttlefishParams {
    const STAGE: &'static str = "cuttlefish";
    const SOURCE: &'static str =
        r#"Wang et al. 2023, "Cuttlefish: Low-Rank Model Training without All the Tuning", arXiv 2305.02538"#;

    fn check(&self, at: &str, check: &mut Check<'_>) {
        self.check(at, check);
    }

    fn check_epochs(&self, at: &str, epochs: u64, warmup_epochs: u64, check: &mut Check<'_>) {
        self.check_run(at, (epochs, warmup_epochs), check);
    }

    fn build(&self, setup: &VisionSetup) -> Box<dyn VisionMethod> {
        Box::new(CuttlefishMethod::new(self, setup.weight_decay, None))
    }
}

impl VisionMethod for CuttlefishMethod {
    fn attach(&mut self, model: VisionModel, _: &VisionData<'_>) -> Result<VisionModel, StageError> {
        let run = Cuttlefish::new(&self.params, self.weight_decay, self.costs.as_deref(), &model)?;
        self.notes.push(format!("factorises {}", run.layers().join(", ")));
        self.run = Some(run);
        Ok(model)
    }

    fn add_gradients(
        &mut self,
        at: At,
        model: &VisionModel,
        gradients: &mut VisionGradients,
    ) -> Result<(), StageError> {
        for (name, term) in self.run.iter().flat_map(|run| run.penalties(at.step, model)) {
            gradients.add(&name, term);
        }
        Ok(())
    }

    fn lr(&self, at: At, scheduled: f64) -> f64 {
        scheduled * self.params.rewarm.multiplier(at.epoch, self.run.as_ref().and_then(Cuttlefish::switched))
    }

    fn decays(&self, _: &str, kind: Kind, usual: bool) -> bool {
        let replaced = self.run.as_ref().is_some_and(Cuttlefish::replaces_decay);
        usual && !(replaced && matches!(kind, Kind::U | Kind::V))
    }

    fn after_epoch(
        &mut self,
        at: At,
        mut model: VisionModel,
        optimizer: &mut VisionOptimizer,
        _: &VisionData<'_>,
    ) -> Result<VisionModel, StageError> {
        let Some(run) = &mut self.run else { return Ok(model) };
        if run.end_epoch(at.epoch - 1, at.epochs, &mut model)? {
            optimizer.restart();
            let layers = model.layers();
            let ranks = layers.iter().filter_map(|layer| Some(format!("{} {}", layer.path, layer.factored()?.1)));
            self.notes.push(format!("factorised after epoch {}: {}", at.epoch, ranks.collect::<Vec<_>>().join(", ")));
        }
        Ok(model)
    }

    fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    fn figures(&mut self) -> Vec<(String, f64)> {
        let Some(run) = self.run.as_ref().filter(|run| run.switched().is_none()) else { return Vec::new() };
        let mut figures = vec![("unsettled_layers".to_owned(), run.unsettled() as f64)];
        figures.extend(run.ranks().into_iter().map(|(path, rank)| (format!("tracked_rank/{path}"), rank)));
        figures
    }

    fn deployed(&mut self, model: VisionModel, _: &VisionData<'_>) -> Result<VisionModel, StageError> {
        if let Some(run) = self.run.as_ref().filter(|run| run.switched().is_none()) {
            let why = match run.unsettled() {
                0 => format!("its layers settled only after {} of all epochs (`latest`)", self.params.latest),
                unsettled => format!("{unsettled} layers had not settled in time"),
            };
            self.notes
                .push(format!("the model stays dense: {why}; raise `threshold` or `epochs`, or set `switch_epoch`"));
        }
        Ok(model)
    }

    fn results(&mut self) -> Vec<(String, f64)> {
        // -1: the ranks did not settle in time.
        let switched = self.run.as_ref().and_then(Cuttlefish::switched);
        vec![("switch_epoch".to_owned(), switched.map_or(-1.0, |epoch| epoch as f64))]
    }

    fn save(&self, state: &mut State) {
        if let Some(run) = &self.run {
            run.save(state);
        }
    }

    fn load(&mut self, state: &mut State) -> Result<(), StageError> {
        self.run = Some(Cuttlefish::load(&self.params, self.weight_decay, state)?);
        Ok(())
    }
}
