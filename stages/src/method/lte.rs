//! LTE, LoRA-the-Explorer: many low-rank branches side by side, each with its own part of the batch, merged again and again
//! (Huh et al. 2024).
//!
//! Head h computes with `W + s B_h A_h` on its sequences alone. Every so many updates the weight takes in the mean of what
//! the branches have become since the last merge, `W += mean_h(d_h - d_h')` with `d_h = s B_h A_h`. The branches then go on
//! as they are, beside `W - d_h`: right after a merge every head computes with W (the public code's way). Or they begin
//! anew (`reset`), as in ReLoRA.
//!
//! All heads are trained in one pass over a batch, and with it embedding, head and norms, of which the paper averages one
//! replica for each head. In bf16, gradient checkpointing gives other roundings than keeping the activations does, which it
//! does not for any other method; in f32 both give the same bytes.

use burn::{
    module::Param,
    tensor::{Tensor, TensorData},
};
use faer::Mat;
use schemars::JsonSchema;
use sepia_engine::stage::{Check, StageError, derive_seed};
use serde::{Deserialize, Serialize};

use super::{
    Matrix, MatrixCost, MethodParams, MethodSetup,
    adapters::{self, Factors},
    check_merged_into, check_positive, check_rank,
};
use crate::{
    model::{AdapterOptions, Llama, Merged},
    random::Rng,
    train::{AdamState, Held, Method, State, Target},
};

/// LTE: many low-rank branches, each trained on a part of the batch, and merged by their mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LteParams {
    /// Inner dimension of each branch. Together, `heads * rank`, they should exceed the largest side of a matrix.
    pub rank: usize,
    /// Branches beside each matrix. Each gets as many sequences of a batch as the others.
    pub heads: usize,
    /// Branches are multiplied by alpha / rank; 1024 to 8192 in the paper.
    pub alpha: f64,
    /// Updates between two merges.
    pub merge_every: u64,
    /// Whether branches begin anew after a merge, with new factors and moments.
    pub reset: bool,
}

impl Default for LteParams {
    fn default() -> Self {
        Self { rank: 32, heads: 32, alpha: 4096.0, merge_every: 10, reset: false }
    }
}

impl MethodParams for LteParams {
    const STAGE: &'static str = "lte";
    const SOURCE: &'static str =
        r#"Huh et al. 2024, "Training Neural Networks from Scratch with Parallel Low-Rank Adapters", arXiv 2402.16828"#;

    fn check(&self, at: &str, check: &mut Check<'_>) {
        check_rank(self.rank, at, check);
        check_positive(self.alpha, "alpha", at, check);
        for (name, count) in [("heads", self.heads as u64), ("merge_every", self.merge_every)] {
            if count == 0 {
                check.problem(format!("{at}.{name}"), format!("`{name}` must be at least 1"), "");
            }
        }
    }

    fn check_batch(&self, at: &str, batch_size: usize, check: &mut Check<'_>) {
        if self.heads > 0 && !batch_size.is_multiple_of(self.heads) {
            let message = format!("a batch of {batch_size} sequences cannot be shared out to {} heads", self.heads);
            let help = format!("give a number of heads that divides {batch_size}, or another batch_size");
            check.problem(format!("{at}.heads"), message, help);
        }
    }

    fn check_held(&self, weights: Held, _: Held, check: &mut Check<'_>) {
        check_merged_into(weights, "lte", check);
    }

    fn build(&self, setup: &MethodSetup) -> Box<dyn Method> {
        Box::new(Lte { params: *self, factors: Factors::new(setup, 1.0), seed: setup.seed, merges: 0 })
    }

    /// Branches that go on are held twice: as they are, and as they were at the last merge.
    fn cost(&self, matrix: Matrix) -> Option<MatrixCost> {
        let ranks = self.rank * self.heads;
        let of_branches = matrix.factors(ranks, 0).held;
        Some(matrix.factors(ranks, matrix.numbers() + if self.reset { 0 } else { of_branches }))
    }
}

struct Lte {
    params: LteParams,
    factors: Factors,
    seed: u64,
    merges: u64,
}

/// A parameter that is not trained.
fn fixed(value: Tensor<2>) -> Param<Tensor<2>> {
    Param::from_tensor(value).set_require_grad(false)
}

impl Lte {
    /// `A` of all heads, `[heads * r, in]`: of each head orthonormal rows times `sqrt(in / r)`.
    fn draw_a(&self, path: &str, index: u64, like: &Tensor<2>) -> Tensor<2> {
        let ([_, inputs], LteParams { rank, heads, .. }) = (like.dims(), self.params);
        let size = (inputs as f64 / rank as f64).sqrt();
        let mut all = Vec::with_capacity(heads * rank * inputs);
        for head in 0..heads {
            let seed = derive_seed(self.seed, &format!("{path} lora_a {head}"), index);
            let values = Rng::new(seed).normal(inputs * rank, 1.0);
            let normal = Mat::from_fn(inputs, rank, |i, j| f64::from(values[i * rank + j]));
            let q = normal.qr().compute_thin_Q();
            all.extend((0..rank).flat_map(|j| (0..inputs).map(move |i| (i, j))).map(|(i, j)| q[(i, j)] * size));
        }
        Tensor::from_data(TensorData::new(all, [heads * rank, inputs]), (&like.device(), like.dtype()))
    }

    fn merge(&mut self, model: &mut Llama) {
        for (path, linear) in model.targets_mut() {
            let Some(adapter) = &mut linear.adapter else { continue };
            let before = linear.weight.val();
            let merged = before.clone().inner().add(adapter.delta());
            let lift = |value: Tensor<2>| if before.is_autodiff() { Tensor::from_inner(value) } else { value };
            linear.weight = linear.weight.clone().map(|_| lift(merged)).set_require_grad(false);
            let replaced =
                |param: &Param<Tensor<2>>, value: Tensor<2>| param.clone().map(|_| lift(value).require_grad());
            if self.params.reset {
                let a = self.draw_a(&path, self.merges + 1, &before).inner();
                adapter.lora_a = replaced(&adapter.lora_a, a);
                adapter.lora_b = replaced(&adapter.lora_b, adapter.lora_b.val().inner().zeros_like());
            } else {
                let [a, b] = [&adapter.lora_a, &adapter.lora_b].map(|factor| fixed(lift(factor.val().inner())));
                adapter.merged = Some(Merged { a, b });
            }
        }
        if self.params.reset {
            for (_, state) in self.factors.moments.iter_mut() {
                *state = AdamState::new(&state.m);
            }
        }
    }
}

impl Method for Lte {
    fn attach(&mut self, mut model: Llama) -> Result<Llama, StageError> {
        let LteParams { rank, heads, alpha, reset, .. } = self.params;
        for (path, linear) in model.targets_mut() {
            let weight = linear.weight.val();
            adapters::fitting_rank(rank, &path, weight.dims())?;
            let a = self.draw_a(&path, 0, &weight);
            let b = Tensor::zeros([weight.dims()[0], heads * rank], (&weight.device(), weight.dtype()));
            let merged = (!reset).then(|| Merged { a: fixed(a.clone()), b: fixed(b.clone()) });
            let options = AdapterOptions { heads, scale: alpha / rank as f64, replaces: false, dropout: None };
            adapters::attach(linear, a, b, options);
            if let Some(adapter) = &mut linear.adapter {
                adapter.merged = merged;
            }
        }
        Ok(model)
    }

    fn update(&mut self, target: Target<'_>, weight: Tensor<2>, grad: Tensor<2>) -> Result<Tensor<2>, StageError> {
        Ok(self.factors.update(target, weight, grad))
    }

    /// A merge that fell on an update which was skipped is made up for by the next one.
    fn after_step(&mut self, update: u64, mut model: Llama) -> Result<Llama, StageError> {
        if (update + 1) / self.params.merge_every.max(1) > self.merges {
            self.merge(&mut model);
            self.merges = (update + 1) / self.params.merge_every.max(1);
        }
        Ok(model)
    }

    fn finished(&self, model: Llama) -> Result<Llama, StageError> {
        Ok(adapters::merged(model))
    }

    fn state_bytes(&self) -> u64 {
        self.factors.moments.bytes()
    }

    fn save(&self, state: &mut State) {
        state.put_count("method/merges", self.merges);
        self.factors.save(state);
    }

    fn load(&mut self, state: &mut State) -> Result<(), StageError> {
        self.merges = state.count("method/merges")?;
        self.factors.load(state)
    }
}

#[cfg(test)]
mod tests {
    use burn::{module::Module, tensor::DType};

    use super::*;
    use crate::{
        model::{Adapter, LlamaConfig},
        ops::Products,
        testing::test_device,
        train::AdamHyper,
        vectors::{Rows, assert_close, flat, tensor, vector},
    };

    fn lte(params: LteParams) -> Lte {
        let setup = MethodSetup { hyper: AdamHyper::default(), state: Held::F32, products: Products::Exact, seed: 3 };
        Lte { params, factors: Factors::new(&setup, 1.0), seed: 3, merges: 0 }
    }

    fn small() -> Llama {
        let config = LlamaConfig { d_model: 8, d_ff: 12, n_layer: 1, n_head: 2, vocab_size: 11, seq_len: 8 };
        Llama::new(config, |name| derive_seed(5, name, 0), &test_device().autodiff())
    }

    /// Heads whose branches are these matrices: A the identity of each, B the matrices beside each other.
    fn factors(branches: &[Rows]) -> (Param<Tensor<2>>, Param<Tensor<2>>) {
        let size = branches[0].len();
        let identity: Rows = (0..branches.len() * size)
            .map(|i| (0..size).map(|j| if i % size == j { 1.0 } else { 0.0 }).collect())
            .collect();
        let beside: Rows = (0..size).map(|i| branches.iter().flat_map(|branch| branch[i].clone()).collect()).collect();
        (fixed(tensor(&identity, DType::F64)), fixed(tensor(&beside, DType::F64)))
    }

    #[test]
    fn vector_lte_merge_resetless() {
        let vector = vector("lte_merge_resetless");
        let w = tensor(&vector.input("W"), DType::F64);
        let (lora_a, lora_b) = factors(&vector.input::<Vec<Rows>>("delta"));
        let (a, b) = factors(&vector.input::<Vec<Rows>>("prev_delta"));
        let options = AdapterOptions { heads: 2, scale: 1.0, replaces: false, dropout: None };
        let mut adapter = Adapter { lora_a, lora_b, lora_scale: None, merged: Some(Merged { a, b }), options };
        let merged = w.add(adapter.delta());
        assert_close(&merged, &vector.expected("W"), vector.tol());
        let [a, b] = [adapter.lora_a.val(), adapter.lora_b.val()].map(fixed);
        adapter.merged = Some(Merged { a, b });
        // Two rows for each head, which read its matrix off.
        let identity = tensor(&vec![vec![1.0, 0.0], vec![0.0, 1.0], vec![1.0, 0.0], vec![0.0, 1.0]], DType::F64);
        let dense = |x: Tensor<2>| x.matmul(merged.clone().transpose());
        let effective = adapter.forward(identity.clone(), dense);
        // Without its own branch a head sees what is frozen.
        adapter.lora_b = fixed(adapter.lora_b.val().zeros_like());
        let frozen = adapter.forward(identity, dense);
        for (head, expected) in vector.expected::<Vec<Rows>>("head_frozen").iter().enumerate() {
            let of_head = |all: &Tensor<2>| all.clone().narrow(0, 2 * head, 2).transpose();
            assert_close(&of_head(&frozen), expected, vector.tol());
            assert_close(&of_head(&effective), &vector.expected("W"), vector.tol());
        }
    }

    #[test]
    fn rows_of_each_head_are_orthonormal_but_for_their_length() {
        let a = lte(LteParams { rank: 3, heads: 2, ..LteParams::default() }).draw_a(
            "x",
            0,
            &Tensor::zeros([5, 12], &test_device()),
        );
        assert_eq!(a.dims(), [6, 12]);
        for head in 0..2 {
            let a = a.clone().narrow(0, 3 * head, 3);
            let gram = flat(&crate::ops::product(a.clone(), a.transpose()));
            for (index, value) in gram.iter().enumerate() {
                let expected = if index % 4 == 0 { 12.0 / 3.0 } else { 0.0 };
                assert!((value - expected).abs() < 1e-5, "{gram:?}");
            }
        }
    }

    #[test]
    fn a_reset_begins_with_new_factors_and_changes_nothing_else() {
        let params = LteParams { rank: 2, heads: 2, alpha: 4.0, merge_every: 2, reset: true };
        let mut method = lte(params);
        let mut model = method.attach(small()).unwrap();
        for (_, linear) in model.targets_mut() {
            let adapter = linear.adapter.as_mut().unwrap();
            assert!(adapter.merged.is_none());
            adapter.lora_b = Param::from_tensor(adapter.lora_b.val().ones_like());
        }
        let (mut before, mut untouched) = (method.finished(model.valid()).unwrap(), model.clone());
        let mut model = method.after_step(0, model).unwrap();
        assert_eq!(method.merges, 0);
        model = method.after_step(1, model).unwrap();
        assert_eq!(method.merges, 1);
        let mut after = method.finished(model.valid()).unwrap();
        let pairs = before.targets_mut().into_iter().zip(after.targets_mut());
        for ((path, before), (_, after)) in pairs {
            let apart = (before.weight.val() - after.weight.val()).abs().max().into_scalar::<f32>();
            assert!(apart < 1e-5, "{path}: {apart}");
        }
        for ((_, old), (_, new)) in untouched.targets_mut().into_iter().zip(model.targets_mut()) {
            let (old, new) = (old.adapter.as_ref().unwrap(), new.adapter.as_ref().unwrap());
            assert!(flat(&new.lora_b.val()).iter().all(|x| *x == 0.0));
            assert_ne!(flat(&old.lora_a.val()), flat(&new.lora_a.val()));
        }
    }

    #[test]
    fn a_batch_that_cannot_be_shared_out_is_refused() {
        let facts = Default::default();
        let mut check = Check::new(&facts, camino::Utf8Path::new("."));
        let params = LteParams { heads: 3, ..LteParams::default() };
        params.check_batch("method", 6, &mut check);
        params.check_batch("method", 8, &mut check);
        let problems: Vec<String> =
            check.finish().1.into_iter().map(|problem| format!("{}: {}", problem.param, problem.message)).collect();
        assert_eq!(problems, ["method.heads: a batch of 8 sequences cannot be shared out to 3 heads"]);
    }
}
