//! What a manifest says about Maestro.

use schemars::JsonSchema;
use sepia_engine::stage::Check;
use serde::{Deserialize, Serialize};

use super::SamplerKind;

/// Maestro: factors whose components are ordered by training, and cut off when they vanish.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MaestroParams {
    /// Weight of the hierarchical group lasso, the norms of all suffixes of both factors. The larger it is, the smaller the
    /// model; 0 turns it off. Start large and halve until the accuracy is right.
    pub lambda: f64,
    /// A component is cut off, with all behind it, when the product of the norms of its suffixes is below this. 1e-5 in the
    /// public code, 1e-7 in the paper.
    pub threshold: f64,
    /// How ranks are drawn.
    pub sampler: SamplerKind,
    /// Cuts off components after each epoch. Off, only the end does.
    pub shrink: bool,
    /// Which layers: names, or patterns with `*` and `?`. When left out, all but the first and the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<String>>,
    /// Batches over which the statistics of BatchNorm are taken anew before an evaluation; a whole pass over the training
    /// images when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recalibration_batches: Option<usize>,
}

impl Default for MaestroParams {
    fn default() -> Self {
        Self {
            lambda: 1e-5,
            threshold: 1e-5,
            sampler: SamplerKind::default(),
            shrink: true,
            layers: None,
            recalibration_batches: None,
        }
    }
}

impl MaestroParams {
    /// Reports what cannot work. `prefix` is the parameter's own name.
    pub fn check(&self, prefix: &str, check: &mut Check<'_>) {
        let at = |name: &str| if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        for (name, value) in [("lambda", self.lambda), ("threshold", self.threshold)] {
            if !(value >= 0.0 && value.is_finite()) {
                check.problem(at(name), format!("`{name}` is {value}, but must be at least 0"), "");
            }
        }
        if let SamplerKind::Constant { part } = self.sampler
            && !(part > 0.0 && part <= 1.0)
        {
            check.problem(at("sampler.part"), format!("{part} is not a part"), "give a number above 0 and at most 1");
        }
        if self.recalibration_batches == Some(0) {
            check.problem(at("recalibration_batches"), "`recalibration_batches` must be at least 1", "");
        }
    }
}
