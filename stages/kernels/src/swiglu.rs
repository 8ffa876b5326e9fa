//! The gate of SwiGLU (Shazeer 2020).
//!
//! Its operands are as wide as the MLP, which is often no multiple of what a GPU likes: rows then lie apart from each other,
//! and are read and written where they are.

use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::launch::{MOST_UNITS, Pitched, address, cubes, elem, empty_pitched, sides};

#[cube(launch, address_type = "dynamic")]
fn gated<F: Float, N: Size>(
    gate: &[Vector<F, N>],
    up: &[Vector<F, N>],
    output: &mut [Vector<F, N>],
    rows: usize,
    vectors: usize,
    gate_pitch: usize,
    up_pitch: usize,
    output_pitch: usize,
    #[define(F)] _dtype: ElemType,
) {
    let (row, at) = (ABSOLUTE_POS / vectors, ABSOLUTE_POS % vectors);
    if row < rows {
        let gate = Vector::<f32, N>::cast_from(gate[row * gate_pitch + at]);
        let up = Vector::<f32, N>::cast_from(up[row * up_pitch + at]);
        output[row * output_pitch + at] = Vector::cast_from(gate * sigmoid::<N>(gate) * up);
    }
}

#[cube]
fn sigmoid<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    let one = Vector::new(1.0f32);
    one / (one + (-x).exp())
}

pub(crate) fn forward(gate: CubeTensor, up: CubeTensor) -> CubeTensor {
    let output = empty_pitched(&gate, sides(&gate), gate.dtype);
    let Pitched { tensors: [gate, up, output], pitches, rows, vectors, vector } = Pitched::new([gate, up, output]);
    gated::launch(
        &output.client,
        cubes((rows * vectors).div_ceil(MOST_UNITS)),
        CubeDim::new_1d(MOST_UNITS as u32),
        address(&[&gate, &up, &output]),
        vector,
        gate.into_buffer_arg(),
        up.into_buffer_arg(),
        output.clone().into_buffer_arg(),
        rows,
        vectors,
        pitches[0],
        pitches[1],
        pitches[2],
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
    rows: usize,
    vectors: usize,
    gate_pitch: usize,
    up_pitch: usize,
    grad_pitch: usize,
    for_gate_pitch: usize,
    for_up_pitch: usize,
    #[define(F)] _dtype: ElemType,
) {
    let (row, at) = (ABSOLUTE_POS / vectors, ABSOLUTE_POS % vectors);
    if row < rows {
        let gate = Vector::<f32, N>::cast_from(gate[row * gate_pitch + at]);
        let up = Vector::<f32, N>::cast_from(up[row * up_pitch + at]);
        let grad = Vector::<f32, N>::cast_from(grad[row * grad_pitch + at]);
        let s = sigmoid::<N>(gate);
        let one = Vector::new(1.0f32);
        for_gate[row * for_gate_pitch + at] = Vector::cast_from(grad * up * (s * (one + gate * (one - s))));
        for_up[row * for_up_pitch + at] = Vector::cast_from(grad * gate * s);
    }
}

pub(crate) fn backward(gate: CubeTensor, up: CubeTensor, grad: CubeTensor) -> (CubeTensor, CubeTensor) {
    let [for_gate, for_up] = [(); 2].map(|()| empty_pitched(&gate, sides(&gate), gate.dtype));
    let Pitched { tensors: [gate, up, grad, for_gate, for_up], pitches, rows, vectors, vector } =
        Pitched::new([gate, up, grad, for_gate, for_up]);
    gated_backward::launch(
        &for_up.client,
        cubes((rows * vectors).div_ceil(MOST_UNITS)),
        CubeDim::new_1d(MOST_UNITS as u32),
        address(&[&gate, &up, &grad, &for_gate, &for_up]),
        vector,
        gate.into_buffer_arg(),
        up.into_buffer_arg(),
        grad.into_buffer_arg(),
        for_gate.clone().into_buffer_arg(),
        for_up.clone().into_buffer_arg(),
        rows,
        vectors,
        pitches[0],
        pitches[1],
        pitches[2],
        pitches[3],
        pitches[4],
        elem(&for_up),
    );
    (for_gate, for_up)
}
