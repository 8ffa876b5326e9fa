//! Cuttlefish at work on a model.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use sepia_engine::stage::StageError;

use super::{Constants, CuttlefishParams, Detector, StackCost, eligible, frobenius_penalties, proxy_costs};
use crate::{
    factor::{self, Keep},
    linalg::{host::to_host, svd::singular_values},
    metric::trace::StableRanks,
    model::vision::{Form, VisionModel},
    train::State,
};

/// The state of one training run.
#[derive(Debug)]
pub struct Cuttlefish {
    params: CuttlefishParams,
    constants: Constants,
    /// Weight of the Frobenius decay.
    decay: f64,
    /// The layers it tracks and factorises, in the order of the model.
    layers: Vec<String>,
    detector: Detector,
    /// Stable ranks before training, by layer.
    initial: BTreeMap<String, f64>,
    /// The epoch that began with factors.
    switched: Option<u64>,
}

impl Cuttlefish {
    /// For a new, dense model. `costs` are the timings of a profile; without them multiplications are counted.
    /// `weight_decay` is what the optimizer uses.
    ///
    /// # Errors
    /// When a layer that is asked for is not there, none gets faster, or a weight holds NaN.
    pub fn new(
        params: &CuttlefishParams,
        weight_decay: f64,
        costs: Option<&[StackCost]>,
        model: &VisionModel,
    ) -> Result<Self, StageError> {
        let layers = match (&params.layers, costs) {
            (Some(patterns), _) => factor::chosen(model, Some(patterns), "layers")?,
            (None, Some(costs)) => eligible(model, costs, params.min_speedup),
            (None, None) => eligible(model, &proxy_costs(model, params.rank_ratio), params.min_speedup),
        };
        if layers.is_empty() {
            let message = format!("no stack of layers is {} times faster with factors", params.min_speedup);
            return Err(StageError::new(message)
                .help("lower `min_speedup`, or name the layers: layers = [\"layer2.*\"]")
                .param("min_speedup"));
        }
        for path in &layers {
            let layer = model.layer(path)?;
            layer.check(Form::Channel, 1).map_err(factor::LayerError::from)?;
            if layer.is_factored() {
                return Err(StageError::new(format!("`{path}` is factored already: Cuttlefish begins in full")));
            }
        }
        let mut run = Self::empty(params, weight_decay, layers);
        run.initial = run.measure(model)?;
        let initial = run.initial.clone();
        run.detector.push(&initial);
        Ok(run)
    }

    fn empty(params: &CuttlefishParams, weight_decay: f64, layers: Vec<String>) -> Self {
        let decay = if params.extra_norm { 0.0 } else { params.frobenius_decay.unwrap_or(weight_decay) };
        Self {
            constants: params.constants(),
            params: params.clone(),
            decay,
            layers,
            detector: Detector::default(),
            initial: BTreeMap::new(),
            switched: None,
        }
    }

    /// Stable ranks now, by layer.
    fn measure(&self, model: &VisionModel) -> Result<BTreeMap<String, f64>, StageError> {
        let mut found = BTreeMap::new();
        for path in &self.layers {
            let matrix = model.layer(path)?.dense();
            // From a start of its own each time: nothing to keep in a checkpoint.
            let rank = StableRanks::default().measure(path, &matrix)?;
            let counted = if self.params.integer_ranks { (rank + 1e-9).floor() } else { rank };
            found.insert(path.clone(), counted);
        }
        Ok(found)
    }

    /// At the end of an epoch (from 0) out of `epochs`: measures, and factorises the model when the next one shall begin with factors.
    /// Says whether it did: the optimizer then starts anew.
    ///
    /// # Errors
    /// When a weight cannot be measured or decomposed.
    pub fn end_epoch(&mut self, epoch: u64, epochs: u64, model: &mut VisionModel) -> Result<bool, StageError> {
        if self.switched.is_some() {
            return Ok(false);
        }
        let ranks = self.measure(model)?;
        // The CIFAR script measures at the start of each epoch: the value after this one comes too late for it.
        let settled = if self.constants.after_epoch {
            self.detector.push(&ranks);
            self.detector.settle(epoch as usize, &self.constants)
        } else {
            let settled = self.detector.settle(epoch as usize, &self.constants);
            self.detector.push(&ranks);
            settled
        };
        let next = epoch + 1;
        let due = self.params.switch_epoch.map_or(settled, |switch| next == switch);
        if !due || next >= self.params.too_late(epochs) {
            return Ok(false);
        }
        self.switch(&ranks, model)?;
        self.switched = Some(next);
        Ok(true)
    }

    /// Layers whose factors would not be smaller stay dense.
    fn switch(&self, now: &BTreeMap<String, f64>, model: &mut VisionModel) -> Result<(), StageError> {
        for (path, rank) in now {
            let layer = model.layer_mut(path)?;
            let full = layer.geometry.full_rank(Form::Channel);
            let at_init =
                if self.params.scaled { self.initial.get(path).copied().unwrap_or(*rank) } else { full as f64 };
            let mut rank = self.constants.rank(*rank, at_init, full);
            if self.params.accumulative > 0.0 {
                let s = to_host(&layer.dense()).and_then(|matrix| singular_values(matrix.as_ref()));
                let s = s.map_err(|error| StageError::new(format!("`{path}`: {error}")))?;
                rank = rank.max(Keep::LinearEnergy(self.params.accumulative).count(&s)).min(full);
            }
            if factor::pays(layer, Form::Channel, rank) {
                factor::factorize_layer(layer, Form::Channel, rank, self.params.extra_norm)?;
            }
        }
        Ok(())
    }

    /// The epoch that began with factors.
    #[must_use]
    pub fn switched(&self) -> Option<u64> {
        self.switched
    }

    /// Whether Frobenius decay takes the place of weight decay on the factors.
    #[must_use]
    pub fn replaces_decay(&self) -> bool {
        self.switched.is_some() && (self.decay > 0.0 || self.params.frobenius_decay.is_some())
    }

    /// The layers it tracks.
    #[must_use]
    pub fn layers(&self) -> &[String] {
        &self.layers
    }

    /// The last stable rank of each layer.
    #[must_use]
    pub fn ranks(&self) -> Vec<(&str, f64)> {
        let traces = self.detector.traces.iter();
        traces.filter_map(|(path, trace)| Some((path.as_str(), *trace.values.last()?))).collect()
    }

    /// Layers that have not settled.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.detector.unstable()
    }

    /// What Frobenius decay adds to the gradients of a model's factors in a step, by parameter name.
    #[must_use]
    pub fn penalties(&self, step: u64, model: &VisionModel) -> BTreeMap<String, Tensor<2>> {
        let every = self.params.frobenius_every.max(1);
        let due = self.switched.is_some() && step.is_multiple_of(every);
        frobenius_penalties(model, if due { self.decay * every as f64 } else { 0.0 })
    }

    /// Saves traces, stable ranks at the start and the switch.
    pub fn save(&self, state: &mut State) {
        let numbers = |values: &[f64]| burn::tensor::TensorData::new(values.to_vec(), [values.len()]);
        for (path, trace) in &self.detector.traces {
            state.put_data(&format!("cuttlefish/trace/{path}"), numbers(&trace.values));
            state.put_count(&format!("cuttlefish/settled/{path}"), u64::from(trace.stable));
        }
        for (path, rank) in &self.initial {
            state.put_data(&format!("cuttlefish/initial/{path}"), numbers(&[*rank]));
        }
        // 0: not yet; a switch is never at epoch 0.
        state.put_count("cuttlefish/switched", self.switched.unwrap_or(0));
    }

    /// The run that [`save`](Self::save) saved.
    ///
    /// # Errors
    /// When a part is missing.
    pub fn load(params: &CuttlefishParams, weight_decay: f64, state: &mut State) -> Result<Self, StageError> {
        let numbers = |state: &mut State, name: String| -> Result<Vec<f64>, StageError> {
            let data = state.take_data(&name)?;
            data.try_into_vec::<f64>().map_err(|error| StageError::new(format!("the checkpoint's `{name}`: {error:?}")))
        };
        let mut run = Self::empty(params, weight_decay, state.names("cuttlefish/trace/"));
        for path in run.layers.clone() {
            let trace = run.detector.traces.entry(path.clone()).or_default();
            trace.values = numbers(state, format!("cuttlefish/trace/{path}"))?;
            trace.stable = state.count(&format!("cuttlefish/settled/{path}"))? != 0;
            let initial = numbers(state, format!("cuttlefish/initial/{path}"))?;
            run.initial.extend(initial.first().map(|rank| (path.clone(), *rank)));
        }
        let switched = state.count("cuttlefish/switched")?;
        run.switched = (switched > 0).then_some(switched);
        Ok(run)
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::{
        model::vision::{Architecture, VisionParams},
        testing::classifier,
        testing::test_device,
    };

    fn mlp() -> VisionModel {
        classifier(VisionParams { hidden: Some(vec![32, 24, 20]), ..VisionParams::of(Architecture::Mlp) }, 6)
    }

    fn quick() -> CuttlefishParams {
        CuttlefishParams { min_epoch: Some(1), tail: Some(2), points: Some(2), ..CuttlefishParams::default() }
    }

    /// A weight whose singular values below the leading `rank` are gone.
    fn cut(model: &mut VisionModel, rank: usize) {
        for path in ["fc2", "fc3"] {
            factor::truncate_layer(model.layer_mut(path).unwrap(), Form::Channel, Keep::Rank(rank)).unwrap();
        }
    }

    #[test]
    fn it_switches_by_itself_at_the_ranks_that_the_stable_ranks_scale_to() {
        let mut model = mlp();
        let dense = model.parameters();
        let mut run = Cuttlefish::new(&quick(), 1e-4, None, &model).unwrap();
        assert_eq!(run.layers(), ["fc2", "fc3"]);
        let initial = run.initial.clone();
        cut(&mut model, 2);
        let mut epoch = 0;
        while !run.end_epoch(epoch, 20, &mut model).unwrap() {
            epoch += 1;
            assert!(epoch < 15, "no switch");
        }
        assert!(epoch >= 2 && run.switched() == Some(epoch + 1), "{epoch}");
        for path in ["fc2", "fc3"] {
            let layer = model.layer(path).unwrap();
            let (_, rank) = layer.factored().unwrap();
            let trace = &run.detector.traces[path].values;
            let full = layer.geometry.full_rank(Form::Channel);
            assert_eq!(rank, (trace[trace.len() - 1] * full as f64 / initial[path] - 1e-9).ceil() as usize);
        }
        assert!(model.parameters() < dense);
        assert!(!run.end_epoch(epoch + 1, 20, &mut model).unwrap(), "once");
    }

    #[test]
    fn decay_presses_on_the_product_after_the_switch_and_not_with_an_extra_norm() {
        let mut model = mlp();
        let params = CuttlefishParams { switch_epoch: Some(1), ..quick() };
        let mut run = Cuttlefish::new(&params, 1e-2, None, &model).unwrap();
        assert!(run.penalties(0, &model).is_empty());
        cut(&mut model, 2);
        assert!(run.end_epoch(0, 20, &mut model).unwrap());
        let names: Vec<String> = run.penalties(0, &model).into_keys().collect();
        assert_eq!(names, ["fc2.u", "fc2.v", "fc3.u", "fc3.v"]);
        // Seldom and more at a time: the same in all.
        let whole = run.penalties(0, &model).remove("fc2.u").unwrap();
        run.params.frobenius_every = 4;
        assert_eq!((0..8).filter(|step| !run.penalties(*step, &model).is_empty()).collect::<Vec<_>>(), [0, 4]);
        let seldom = run.penalties(4, &model).remove("fc2.u").unwrap();
        assert!((seldom - whole * 4.0).abs().max().into_scalar::<f32>() < 1e-6);
        let normed = CuttlefishParams { extra_norm: true, ..params };
        let run = Cuttlefish::new(&normed, 1e-2, None, &mlp()).unwrap();
        assert_eq!(run.decay, 0.0);
    }

    #[test]
    fn there_is_no_switch_in_the_last_tenth() {
        let mut model = mlp();
        let params = CuttlefishParams { switch_epoch: Some(9), ..quick() };
        let mut run = Cuttlefish::new(&params, 0.0, None, &model).unwrap();
        assert!((0..10).all(|epoch| !run.end_epoch(epoch, 10, &mut model).unwrap()));
    }

    #[test]
    fn layers_whose_factors_would_be_larger_stay_dense() {
        let mut model = mlp();
        let params = CuttlefishParams { switch_epoch: Some(1), ..quick() };
        let mut run = Cuttlefish::new(&params, 0.0, None, &model).unwrap();
        // Untouched weights scale to the full rank.
        assert!(run.end_epoch(0, 20, &mut model).unwrap());
        assert!(model.layers().iter().all(|layer| !layer.is_factored()));
    }

    #[test]
    fn traces_survive_a_checkpoint() {
        let mut model = mlp();
        let mut run = Cuttlefish::new(&quick(), 0.0, None, &model).unwrap();
        run.end_epoch(0, 20, &mut model).unwrap();
        cut(&mut model, 6);
        run.end_epoch(1, 20, &mut model).unwrap();
        let mut state = State::new(&test_device());
        run.save(&mut state);
        let mut resumed = Cuttlefish::load(&quick(), 0.0, &mut state).unwrap();
        for epoch in 2..8 {
            let (mut a, mut b) = (model.clone(), model.clone());
            assert_eq!(run.end_epoch(epoch, 40, &mut a).unwrap(), resumed.end_epoch(epoch, 40, &mut b).unwrap());
            assert_eq!((&run.detector, run.switched), (&resumed.detector, resumed.switched));
        }
    }

    #[test]
    fn a_profile_in_which_nothing_gets_faster_is_an_error_that_says_what_to_write() {
        let costs = [StackCost { stack: "body".to_owned(), dense: 1.0, factored: 2.0 }];
        let error = Cuttlefish::new(&quick(), 0.0, Some(&costs), &mlp()).unwrap_err();
        assert_eq!(error.to_string(), "no stack of layers is 1.5 times faster with factors");
    }
}
