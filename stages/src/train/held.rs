//! What a training holds its weights and its optimiser's state in.

use burn::tensor::DType;
use schemars::JsonSchema;
use sepia_engine::stage::{Check, Dtype};
use serde::{Deserialize, Serialize};

use super::TrainParams;
use crate::method::MethodParams;

/// The type of numbers that are held between two updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Held {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits, with the exponent range of f32. Updates are computed in f32 and rounded to the nearest, ties to even.
    Bf16,
}

impl Held {
    /// burn's name for it.
    #[must_use]
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }

    /// Bytes of one number.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.dtype().size() as u64
    }

    /// Whether it is what is meant where nothing is said, which leaves no mark in a key.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl<M: MethodParams> TrainParams<M> {
    /// Reports weights and state that cannot be held as asked.
    pub(super) fn check_held(&self, check: &mut Check<'_>) {
        self.method.check_held(self.weights_dtype, self.state_dtype, check);
        if self.weights_dtype == Held::Bf16 && check.dtype() != Dtype::Bf16 {
            let computed = check.dtype().name();
            let message = format!("weights in bf16 are for training in bf16, and this one computes in {computed}");
            check.problem("weights_dtype", message, "write dtype = \"bf16\", or leave `weights_dtype` out");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::{AnyMethod, METHODS};

    fn problems(params: &TrainParams<AnyMethod>, dtype: Dtype) -> Vec<String> {
        let facts = Default::default();
        let mut check = Check::new(&facts, camino::Utf8Path::new(".")).computing_in(dtype);
        params.check_held(&mut check);
        check.finish().1.into_iter().map(|problem| format!("{}: {}", problem.param, problem.message)).collect()
    }

    fn params(method: &str, weights: &str, state: &str) -> TrainParams<AnyMethod> {
        let text = serde_json::json!({
            "max_steps": 10, "method": { "name": method }, "weights_dtype": weights, "state_dtype": state,
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn what_is_not_written_leaves_no_mark_in_a_key() {
        for (weights, state, marks) in [("f32", "f32", 0), ("bf16", "f32", 1), ("bf16", "bf16", 2)] {
            let text = serde_json::to_string(&params("full", weights, state)).unwrap();
            assert_eq!(text.matches("_dtype").count(), marks, "{text}");
        }
    }

    #[test]
    fn weights_in_bf16_want_a_training_in_bf16() {
        for (dtype, name) in [(Dtype::F32, "f32"), (Dtype::F16, "f16")] {
            let expected =
                format!("weights_dtype: weights in bf16 are for training in bf16, and this one computes in {name}");
            assert_eq!(problems(&params("galore", "bf16", "bf16"), dtype), [expected]);
            assert_eq!(problems(&params("galore", "f32", "bf16"), dtype), Vec::<String>::new());
        }
    }

    #[test]
    fn methods_that_would_lose_what_they_learn_refuse() {
        let refused = |weights, state| -> Vec<&str> {
            let refuses = |name: &&str| !problems(&params(name, weights, state), Dtype::Bf16).is_empty();
            METHODS.iter().map(|entry| entry.name).filter(refuses).collect()
        };
        assert_eq!(refused("f32", "f32"), Vec::<&str>::new());
        assert_eq!(refused("bf16", "f32"), ["relora", "sst", "lte"]);
        assert_eq!(refused("f32", "bf16"), ["sst"]);
        assert_eq!(
            problems(&params("relora", "bf16", "bf16"), Dtype::Bf16),
            [
                "weights_dtype: relora merges its branches into the weights, and a weight in bf16 takes in nothing below a \
              512th of it"
            ]
        );
    }
}
