//! What a training will need, from its parameters and the facts of its inputs.
//!
//! Parameters and optimiser state are those that the run records. Activations are counted as the fused operations keep
//! them, and everything is added up although not all of it is held at the same moment: the sum is meant to be a little
//! too high rather than too low.
//!
//! Weights with their gradients and the optimiser's state are as wide as they are held. Half precision halves activations,
//! and adds a copy of weights in f32, cast for the pass that uses them.

use sepia_engine::stage::{Check, Dtype, Estimate};

use super::TrainParams;
use crate::{
    method::{Matrix, MethodParams, MethodSetup},
    model::LlamaConfig,
    ops::Products,
};

/// Bytes of a saved model beside its weights: configuration, names and shapes, and a tokenizer, at most this much an
/// entry.
const TENSOR_HEADER: u64 = 160;
pub(crate) const TOKENIZER_ENTRY: u64 = 96;

impl<M: MethodParams> TrainParams<M> {
    /// The sizes of the model that is trained; `None` where they depend on what does not exist yet.
    #[must_use]
    pub fn model_config(&self, check: &Check<'_>) -> Option<LlamaConfig> {
        if check.is_connected("init") {
            return LlamaConfig::of_facts(&check.facts("init"));
        }
        let of_data = check.fact("data", "vocab_size").map(|size| size as usize);
        self.model.config(of_data.or(self.model.vocab_size)?, self.seq_len)
    }

    /// What it will need.
    #[must_use]
    pub fn estimate(&self, check: &Check<'_>, dtype: Dtype) -> Estimate {
        let Some(config) = self.model_config(check) else { return Estimate::default() };
        let (float, of_state, of_loss) = (self.weights_dtype.bytes(), self.state_dtype.bytes(), Dtype::F32.bytes());
        let (mut rest, mut held, mut trained, mut state) = (config.parameters() as u64, 0, 0, Some(0));
        for (shape, count) in targets(&config) {
            let matrix = Matrix { shape, float: of_state };
            let cost = self.method.cost(matrix);
            rest -= count * matrix.numbers();
            state = state.zip(cost).map(|(sum, cost)| sum + count * cost.state_bytes);
            held += count * cost.map_or(matrix.numbers(), |cost| cost.held);
            trained += count * cost.map_or(matrix.numbers(), |cost| cost.trained);
        }
        // Gradients of several batches are added up: the sum is one more of them.
        let gradients = if self.grad_accum > 1 { 2 } else { 1 };
        let tokens = (self.batch_size * self.seq_len) as u64;
        let cast = if dtype.bytes() == float { 0 } else { dtype.bytes() };
        let kept = if self.gradient_checkpointing { kept_block_by_block(&config) } else { kept_for_backward(&config) };
        Estimate {
            parameters: Some(config.parameters() as u64),
            weight_bytes: Some((rest + held) * (float + cast)),
            gradient_bytes: Some(gradients * (rest + trained) * float),
            optimizer_state_bytes: state.map(|state| state + self.state_of_rest(&config, rest)),
            activation_bytes: Some(tokens * (kept * dtype.bytes() + loss_numbers(&config) * of_loss)),
            data_bytes: data_bytes(check),
            output_bytes: Some(saved_bytes(&config, float)),
        }
    }
}

impl<M: MethodParams> TrainParams<M> {
    /// Bytes of optimiser state of embedding, head and norms, which have so many numbers.
    fn state_of_rest(&self, config: &LlamaConfig, numbers: u64) -> u64 {
        let (state, products) = (self.state_dtype, Products::default());
        let (setup, float) = (MethodSetup { hyper: self.adam(), state, products, seed: 0 }, state.bytes());
        let Some(optimizer) = self.method.build(&setup).rest() else { return 2 * numbers * float };
        let of = |shape| optimizer.state_bytes(shape, float);
        2 * of([config.vocab_size, config.d_model]) + (2 * config.n_layer as u64 + 1) * of([1, config.d_model])
    }
}

/// The matrices that methods work on, by shape `[out, in]`, and how many there are of each: queries, keys, values and
/// attention's output; gate and up; down.
fn targets(config: &LlamaConfig) -> [([usize; 2], u64); 3] {
    let (d_model, d_ff, n_layer) = (config.d_model, config.d_ff, config.n_layer as u64);
    [([d_model, d_model], 4 * n_layer), ([d_ff, d_model], 2 * n_layer), ([d_model, d_ff], n_layer)]
}

/// Numbers that a forward pass keeps for the backward pass, a token: in each block the inputs of both norms (2 d_model), of
/// the projections (3 d_model: what both norms made, and attention's result), queries, keys and values (3 d_model), gate,
/// up and their product (3 d_ff); then the last norm.
fn kept_for_backward(config: &LlamaConfig) -> u64 {
    (config.n_layer * in_a_block(config) + 2 * config.d_model) as u64
}

/// The same where blocks are run again: the input of each, and what is in one of them.
fn kept_block_by_block(config: &LlamaConfig) -> u64 {
    (config.n_layer * config.d_model + in_a_block(config) + 2 * config.d_model) as u64
}

fn in_a_block(config: &LlamaConfig) -> usize {
    8 * config.d_model + 3 * config.d_ff
}

/// Numbers of the loss, a token: logits and their gradient, in f32.
fn loss_numbers(config: &LlamaConfig) -> u64 {
    2 * config.vocab_size as u64
}

/// The tokens of both splits, as they are held: two bytes each up to a vocabulary of 65,536.
pub(crate) fn data_bytes(check: &Check<'_>) -> Option<u64> {
    let tokens = check.fact("data", "train_tokens_max")? + check.fact("data", "validation_tokens_max")?;
    Some(tokens as u64 * token_bytes(check.fact("data", "vocab_size")))
}

/// Bytes of a token id; four where the vocabulary is not known.
pub(crate) fn token_bytes(vocab_size: Option<f64>) -> u64 {
    if vocab_size.is_some_and(|size| size <= 65_536.0) { 2 } else { 4 }
}

/// Size of a saved model, at most.
pub(crate) fn saved_bytes(config: &LlamaConfig, float: u64) -> u64 {
    // Nine a block, embedding, last norm and head.
    let tensors = 9 * config.n_layer as u64 + 3;
    config.parameters() as u64 * float + (tensors + 8) * TENSOR_HEADER + config.vocab_size as u64 * TOKENIZER_ENTRY
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::{AnyMethod, GaloreParams};

    fn estimate(params: serde_json::Value) -> Estimate {
        estimate_in(params, Dtype::F32)
    }

    fn estimate_in(params: serde_json::Value, dtype: Dtype) -> Estimate {
        let params: TrainParams<AnyMethod> = serde_json::from_value(params).unwrap();
        let facts = [("vocab_size", 32_000.0), ("train_tokens_max", 1e6), ("validation_tokens_max", 1e5)];
        let facts = facts.map(|(name, value)| (name.to_owned(), value)).into();
        let inputs = [("data".to_owned(), vec![facts])].into();
        let check = Check::new(&inputs, camino::Utf8Path::new("."));
        params.estimate(&check, dtype)
    }

    #[test]
    fn half_precision_and_checkpointing_shrink_activations_and_nothing_else() {
        let training = |checkpointing: bool| {
            serde_json::json!({
                "model": { "preset": "60m" }, "max_steps": 10, "gradient_checkpointing": checkpointing,
                "method": { "name": "galore", "rank": 128 },
            })
        };
        let full = estimate(training(false));
        for other in [estimate(training(true)), estimate_in(training(false), Dtype::Bf16)] {
            assert!(other.activation_bytes < full.activation_bytes, "{other:?}");
            assert_eq!(other.optimizer_state_bytes, full.optimizer_state_bytes);
            assert_eq!((other.gradient_bytes, other.output_bytes), (full.gradient_bytes, full.output_bytes));
        }
        let cast = estimate_in(training(false), Dtype::F16).weight_bytes.unwrap() - full.weight_bytes.unwrap();
        assert_eq!(cast, 2 * 58_073_600);
    }

    #[test]
    fn the_published_60m_model_under_adam_and_galore() {
        let training = |method: serde_json::Value| {
            serde_json::json!({
                "model": { "preset": "60m" }, "max_steps": 10, "batch_size": 2, "seq_len": 256, "method": method,
            })
        };
        let full = estimate(training(serde_json::json!({ "name": "full" })));
        assert_eq!(full.parameters, Some(58_073_600));
        assert_eq!(full.optimizer_state_bytes, Some(2 * 4 * 58_073_600));
        assert_eq!(full.data_bytes, Some(2_200_000));
        let galore = estimate(training(serde_json::json!({ "name": "galore", "rank": 128 })));
        // Per block: four square matrices of 512, three of 1376 x 512; moments 2 r max(m, n), basis r min(m, n).
        let matrices = 8 * (4 * (2 * 128 * 512 + 128 * 512) + 3 * (2 * 128 * 1376 + 128 * 512));
        let rest = 2 * 32_000 * 512 + 17 * 512;
        assert_eq!(galore.optimizer_state_bytes, Some(4 * (matrices + 2 * rest)));
        assert_eq!(galore.weight_bytes, full.weight_bytes);
        let lora = estimate(training(serde_json::json!({ "name": "lora", "rank": 128 })));
        assert!(lora.weight_bytes > full.weight_bytes && lora.gradient_bytes < full.gradient_bytes);
    }

    /// Weights and states of the 1B model under GaLore with rank 512, all in bf16: to the byte what follows from the shapes.
    /// The published 4.38 GB (1.78 of states) do not follow from the paper's own formula, `m r + 2 n r` for each matrix;
    /// that gives 2.09 GB of states. Moments in 8 bits, or a projection of both sides, stay below it.
    #[test]
    fn the_published_1b_model_under_galore_in_bf16() {
        let of = |method: serde_json::Value| {
            let mut all = serde_json::json!({
                "model": { "preset": "1b" }, "max_steps": 10, "batch_size": 16, "seq_len": 256, "weights_dtype": "bf16",
                "state_dtype": "bf16", "method": { "name": "galore", "rank": 512 },
            });
            for (name, value) in method.as_object().unwrap() {
                all["method"][name] = value.clone();
            }
            let found = estimate_in(all, Dtype::Bf16);
            assert_eq!(found.weight_bytes, Some(2 * 1_339_082_752));
            assert_eq!(found.gradient_bytes, found.weight_bytes);
            found.weight_bytes.unwrap() + found.optimizer_state_bytes.unwrap()
        };
        let (d, f, r) = (2048, 5461, 512);
        let matrices = 24 * (4 * (2 * r * d + r * d) + 3 * (2 * r * f + r * d));
        let rest = 2 * 32_000 * d + 49 * d;
        assert_eq!(of(serde_json::json!({})), 2 * (1_339_082_752 + matrices + 2 * rest));
        assert_eq!(of(serde_json::json!({})), 4_763_086_848);
        let published = 4_380_000_000;
        for (method, expected) in [
            (serde_json::json!({ "proj_type": "full" }), 4_335_292_416),
            (serde_json::json!({ "optimizer": "adam8bit" }), 4_168_568_448),
            (serde_json::json!({ "optimizer": "adam8bit", "rest": "same" }), 3_910_921_856),
        ] {
            let found = of(method);
            assert!(found == expected && found < published, "{found}");
        }
    }

    #[test]
    fn eight_bits_take_a_quarter_and_a_scale_a_block() {
        let optimizer = serde_json::from_value(serde_json::json!("adam8bit")).unwrap();
        let params = GaloreParams { rank: 64, optimizer, ..GaloreParams::default() };
        let cost = params.cost(Matrix { shape: [128, 256], float: 4 }).unwrap();
        let (moment, basis) = (64 * 256, 64 * 128);
        assert_eq!(cost.state_bytes, 2 * (moment + 4 * moment / 256) + 4 * basis);
        let small = params.cost(Matrix { shape: [8, 16], float: 4 }).unwrap();
        assert_eq!(small.state_bytes, 4 * (2 * 8 * 16 + 8 * 8));
        // With a basis in bf16 the moments stay what they are.
        let narrow = params.cost(Matrix { shape: [8, 16], float: 2 }).unwrap();
        assert_eq!(narrow.state_bytes, 4 * 2 * 8 * 16 + 2 * 8 * 8);
    }

    #[test]
    fn nothing_is_said_of_a_model_whose_sizes_are_not_known() {
        let params: TrainParams<AnyMethod> =
            serde_json::from_value(serde_json::json!({ "model": { "preset": "9m" }, "max_steps": 1 })).unwrap();
        let inputs = Default::default();
        let check = Check::new(&inputs, camino::Utf8Path::new("."));
        assert_eq!(params.estimate(&check, Dtype::F32), Estimate::default());
    }
}
