//! A LLaMA-style decoder: RMSNorm before each half block, rotary positions, SwiGLU, no biases, untied head.
//!
//! Weights of linear layers are stored `[out, in]`, as in the papers and in Hugging Face files, and not as in
//! `burn::nn::Linear`, which stores the transpose: the side rules of GaLore and Fira then apply to a parameter as it
//! is, and fields are named so that a parameter's path is its Hugging Face name. Activations stay two-dimensional,
//! `[batch * seq, width]`, from the embedding to the head.
//!
//! Parameters are f32, unless they are [held in](Llama::held_in) bf16. A model that [computes in](Llama::computing_in) half precision casts the residual stream after the
//! embedding; every operation then follows the type of its input, see [`crate::ops`].

use std::{cell::RefCell, sync::Arc};

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{DType, Device, Int, Tensor, TensorData},
};

use super::adapter::{Adapter, DropoutClock};
use super::config::{INIT_STD, LlamaConfig, RMS_NORM_EPS, ROPE_THETA};
use crate::{
    ops::{self, Heads, Rope},
    random::Rng,
};

/// A weight matrix `[out, in]`, without bias.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// A low-rank branch, where a training method has added one.
    pub adapter: Option<Adapter>,
}

/// The gain of an RMSNorm.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[d_model]`.
    pub weight: Param<Tensor<1>>,
}

/// Causal self-attention.
#[derive(Module, Debug)]
pub struct Attention {
    /// Queries, `[d_model, d_model]`.
    pub q_proj: Linear,
    /// Keys, `[d_model, d_model]`.
    pub k_proj: Linear,
    /// Values, `[d_model, d_model]`.
    pub v_proj: Linear,
    /// Output, `[d_model, d_model]`.
    pub o_proj: Linear,
}

/// SwiGLU: `down(silu(gate(x)) * up(x))`.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[d_ff, d_model]`.
    pub gate_proj: Linear,
    /// `[d_ff, d_model]`.
    pub up_proj: Linear,
    /// `[d_model, d_ff]`.
    pub down_proj: Linear,
}

/// One block.
#[derive(Module, Debug)]
pub struct Block {
    /// Before the attention.
    pub input_layernorm: RmsNorm,
    /// The attention.
    pub self_attn: Attention,
    /// Before the MLP.
    pub post_attention_layernorm: RmsNorm,
    /// The MLP.
    pub mlp: Mlp,
}

/// Everything but the head.
#[derive(Module, Debug)]
pub struct Decoder {
    /// Token embedding, `[vocab_size, d_model]`.
    pub embed_tokens: Linear,
    /// The blocks.
    pub layers: Vec<Block>,
    /// Before the head.
    pub norm: RmsNorm,
}

/// The whole model.
#[derive(Module, Debug)]
pub struct Llama {
    /// Everything but the head.
    pub model: Decoder,
    /// `[vocab_size, d_model]`.
    pub lm_head: Linear,
    #[module(skip)]
    config: LlamaConfig,
    #[module(skip)]
    compute: DType,
}

impl Llama {
    /// A model with initial weights: matrices N(0, 0.02), gains 1.
    ///
    /// `seed_of` gives the seed for the parameter of a name, so that every weight is drawn on its own and depends
    /// neither on the order of the parameters nor on which others exist.
    pub fn new(config: LlamaConfig, seed_of: impl Fn(&str) -> u64, device: &Device) -> Self {
        Self::build(config, device, |name, shape| match *shape {
            [rows, columns] => {
                TensorData::new(Rng::new(seed_of(name)).normal(rows * columns, INIT_STD), [rows, columns])
            }
            _ => TensorData::ones::<f32, _>(shape.to_vec()),
        })
    }

    /// A model with weights from a function of each parameter's name and shape (`[out, in]` or `[d_model]`).
    pub fn build(config: LlamaConfig, device: &Device, weight: impl FnMut(&str, &[usize]) -> TensorData) -> Self {
        let LlamaConfig { d_model, d_ff, vocab_size, .. } = config;
        let weight = RefCell::new(weight);
        let linear = |name: String, shape: [usize; 2]| {
            let data = (weight.borrow_mut())(&name, &shape);
            Linear { weight: Param::from_tensor(Tensor::from_data(data, device)), adapter: None }
        };
        let norm = |name: String| {
            let data = (weight.borrow_mut())(&name, &[d_model]);
            RmsNorm { weight: Param::from_tensor(Tensor::from_data(data, device)) }
        };
        let layers = (0..config.n_layer)
            .map(|layer| {
                let at = |part: &str| format!("model.layers.{layer}.{part}.weight");
                let square = [d_model, d_model];
                Block {
                    input_layernorm: norm(at("input_layernorm")),
                    self_attn: Attention {
                        q_proj: linear(at("self_attn.q_proj"), square),
                        k_proj: linear(at("self_attn.k_proj"), square),
                        v_proj: linear(at("self_attn.v_proj"), square),
                        o_proj: linear(at("self_attn.o_proj"), square),
                    },
                    post_attention_layernorm: norm(at("post_attention_layernorm")),
                    mlp: Mlp {
                        gate_proj: linear(at("mlp.gate_proj"), [d_ff, d_model]),
                        up_proj: linear(at("mlp.up_proj"), [d_ff, d_model]),
                        down_proj: linear(at("mlp.down_proj"), [d_model, d_ff]),
                    },
                }
            })
            .collect();
        let model = Decoder {
            embed_tokens: linear("model.embed_tokens.weight".to_owned(), [vocab_size, d_model]),
            layers,
            norm: norm("model.norm.weight".to_owned()),
        };
        Self { model, lm_head: linear("lm_head.weight".to_owned(), [vocab_size, d_model]), config, compute: DType::F32 }
    }

    /// The same model, computing in a dtype; its parameters stay as they are.
    #[must_use]
    pub fn computing_in(self, compute: DType) -> Self {
        Self { compute, ..self }
    }

    /// The model's sizes.
    #[must_use]
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The linear layers of attention and MLP, which low-rank methods work on, with their paths
    /// (`model.layers.0.self_attn.q_proj`).
    pub fn targets_mut(&mut self) -> Vec<(String, &mut Linear)> {
        fn of_block((index, block): (usize, &mut Block)) -> impl Iterator<Item = (String, &mut Linear)> {
            let named = move |(name, linear)| (format!("model.layers.{index}.{name}"), linear);
            block.linears_mut().into_iter().map(named)
        }
        let blocks = self.model.layers.iter_mut().enumerate();
        blocks.flat_map(of_block).collect()
    }

    /// The clock that the dropout of all branches goes by, where there is dropout.
    #[must_use]
    pub fn dropout_clock(&self) -> Option<Arc<DropoutClock>> {
        let blocks = self.model.layers.iter();
        let linears = blocks.flat_map(|block| {
            let (attn, mlp) = (&block.self_attn, &block.mlp);
            [&attn.q_proj, &attn.k_proj, &attn.v_proj, &attn.o_proj, &mlp.gate_proj, &mlp.up_proj, &mlp.down_proj]
        });
        let mut dropouts = linears.filter_map(|linear| linear.adapter.as_ref()?.options.dropout.as_ref());
        dropouts.next().map(|dropout| Arc::clone(&dropout.clock))
    }

    /// The tables of rotary positions that [`forward`](Self::forward) needs, for sequences of at most `seq_len` tokens.
    #[must_use]
    pub fn rope(&self, seq_len: usize, device: &Device) -> Rope {
        Rope::new(seq_len, self.config.head_dim(), ROPE_THETA, device)
    }

    /// Logits for every position: tokens `[batch, seq]` to `[batch * seq, vocab_size]`.
    #[must_use]
    pub fn forward(&self, tokens: Tensor<2, Int>, rope: &Rope) -> Tensor<2> {
        self.forward_watched(tokens, rope, |_, _| {})
    }

    /// [`forward`](Self::forward), showing the residual stream after each part (by its name) to `watch`.
    pub fn forward_watched(
        &self,
        tokens: Tensor<2, Int>,
        rope: &Rope,
        mut watch: impl FnMut(&str, &Tensor<2>),
    ) -> Tensor<2> {
        let heads = self.heads(tokens.dims());
        let x = self.embed(tokens);
        watch("model.embed_tokens", &x);
        self.forward_from(x, heads, rope, watch)
    }

    /// What follows the embedding: `[batch * seq, d_model]` to logits `[batch * seq, vocab_size]`.
    pub fn forward_from(
        &self,
        mut x: Tensor<2>,
        heads: Heads,
        rope: &Rope,
        mut watch: impl FnMut(&str, &Tensor<2>),
    ) -> Tensor<2> {
        for (index, block) in self.model.layers.iter().enumerate() {
            x = block.attend(x, heads, rope, &mut |_, _| {});
            watch(&format!("model.layers.{index}.self_attn"), &x);
            x = block.think(x, &mut |_, _| {});
            watch(&format!("model.layers.{index}.mlp"), &x);
        }
        self.head(x)
    }

    /// How `[batch, seq]` tokens fall into heads.
    #[must_use]
    pub fn heads(&self, [batch, seq]: [usize; 2]) -> Heads {
        Heads { batch, seq, n_head: self.config.n_head, head_dim: self.config.head_dim() }
    }

    /// The first part of [`forward`](Self::forward): tokens `[batch, seq]` to `[batch * seq, d_model]`.
    #[must_use]
    pub fn embed(&self, tokens: Tensor<2, Int>) -> Tensor<2> {
        // Widened, so that the gradients of a token that occurs a thousand times are added up in f32.
        let x = ops::embedding(ops::widened(self.model.embed_tokens.weight.val()), tokens);
        if ops::is_half(self.compute) { ops::cast(x, self.compute) } else { x }
    }

    /// The last part: `[batch * seq, d_model]` to logits `[batch * seq, vocab_size]`.
    #[must_use]
    pub fn head(&self, x: Tensor<2>) -> Tensor<2> {
        self.lm_head.forward(self.model.norm.forward(x))
    }
}

impl Linear {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let dense = |x| ops::linear(x, self.weight.val());
        match &self.adapter {
            None => dense(x),
            Some(adapter) => adapter.forward(x, dense),
        }
    }
}

impl RmsNorm {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ops::rms_norm(x, self.weight.val(), RMS_NORM_EPS)
    }
}

/// Called with the name of a linear layer within its block and with what it is given.
pub type See<'a> = &'a mut dyn FnMut(&str, &Tensor<2>);

impl Block {
    /// Its linear layers by their names within it (`self_attn.q_proj`).
    pub fn linears_mut(&mut self) -> [(&'static str, &mut Linear); 7] {
        let Attention { q_proj, k_proj, v_proj, o_proj } = &mut self.self_attn;
        let Mlp { gate_proj, up_proj, down_proj } = &mut self.mlp;
        [
            ("self_attn.q_proj", q_proj),
            ("self_attn.k_proj", k_proj),
            ("self_attn.v_proj", v_proj),
            ("self_attn.o_proj", o_proj),
            ("mlp.gate_proj", gate_proj),
            ("mlp.up_proj", up_proj),
            ("mlp.down_proj", down_proj),
        ]
    }

    /// The whole block, `[batch * seq, d_model]` to the same.
    #[must_use]
    pub fn forward(&self, x: Tensor<2>, heads: Heads, rope: &Rope) -> Tensor<2> {
        self.forward_seen(x, heads, rope, &mut |_, _| {})
    }

    /// [`forward`](Self::forward), showing what each linear layer (`self_attn.q_proj`) is given, `[batch * seq, in]`.
    pub fn forward_seen(&self, x: Tensor<2>, heads: Heads, rope: &Rope, see: See<'_>) -> Tensor<2> {
        let x = self.attend(x, heads, rope, see);
        self.think(x, see)
    }

    fn attend(&self, x: Tensor<2>, heads: Heads, rope: &Rope, see: See<'_>) -> Tensor<2> {
        let normed = self.input_layernorm.forward(x.clone());
        let attn = &self.self_attn;
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].iter().for_each(|name| see(name, &normed));
        let q = attn.q_proj.forward(normed.clone());
        let k = attn.k_proj.forward(normed.clone());
        let v = attn.v_proj.forward(normed);
        let mixed = ops::causal_attention(q, k, v, heads, rope);
        see("self_attn.o_proj", &mixed);
        x + attn.o_proj.forward(mixed)
    }

    fn think(&self, x: Tensor<2>, see: See<'_>) -> Tensor<2> {
        let normed = self.post_attention_layernorm.forward(x.clone());
        ["mlp.gate_proj", "mlp.up_proj"].iter().for_each(|name| see(name, &normed));
        let gate = self.mlp.gate_proj.forward(normed.clone());
        let up = self.mlp.up_proj.forward(normed);
        let gated = ops::swiglu(gate, up);
        see("mlp.down_proj", &gated);
        x + self.mlp.down_proj.forward(gated)
    }
}

/// A parameter of a model where it is, without autodiff.
pub(super) struct Weight {
    pub(super) shape: Vec<usize>,
    /// Flat.
    pub(super) tensor: Tensor<1>,
}

/// Every parameter by name, in the order of the model.
pub(super) fn weights(model: &Llama) -> Vec<(String, Weight)> {
    #[derive(Default)]
    struct Collect {
        path: Vec<String>,
        found: Vec<(String, Weight)>,
    }

    impl ModuleVisitor for Collect {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }

        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let (tensor, shape) = (param.base(), param.dims().to_vec());
            let tensor = if tensor.is_autodiff() { tensor.inner() } else { tensor };
            self.found.push((self.path.join("."), Weight { shape, tensor: tensor.reshape([-1]) }));
        }
    }

    let mut collect = Collect::default();
    model.visit(&mut collect);
    collect.found
}

/// Every parameter's name, shape and value, in the order of the model.
#[must_use]
pub fn named_weights(model: &Llama) -> Vec<(String, TensorData)> {
    let data = |(name, Weight { shape, tensor }): (String, Weight)| {
        let data = tensor.into_data();
        let dtype = data.dtype();
        (name, TensorData::from_bytes(data.into_bytes(), shape, dtype))
    };
    weights(model).into_iter().map(data).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test_device;

    fn tiny() -> LlamaConfig {
        LlamaConfig { d_model: 16, d_ff: 24, n_layer: 2, n_head: 2, vocab_size: 11, seq_len: 8 }
    }

    fn seed(name: &str) -> u64 {
        sepia_engine::stage::derive_seed(5, name, 0)
    }

    #[test]
    fn parameters_are_those_the_config_counts_and_are_named_as_in_hugging_face_files() {
        let model = Llama::new(tiny(), seed, &test_device());
        assert_eq!(model.num_params(), tiny().parameters());
        let mut found: Vec<_> =
            named_weights(&model).into_iter().map(|(name, data)| (name, data.shape().as_slice().to_vec())).collect();
        let mut expected = tiny().weight_shapes();
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
        assert!(found.iter().any(|(name, _)| name == "model.layers.1.mlp.down_proj.weight"));
    }

    #[test]
    fn a_position_sees_nothing_of_what_follows() {
        let device = test_device();
        let model = Llama::new(tiny(), seed, &device);
        let rope = model.rope(8, &device);
        let logits = |last: i32| {
            let tokens = Tensor::<2, Int>::from_data(TensorData::new(vec![1, 2, 3, last], [1, 4]), &device);
            model.forward(tokens, &rope).into_data().as_slice::<f32>().unwrap().to_vec()
        };
        let (one, other) = (logits(4), logits(9));
        assert_eq!(one[..3 * 11], other[..3 * 11]);
        assert_ne!(one[3 * 11..], other[3 * 11..]);
    }

    #[test]
    fn initial_weights_do_not_depend_on_other_parameters() {
        let weight = |n_layer| {
            let config = LlamaConfig { n_layer, ..tiny() };
            let weights = named_weights(&Llama::new(config, seed, &test_device()));
            weights.into_iter().find(|(name, _)| name == "lm_head.weight").unwrap().1
        };
        assert_eq!(weight(1), weight(3));
    }
}
