//! Training methods for image classifiers: what happens besides gradient steps.
//!
//! A new method is one file and one line of [`vision_methods!`](self): it is then known to `train-classifier`.

mod condlr;
mod full;
mod low_rank;
mod pela;

use schemars::JsonSchema;
use sepia_engine::stage::{Check, MethodInfo};
use serde::{Deserialize, Serialize};

pub use condlr::{CondlrCore, CondlrParams};
pub use full::FullVisionParams;
pub use low_rank::LowRankVisionParams;
pub use pela::PelaParams;

use super::{cuttlefish::CuttlefishParams, maestro::MaestroParams, trp::TrpParams};
use crate::train::vision::{VisionMethod, VisionMethodParams, VisionSetup};

macro_rules! vision_methods {
    ($($(#[$attr:meta])* $variant:ident($params:ty) = $name:literal, $about:literal;)+) => {
        /// Any method for classifiers, chosen by its `name`.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(tag = "name")]
        pub enum AnyVisionMethod {
            $(#[doc = $about] #[serde(rename = $name)] $variant($params),)+
        }

        /// What the reference says about every method for classifiers, in source order.
        pub const VISION_METHOD_INFOS: &[MethodInfo] = &[$(MethodInfo {
            name: $name,
            about: $about,
            source: <$params as VisionMethodParams>::SOURCE,
            kinds: &["train-classifier", <$params as VisionMethodParams>::STAGE],
            params_schema: |generator| generator.root_schema_for::<$params>(),
        }),+];

        impl VisionMethodParams for AnyVisionMethod {
            const STAGE: &'static str = "train-classifier";
            const TAUGHT: bool = true;

            fn check(&self, at: &str, check: &mut Check<'_>) {
                match self {
                    $(Self::$variant(params) => params.check(at, check),)+
                }
            }

            fn check_epochs(&self, at: &str, epochs: u64, warmup_epochs: u64, check: &mut Check<'_>) {
                match self {
                    $(Self::$variant(params) => params.check_epochs(at, epochs, warmup_epochs, check),)+
                }
            }

            fn needs_teacher(&self) -> bool {
                match self {
                    $(Self::$variant(params) => params.needs_teacher(),)+
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
    LowRank(LowRankVisionParams) = "low-rank", "factors from the beginning, from the initial weights, with Frobenius decay";
    Condlr(CondlrParams) = "condlr", "factors whose condition number is kept small";
    Pela(PelaParams) = "pela", "the factors of a trained network, taught to see what it sees";
}

impl Default for AnyVisionMethod {
    fn default() -> Self {
        Self::Full(FullVisionParams {})
    }
}

#[cfg(test)]
mod tests {
    use schemars::generate::SchemaSettings;

    use super::*;

    #[test]
    fn every_method_is_documented_and_its_defaults_pass_its_own_check() {
        let mut generator =
            SchemaSettings::default().with(|settings| settings.inline_subschemas = true).into_generator();
        for info in VISION_METHOD_INFOS {
            let schema = (info.params_schema)(&mut generator).to_value();
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                assert!(property["description"].is_string(), "{}.{name} has no description", info.name);
            }
            assert!(!info.source.is_empty(), "{} names no paper: give it a SOURCE", info.name);
            let params: AnyVisionMethod = serde_json::from_value(serde_json::json!({ "name": info.name })).unwrap();
            let facts = Default::default();
            let mut check = Check::new(&facts, camino::Utf8Path::new("."));
            params.check("method", &mut check);
            assert_eq!(check.finish().1, [], "{}", info.name);
        }
    }
}
