//! ReLoRA: LoRA whose branch is folded into the frozen weight and started again, over and over (Lialin et al. 2023).
//!
//! The sum of k branches has a rank of up to k r. At a merge `W += s B A` in f32, A is drawn anew and B becomes zero; the
//! factors' moments are pruned, their step counts are not. Both fire after update u (from 1) where u - 1 is a multiple of
//! the cadence: that update ran at the first step of a schedule restart, with learning rate 0, so nothing is lost between
//! the restart and the merge. The warm start of the paper is a full training whose model is the input `init`.

use std::collections::BTreeMap;

use burn::{module::Param, tensor::Tensor};
use schemars::JsonSchema;
use sepia_engine::stage::{Check, StageError, derive_seed};
use serde::{Deserialize, Serialize};

use super::{
    LoraInit, LoraParams, LoraScaling, Matrix, MatrixCost, MethodParams, MethodSetup, adapters, check_merged_into,
    lora::Lora,
    prune::{OptimizerReset, unreadable, zeros},
};
use crate::{
    linalg::{host::to_host, svd::singular_values},
    metric::rank::Spectrum,
    model::Llama,
    train::{Held, Method, ScheduleKind, State, Target},
};

/// ReLoRA: LoRA with merges and restarts. Use `schedule = { kind = "jagged-cosine", every = <reset_every>, .. }`, so that
/// each restart is warmed up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReloraParams {
    /// Inner dimension of the branch.
    pub rank: usize,
    /// The branch is multiplied by alpha / rank (or alpha / sqrt(rank), see `scaling`).
    pub alpha: f64,
    /// What alpha is divided by.
    pub scaling: LoraScaling,
    /// Dropout of the branch's input; the public code trains with 0.1.
    pub dropout: f64,
    /// How A is drawn, at the start and after each merge.
    pub init: LoraInit,
    /// The learning rate of B over that of A.
    pub lr_ratio: f64,
    /// Whether the factor of each branch is trained as well: `tanh(s)` with `s` from 1 on, in place of alpha / rank. At a
    /// merge it begins again at 1.
    pub trainable_scale: bool,
    /// Updates between two merges (`relora` of the public code).
    pub merge_every: u64,
    /// Updates between two restarts of the optimiser (`cycle_length`); as often as merges when left out.
    pub reset_every: Option<u64>,
    /// How moments are pruned at a restart. The public code's reset is the default; it recommends `magnitude = 0.9` too.
    pub reset: OptimizerReset,
    /// Whether to record the rank of all that was merged so far, at each merge. Costs a copy of the first weights and, when
    /// the merge is logged, a singular value decomposition of every matrix on the host.
    pub record_rank: bool,
}

impl Default for ReloraParams {
    fn default() -> Self {
        Self {
            rank: 128,
            alpha: 32.0,
            scaling: LoraScaling::Lora,
            dropout: 0.1,
            init: LoraInit::Kaiming,
            lr_ratio: 1.0,
            trainable_scale: false,
            merge_every: 5000,
            reset_every: None,
            reset: OptimizerReset::default(),
            record_rank: true,
        }
    }
}

impl ReloraParams {
    fn lora(&self) -> LoraParams {
        let Self { rank, mut alpha, mut scaling, dropout, init, lr_ratio, .. } = *self;
        if self.trainable_scale {
            (alpha, scaling) = (rank as f64, LoraScaling::Lora);
        }
        LoraParams { rank, alpha, scaling, dropout, init, lr_ratio }
    }
}

impl MethodParams for ReloraParams {
    const STAGE: &'static str = "relora";
    const SOURCE: &'static str =
        r#"Lialin et al. 2023, "ReLoRA: High-Rank Training Through Low-Rank Updates", arXiv 2307.05695"#;

    fn check(&self, at: &str, check: &mut Check<'_>) {
        self.lora().check(at, check);
        for (name, every) in [("merge_every", Some(self.merge_every)), ("reset_every", self.reset_every)] {
            if every == Some(0) {
                check.problem(format!("{at}.{name}"), format!("`{name}` must be at least 1"), "");
            }
        }
        if let Some(problem) = self.reset.problem() {
            check.problem(format!("{at}.reset"), problem, "");
        }
    }

    /// A restart of the optimiser must fall on a restart of the schedule: moments that were just pruned would otherwise
    /// meet the full learning rate.
    fn check_schedule(&self, at: &str, schedule: &ScheduleKind, check: &mut Check<'_>) {
        let ScheduleKind::JaggedCosine { every, adjust, .. } = *schedule else { return };
        let (name, cadence) = match self.reset_every {
            Some(cadence) => ("reset_every", cadence),
            None => ("merge_every", self.merge_every),
        };
        if every == 0 || cadence == 0 {
            return; // reported elsewhere
        }
        if cadence % every != 0 {
            let message = format!(
                "the optimiser restarts every {cadence} updates (`{name}`), but the learning rate every {every} \
                 (`schedule.every`)"
            );
            check.problem(format!("{at}.{name}"), message, format!("write {name} = {every}, or a multiple of it"));
        } else if adjust % every != 0 {
            let message = format!(
                "`adjust` {adjust} moves the restarts of the learning rate away from those of the optimiser, which fall \
                 on multiples of {cadence}"
            );
            check.problem("schedule.adjust", message, "leave `adjust` out");
        }
    }

    fn check_held(&self, weights: Held, _: Held, check: &mut Check<'_>) {
        check_merged_into(weights, "relora", check);
    }

    fn build(&self, setup: &MethodSetup) -> Box<dyn Method> {
        Box::new(Relora {
            params: *self,
            lora: Lora::new(self.lora(), setup),
            merges: 0,
            resets: 0,
            first: BTreeMap::new(),
            unread: Unread::default(),
            notes: Vec::new(),
        })
    }

    /// To record ranks, the first weights are kept.
    fn cost(&self, matrix: Matrix) -> Option<MatrixCost> {
        let copies = if self.record_rank { 2 } else { 1 };
        Some(matrix.factors(self.rank, copies * matrix.numbers()))
    }
}

/// How many times something that happens every `every` updates has happened after `updates` of them: at updates
/// `every + 1`, `2 every + 1`, ...
#[must_use]
pub fn merges_after(updates: u64, every: u64) -> u64 {
    updates.saturating_sub(1) / every.max(1)
}

struct Relora {
    params: ReloraParams,
    lora: Lora,
    merges: u64,
    resets: u64,
    /// The weights before the first merge, where ranks are recorded.
    first: BTreeMap<String, Tensor<2>>,
    unread: Unread,
    notes: Vec<String>,
}

/// What the last merge and restart left on the device, to be looked at when they are logged: nothing waits for the device
/// before. Not part of a checkpoint, like all figures.
#[derive(Default)]
struct Unread {
    /// The weights after the merge. They are frozen until the next one, so this holds no memory of its own.
    merged: Vec<(String, Tensor<2>)>,
    /// Of each moment how many entries are zero, `[1]`, and how many there are.
    pruned: Vec<(Tensor<1>, usize)>,
}

impl Relora {
    fn merge(&mut self, model: &mut Llama) {
        self.unread.merged.clear();
        for (path, linear) in model.targets_mut() {
            let Some(adapter) = &mut linear.adapter else { continue };
            let before = linear.weight.val();
            let merged = before.clone().inner().add(adapter.delta());
            if self.params.record_rank {
                self.unread.merged.push((path.clone(), merged.clone()));
            }
            let on_tape = before.is_autodiff();
            let lift = |value: Tensor<2>| if on_tape { Tensor::from_inner(value) } else { value };
            linear.weight = linear.weight.clone().map(|_| lift(merged)).set_require_grad(false);
            let a = self.lora.draw_a(&path, self.merges + 1, &before).inner();
            adapter.lora_a = replaced(&adapter.lora_a, lift(a));
            let b = adapter.lora_b.val().inner().zeros_like();
            adapter.lora_b = replaced(&adapter.lora_b, lift(b));
            if let Some(scale) = &mut adapter.lora_scale {
                // To 1 and not to 0: with B = 0 and a factor of 0 neither would ever have a gradient.
                let one = scale.val().inner().ones_like();
                *scale = replaced(scale, lift(one));
            }
        }
    }

    fn reset(&mut self) -> Result<(), StageError> {
        self.unread.pruned.clear();
        for (path, state) in self.lora.factors.moments.iter_mut() {
            for (name, moment) in [("m", &mut state.m), ("v", &mut state.v)] {
                let seed = derive_seed(self.lora.seed, &format!("{path} prune {name}"), self.resets);
                *moment = self.params.reset.prune(moment.clone(), seed)?;
                self.unread.pruned.push((zeros(moment), moment.shape().num_elements()));
            }
        }
        Ok(())
    }

    /// Ranks of what was merged, in all, at the last merge: means over the matrices.
    fn merged_ranks(&mut self) -> Result<Vec<(&'static str, f64)>, StageError> {
        let (mut ranks, mut stable_ranks) = (Vec::new(), Vec::new());
        for (path, merged) in std::mem::take(&mut self.unread.merged) {
            let Some(first) = self.first.get(&path) else { continue };
            let (rank, stable_rank) = ranks_of(&path, &merged.sub(first.clone()))?;
            ranks.push(rank);
            stable_ranks.push(stable_rank);
        }
        let named = [("merged_rank", ranks), ("merged_stable_rank", stable_ranks)];
        Ok(named.into_iter().filter_map(|(name, values)| Some((name, mean(&values)?))).collect())
    }

    /// The share of entries that the last restart left at zero: a mean over the moments.
    fn pruned_share(&mut self) -> Result<Option<f64>, StageError> {
        let pruned = std::mem::take(&mut self.unread.pruned);
        if pruned.is_empty() {
            return Ok(None);
        }
        let (zeros, counts): (Vec<_>, Vec<usize>) = pruned.into_iter().unzip();
        let zeros = Tensor::cat(zeros, 0).try_into_vec_as::<f64>().map_err(unreadable)?;
        let shares: Vec<f64> = zeros.iter().zip(counts).map(|(zeros, count)| zeros / count.max(1) as f64).collect();
        Ok(mean(&shares))
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// A parameter with a new value and the same identity.
fn replaced(param: &Param<Tensor<2>>, value: Tensor<2>) -> Param<Tensor<2>> {
    param.clone().map(|_| value.require_grad())
}

/// Rank and stable rank of what was merged so far.
fn ranks_of(path: &str, update: &Tensor<2>) -> Result<(f64, f64), StageError> {
    let failed = |error| StageError::new(format!("the rank of the merged update of {path} cannot be found: {error}"));
    let [m, n] = update.dims();
    let s = singular_values(to_host(update).map_err(failed)?.as_ref()).map_err(failed)?;
    let spectrum = Spectrum::new(&s, Spectrum::default_tol(m, n, f64::from(f32::EPSILON), &s));
    Ok((spectrum.rank() as f64, spectrum.stable_rank()))
}

impl Method for Relora {
    fn attach(&mut self, mut model: Llama) -> Result<Llama, StageError> {
        if self.params.record_rank {
            let weights = model.targets_mut().into_iter();
            self.first = weights.map(|(path, linear)| (path, linear.weight.val().inner())).collect();
        }
        let mut model = self.lora.attach(model)?;
        if self.params.trainable_scale {
            for (_, linear) in model.targets_mut() {
                if let Some(adapter) = &mut linear.adapter {
                    let like = adapter.lora_a.val();
                    let one = Tensor::ones([1, 1], (&like.device(), like.dtype()));
                    adapter.lora_scale = Some(Param::from_tensor(one));
                }
            }
        }
        Ok(model)
    }

    fn update(&mut self, target: Target<'_>, weight: Tensor<2>, grad: Tensor<2>) -> Result<Tensor<2>, StageError> {
        self.lora.update(target, weight, grad)
    }

    /// A merge or restart that fell on an update which was skipped is made up for by the next one.
    fn after_step(&mut self, update: u64, model: Llama) -> Result<Llama, StageError> {
        let mut model = self.lora.after_step(update, model)?;
        let due = merges_after(update + 1, self.params.merge_every);
        if due > self.merges {
            self.merge(&mut model);
            self.merges = due;
            self.notes.push(format!("update {}: merged and restarted the branches", update + 1));
        }
        let due = merges_after(update + 1, self.params.reset_every.unwrap_or(self.params.merge_every));
        if due > self.resets {
            self.reset()?;
            self.resets = due;
        }
        Ok(model)
    }

    fn finished(&self, model: Llama) -> Result<Llama, StageError> {
        Ok(adapters::merged(model))
    }

    fn state_bytes(&self) -> u64 {
        self.lora.state_bytes()
    }

    fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    fn figures(&mut self) -> Result<Vec<(&'static str, f64)>, StageError> {
        let mut figures = self.merged_ranks()?;
        figures.extend(self.pruned_share()?.map(|share| ("pruned_share", share)));
        Ok(figures)
    }

    fn save(&self, state: &mut State) {
        state.put_count("method/merges", self.merges);
        state.put_count("method/resets", self.resets);
        for (path, weight) in &self.first {
            state.put_tensor(&format!("method/first/{path}"), weight.clone());
        }
        self.lora.save(state);
    }

    fn load(&mut self, state: &mut State) -> Result<(), StageError> {
        self.merges = state.count("method/merges")?;
        self.resets = state.count("method/resets")?;
        for (path, weight) in &mut self.first {
            *weight = state.take_tensor(&format!("method/first/{path}"))?;
        }
        self.lora.load(state)
    }
}

#[cfg(test)]
#[path = "relora_tests.rs"]
mod tests;
