//! The gate of SwiGLU (Shazeer 2020).

use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::launch::{MOST_UNITS, address, contiguous, cubes, elem, empty, sides, widest_vector};

#[cube(launch, address_type = "dynamic")]
fn gated<F: Float, N: Size>(
    gate: &[Vector<F, N>],
    up: &[Vector<F, N>],
    output: &mut [Vector<F, N>],
    vectors: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < vectors {
        let gate = Vector::<f32, N>::cast_from(gate[ABSOLUTE_POS]);
        let up = Vector::<f32, N>::cast_from(up[ABSOLUTE_POS]);
        output[ABSOLUTE_POS] = Vector::cast_from(gate * sigmoid::<N>(gate) * up);
    }
}

#[cube]
fn sigmoid<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    let one = Vector::new(1.0f32);
    one / (one + (-x).exp())
}

pub(crate) fn forward(gate: CubeTensor, up: CubeTensor) -> CubeTensor {
    let [gate, up] = contiguous([gate, up]);
    let output = empty(&gate, sides(&gate), gate.dtype);
    let count = output.meta.num_elements();
    let vector = widest_vector(count, &[output.dtype]);
    gated::launch(
        &output.client,
        cubes((count / vector).div_ceil(MOST_UNITS)),
        CubeDim::new_1d(MOST_UNITS as u32),
        address(&[&output]),
        vector,
        gate.into_buffer_arg(),
        up.into_buffer_arg(),
        output.clone().into_buffer_arg(),
        count / vector,
        elem(&output),
    );
    output
}

/// With `s = sigmoid(gate)`: `d up = g gate s`, `d gate = g up s (1 + gate (1 - s))`.
#[cube(launch, address_type = "dynamic")]
fn gated_backward<F: Float, N: Size>(
    gate: &[Vector<F, N>],
    up: &[Vector<F, N>],
    grad: &[Vector<F, N>],
    for_gate: &mut [Vector<F, N>],
    for_up: &mut [Vector<F, N>],
    vectors: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < vectors {
        let gate = Vector::<f32, N>::cast_from(gate[ABSOLUTE_POS]);
        let up = Vector::<f32, N>::cast_from(up[ABSOLUTE_POS]);
        let grad = Vector::<f32, N>::cast_from(grad[ABSOLUTE_POS]);
        let s = sigmoid::<N>(gate);
        let one = Vector::new(1.0f32);
        for_gate[ABSOLUTE_POS] = Vector::cast_from(grad * up * (s * (one + gate * (one - s))));
        for_up[ABSOLUTE_POS] = Vector::cast_from(grad * gate * s);
    }
}

pub(crate) fn backward(gate: CubeTensor, up: CubeTensor, grad: CubeTensor) -> (CubeTensor, CubeTensor) {
    let [gate, up, grad] = contiguous([gate, up, grad]);
    let (for_gate, for_up) = (empty(&gate, sides(&gate), gate.dtype), empty(&gate, sides(&gate), gate.dtype));
    let count = for_up.meta.num_elements();
    let vector = widest_vector(count, &[for_up.dtype]);
    gated_backward::launch(
        &for_up.client,
        cubes((count / vector).div_ceil(MOST_UNITS)),
        CubeDim::new_1d(MOST_UNITS as u32),
        address(&[&for_up]),
        vector,
        gate.into_buffer_arg(),
        up.into_buffer_arg(),
        grad.into_buffer_arg(),
        for_gate.clone().into_buffer_arg(),
        for_up.clone().into_buffer_arg(),
        count / vector,
        elem(&for_up),
    );
    (for_gate, for_up)
}
