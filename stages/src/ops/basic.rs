//! Embedding, linear layer, RMSNorm and SwiGLU.

use burn::tensor::{Int, Tensor, activation};

/// Rows of `weight` `[vocab_size, d_model]` by token: tokens `[batch, seq]` to `[batch * seq, d_model]`.
#[must_use]
pub fn embedding(weight: Tensor<2>, tokens: Tensor<2, Int>) -> Tensor<2> {
    let [batch, seq] = tokens.dims();
    weight.select(0, tokens.reshape([batch * seq]))
}

/// `x W^T`: `[n, in]` and weight `[out, in]` to `[n, out]`.
#[must_use]
pub fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    x.matmul(weight.transpose())
}

/// `weight * x / sqrt(mean(x^2) + eps)`, the mean over each row.
#[must_use]
pub fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f64) -> Tensor<2> {
    let mean = (x.clone() * x.clone()).mean_dim(1); // [n, 1]
    x / mean.add_scalar(eps).sqrt() * weight.unsqueeze()
}

/// `silu(gate) * up`.
#[must_use]
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    activation::silu(gate) * up
}
