//! The loss of a language model.

use burn::tensor::{Int, Tensor, activation};

/// Sum over rows of `-log softmax(logits)[target]`, in nats: logits `[n, vocab_size]`, targets `[n]`, result `[1]`.
///
/// A sum and not a mean: the caller knows what it is a mean over.
#[must_use]
pub fn cross_entropy_sum(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let [n, _] = logits.dims();
    activation::log_softmax(logits, 1).gather(1, targets.reshape([n, 1])).sum().neg()
}
