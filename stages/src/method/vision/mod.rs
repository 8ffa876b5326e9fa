//! Training methods for image classifiers: what happens besides gradient steps.
//!
//! A new method is one file and one line of [`vision_methods!`](self): it is then known to `train-classifier`.

mod full;

use schemars::JsonSchema;
use sepia_engine::stage::Check;
use serde::{Deserialize, Serialize};

pub use full::FullVisionParams;

use super::{MethodEntry, cuttlefish::CuttlefishParams, maestro::MaestroParams, trp::TrpParams};
use crate::train::vision::{VisionMethod, VisionMethodParams, VisionSetup};

macro_rules! vision_methods {
    ($($(#[$attr:meta])* $variant:ident($params:ty) = $name:literal, $about:literal;)+) => {
        /// Any method for classifiers, chosen by its `name`.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(tag = "name")]
        pub enum AnyVisionMethod {
            $(#[doc = $about] #[serde(rename = $name)] $variant($params),)+
        }

        /// Every method for classifiers, in source order.
        pub static VISION_METHODS: &[MethodEntry] = &[$(MethodEntry { name: $name, about: $about }),+];

        impl VisionMethodParams for AnyVisionMethod {
            const STAGE: &'static str = "train-classifier";

            fn check(&self, at: &str, check: &mut Check<'_>) {
                match self {
                    $(Self::$variant(params) => params.check(at, check),)+
                }
            }

            fn build(&self, setup: &VisionSetup) -> Box<dyn VisionMethod> {
                match self {
                    $(Self::$variant(params) => params.build(setup),)+
                }
            }
        }
    };
}

vision_methods! {
    Full(FullVisionParams) = "full", "every weight in full: the baseline";
    Trp(TrpParams) = "trp", "truncated every few steps, decomposed at the end";
    Cuttlefish(CuttlefishParams) = "cuttlefish", "in full until the stable ranks settle, then as factors";
    Maestro(MaestroParams) = "maestro", "ordered factors whose vanishing components are cut off";
}

impl Default for AnyVisionMethod {
    fn default() -> Self {
        Self::Full(FullVisionParams {})
    }
}
