//! Products of matrices, and what is made of several.
//!
//! Operations that burn defers cost the host more than a kernel's launch, and each of these is one of them, whatever it is
//! made of.

use burn::{backend::ops::FloatTensorOps as _, tensor::DType};
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use sepia_cublas::Exactness;

use crate::{
    heads::{self, Sizes, Turn},
    softmax,
};

/// A factor of a product: as it is, or the transposed one. A turned tensor stays where it is.
fn turned(tensor: CubeTensor, turn: bool) -> CubeTensor {
    let rank = tensor.meta.shape().as_slice().len();
    if turn { CubeBackend::float_swap_dims(tensor, rank - 2, rank - 1) } else { tensor }
}

/// `A B`, of factors that are turned before.
pub(crate) fn multiply(
    [a, b]: [CubeTensor; 2],
    [turn_a, turn_b]: [bool; 2],
    exactness: Exactness,
    dtype: DType,
) -> CubeTensor {
    let (a, b) = (turned(a, turn_a), turned(b, turn_b));
    sepia_cublas::product(&a, &b, exactness, dtype).unwrap_or_else(|| {
        let product = CubeBackend::float_matmul(a, b);
        if product.dtype == dtype { product } else { CubeBackend::float_cast(product, dtype.into()) }
    })
}

/// In the type of the factors, and as exact.
fn exact(factors: [CubeTensor; 2], turns: [bool; 2]) -> CubeTensor {
    let dtype = factors[0].dtype;
    multiply(factors, turns, Exactness::Exact, dtype)
}

/// The gradients of `x` and `W` for that of `x W'`; the latter in numbers of `dtype`.
pub(crate) fn linear_backward(
    grad: CubeTensor,
    x: CubeTensor,
    weight: CubeTensor,
    dtype: DType,
) -> (CubeTensor, CubeTensor) {
    let for_x = exact([grad.clone(), weight], [false, false]);
    (for_x, multiply([grad, x], [true, false], Exactness::Exact, dtype))
}

/// Attention, with turned and scaled queries, turned keys, and values, in heads.
pub(crate) fn attention(
    [q, k, v]: [CubeTensor; 3],
    tables: [CubeTensor; 2],
    (sizes, factor): (Sizes, f32),
) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
    let split = |x, turn, factor| heads::split(x, tables.clone(), sizes, turn, factor);
    let (q, k, v) = (split(q, Turn::On, factor), split(k, Turn::On, 1.0), split(v, Turn::No, 1.0));
    let p = probabilities(&q, &k);
    let mixed = heads::join(exact([p, v.clone()], [false, false]), tables, sizes, Turn::No, 1.0);
    (mixed, q, k, v)
}

/// The gradients of what [`attention`] took, from what it gave in heads. Probabilities are computed again.
pub(crate) fn attention_backward(
    [q, k, v]: [CubeTensor; 3],
    grad: CubeTensor,
    tables: [CubeTensor; 2],
    (sizes, factor): (Sizes, f32),
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let p = probabilities(&q, &k);
    let grad = heads::split(grad, tables.clone(), sizes, Turn::No, 1.0);
    let for_v = exact([p.clone(), grad.clone()], [true, false]);
    let for_scores = softmax::backward(p, exact([grad, v], [false, true]));
    let for_k = exact([for_scores.clone(), q], [true, false]);
    let for_q = exact([for_scores, k], [false, false]);
    let join = |x, turn, factor| heads::join(x, tables.clone(), sizes, turn, factor);
    (join(for_q, Turn::Back, factor), join(for_k, Turn::Back, 1.0), join(for_v, Turn::No, 1.0))
}

fn probabilities(q: &CubeTensor, k: &CubeTensor) -> CubeTensor {
    softmax::forward(exact([q.clone(), k.clone()], [false, true]))
}
