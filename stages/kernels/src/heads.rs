//! Between `[batch * seq, n_head * head_dim]`, in which matrices of weights are multiplied, and `[batch, n_head, seq,
//! head_dim]`, in which heads are; and on the way, turned by the rotary position embedding (Su et al. 2021).

use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::launch::{MOST_UNITS, address, contiguous, cubes, elem, empty, widest_vector};

/// How heads are turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Turn {
    /// Not at all.
    No,
    /// By their positions.
    On,
    /// Back.
    Back,
}

/// Sequences, tokens in each, heads, and the width of each.
pub(crate) type Sizes = [usize; 4];

/// A unit has a vector of the first half of a head, and what it is paired with of the second.
#[cube(launch, address_type = "dynamic")]
fn moved_heads<F: Float, N: Size>(
    input: &[Vector<F, N>],
    cos: &[Vector<f32, N>],
    sin: &[Vector<f32, N>],
    output: &mut [Vector<F, N>],
    factor: f32,
    seq: usize,
    n_head: usize,
    half: usize,
    pairs: usize,
    #[comptime] split: bool,
    #[comptime] turn: Turn,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < pairs {
        let (component, head) = (ABSOLUTE_POS % half, ABSOLUTE_POS / half);
        // In the order of the output, so that neighbours write beside each other.
        let (inner, outer) = if comptime!(split) { (seq, n_head) } else { (n_head, seq) };
        let (second, first, batch) = (head % inner, (head / inner) % outer, head / inner / outer);
        let position = if comptime!(split) { second } else { first };
        let to = head * 2 * half + component;
        let from = ((batch * inner + second) * outer + first) * 2 * half + component;
        if comptime!(turn == Turn::No) {
            output[to] = input[from];
            output[to + half] = input[from + half];
        } else {
            let a = Vector::<f32, N>::cast_from(input[from]);
            let b = Vector::<f32, N>::cast_from(input[from + half]);
            let cos = cos[position * half + component];
            let sin = sin[position * half + component];
            let factor = Vector::new(factor);
            if comptime!(turn == Turn::On) {
                output[to] = Vector::cast_from((a * cos - b * sin) * factor);
                output[to + half] = Vector::cast_from((b * cos + a * sin) * factor);
            } else {
                output[to] = Vector::cast_from((a * cos + b * sin) * factor);
                output[to + half] = Vector::cast_from((b * cos - a * sin) * factor);
            }
        }
    }
}

fn moved(
    input: CubeTensor,
    [cos, sin]: [CubeTensor; 2],
    output: CubeTensor,
    [batch, seq, n_head, head_dim]: Sizes,
    (split, turn, factor): (bool, Turn, f32),
) -> CubeTensor {
    let [input, cos, sin] = contiguous([input, cos, sin]);
    let vector = widest_vector(head_dim / 2, &[input.dtype]);
    let half = head_dim / 2 / vector;
    let pairs = batch * seq * n_head * half;
    moved_heads::launch(
        &output.client,
        cubes(pairs.div_ceil(MOST_UNITS)),
        CubeDim::new_1d(MOST_UNITS as u32),
        address(&[&output]),
        vector,
        input.into_buffer_arg(),
        cos.into_buffer_arg(),
        sin.into_buffer_arg(),
        output.clone().into_buffer_arg(),
        factor,
        seq,
        n_head,
        half,
        pairs,
        split,
        turn,
        elem(&output),
    );
    output
}

pub(crate) fn split(x: CubeTensor, tables: [CubeTensor; 2], sizes: Sizes, turn: Turn, factor: f32) -> CubeTensor {
    let [batch, seq, n_head, head_dim] = sizes;
    let output = empty(&x, [batch, n_head, seq, head_dim], x.dtype);
    moved(x, tables, output, sizes, (true, turn, factor))
}

pub(crate) fn join(x: CubeTensor, tables: [CubeTensor; 2], sizes: Sizes, turn: Turn, factor: f32) -> CubeTensor {
    let [batch, seq, n_head, head_dim] = sizes;
    let output = empty(&x, [batch * seq, n_head * head_dim], x.dtype);
    moved(x, tables, output, sizes, (false, turn, factor))
}
