//! LoRAP's ranks for attention: queries and keys are nearer to low rank than values and outputs, and get less.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much of attention's parameters is kept, and how it is shared out.
///
/// Source: Li et al. 2024, "LoRAP: Transformer Sub-Layers Deserve Differentiated Structured Compression for Large Language
/// Models", and its public code. Matrices of the MLP are left as they are: the paper removes channels there.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lorap {
    /// Share of attention's parameters that is kept, above 0 and below 1.
    pub keep: f64,
    /// The rank of values and outputs over that of queries and keys; 3 in the paper.
    #[serde(default = "default_ratio")]
    pub ratio: f64,
}

fn default_ratio() -> f64 {
    3.0
}

/// The ranks of a square attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LorapRanks {
    /// The mean rank.
    pub mean: usize,
    /// Of queries and keys.
    pub queries_and_keys: usize,
    /// Of values and outputs; `None` where they stay dense, for factors would not be smaller.
    pub values_and_outputs: Option<usize>,
}

impl Lorap {
    /// The ranks for matrices of `hidden` rows and columns.
    #[must_use]
    pub fn ranks(self, hidden: usize) -> LorapRanks {
        let floor = |value: f64| (value + 1e-9).floor() as usize;
        let mean = floor(self.keep * hidden as f64 / 2.0);
        let wide = floor(2.0 * mean as f64 * self.ratio / (1.0 + self.ratio));
        if wide >= hidden / 2 {
            let queries_and_keys = floor(self.keep * hidden as f64).saturating_sub(hidden / 2);
            return LorapRanks { mean, queries_and_keys, values_and_outputs: None };
        }
        let queries_and_keys = floor(2.0 * mean as f64 / (1.0 + self.ratio));
        LorapRanks { mean, queries_and_keys, values_and_outputs: Some(wide) }
    }

    /// The rank of the matrix at a path of a LLaMA (`model.layers.0.self_attn.q_proj`), where it gets one.
    #[must_use]
    pub fn rank_of(self, path: &str, hidden: usize) -> Option<usize> {
        let ranks = self.ranks(hidden);
        match path.rsplit('.').next()? {
            "q_proj" | "k_proj" => Some(ranks.queries_and_keys),
            "v_proj" | "o_proj" => ranks.values_and_outputs,
            _ => None,
        }
    }

    /// What is wrong with it whatever the model, the field first.
    #[must_use]
    pub fn problem(self) -> Option<(&'static str, String, &'static str)> {
        if !(self.keep > 0.0 && self.keep < 1.0) {
            let message = format!("{} is not a share that can be kept", self.keep);
            return Some(("keep", message, "give a number above 0 and below 1"));
        }
        if !(self.ratio > 0.0 && self.ratio.is_finite()) {
            return Some(("ratio", format!("`ratio` is {}, but must be above 0", self.ratio), "3 in the paper"));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::vector;

    #[test]
    fn vector_lorap_ranks() {
        let vector = vector("lorap_ranks");
        let hidden: usize = vector.input("hidden");
        let sparsity: Vec<f64> = vector.input("sparsity");
        let expected: Vec<[usize; 3]> = vector.expected("k");
        for (sparsity, expected) in sparsity.into_iter().zip(expected) {
            let found = Lorap { keep: 1.0 - sparsity, ratio: vector.input("ratio") }.ranks(hidden);
            // The vector writes what stays dense as half the width, at which factors are as large.
            let wide = found.values_and_outputs.unwrap_or(hidden / 2);
            assert_eq!([found.mean, found.queries_and_keys, wide], expected);
        }
    }

    #[test]
    fn queries_get_less_than_values_and_the_mlp_nothing() {
        let lorap = Lorap { keep: 0.5, ratio: 3.0 };
        assert_eq!(lorap.rank_of("model.layers.0.self_attn.k_proj", 16), Some(2));
        assert_eq!(lorap.rank_of("model.layers.0.self_attn.v_proj", 16), Some(6));
        assert_eq!(lorap.rank_of("model.layers.0.mlp.up_proj", 16), None);
        assert_eq!(Lorap { keep: 0.8, ratio: 3.0 }.rank_of("model.layers.1.self_attn.o_proj", 16), None);
        assert_eq!(Lorap { keep: 1.0, ratio: 3.0 }.problem().unwrap().0, "keep");
        assert_eq!(Lorap { keep: 0.5, ratio: 0.0 }.problem().unwrap().0, "ratio");
        assert_eq!(lorap.problem(), None);
    }
}
