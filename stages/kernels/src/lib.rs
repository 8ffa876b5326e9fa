//! Kernels for NVIDIA GPUs, in CubeCL: operations that burn would compute as many kernels, each of which reads and writes all
//! of its operands.
//!
//! What they compute is written in burn's tensor operations where they are called, in `sepia_stages::ops`, which is what runs
//! on other devices and what they are tested against. All of them read 16-bit numbers or f32 and compute in f32. Sums are in
//! an order that depends on the shapes alone, so results are the same from run to run.
//!
//! burn defers what it is asked for and fuses it; through [`Kernels`] it takes these as they are, in their place.
#![cfg(feature = "cuda")]

mod adam;
mod cross_entropy;
mod eigen;
mod heads;
mod launch;
mod norm;
mod rms_norm;
mod softmax;
mod swiglu;

use burn::{
    backend::{
        Backend, Dispatch, backend_extension,
        fusion::custom::TensorSpec,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, Int, Shape, Tensor},
};
use burn_cubecl::CubeBackend;

pub use adam::Adam;
pub use heads::Turn;

/// Each kernel by its name, on a backend's own tensors, which are matrices. See the functions of this crate.
#[backend_extension(Cube, Fusion)]
#[expect(missing_docs, reason = "the functions of this crate say what each of these does")]
pub trait Kernels: Backend {
    #[fusion(meta = |logits, _| (column(logits), column(logits)))]
    fn cross_entropy(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>);

    #[fusion(meta = |logits, _, _, _| logits.clone())]
    fn cross_entropy_backward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        log_sum: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    #[fusion(meta = |x, _, _| (x.clone(), column(x)))]
    fn rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f32) -> (FloatTensor<Self>, FloatTensor<Self>);

    #[fusion(meta = |x, gain, _, _| (x.clone(), TensorSpec::new(gain.shape.clone(), DType::F32)))]
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        inverses: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    #[fusion(meta = |x, _, _, sizes, _, _| split_shape(x, sizes))]
    fn split_heads(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        sizes: [usize; 4],
        turn: Turn,
        factor: f32,
    ) -> FloatTensor<Self>;

    #[fusion(meta = |x, _, _, sizes, _, _| joined_shape(x, sizes))]
    fn join_heads(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        sizes: [usize; 4],
        turn: Turn,
        factor: f32,
    ) -> FloatTensor<Self>;

    #[fusion(meta = |scores| scores.clone())]
    fn causal_softmax(scores: FloatTensor<Self>) -> FloatTensor<Self>;

    #[fusion(meta = |p, _| p.clone())]
    fn causal_softmax_backward(p: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;

    #[fusion(meta = |param, _, m, v, _| (param.clone(), m.clone(), v.clone()))]
    fn adam(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        adam: Adam,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    #[fusion(meta = |_| TensorSpec::new(Shape::new([1]), DType::F32))]
    fn sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self>;

    #[fusion(meta = |matrices| (values_of(matrices), matrices.clone()))]
    fn eigenvectors(matrices: FloatTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>);

    #[fusion(meta = |x, _| x.clone())]
    fn limited(x: FloatTensor<Self>, factor: FloatTensor<Self>) -> FloatTensor<Self>;

    #[fusion(meta = |gate, _| gate.clone())]
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;

    #[fusion(meta = |gate, up, _| (gate.clone(), up.clone()))]
    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// One f32 for each row.
fn column(matrix: &TensorSpec) -> TensorSpec {
    TensorSpec::new(Shape::new([matrix.shape[0], 1]), DType::F32)
}

/// A number for each row of each matrix.
fn values_of(matrices: &TensorSpec) -> TensorSpec {
    TensorSpec::new(Shape::new([matrices.shape[0], matrices.shape[1]]), DType::F32)
}

fn split_shape(x: &TensorSpec, [batch, seq, n_head, head_dim]: &[usize; 4]) -> TensorSpec {
    TensorSpec::new(Shape::new([*batch, *n_head, *seq, *head_dim]), x.dtype)
}

fn joined_shape(x: &TensorSpec, [batch, seq, n_head, head_dim]: &[usize; 4]) -> TensorSpec {
    TensorSpec::new(Shape::new([batch * seq, n_head * head_dim]), x.dtype)
}

impl Kernels for CubeBackend {
    fn rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f32) -> (FloatTensor<Self>, FloatTensor<Self>) {
        rms_norm::forward(x, gain, eps)
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        inverses: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        rms_norm::backward(x, gain, inverses, grad)
    }

    fn split_heads(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        sizes: [usize; 4],
        turn: Turn,
        factor: f32,
    ) -> FloatTensor<Self> {
        heads::split(x, [cos, sin], sizes, turn, factor)
    }

    fn join_heads(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        sizes: [usize; 4],
        turn: Turn,
        factor: f32,
    ) -> FloatTensor<Self> {
        heads::join(x, [cos, sin], sizes, turn, factor)
    }

    fn causal_softmax(scores: FloatTensor<Self>) -> FloatTensor<Self> {
        softmax::forward(scores)
    }

    fn causal_softmax_backward(p: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        softmax::backward(p, grad)
    }

    fn adam(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        adam: Adam,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        adam::step([param, grad, m, v], adam)
    }

    fn sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self> {
        norm::squares(x)
    }

    fn eigenvectors(matrices: FloatTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>) {
        eigen::vectors(matrices)
    }

    fn limited(x: FloatTensor<Self>, factor: FloatTensor<Self>) -> FloatTensor<Self> {
        norm::limit(x, factor)
    }

    fn cross_entropy(logits: FloatTensor<Self>, targets: IntTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>) {
        cross_entropy::forward(logits, targets)
    }

    fn cross_entropy_backward(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        log_sum: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        cross_entropy::backward(logits, targets, log_sum, grad)
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        swiglu::forward(gate, up)
    }

    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        swiglu::backward(gate, up, grad)
    }
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

/// How many rows the matrices of [`eigenvectors`] may have.
pub const LARGEST_EIGEN: usize = eigen::LARGEST;

/// Eigenvalues `[k, n]` and eigenvectors, as rows, `[k, n, n]`, in no order, of `k` symmetric and positive semidefinite
/// matrices `[k, n, n]` in f32. Eigenvalues below a ten millionth of the largest are round-off, their vectors orthogonal.
#[must_use]
pub fn eigenvectors(matrices: Tensor<3>) -> (Tensor<2>, Tensor<3>) {
    let (values, vectors) = <Dispatch as Kernels>::eigenvectors(matrices.into_dispatch());
    (Tensor::from_dispatch(values), Tensor::from_dispatch(vectors))
}
