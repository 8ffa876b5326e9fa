//! Kernels for NVIDIA GPUs, in CubeCL: operations that burn would compute as many kernels, each of which reads and writes all
//! of its operands.
//!
//! What they compute is written in burn's tensor operations where they are called, in `sepia_stages::ops`, which is what runs
//! on other devices and what they are tested against. All of them read 16-bit numbers or f32 and compute in f32. Sums are in
//! an order that depends on the shapes alone, so results are the same from run to run.
//!
//! burn defers what it is asked for and fuses it; it takes these as they are, in their place. Whatever is deferred costs the
//! host more than the launch of a kernel does, so products that belong together are one operation, too (`attention`,
//! `linear_backward`).
#![cfg(feature = "cuda")]

mod adam;
mod backend;
mod cross_entropy;
mod eigen;
mod heads;
mod launch;
mod norm;
mod product;
mod rms_norm;
mod softmax;
mod swiglu;
mod update;

use burn::{
    backend::Dispatch,
    tensor::{DType, Int, Tensor},
};

pub use adam::Adam;
pub use backend::Kernels;
pub use heads::Turn;
/// cuBLAS, which multiplies matrices where it is installed.
pub use sepia_cublas as cublas;
pub use update::Rates;

/// `A B` of matrices, or of stacks of equally many, each transposed before where it is to be turned, in numbers of `dtype`,
/// which is theirs or f32: by cuBLAS where it is [open](cublas::is_open) and can, else by burn's kernels.
#[must_use]
pub fn multiply<const D: usize>(
    a: Tensor<D>,
    b: Tensor<D>,
    turns: [bool; 2],
    exactness: cublas::Exactness,
    dtype: DType,
) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as Kernels>::multiply(
        a.into_dispatch(),
        b.into_dispatch(),
        turns,
        exactness,
        dtype,
    ))
}

/// The gradients of `x` and `weight` for that of `x weight^T`, multiplied as [`multiply`] does; the latter in numbers of
/// `dtype`.
#[must_use]
pub fn linear_backward(grad: Tensor<2>, x: Tensor<2>, weight: Tensor<2>, dtype: DType) -> [Tensor<2>; 2] {
    let (for_x, for_weight) =
        <Dispatch as Kernels>::linear_backward(grad.into_dispatch(), x.into_dispatch(), weight.into_dispatch(), dtype);
    [for_x, for_weight].map(Tensor::from_dispatch)
}

/// Causal attention of `[batch * seq, n_head * head_dim]`, whose queries and keys are turned by their positions and the
/// queries multiplied by `how.factor`; and queries, keys and values as [`attention_backward`] takes them,
/// `[batch, n_head, seq, head_dim]`. Products are as those of [`multiply`].
#[must_use]
pub fn attention([q, k, v]: [Tensor<2>; 3], how: Moved<'_>) -> (Tensor<2>, [Tensor<4>; 3]) {
    let (mixed, q, k, v) = <Dispatch as Kernels>::attention(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        how.cos.clone().into_dispatch(),
        how.sin.clone().into_dispatch(),
        (how.sizes, how.factor),
    );
    (Tensor::from_dispatch(mixed), [q, k, v].map(Tensor::from_dispatch))
}

/// The gradients of queries, keys and values for that of what [`attention`] found.
#[must_use]
pub fn attention_backward([q, k, v]: [Tensor<4>; 3], grad: Tensor<2>, how: Moved<'_>) -> [Tensor<2>; 3] {
    let (for_q, for_k, for_v) = <Dispatch as Kernels>::attention_backward(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        grad.into_dispatch(),
        how.cos.clone().into_dispatch(),
        how.sin.clone().into_dispatch(),
        (how.sizes, how.factor),
    );
    [for_q, for_k, for_v].map(Tensor::from_dispatch)
}

/// The loss of each row, `-log softmax(logits)[target]`, and the logarithm of its sum of exponentials: logits `[n, width]` and
/// targets `[n, 1]` below `width` to two of `[n, 1]`. The logits are read once.
#[must_use]
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<2, Int>) -> [Tensor<2>; 2] {
    let (losses, log_sum) = <Dispatch as Kernels>::cross_entropy(logits.into_dispatch(), targets.into_dispatch());
    [losses, log_sum].map(Tensor::from_dispatch)
}

/// `(softmax(logits) - one_hot(target)) * grad`, with the logarithms that [`cross_entropy`] found, and a factor `[1, 1]`.
#[must_use]
pub fn cross_entropy_backward(
    logits: Tensor<2>,
    targets: Tensor<2, Int>,
    log_sum: Tensor<2>,
    grad: Tensor<2>,
) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Kernels>::cross_entropy_backward(
        logits.into_dispatch(),
        targets.into_dispatch(),
        log_sum.into_dispatch(),
        grad.into_dispatch(),
    ))
}

/// `gate * sigmoid(gate) * up`.
#[must_use]
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Kernels>::swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// The gradients of `gate` and `up` for that of [`swiglu`].
#[must_use]
pub fn swiglu_backward(gate: Tensor<2>, up: Tensor<2>, grad: Tensor<2>) -> [Tensor<2>; 2] {
    let (for_gate, for_up) =
        <Dispatch as Kernels>::swiglu_backward(gate.into_dispatch(), up.into_dispatch(), grad.into_dispatch());
    [for_gate, for_up].map(Tensor::from_dispatch)
}

/// `gain * x / sqrt(mean(x^2) + eps)`, the mean over each row, and `1 / sqrt(..)`, `[n, 1]`: `[n, width]` and `[1, width]`.
#[must_use]
pub fn rms_norm(x: Tensor<2>, gain: Tensor<2>, eps: f32) -> [Tensor<2>; 2] {
    let (y, inverses) = <Dispatch as Kernels>::rms_norm(x.into_dispatch(), gain.into_dispatch(), eps);
    [y, inverses].map(Tensor::from_dispatch)
}

/// How wide the rows of [`rms_norm_backward`] may be.
pub const WIDEST_NORM: usize = rms_norm::WIDEST;

/// The gradients of `x`, and of `gain` in f32, for that of [`rms_norm`], with the numbers that it found.
#[must_use]
pub fn rms_norm_backward(x: Tensor<2>, gain: Tensor<2>, inverses: Tensor<2>, grad: Tensor<2>) -> [Tensor<2>; 2] {
    let (for_x, for_gain) = <Dispatch as Kernels>::rms_norm_backward(
        x.into_dispatch(),
        gain.into_dispatch(),
        inverses.into_dispatch(),
        grad.into_dispatch(),
    );
    [for_x, for_gain].map(Tensor::from_dispatch)
}

/// How heads are moved: sequences, tokens in each, heads, and the width of each, which is even; how they are turned, with the
/// cosines and sines of each position, `[seq, head_dim / 2]`, component `i` with `i + head_dim / 2`; and what they are
/// multiplied by where they are turned.
#[derive(Debug, Clone)]
pub struct Moved<'a> {
    /// `[batch, seq, n_head, head_dim]`.
    pub sizes: [usize; 4],
    /// Cosines.
    pub cos: &'a Tensor<2>,
    /// Sines.
    pub sin: &'a Tensor<2>,
    /// How.
    pub turn: Turn,
    /// The factor.
    pub factor: f32,
}

/// `[batch * seq, n_head * head_dim]` to `[batch, n_head, seq, head_dim]`.
#[must_use]
pub fn split_heads(x: Tensor<2>, how: Moved<'_>) -> Tensor<4> {
    let (cos, sin) = (how.cos.clone().into_dispatch(), how.sin.clone().into_dispatch());
    let Moved { sizes, turn, factor, .. } = how;
    Tensor::from_dispatch(<Dispatch as Kernels>::split_heads(x.into_dispatch(), cos, sin, sizes, turn, factor))
}

/// Back from [`split_heads`].
#[must_use]
pub fn join_heads(x: Tensor<4>, how: Moved<'_>) -> Tensor<2> {
    let (cos, sin) = (how.cos.clone().into_dispatch(), how.sin.clone().into_dispatch());
    let Moved { sizes, turn, factor, .. } = how;
    Tensor::from_dispatch(<Dispatch as Kernels>::join_heads(x.into_dispatch(), cos, sin, sizes, turn, factor))
}

/// The softmax of each row `q` of `[batch, n_head, seq, seq]` over its columns up to `q`; 0 in those after it.
#[must_use]
pub fn causal_softmax(scores: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as Kernels>::causal_softmax(scores.into_dispatch()))
}

/// The gradient of the scores for that of what [`causal_softmax`] found, and with it.
#[must_use]
pub fn causal_softmax_backward(p: Tensor<4>, grad: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as Kernels>::causal_softmax_backward(p.into_dispatch(), grad.into_dispatch()))
}

/// One update: parameter, gradient and moments `[n]` to the new parameter and moments.
#[must_use]
pub fn adam(param: Tensor<1>, grad: Tensor<1>, m: Tensor<1>, v: Tensor<1>, adam: Adam) -> [Tensor<1>; 3] {
    let (param, m, v) = <Dispatch as Kernels>::adam(
        param.into_dispatch(),
        grad.into_dispatch(),
        m.into_dispatch(),
        v.into_dispatch(),
        adam,
    );
    [param, m, v].map(Tensor::from_dispatch)
}

/// The sum of squares of `[n]`, `[1]` in f32.
#[must_use]
pub fn sum_of_squares(x: Tensor<1>) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as Kernels>::sum_of_squares(x.into_dispatch()))
}

/// `x * factor` for a factor `[1]` in f32; 0 where that is 0, whatever `x` is.
#[must_use]
pub fn limited(x: Tensor<1>, factor: Tensor<1>) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as Kernels>::limited(x.into_dispatch(), factor.into_dispatch()))
}

/// `(weight - (rates.one * one + rates.two / divisor * two)) * rates.keep`, with a divisor `[1, 1]`; all in f32.
#[must_use]
pub fn subtract_two(weight: Tensor<2>, one: Tensor<2>, two: Tensor<2>, divisor: Tensor<2>, rates: Rates) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Kernels>::subtract_two(
        weight.into_dispatch(),
        one.into_dispatch(),
        two.into_dispatch(),
        divisor.into_dispatch(),
        rates,
    ))
}

/// `(gradient - share * up) * phi`, with phi `[1, n]`, `[m, 1]` or `[1, 1]`, and the sum of its squares `[1]`; all in f32.
#[must_use]
pub fn residual(gradient: Tensor<2>, up: Tensor<2>, phi: Tensor<2>, share: f32) -> (Tensor<2>, Tensor<1>) {
    let (residual, squares) =
        <Dispatch as Kernels>::residual(gradient.into_dispatch(), up.into_dispatch(), phi.into_dispatch(), share);
    (Tensor::from_dispatch(residual), Tensor::from_dispatch(squares))
}

/// How many rows the matrices of [`eigenvectors`] may have.
pub const LARGEST_EIGEN: usize = eigen::LARGEST;

/// Eigenvalues `[k, n]` and eigenvectors, as rows, `[k, n, n]`, in no order, of `k` symmetric and positive semidefinite
/// matrices `[k, n, n]` in f32. Eigenvalues below a ten millionth of the largest are round-off, their vectors orthogonal.
#[must_use]
pub fn eigenvectors(matrices: Tensor<3>) -> (Tensor<2>, Tensor<3>) {
    let (values, vectors) = <Dispatch as Kernels>::eigenvectors(matrices.into_dispatch());
    (Tensor::from_dispatch(values), Tensor::from_dispatch(vectors))
}
