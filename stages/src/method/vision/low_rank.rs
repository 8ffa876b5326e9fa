//! Factors from the first step on: the best ones of the initial weights (spectral initialisation), with Frobenius decay.
//!
//! Source: Khodak et al., "Initialization and Regularization of Factorized Neural Layers" (ICLR 2021). Use both or neither:
//! at a tenth of the parameters of ResNet-32 either alone is worse than none.

use schemars::JsonSchema;
use sepia_engine::stage::{Check, StageError};
use serde::{Deserialize, Serialize};

use crate::{
    factor::{self, RankRule},
    method::cuttlefish::frobenius_penalties,
    model::vision::{Form, Kind, VisionModel},
    train::vision::{At, VisionData, VisionGradients, VisionMethod, VisionMethodParams, VisionSetup},
};

/// Training of two factors in place of each weight, at ranks that are given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LowRankVisionParams {
    /// The rank of each layer: `{ ratio = 0.25 }`, `{ compression = 2 }`, `{ rank = 16 }`, or by the singular values of the
    /// initial weights, `{ energy = 0.9 }`. Layers whose factors would not be smaller stay dense.
    pub ranks: RankRule,
    /// Which layers: names, or patterns with `*` and `?`. When left out, all but the first and the last layer, 1x1
    /// shortcuts and the output projections of attention.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<String>>,
    /// Weight of the Frobenius decay, `lambda / 2 ||U V||_F^2`, in place of weight decay on the factors; `weight_decay` when
    /// left out. 0 decays nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frobenius_decay: Option<f64>,
}

impl Default for LowRankVisionParams {
    fn default() -> Self {
        Self { ranks: RankRule::Ratio(0.25), layers: None, frobenius_decay: None }
    }
}

/// Factorises what a rule says and what is smaller for it; returns the paths.
///
/// # Errors
/// When a layer is not there or has no such rank, or nothing would be smaller.
pub(super) fn attach(
    model: &mut VisionModel,
    layers: Option<&[String]>,
    ranks: RankRule,
) -> Result<Vec<String>, StageError> {
    let paths = factor::chosen(model, layers, "layers")?;
    if let Some(path) = paths.iter().find(|path| model.layer(path).is_ok_and(|layer| layer.is_factored())) {
        return Err(StageError::new(format!("`{path}` is factored already")));
    }
    let (smaller, _) = factor::only_smaller(model, factor::by_rule(model, &paths, Form::Channel, ranks)?)?;
    if smaller.is_empty() {
        return Err(StageError::new("no layer is smaller as factors of these ranks").param("ranks").help("lower them"));
    }
    for (path, form, rank) in &smaller {
        factor::factorize_layer(model.layer_mut(path)?, *form, *rank, false)?;
    }
    Ok(smaller.into_iter().map(|(path, ..)| path).collect())
}

struct LowRank {
    params: LowRankVisionParams,
    decay: f64,
}

impl VisionMethodParams for LowRankVisionParams {
    const STAGE: &'static str = "train-classifier";
    const SOURCE: &'static str =
        r#"Khodak et al. 2021, "Initialization and Regularization of Factorized Neural Layers""#;

    fn check(&self, at: &str, check: &mut Check<'_>) {
        if let Some((message, help)) = self.ranks.problem() {
            check.problem(format!("{at}.ranks"), message, help);
        }
        let decay = self.frobenius_decay.unwrap_or(0.0);
        if !(0.0..1.0).contains(&decay) {
            let message = format!("`frobenius_decay` is {decay}, but must be at least 0 and below 1");
            check.problem(format!("{at}.frobenius_decay"), message, "");
        }
    }

    fn build(&self, setup: &VisionSetup) -> Box<dyn VisionMethod> {
        Box::new(LowRank { params: self.clone(), decay: self.frobenius_decay.unwrap_or(setup.weight_decay) })
    }
}

impl VisionMethod for LowRank {
    fn attach(&mut self, mut model: VisionModel, _: &VisionData<'_>) -> Result<VisionModel, StageError> {
        attach(&mut model, self.params.layers.as_deref(), self.params.ranks)?;
        Ok(model)
    }

    fn add_gradients(&mut self, _: At, model: &VisionModel, gradients: &mut VisionGradients) -> Result<(), StageError> {
        for (name, term) in frobenius_penalties(model, self.decay) {
            gradients.add(&name, term);
        }
        Ok(())
    }

    fn decays(&self, _: &str, kind: Kind, usual: bool) -> bool {
        usual && !matches!(kind, Kind::U | Kind::V)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::lenet;

    #[test]
    fn what_would_not_be_smaller_stays_dense() {
        let mut model = lenet();
        assert_eq!(attach(&mut model, None, RankRule::Ratio(0.5)).unwrap(), ["conv2", "fc1", "fc2"]);
        assert_eq!(model.layer("fc1").unwrap().factored(), Some((Form::Channel, 60)));
        let error = attach(&mut lenet(), None, RankRule::Ratio(1.0)).unwrap_err().to_string();
        assert_eq!(error, "no layer is smaller as factors of these ranks");
        let error = attach(&mut lenet(), None, RankRule::Rank(20)).unwrap_err().to_string();
        assert_eq!(error, "`conv2`: rank 20 is above 16, the smaller side of the 16x150 matrix");
        assert_eq!(attach(&mut model, None, RankRule::Rank(2)).unwrap_err().to_string(), "`conv2` is factored already");
    }

    #[test]
    fn bad_parameters_are_named() {
        let inputs = [].into();
        let mut check = Check::new(&inputs, camino::Utf8Path::new("."));
        LowRankVisionParams { ranks: RankRule::Rank(0), frobenius_decay: Some(-1.0), ..LowRankVisionParams::default() }
            .check("method", &mut check);
        let problems: Vec<String> = check.finish().1.into_iter().map(|problem| problem.param).collect();
        assert_eq!(problems, ["method.ranks", "method.frobenius_decay"]);
    }
}
