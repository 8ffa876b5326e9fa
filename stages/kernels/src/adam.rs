//! One update of AdamW over a parameter of any shape.

use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::launch::{MOST_UNITS, address, contiguous, cubes, elem, empty, widest_vector};

/// `w <- before w - rate m / (scale sqrt(v) + eps)`, then `w <- after w`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// Decay of the two moments.
    pub betas: [f32; 2],
    /// What the moments take in, 1 - beta, rounded once.
    pub rest: [f32; 2],
    /// See above.
    pub eps: f32,
    /// See above.
    pub before: f32,
    /// See above.
    pub rate: f32,
    /// See above.
    pub scale: f32,
    /// See above.
    pub after: f32,
}

#[cube(launch, address_type = "dynamic")]
fn updated<P: Float, G: Float, S: Float, N: Size>(
    param: &[Vector<P, N>],
    grad: &[Vector<G, N>],
    m: &[Vector<S, N>],
    v: &[Vector<S, N>],
    new_param: &mut [Vector<P, N>],
    new_m: &mut [Vector<S, N>],
    new_v: &mut [Vector<S, N>],
    b1: f32,
    b2: f32,
    c1: f32,
    c2: f32,
    eps: f32,
    before: f32,
    rate: f32,
    scale: f32,
    after: f32,
    vectors: usize,
    #[define(P, G, S)] _dtypes: [ElemType; 3],
) {
    if ABSOLUTE_POS < vectors {
        let w = Vector::<f32, N>::cast_from(param[ABSOLUTE_POS]);
        let g = Vector::<f32, N>::cast_from(grad[ABSOLUTE_POS]);
        let m = Vector::new(b1) * Vector::<f32, N>::cast_from(m[ABSOLUTE_POS]) + Vector::new(c1) * g;
        let v = Vector::new(b2) * Vector::<f32, N>::cast_from(v[ABSOLUTE_POS]) + Vector::new(c2) * (g * g);
        new_m[ABSOLUTE_POS] = Vector::cast_from(m);
        new_v[ABSOLUTE_POS] = Vector::cast_from(v);
        let direction = m / (Vector::new(scale) * v.sqrt() + Vector::new(eps));
        let w = (Vector::new(before) * w - Vector::new(rate) * direction) * Vector::new(after);
        new_param[ABSOLUTE_POS] = Vector::cast_from(w);
    }
}

pub(crate) fn step(tensors: [CubeTensor; 4], adam: Adam) -> (CubeTensor, CubeTensor, CubeTensor) {
    let [param, grad, m, v] = contiguous(tensors);
    let count = param.meta.num_elements();
    let new = |like: &CubeTensor| empty(like, [count], like.dtype);
    let (new_param, new_m, new_v) = (new(&param), new(&m), new(&v));
    let vector = widest_vector(count, &[param.dtype, grad.dtype, m.dtype]);
    updated::launch(
        &new_param.client,
        cubes((count / vector).div_ceil(MOST_UNITS)),
        CubeDim::new_1d(MOST_UNITS as u32),
        address(&[&param, &grad, &m]),
        vector,
        param.clone().into_buffer_arg(),
        grad.clone().into_buffer_arg(),
        m.clone().into_buffer_arg(),
        v.into_buffer_arg(),
        new_param.clone().into_buffer_arg(),
        new_m.clone().into_buffer_arg(),
        new_v.clone().into_buffer_arg(),
        adam.betas[0],
        adam.betas[1],
        adam.rest[0],
        adam.rest[1],
        adam.eps,
        adam.before,
        adam.rate,
        adam.scale,
        adam.after,
        count / vector,
        [elem(&param), elem(&grad), elem(&m)],
    );
    (new_param, new_m, new_v)
}
