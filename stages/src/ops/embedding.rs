//! Token embedding.

use burn::tensor::{Int, Tensor};

/// Rows of `weight` `[vocab_size, d_model]` by token: tokens `[batch, seq]` to `[batch * seq, d_model]`.
#[must_use]
pub fn embedding(weight: Tensor<2>, tokens: Tensor<2, Int>) -> Tensor<2> {
    let [batch, seq] = tokens.dims();
    weight.select(0, tokens.reshape([batch * seq]))
}
