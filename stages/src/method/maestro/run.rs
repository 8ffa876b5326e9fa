//! Maestro at work on a model.

use burn::tensor::{Tensor, TensorData};
use sepia_engine::stage::StageError;

use super::{Draw, Lasso, LassoKind, MaestroParams, Sampler, stays_factored};
use crate::{
    factor,
    model::vision::{FactorError, Form, Layer, Role, VisionModel, Weight},
};

/// The state of one training run. Ranks are those of the model's factors.
#[derive(Debug)]
pub struct Maestro {
    params: MaestroParams,
    /// The layers it has factorised, in the order of the model.
    layers: Vec<String>,
    sampler: Sampler,
}

/// A layer whose factors became narrower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Its path.
    pub path: String,
    /// Its rank before.
    pub from: usize,
    /// And now.
    pub to: usize,
}

impl Maestro {
    /// Factorises the chosen layers of a dense model at their full rank.
    ///
    /// # Errors
    /// When a layer that is asked for is not there or cannot be factorised.
    pub fn attach(params: &MaestroParams, seed: u64, model: &mut VisionModel) -> Result<Self, StageError> {
        let layers = match &params.layers {
            Some(patterns) => factor::chosen(model, Some(patterns), "layers")?,
            None => {
                let inner = |layer: &&Layer| !matches!(layer.role, Role::Stem | Role::Classifier);
                let found = model.layers().into_iter().filter(inner).filter(|layer| !factor::is_grouped(layer));
                found.map(|layer| layer.path.clone()).collect()
            }
        };
        if layers.is_empty() {
            return Err(StageError::new("the model has only a first and a last layer")
                .help("name the layers: layers = [\"*\"]")
                .param("layers"));
        }
        for path in &layers {
            let layer = model.layer_mut(path)?;
            if layer.is_factored() {
                return Err(StageError::new(format!("`{path}` is factored already")));
            }
            let full = layer.geometry.full_rank(Form::Channel);
            factor::factorize_layer(layer, Form::Channel, full, false)?;
        }
        let mut run = Self { params: params.clone(), layers, sampler: Sampler::new(params.sampler, seed, &[]) };
        run.sampler = Sampler::new(params.sampler, seed, &run.ranks(model)?);
        Ok(run)
    }

    /// The run whose layers, ranks and [`position`](Self::position) were saved.
    #[must_use]
    pub fn resume(
        params: &MaestroParams,
        seed: u64,
        layers: Vec<String>,
        ranks: &[usize],
        position: (u64, u64),
    ) -> Self {
        let sampler = Sampler::resume(params.sampler, seed, ranks, position);
        Self { params: params.clone(), layers, sampler }
    }

    /// The layers it has factorised.
    #[must_use]
    pub fn layers(&self) -> &[String] {
        &self.layers
    }

    /// The sampler's two counters.
    #[must_use]
    pub fn position(&self) -> (u64, u64) {
        self.sampler.position()
    }

    /// The ranks that the sampler knows, in the order of [`layers`](Self::layers).
    #[must_use]
    pub fn known_ranks(&self) -> &[usize] {
        self.sampler.ranks()
    }

    fn ranks(&self, model: &VisionModel) -> Result<Vec<usize>, StageError> {
        let rank = |path: &String| Ok(model.layer(path)?.factored().map_or(0, |(_, rank)| rank));
        self.layers.iter().map(rank).collect()
    }

    /// The ranks of the next step: of each layer that does not run at its own, the path and the rank.
    pub fn draw(&mut self) -> Vec<(String, usize)> {
        match self.sampler.draw() {
            Draw::One(layer, rank) => self.layers.get(layer).map(|path| (path.clone(), rank)).into_iter().collect(),
            Draw::All(ranks) => self.layers.iter().cloned().zip(ranks).collect(),
        }
    }

    fn lasso(layer: &Layer) -> Option<(Lasso, &Tensor<2>, &Tensor<2>)> {
        let Weight::Factored(factors) = &layer.weight else { return None };
        let squares = |tensor: Tensor<2>| tensor.to_data().convert::<f64>().try_into_vec::<f64>().unwrap_or_default();
        let u = squares(factors.u.clone().square().sum_dim(0)); // of the columns: [1, r]
        let v = squares(factors.v.clone().square().sum_dim(1)); // of the rows: [r, 1]
        Some((Lasso::new(&u, &v, LassoKind::Hierarchical), &factors.u, &factors.v))
    }

    /// What the group lasso adds to the gradients of the factors, by parameter name.
    ///
    /// # Errors
    /// When the model lacks a layer.
    pub fn penalties(&self, model: &VisionModel) -> Result<Vec<(String, Tensor<2>)>, StageError> {
        let mut found = Vec::new();
        if self.params.lambda > 0.0 {
            for path in &self.layers {
                let Some((lasso, u, v)) = Self::lasso(model.layer(path)?) else { continue };
                let (slopes_u, slopes_v) = lasso.slopes();
                let rank = slopes_u.len();
                let scale = |slopes: Vec<f64>, shape: [usize; 2]| {
                    let scaled: Vec<f64> = slopes.into_iter().map(|slope| slope * self.params.lambda).collect();
                    Tensor::<2>::from_data(TensorData::new(scaled, shape), (&u.device(), u.dtype()))
                };
                found.push((format!("{path}.u"), u.clone().mul(scale(slopes_u, [1, rank]))));
                found.push((format!("{path}.v"), v.clone().mul(scale(slopes_v, [rank, 1]))));
            }
        }
        Ok(found)
    }

    /// The penalty itself, summed over all layers.
    ///
    /// # Errors
    /// When the model lacks a layer.
    pub fn penalty(&self, model: &VisionModel) -> Result<f64, StageError> {
        let of = |path: &String| Ok(Self::lasso(model.layer(path)?).map_or(0.0, |(lasso, ..)| lasso.penalty()));
        Ok(self.params.lambda * self.layers.iter().map(of).sum::<Result<f64, StageError>>()?)
    }

    /// Cuts off components that have vanished: the factors become narrower for good. One component always stays, so that a
    /// layer's output keeps its shape.
    ///
    /// # Errors
    /// When the model lacks a layer.
    pub fn shrink(&mut self, model: &mut VisionModel) -> Result<Vec<Cut>, StageError> {
        let mut cuts = Vec::new();
        for path in &self.layers {
            let layer = model.layer_mut(path)?;
            let Some((lasso, ..)) = Self::lasso(layer) else { continue };
            let to = lasso.kept(self.params.threshold).max(1);
            let Some((_, from)) = layer.factored() else { continue };
            if to < from {
                narrow(layer, to)?;
                cuts.push(Cut { path: path.clone(), from, to });
            }
        }
        let ranks = self.ranks(model)?;
        self.sampler.shrink(&ranks);
        Ok(cuts)
    }

    /// Multiplies back the factors that are larger than the weight they stand for.
    ///
    /// # Errors
    /// When the model lacks a layer.
    pub fn dense_or_factored(&self, mut model: VisionModel) -> Result<VisionModel, StageError> {
        for path in &self.layers {
            dense_if_larger(model.layer_mut(path)?);
        }
        Ok(model)
    }
}

/// Cuts a factored layer down to its first components: real, narrower factors.
///
/// # Errors
/// When the rank is 0 or above the layer's.
pub fn narrow(layer: &mut Layer, rank: usize) -> Result<(), factor::LayerError> {
    let path = layer.path.clone();
    let Weight::Factored(factors) = &mut layer.weight else { return Ok(()) };
    let [rows, columns] = layer.geometry.matrix(factors.form);
    if rank == 0 || rank > factors.rank {
        return Err(FactorError::Rank { path, rank, full: factors.rank, rows, columns }.into());
    }
    let (u, v) = factors.prefix(Some(rank));
    (factors.u, factors.v, factors.rank) = (u, v, rank);
    Ok(())
}

/// Multiplies a factored layer back when its factors have more parameters than its weight; equality stays factored.
pub fn dense_if_larger(layer: &mut Layer) {
    if let Some((form, rank)) = layer.factored()
        && !stays_factored(rank, layer.geometry.matrix(form))
    {
        layer.multiply_out();
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::{
        linalg::host::to_host,
        model::vision::Pass,
        random::Rng,
        testing::{convolved, lenet, test_device},
    };

    fn logits(model: &VisionModel, pass: &mut Pass<'_>) -> faer::Mat<f64> {
        let images = TensorData::new(Rng::new(3).normal(2 * 784, 1.0), [2, 1, 28, 28]);
        to_host(&model.forward(Tensor::from_data(images, &test_device()), pass)).unwrap()
    }

    #[test]
    fn it_begins_as_the_dense_model_at_full_ranks() {
        let (dense, mut model) = (lenet(), lenet());
        let run = Maestro::attach(&MaestroParams::default(), 1, &mut model).unwrap();
        assert_eq!(run.layers(), ["conv2", "fc1", "fc2"]);
        assert_eq!(run.known_ranks(), [16, 120, 84]);
        let difference = logits(&dense, &mut Pass::eval()) - logits(&model, &mut Pass::eval());
        let apart = difference.norm_max();
        assert!(apart < convolved(1e-4), "{apart}");
        // Factors of full rank are larger: the end multiplies them back.
        let deployed = run.dense_or_factored(model).unwrap();
        assert_eq!(deployed.parameters(), dense.parameters());
    }

    #[test]
    fn vanished_components_are_cut_off_for_good_and_the_outputs_stay() {
        let mut model = lenet();
        let mut run = Maestro::attach(&MaestroParams::default(), 1, &mut model).unwrap();
        for (path, rank) in [("conv2", 3), ("fc1", 10), ("fc2", 0)] {
            let Weight::Factored(factors) = &mut model.layer_mut(path).unwrap().weight else { panic!() };
            let keep: Vec<f32> = (0..factors.rank).map(|b| if b < rank { 1.0 } else { 1e-9 }).collect();
            let scale = Tensor::<2>::from_data(TensorData::new(keep, [1, factors.rank]), &test_device());
            factors.u = factors.u.clone() * scale;
        }
        let before = logits(&model, &mut Pass::eval());
        let cuts = run.shrink(&mut model).unwrap();
        let cut = |path: &str, from, to| Cut { path: path.to_owned(), from, to };
        assert_eq!(cuts, [cut("conv2", 16, 3), cut("fc1", 120, 10), cut("fc2", 84, 1)]);
        let Weight::Factored(factors) = &model.layer("fc1").unwrap().weight else { panic!() };
        assert_eq!((factors.u.dims(), factors.v.dims()), ([120, 10], [10, 400]));
        assert!((logits(&model, &mut Pass::eval()) - before).norm_max() < 1e-4);
        assert_eq!(run.known_ranks(), [3, 10, 1]);
        assert!(run.shrink(&mut model).unwrap().is_empty());
        assert!(run.dense_or_factored(model.clone()).unwrap().parameters() < lenet().parameters() / 2);
    }

    #[test]
    fn penalties_press_on_every_component_and_most_on_the_last() {
        let mut model = lenet();
        let run = Maestro::attach(&MaestroParams { lambda: 0.1, ..MaestroParams::default() }, 1, &mut model).unwrap();
        let penalties = run.penalties(&model).unwrap();
        assert_eq!(penalties.len(), 6);
        let (name, term) = &penalties[0];
        assert_eq!(name, "conv2.u");
        let Weight::Factored(factors) = &model.layer("conv2").unwrap().weight else { panic!() };
        let slopes = to_host(&term.clone().div(factors.u.clone())).unwrap();
        assert!((1..16).all(|b| slopes[(0, b)] > slopes[(0, b - 1)]), "{slopes:?}");
        assert!(run.penalty(&model).unwrap() > 0.0);
        let off = Maestro::attach(&MaestroParams { lambda: 0.0, ..MaestroParams::default() }, 1, &mut lenet()).unwrap();
        assert!(off.penalties(&model).unwrap().is_empty());
    }

    #[test]
    fn a_step_runs_one_layer_at_the_drawn_rank_and_its_output_keeps_its_shape() {
        let mut model = lenet();
        let mut run = Maestro::attach(&MaestroParams::default(), 5, &mut model).unwrap();
        for _ in 0..20 {
            let drawn = run.draw();
            let [(path, rank)] = &drawn[..] else { panic!("{drawn:?}") };
            let at_rank = logits(&model, &mut Pass::eval().with_rank(path, *rank));
            let mut cut = model.clone();
            narrow(cut.layer_mut(path).unwrap(), *rank).unwrap();
            assert!((at_rank - logits(&cut, &mut Pass::eval())).norm_max() < 1e-4);
        }
    }
}
