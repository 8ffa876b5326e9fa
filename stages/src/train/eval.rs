//! Loss over a validation split.

use burn::tensor::Device;

use super::batches::Batch;
use crate::{data::Split, model::Llama, ops};

/// What an evaluation found.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Evaluation {
    /// Sum of the losses of all predicted tokens, in nats.
    pub sum: f64,
    /// Number of predicted tokens.
    pub tokens: u64,
}

impl Evaluation {
    /// Adds the summed loss of some tokens.
    pub fn add(&mut self, sum: f64, tokens: u64) {
        self.sum += sum;
        self.tokens += tokens;
    }

    /// Mean loss per token in nats: every token counts the same, whatever batch it was in. (Public code of GaLore and Fira
    /// divides by one batch too many, which makes perplexities about 2 % too low.)
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.sum / self.tokens as f64
    }

    /// `exp(loss)`.
    #[must_use]
    pub fn perplexity(&self) -> f64 {
        self.loss().exp()
    }
}

/// Evaluates a model (without autodiff) on windows that do not overlap, in order, the last one shorter: every token but
/// the first is predicted once, from at most `seq_len` before it in its window.
///
/// At most `max_batches` batches of `batch_size` windows; all for `None`. `each` is called after every batch with the
/// tokens done and the tokens in all, and stops the evaluation with its error.
///
/// # Errors
/// What `each` returns.
pub fn evaluate<E>(
    model: &Llama,
    split: &Split,
    (seq_len, batch_size, max_batches): (usize, usize, Option<usize>),
    device: &Device,
    mut each: impl FnMut(u64, u64) -> Result<(), E>,
) -> Result<Evaluation, E> {
    let rope = model.rope(seq_len, device);
    let mut found = Evaluation::default();
    let mut predict = split.len().saturating_sub(1);
    if let Some(batches) = max_batches {
        predict = predict.min(batches * batch_size * seq_len);
    }
    let mut start = 0;
    while start < predict {
        let left = predict - start;
        // Full windows together; what is left at the end alone, as one shorter window.
        let (windows, seq) = if left >= seq_len { ((left / seq_len).min(batch_size), seq_len) } else { (1, left) };
        let mut tokens = Vec::with_capacity(windows * (seq + 1));
        for window in 0..windows {
            split.window(start + window * seq, seq + 1, &mut tokens);
        }
        let batch = Batch::of_windows(&tokens, seq, None, device);
        let logits = model.forward(batch.inputs, &rope);
        let sum = ops::cross_entropy_sum(logits, batch.targets).into_scalar::<f32>();
        found.add(f64::from(sum), (windows * seq) as u64);
        start += windows * seq;
        each(start as u64, predict as u64)?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::LlamaConfig,
        testing::test_device,
        testing::{floats, vector},
    };

    #[test]
    fn the_mean_is_the_correct_one_and_not_that_of_the_published_scripts() {
        let entry = vector("eval_off_by_one");
        let mut found = Evaluation::default();
        for loss in floats(&entry["inputs"]["batch_losses"]) {
            found.add(loss * 512.0, 512);
        }
        assert!((found.perplexity() - entry["expected"]["ppl_correct"].as_f64().unwrap()).abs() < 1e-9);
        assert!((found.perplexity() - entry["expected"]["ppl_script"].as_f64().unwrap()).abs() > 1.0);
    }

    #[test]
    fn every_token_but_the_first_is_predicted_once_whatever_the_batch_size() {
        let device = test_device();
        let config = LlamaConfig { d_model: 16, d_ff: 24, n_layer: 1, n_head: 2, vocab_size: 11, seq_len: 8 };
        let model = Llama::new(config, |name| name.len() as u64, &device);
        let split = Split::from_tokens((0..61).map(|i| i * 7 % 11).collect());
        let run =
            |batch_size| evaluate(&model, &split, (8, batch_size, None), &device, |_, _| Ok::<(), ()>(())).unwrap();
        let (one, three) = (run(1), run(3));
        assert_eq!((one.tokens, three.tokens), (60, 60));
        assert!((one.sum - three.sum).abs() < 1e-4, "{one:?} {three:?}");
        let part = evaluate(&model, &split, (8, 3, Some(1)), &device, |_, _| Ok::<(), ()>(())).unwrap();
        assert_eq!(part.tokens, 24);
    }
}
