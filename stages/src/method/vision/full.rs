//! Plain training of every weight.

use schemars::JsonSchema;
use sepia_engine::stage::Check;
use serde::{Deserialize, Serialize};

use crate::train::vision::{VisionMethod, VisionMethodParams, VisionSetup};

/// Nothing to choose.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FullVisionParams {}

struct Full;

impl VisionMethod for Full {}

impl VisionMethodParams for FullVisionParams {
    const STAGE: &'static str = "train-classifier";
    const SOURCE: &'static str =
        "Sutskever et al. 2013 (SGD with momentum); Loshchilov and Hutter 2019 (AdamW), arXiv 1711.05101";

    fn check(&self, _: &str, _: &mut Check<'_>) {}

    fn build(&self, _: &VisionSetup) -> Box<dyn VisionMethod> {
        Box::new(Full)
    }
}
