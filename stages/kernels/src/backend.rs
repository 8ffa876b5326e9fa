//! The kernels as an extension of burn's backends: on `CubeBackend` they are launched; the macro adds what defers them among
//! the operations that burn fuses.

use burn::{
    backend::{
        Backend, backend_extension,
        fusion::custom::TensorSpec,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, Shape},
};
use burn_cubecl::CubeBackend;
use sepia_cublas::Exactness;

use crate::{Adam, Rates, Turn, adam, cross_entropy, eigen, heads, norm, product, rms_norm, softmax, swiglu, update};

/// Each kernel by its name, on a backend's own tensors, which are matrices. See the functions of this crate.
#[backend_extension(Cube, Fusion)]
#[expect(missing_docs, reason = "the functions of this crate say what each of these does")]
pub trait Kernels: Backend {
    #[fusion(meta = |a, b, turns, _, dtype| product_of(a, b, turns, *dtype))]
    fn multiply(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        turns: [bool; 2],
        exactness: Exactness,
        dtype: DType,
    ) -> FloatTensor<Self>;

    #[fusion(meta = |_, x, weight, dtype| (x.clone(), TensorSpec::new(weight.shape.clone(), *dtype)))]
    fn linear_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dtype: DType,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    #[fusion(meta = |q, _, _, _, _, (sizes, _)| {
        let heads = split_shape(q, sizes);
        (q.clone(), heads.clone(), heads.clone(), heads)
    })]
    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        how: ([usize; 4], f32),
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    #[fusion(meta = |_, _, _, grad, _, _, _| (grad.clone(), grad.clone(), grad.clone()))]
    fn attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        how: ([usize; 4], f32),
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

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

    #[fusion(meta = |weight, _, _, _, _| weight.clone())]
    fn subtract_two(
        weight: FloatTensor<Self>,
        one: FloatTensor<Self>,
        two: FloatTensor<Self>,
        divisor: FloatTensor<Self>,
        rates: Rates,
    ) -> FloatTensor<Self>;

    #[fusion(meta = |gradient, _, _, _| (gradient.clone(), TensorSpec::new(Shape::new([1]), DType::F32)))]
    fn residual(
        gradient: FloatTensor<Self>,
        up: FloatTensor<Self>,
        phi: FloatTensor<Self>,
        share: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

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

/// Stacks of `[m, k]` and `[k, n]` to one of `[m, n]`, each of them transposed before or not.
fn product_of(a: &TensorSpec, b: &TensorSpec, [turn_a, turn_b]: &[bool; 2], dtype: DType) -> TensorSpec {
    let mut shape = a.shape.clone();
    let [rows, columns] = [shape.rank() - 2, shape.rank() - 1];
    shape[rows] = a.shape[if *turn_a { columns } else { rows }];
    shape[columns] = b.shape[if *turn_b { rows } else { columns }];
    TensorSpec::new(shape, dtype)
}

fn split_shape(x: &TensorSpec, [batch, seq, n_head, head_dim]: &[usize; 4]) -> TensorSpec {
    TensorSpec::new(Shape::new([*batch, *n_head, *seq, *head_dim]), x.dtype)
}

fn joined_shape(x: &TensorSpec, [batch, seq, n_head, head_dim]: &[usize; 4]) -> TensorSpec {
    TensorSpec::new(Shape::new([batch * seq, n_head * head_dim]), x.dtype)
}

impl Kernels for CubeBackend {
    fn multiply(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        turns: [bool; 2],
        exactness: Exactness,
        dtype: DType,
    ) -> FloatTensor<Self> {
        product::multiply([a, b], turns, exactness, dtype)
    }

    fn linear_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        dtype: DType,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        product::linear_backward(grad, x, weight, dtype)
    }

    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        how: ([usize; 4], f32),
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        product::attention([q, k, v], [cos, sin], how)
    }

    fn attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        how: ([usize; 4], f32),
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        product::attention_backward([q, k, v], grad, [cos, sin], how)
    }

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

    fn subtract_two(
        weight: FloatTensor<Self>,
        one: FloatTensor<Self>,
        two: FloatTensor<Self>,
        divisor: FloatTensor<Self>,
        rates: Rates,
    ) -> FloatTensor<Self> {
        update::subtract_two([weight, one, two, divisor], rates)
    }

    fn residual(
        gradient: FloatTensor<Self>,
        up: FloatTensor<Self>,
        phi: FloatTensor<Self>,
        share: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        update::residual(gradient, up, phi, share)
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
