//! Per-layer updates: each part of the model is updated as soon as its gradients are known, and they are dropped.
//!
//! The forward pass is cut between the parts (embedding, blocks, head), so that each has a tape of its own; the backward
//! pass then goes from part to part and never holds the gradients of two. What comes out is what whole updates give, to
//! the bit. What needs all gradients at once, clipping by the norm over all parameters and accumulation over several
//! batches, is refused: the public per-layer code of GaLore steps on every batch and clips nothing, silently.

use burn::tensor::Tensor;
use sepia_engine::stage::StageError;

use super::{Gradients, batches::Batch};
use crate::{
    model::Llama,
    ops::{self, Rope},
};

/// A part's output and the leaf that stands for its input; the first part has none.
struct Part {
    input: Option<Tensor<2>>,
    output: Tensor<2>,
}

/// One forward and one backward pass over a batch. `apply` is given the gradients of one part after the other, from the
/// head to the embedding, and changes the model; the loss, divided by `tokens`, is known before its first call and given
/// to each.
///
/// Returns the model and the summed loss.
///
/// # Errors
/// The first error of `apply`.
pub(super) fn step(
    model: Llama,
    batch: &Batch,
    rope: &Rope,
    tokens: f64,
    mut apply: impl FnMut(Llama, Gradients, f64) -> Result<Llama, StageError>,
) -> Result<(Llama, f64), StageError> {
    let mut model = model;
    let heads = model.heads(batch.inputs.dims());
    let mut parts = vec![Part { input: None, output: model.embed(batch.inputs.clone()) }];
    for block in &model.model.layers {
        let input = cut(&parts);
        let output = block.forward(input.clone(), heads, rope);
        parts.push(Part { input: Some(input), output });
    }
    let leaf = cut(&parts);
    let logits = model.head(leaf.clone());
    let mut input = Some(leaf);
    let loss = ops::cross_entropy_sum(logits, batch.targets.clone());
    let mut tape = loss.clone().div_scalar(tokens).backward();
    let total = f64::from(loss.into_scalar::<f32>());
    loop {
        let gradients = Gradients::collect(&model, &mut tape);
        let below = input.take().and_then(|leaf| leaf.grad_remove(&mut tape));
        drop(tape);
        model = apply(model, gradients, total / tokens)?;
        let (Some(part), Some(below)) = (parts.pop(), below) else { return Ok((model, total)) };
        // The sum of products has the wanted gradient, one times `below`, whatever the output is.
        tape = (part.output * Tensor::from_inner(below)).sum().backward();
        input = part.input;
    }
}

/// The last output as a leaf, off its tape.
fn cut(parts: &[Part]) -> Tensor<2> {
    let output = &parts[parts.len() - 1].output;
    Tensor::from_inner(output.clone().inner()).require_grad()
}
