//! What the layers of a LLaMA are given by a text: the sums of squares by which `factorize` weighs the inputs of a matrix.
//!
//! Block by block, as in LoRAP (Li et al. 2024): a block is shown what the blocks before it give as they are by then, with
//! factors or without, so that its own factors fit what they will meet.

use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor, TensorData};
use sepia_engine::stage::StageError;

use crate::{
    data::TokenFolder,
    model::{Block, Llama},
    ops::{self, Heads, Rope},
};

/// Sequences in one forward pass.
const BATCH: usize = 8;

/// The residual stream of some sequences in front of a block.
pub(super) struct Calibration {
    /// `[batch * seq, d_model]`, with how it falls into heads.
    streams: Vec<(Tensor<2>, Heads)>,
    rope: Rope,
}

impl Calibration {
    /// In front of the first block: so many sequences of the length that the model was made for, evenly over the training
    /// split.
    ///
    /// # Errors
    /// When the model does not know the data's tokens, the split is shorter than a sequence, or a file cannot be read.
    pub(super) fn new(
        model: &Llama,
        data: &TokenFolder,
        sequences: usize,
        device: &Device,
    ) -> Result<Self, StageError> {
        let (known, seq) = (model.config().vocab_size, model.config().seq_len);
        if known < data.meta.vocab_size {
            let message = format!("the tokens have {} ids, but the model knows {known}", data.meta.vocab_size);
            return Err(StageError::new(message).help("connect the tokens that the model was trained on"));
        }
        let train = data.train()?;
        if train.len() < seq {
            let why = format!("{} tokens are less than one sequence of the model, {seq}", train.len());
            return Err(StageError::unreadable(&data.train_file(), why));
        }
        let count = sequences.min(train.len() / seq);
        let starts: Vec<usize> = (0..count).map(|index| index * (train.len() - seq) / count.max(1)).collect();
        let stream = |starts: &[usize]| {
            let mut tokens = Vec::with_capacity(starts.len() * seq);
            starts.iter().for_each(|start| train.window(*start, seq, &mut tokens));
            let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [starts.len(), seq]), device);
            let heads = model.heads(tokens.dims());
            (model.embed(tokens), heads)
        };
        Ok(Self { streams: starts.chunks(BATCH).map(stream).collect(), rope: model.rope(seq, device) })
    }

    /// Of each linear layer of the block at `path` that comes next, by its name within it: the sum of squares of each of
    /// its inputs.
    ///
    /// # Errors
    /// When what a layer is given is not finite.
    pub(super) fn squares(&self, block: &Block, path: &str) -> Result<BTreeMap<String, Vec<f64>>, StageError> {
        let (mut found, mut order) = (BTreeMap::<String, Vec<f64>>::new(), Vec::new());
        for (x, heads) in &self.streams {
            let mut add = |name: &str, x: &Tensor<2>| {
                let squares = ops::widened(x.clone()).square().sum_dim(0).into_data().convert::<f64>();
                let squares = squares.try_into_vec::<f64>().unwrap_or_default();
                let sums = found.entry(name.to_owned()).or_insert_with(|| {
                    order.push(name.to_owned());
                    vec![0.0; squares.len()]
                });
                sums.iter_mut().zip(squares).for_each(|(sum, square)| *sum += square);
            };
            drop(block.forward_seen(x.clone(), *heads, &self.rope, &mut add));
        }
        // The first one that is: what follows has it from there.
        match order.iter().find(|name| found[*name].iter().any(|sum| !sum.is_finite())) {
            Some(name) => Err(StageError::new(format!("`{path}.{name}` is given NaN or infinity by the tokens"))),
            None => Ok(found),
        }
    }

    /// Goes on behind the block.
    pub(super) fn pass(&mut self, block: &Block) {
        for (x, heads) in &mut self.streams {
            *x = block.forward(x.clone(), *heads, &self.rope);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::test_device;
    use camino::Utf8Path;
    use faer::Mat;
    use sepia_engine::stage::{InputFiles, MetricPoint, StageError};
    use serde_json::json;

    use super::super::{Evaluate, Factorize, Pretrain, TextDataset};
    use crate::{
        data::{TokenFolder, TokenWriter},
        linalg::host::to_host,
        model::{self, Llama},
        testing::{Bench, Recorder, result},
    };

    /// A small model, trained on the beginning of a novel that ships.
    fn trained(bench: &Bench) {
        let novel = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/data/austen/northanger-abbey.txt");
        let path = bench.path("novel.txt");
        fs_err::write(&path, &fs_err::read(novel).unwrap()[..60_000]).unwrap();
        let files = InputFiles::of(vec![path]);
        let params = json!({ "files": files, "tokenizer": { "kind": "bpe", "vocab_size": 300 } });
        let params = serde_json::from_value(params).unwrap();
        Bench::run::<TextDataset>(&params, bench.job("tokens", &[], &["data"]), &mut Recorder::default()).unwrap();
        let params = json!({
            "model": { "d_model": 48, "n_layer": 2, "n_head": 2 },
            "max_steps": 150, "batch_size": 8, "seq_len": 32, "lr": 4e-3,
        });
        let data = bench.path("tokens/data");
        let job = bench.job("trained", &[("data", &data)], &["model"]);
        Bench::run::<Pretrain>(&serde_json::from_value(params).unwrap(), job, &mut Recorder::default()).unwrap();
    }

    fn factorize(
        bench: &Bench,
        name: &str,
        tokens: Option<&Utf8Path>,
        params: serde_json::Value,
    ) -> Result<Vec<MetricPoint>, StageError> {
        let source = bench.path("trained/model");
        let mut inputs = vec![("model", source.as_path())];
        inputs.extend(tokens.map(|tokens| ("tokens", tokens)));
        let job = bench.job(name, &inputs, &["model"]);
        Bench::run::<Factorize>(&serde_json::from_value(params).unwrap(), job, &mut Recorder::default())
    }

    fn val_loss(bench: &Bench, name: &str) -> f64 {
        let (model, data) = (bench.path(name).join("model"), bench.path("tokens/data"));
        let job = bench.job(&format!("{name}-evaluation"), &[("model", &model), ("data", &data)], &["evaluation"]);
        let points = Bench::run::<Evaluate>(&serde_json::from_value(json!({})).unwrap(), job, &mut Recorder::default());
        result(&points.unwrap(), "val_loss")
    }

    #[test]
    fn activations_of_the_text_decide_which_directions_are_kept() {
        let bench = Bench::new();
        trained(&bench);
        let data = bench.path("tokens/data");
        let params = json!({ "lorap": { "keep": 0.4 }, "calibration_sequences": 40 });
        factorize(&bench, "plain", None, params.clone()).unwrap();
        factorize(&bench, "weighted", Some(&data), params).unwrap();
        let device = test_device();
        let load = |name: &str| model::load(&bench.path(name).join("model"), &device).unwrap();
        let (dense, plain, weighted) = (load("trained"), load("plain"), load("weighted"));
        assert_eq!(plain.factor_ranks(), weighted.factor_ranks());
        // The first block is given the same in all three.
        let calibration = super::Calibration::new(&dense, &TokenFolder::open(&data).unwrap(), 40, &device).unwrap();
        let squares = calibration.squares(&dense.model.layers[0], "model.layers.0").unwrap();
        assert_eq!(squares.len(), 7);
        assert_eq!(squares["mlp.down_proj"].len(), dense.config().d_ff);
        let weight = |model: &Llama, layer: usize| {
            let (_, linear) = model.clone().model.layers[0]
                .linears_mut()
                .into_iter()
                .nth(layer)
                .map(|(name, linear)| (name, linear.clone()))
                .unwrap();
            to_host(&linear.adapter.map_or(linear.weight.val(), |factors| factors.delta())).unwrap()
        };
        for (layer, name) in ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].into_iter().enumerate() {
            let whole = weight(&dense, layer);
            let errors = |model: &Llama| {
                let off = &whole - weight(model, layer);
                let seen = Mat::from_fn(off.nrows(), off.ncols(), |i, j| off[(i, j)] * squares[name][j].sqrt());
                (off.norm_l2(), seen.norm_l2())
            };
            let ((plain, plain_seen), (weighted, weighted_seen)) = (errors(&plain), errors(&weighted));
            assert!(weighted_seen < plain_seen && weighted > plain, "{name}: {plain_seen} {weighted_seen}");
        }
        let [dense, plain, weighted] = ["trained", "plain", "weighted"].map(|name| val_loss(&bench, name));
        assert!(dense < weighted && weighted < plain, "{dense} {weighted} {plain}");
    }

    #[test]
    fn tokens_that_do_not_fit_are_named() {
        let bench = Bench::new();
        let config = model::LlamaConfig { d_model: 16, d_ff: 24, n_layer: 1, n_head: 2, vocab_size: 11, seq_len: 8 };
        let model = Llama::new(config, |name| name.len() as u64, &test_device());
        model::save(&model, &bench.path("trained/model"), None).unwrap();
        let says = |name: &str, vocab_size, tokens: &[u32]| {
            let (folder, all) = (bench.path(name), (tokens, tokens.len()));
            TokenWriter { folder: &folder, vocab_size, train: all, validation: all, tokenizer: "{}" }.write().unwrap();
            let params = json!({ "ranks": { "ratio": 0.25 } });
            factorize(&bench, "out", Some(&folder), params).map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(says("other", 12, &[1; 20]).unwrap_err(), "the tokens have 12 ids, but the model knows 11");
        let error = says("short", 11, &[1; 7]).unwrap_err();
        assert!(error.contains("short/train.bin") && error.ends_with("one sequence of the model, 8"), "{error}");
        says("enough", 11, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]).unwrap();
        // What is not finite is found where it first is given to a layer.
        let mut broken = model;
        let (_, first) = broken.model.layers[0].linears_mut().into_iter().next().unwrap();
        let weight = first.weight.val().slice_fill([0..1, 0..1], f32::INFINITY);
        first.weight = burn::module::Param::from_tensor(weight);
        model::save(&broken, &bench.path("trained/model"), None).unwrap();
        let error = says("enough", 11, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]).unwrap_err();
        assert_eq!(error, "`model.layers.0.self_attn.o_proj` is given NaN or infinity by the tokens");
    }
}
