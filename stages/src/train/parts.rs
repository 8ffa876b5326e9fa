//! Forward and backward passes part by part: embedding, blocks, head.
//!
//! Each part has a tape of its own, cut at the residual stream; the backward pass goes from part to part, and what comes
//! out is what one tape over the whole model gives, to the bit. Two things are done with that:
//!
//! - *Per-layer updates*: each part of the model is updated as soon as its gradients are known, and they are dropped. What
//!   needs all gradients at once, clipping by the norm over all parameters and accumulation over several batches, is
//!   refused: the public per-layer code of GaLore steps on every batch and clips nothing, silently.
//! - *Gradient checkpointing* (Chen et al. 2016): the forward pass leaves no tape and keeps each part's input alone; the
//!   backward pass runs each part again. Activations of one part at a time are held, for a third more computation.

use std::sync::Arc;

use burn::{
    module::Module,
    tensor::{Gradients as Tape, Tensor},
};
use sepia_engine::stage::StageError;

use super::{Gradients, batches::Batch};
use crate::{
    model::{DropoutClock, Llama},
    ops::{self, Rope},
};

/// How a pass goes over its parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) batch: &'a Batch,
    pub(super) rope: &'a Rope,
    /// What the summed loss is divided by before the backward pass.
    pub(super) divisor: f64,
    /// What it is multiplied by then, `[1]` off the tape, where that is not known here.
    pub(super) scale: Option<&'a Tensor<1>>,
    /// Whether parts are run again instead of being kept.
    pub(super) recompute: bool,
}

impl Pass<'_> {
    /// The backward pass from a summed loss `[1]`.
    pub(super) fn tape(&self, loss: &Tensor<1>) -> Tape {
        let loss = loss.clone().div_scalar(self.divisor);
        match self.scale {
            Some(scale) => loss.mul(Tensor::from_inner(scale.clone())).backward(),
            None => loss.backward(),
        }
    }
}

/// What is kept of a part until the backward pass reaches it.
struct Part {
    /// The leaf that stands for its input; the embedding has none.
    input: Option<Tensor<2>>,
    /// Its output on its tape, unless it is run again.
    output: Option<Tensor<2>>,
    /// The clock of dropout where the part began.
    clock: (u64, u64),
}

/// All gradients of a batch, and its summed loss `[1]`.
///
/// # Errors
/// None: the type is that of [`step`].
pub(super) fn gradients(model: Llama, pass: Pass<'_>) -> Result<(Llama, Gradients, Tensor<1>), StageError> {
    let mut parts = Vec::new();
    let (model, loss) = step(model, pass, |model, found, _| {
        parts.push(found);
        Ok(model)
    })?;
    parts.reverse();
    Ok((model, Gradients::joined(parts), loss))
}

/// One forward and one backward pass over a batch. `apply` is given the gradients of one part after the other, from the
/// head to the embedding, and may change the model; the summed loss `[1]` is known before its first call and given to each.
///
/// Returns the model and the summed loss.
///
/// # Errors
/// The first error of `apply`.
pub(super) fn step(
    mut model: Llama,
    pass: Pass<'_>,
    mut apply: impl FnMut(Llama, Gradients, &Tensor<1>) -> Result<Llama, StageError>,
) -> Result<(Llama, Tensor<1>), StageError> {
    let clock = model.dropout_clock();
    let (mut parts, leaf) = match pass.recompute {
        false => forward_on_tapes(&model, pass),
        true => forward_without_tape(&model, pass, clock.as_deref()),
    };
    let logits = model.head(leaf.clone());
    let loss = ops::cross_entropy_sum(logits, pass.batch.targets.clone());
    let mut tape = pass.tape(&loss);
    let loss = loss.inner();
    let mut input = Some(leaf);
    let after = clock.as_ref().map(|clock| clock.now());
    loop {
        let gradients = Gradients::collect(&model, &mut tape);
        let below = input.take().and_then(|leaf| leaf.grad_remove(&mut tape));
        drop(tape);
        model = apply(model, gradients, &loss)?;
        let (Some(part), Some(below)) = (parts.pop(), below) else { break };
        if let (None, Some(occurrences)) = (&part.input, &pass.batch.occurrences) {
            let gradients = Gradients::of_embedding(&model, occurrences, below);
            model = apply(model, gradients, &loss)?;
            break;
        }
        (tape, input) = part.backward(&model, pass, parts.len(), below, clock.as_ref());
    }
    if let (Some(clock), Some((update, drawn))) = (clock, after) {
        clock.set(update, drawn);
    }
    Ok((model, loss))
}

/// The parts before the head, and the leaf that stands for the head's input.
fn forward_on_tapes(model: &Llama, pass: Pass<'_>) -> (Vec<Part>, Tensor<2>) {
    let heads = model.heads(pass.batch.inputs.dims());
    let (output, mut leaf) = match pass.batch.occurrences {
        None => {
            let output = model.embed(pass.batch.inputs.clone());
            let leaf = cut(&output);
            (Some(output), leaf)
        }
        Some(_) => (None, embedded(model, pass.batch)),
    };
    let mut parts = vec![Part { input: None, output, clock: (0, 0) }];
    for block in &model.model.layers {
        let output = block.forward(leaf.clone(), heads, pass.rope);
        let next = cut(&output);
        parts.push(Part { input: Some(leaf), output: Some(output), clock: (0, 0) });
        leaf = next;
    }
    (parts, leaf)
}

/// The same, of which nothing but the parts' inputs is kept.
fn forward_without_tape(model: &Llama, pass: Pass<'_>, clock: Option<&DropoutClock>) -> (Vec<Part>, Tensor<2>) {
    let plain = model.valid();
    let heads = plain.heads(pass.batch.inputs.dims());
    let now = || clock.map_or((0, 0), DropoutClock::now);
    if let Some(clock) = clock {
        clock.drop_off_tape(true);
    }
    let mut parts = vec![Part { input: None, output: None, clock: now() }];
    let mut x = plain.embed(pass.batch.inputs.clone().inner());
    for block in &plain.model.layers {
        parts.push(Part { input: Some(leaf_of(x.clone())), output: None, clock: now() });
        x = block.forward(x, heads, pass.rope);
    }
    if let Some(clock) = clock {
        clock.drop_off_tape(false);
    }
    (parts, leaf_of(x))
}

impl Part {
    /// The tape of the part at `index` for the gradient of its output, and its input.
    fn backward(
        self,
        model: &Llama,
        pass: Pass<'_>,
        index: usize,
        below: Tensor<2>,
        clock: Option<&Arc<DropoutClock>>,
    ) -> (Tape, Option<Tensor<2>>) {
        let output = self.output.unwrap_or_else(|| {
            if let Some(clock) = clock {
                clock.set(self.clock.0, self.clock.1);
            }
            match &self.input {
                None => model.embed(pass.batch.inputs.clone()),
                Some(leaf) => {
                    let heads = model.heads(pass.batch.inputs.dims());
                    model.model.layers[index - 1].forward(leaf.clone(), heads, pass.rope)
                }
            }
        });
        (ops::backward_from(output, below), self.input)
    }
}

/// What the embedding gives for a batch, as a leaf: its gradient is summed over [occurrences](crate::ops::Occurrences).
pub(super) fn embedded(model: &Llama, batch: &Batch) -> Tensor<2> {
    leaf_of(model.valid().embed(batch.inputs.clone().inner()))
}

/// An output as a leaf, off its tape.
fn cut(output: &Tensor<2>) -> Tensor<2> {
    leaf_of(output.clone().inner())
}

fn leaf_of(value: Tensor<2>) -> Tensor<2> {
    Tensor::from_inner(value).require_grad()
}
