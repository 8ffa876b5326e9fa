//! Sizes of a LLaMA-style decoder: the published presets, and what a manifest may say.

use schemars::JsonSchema;
use sepia_engine::stage::{Check, Facts};
use serde::{Deserialize, Serialize};

/// Epsilon of every RMSNorm.
pub(super) const RMS_NORM_EPS: f64 = 1e-6;
/// Base of the rotary position embedding.
pub(super) const ROPE_THETA: f64 = 10_000.0;
/// Standard deviation of every initial weight matrix.
pub(super) const INIT_STD: f64 = 0.02;

/// All sizes of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LlamaConfig {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width inside the MLP.
    pub d_ff: usize,
    /// Number of blocks.
    pub n_layer: usize,
    /// Number of attention heads; each is `d_model / n_head` wide.
    pub n_head: usize,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Longest sequence in tokens.
    pub seq_len: usize,
}

impl LlamaConfig {
    /// Width of one head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.d_model / self.n_head.max(1)
    }

    /// Parameters of one block: four attention projections, three MLP matrices, two norms.
    #[must_use]
    pub fn layer_parameters(&self) -> usize {
        4 * self.d_model * self.d_model + 3 * self.d_model * self.d_ff + 2 * self.d_model
    }

    /// Parameters in all, embedding and untied head included.
    #[must_use]
    pub fn parameters(&self) -> usize {
        2 * self.vocab_size * self.d_model + self.n_layer * self.layer_parameters() + self.d_model
    }

    /// The sizes by name, to be stated as facts.
    #[must_use]
    pub fn facts(&self) -> [(&'static str, usize); 7] {
        [
            ("d_model", self.d_model),
            ("d_ff", self.d_ff),
            ("n_layer", self.n_layer),
            ("n_head", self.n_head),
            ("vocab_size", self.vocab_size),
            ("seq_len", self.seq_len),
            ("parameters", self.parameters()),
        ]
    }

    /// The sizes that [`facts`](Self::facts) stated; `None` where one is missing.
    #[must_use]
    pub fn of_facts(facts: &Facts) -> Option<Self> {
        let size = |name: &str| facts.get(name).map(|size| *size as usize);
        Some(Self {
            d_model: size("d_model")?,
            d_ff: size("d_ff")?,
            n_layer: size("n_layer")?,
            n_head: size("n_head")?,
            vocab_size: size("vocab_size")?,
            seq_len: size("seq_len")?,
        })
    }

    /// Every parameter's name and shape (matrices `[out, in]`), in the order of the model.
    #[must_use]
    pub fn weight_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let (d_model, d_ff) = (self.d_model, self.d_ff);
        let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, d_model])];
        for layer in 0..self.n_layer {
            let parts = [
                ("input_layernorm", vec![d_model]),
                ("self_attn.q_proj", vec![d_model, d_model]),
                ("self_attn.k_proj", vec![d_model, d_model]),
                ("self_attn.v_proj", vec![d_model, d_model]),
                ("self_attn.o_proj", vec![d_model, d_model]),
                ("post_attention_layernorm", vec![d_model]),
                ("mlp.gate_proj", vec![d_ff, d_model]),
                ("mlp.up_proj", vec![d_ff, d_model]),
                ("mlp.down_proj", vec![d_model, d_ff]),
            ];
            shapes.extend(parts.map(|(part, shape)| (format!("model.layers.{layer}.{part}.weight"), shape)));
        }
        shapes.push(("model.norm.weight".to_owned(), vec![d_model]));
        shapes.push(("lm_head.weight".to_owned(), vec![self.vocab_size, d_model]));
        shapes
    }
}

/// Sizes by name, as in the GaLore and ReLoRA papers' code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// d_model 128, d_ff 352, 4 layers, 4 heads.
    #[serde(rename = "9m")]
    M9,
    /// d_model 256, d_ff 688, 4 layers, 4 heads.
    #[serde(rename = "20m")]
    M20,
    /// d_model 384, d_ff 1024, 6 layers, 8 heads.
    #[serde(rename = "35m")]
    M35,
    /// d_model 512, d_ff 1376, 8 layers, 8 heads.
    #[serde(rename = "60m")]
    M60,
    /// d_model 768, d_ff 2048, 12 layers, 12 heads.
    #[serde(rename = "130m")]
    M130,
    /// d_model 768, d_ff 2560, 24 layers, 16 heads.
    #[serde(rename = "250m")]
    M250,
    /// d_model 1024, d_ff 2736, 24 layers, 16 heads.
    #[serde(rename = "350m")]
    M350,
    /// d_model 2048, d_ff 5461, 24 layers, 32 heads.
    #[serde(rename = "1b")]
    B1,
    /// d_model 4096, d_ff 11008, 32 layers, 32 heads.
    #[serde(rename = "7b")]
    B7,
}

impl Preset {
    /// `(d_model, d_ff, n_layer, n_head)`.
    #[must_use]
    pub fn sizes(self) -> (usize, usize, usize, usize) {
        match self {
            Preset::M9 => (128, 352, 4, 4),
            Preset::M20 => (256, 688, 4, 4),
            Preset::M35 => (384, 1024, 6, 8),
            Preset::M60 => (512, 1376, 8, 8),
            Preset::M130 => (768, 2048, 12, 12),
            Preset::M250 => (768, 2560, 24, 16),
            Preset::M350 => (1024, 2736, 24, 16),
            Preset::B1 => (2048, 5461, 24, 32),
            Preset::B7 => (4096, 11008, 32, 32),
        }
    }
}

/// The model to train: a preset, sizes, or a preset with some sizes changed.
///
/// The presets' names count a vocabulary of 32,000; with a smaller vocabulary the model has fewer parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelParams {
    /// `9m`, `20m`, `35m`, `60m`, `130m`, `250m`, `350m`, `1b` or `7b`.
    pub preset: Option<Preset>,
    /// Width of the residual stream.
    pub d_model: Option<usize>,
    /// Width inside the MLP; 8/3 of `d_model`, rounded up to a multiple of 8, when left out.
    pub d_ff: Option<usize>,
    /// Number of blocks.
    pub n_layer: Option<usize>,
    /// Number of attention heads.
    pub n_head: Option<usize>,
    /// Number of token ids; that of the data when left out.
    pub vocab_size: Option<usize>,
}

impl ModelParams {
    /// Whether nothing was said, as when a trained model is continued.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The sizes; `None` for each that is neither written nor part of a preset.
    fn sizes(&self) -> [Option<usize>; 4] {
        let preset = self.preset.map(Preset::sizes);
        let d_model = self.d_model.or(preset.map(|p| p.0));
        let of_width = d_model.map(|d| (8 * d).div_ceil(24) * 8);
        // A preset's MLP width belongs to the preset's own d_model.
        let of_preset = if self.d_model.is_none() { preset.map(|p| p.1) } else { None };
        [
            d_model,
            self.d_ff.or(of_preset).or(of_width),
            self.n_layer.or(preset.map(|p| p.2)),
            self.n_head.or(preset.map(|p| p.3)),
        ]
    }

    /// The model's sizes, or `None` when the parameters do not say all of them.
    #[must_use]
    pub fn config(&self, data_vocab_size: usize, seq_len: usize) -> Option<LlamaConfig> {
        let [Some(d_model), Some(d_ff), Some(n_layer), Some(n_head)] = self.sizes() else { return None };
        let vocab_size = self.vocab_size.unwrap_or(data_vocab_size);
        Some(LlamaConfig { d_model, d_ff, n_layer, n_head, vocab_size, seq_len })
    }

    /// Reports what cannot work, before anything runs. `prefix` is the parameter's own name.
    pub fn check(&self, prefix: &str, check: &mut Check<'_>) {
        let [d_model, d_ff, n_layer, n_head] = self.sizes();
        let sizes = [("d_model", d_model), ("d_ff", d_ff), ("n_layer", n_layer), ("n_head", n_head)];
        for (name, size) in sizes {
            match size {
                None => check.problem(
                    prefix.to_owned(),
                    format!("the model has no `{name}`"),
                    "name a preset, { preset = \"9m\" }, or give d_model, n_layer and n_head",
                ),
                Some(0) => check.problem(format!("{prefix}.{name}"), format!("`{name}` must be at least 1"), ""),
                Some(_) => {}
            }
        }
        if let (Some(d_model), Some(n_head)) = (d_model, n_head)
            && d_model > 0
            && n_head > 0
        {
            if d_model % n_head != 0 {
                let message = format!("d_model {d_model} cannot be divided among {n_head} heads");
                let below = (1..=n_head).rev().find(|heads| d_model % heads == 0 && d_model / heads % 2 == 0);
                let help = below.map_or(String::new(), |heads| format!("{heads} heads would do"));
                check.problem(format!("{prefix}.n_head"), message, help);
            } else if (d_model / n_head) % 2 != 0 {
                let message = format!(
                    "heads are {} wide ({d_model} / {n_head}), but rotary positions need an even width",
                    d_model / n_head
                );
                let help =
                    format!("d_model = {} would do, or another n_head", 2 * n_head * (d_model / n_head / 2).max(1));
                check.problem(format!("{prefix}.n_head"), message, help);
            }
        }
        if let (Some(vocab_size), Some(data)) = (self.vocab_size, check.fact("data", "vocab_size"))
            && (vocab_size as f64) < data
        {
            let message = format!("vocab_size {vocab_size} is below that of the data, {data}");
            check.problem(format!("{prefix}.vocab_size"), message, "leave it out to take the data's");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::vector;

    #[test]
    fn parameter_counts_are_the_published_ones() {
        let expected = vector("llama_param_counts");
        let mut tested = 0;
        for (name, counts) in expected["expected"].as_object().unwrap() {
            let preset: Preset = serde_json::from_value(name.as_str().into()).unwrap();
            let params = ModelParams { preset: Some(preset), ..Default::default() };
            let config = params.config(32_000, 256).unwrap();
            assert_eq!(config.parameters() as u64, counts["total"].as_u64().unwrap(), "{name}");
            assert_eq!(config.layer_parameters() as u64, counts["per_layer"].as_u64().unwrap(), "{name}");
            tested += 1;
        }
        assert_eq!(tested, 8);
        let params = ModelParams { preset: Some(Preset::M250), ..Default::default() };
        assert_eq!(params.config(32_000, 256).unwrap().parameters(), 247_370_496);
    }

    #[test]
    fn a_preset_may_be_changed_in_part() {
        let params = ModelParams { preset: Some(Preset::M9), n_layer: Some(2), ..Default::default() };
        let config = params.config(256, 64).unwrap();
        assert_eq!((config.d_model, config.d_ff, config.n_layer), (128, 352, 2));
        let params = ModelParams { preset: Some(Preset::M9), d_model: Some(96), ..Default::default() };
        assert_eq!(params.config(256, 64).unwrap().d_ff, 256);
    }

    fn problems(params: &ModelParams) -> Vec<(String, String)> {
        let inputs = [("data".to_owned(), vec![[("vocab_size".to_owned(), 1024.0)].into()])].into();
        let mut check = Check::new(&inputs, camino::Utf8Path::new("."));
        params.check("model", &mut check);
        check.finish().1.into_iter().map(|problem| (problem.param, problem.message)).collect()
    }

    #[test]
    fn sizes_that_cannot_work_are_named() {
        let sizes = |d_model, n_head| ModelParams {
            d_model: Some(d_model),
            n_layer: Some(1),
            n_head: Some(n_head),
            ..Default::default()
        };
        let say = |param: &str, message: &str| vec![(param.to_owned(), message.to_owned())];
        assert_eq!(problems(&sizes(64, 4)), vec![]);
        assert_eq!(problems(&sizes(64, 5)), say("model.n_head", "d_model 64 cannot be divided among 5 heads"));
        assert_eq!(
            problems(&sizes(12, 4)),
            say("model.n_head", "heads are 3 wide (12 / 4), but rotary positions need an even width")
        );
        let none = ModelParams { d_model: Some(64), n_layer: Some(1), ..Default::default() };
        assert_eq!(problems(&none), say("model", "the model has no `n_head`"));
        let small = ModelParams { vocab_size: Some(512), ..sizes(64, 4) };
        assert_eq!(problems(&small), say("model.vocab_size", "vocab_size 512 is below that of the data, 1024"));
    }
}
