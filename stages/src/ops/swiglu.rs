//! The gate of SwiGLU (Shazeer 2020).

use burn::tensor::{Tensor, activation};
use rayon::prelude::*;

use super::{
    fused::{Fused, Host, Input, applies, apply, host, values},
    kernel::{rows_per_piece, sigmoid, simd},
};

/// `silu(gate) * up`, with `silu(x) = x / (1 + exp(-x))`; all `[n, d_ff]`.
#[must_use]
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    if applies(&gate)
        && applies(&up)
        && let (Some(gate), Some(up)) = (Input::of(gate.clone()), Input::of(up.clone()))
    {
        return apply(FusedSwiglu, [gate, up]);
    }
    plain(gate, up)
}

fn plain(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    activation::silu(gate) * up
}

#[derive(Debug)]
struct FusedSwiglu;

impl Fused<2> for FusedSwiglu {
    type Saved = [Host; 2];

    fn forward(&self, [gate, up]: [Host; 2]) -> (Host, Self::Saved) {
        let shape: [usize; 2] = gate.layout().shape().dims();
        let mut y = vec![0.0; values(&gate).len()];
        let piece = rows_per_piece(1);
        y.par_chunks_mut(piece).zip(values(&gate).par_chunks(piece)).zip(values(&up).par_chunks(piece)).for_each(
            |((y, gate), up)| {
                simd(
                    #[inline(always)]
                    || {
                        for ((y, &gate), &up) in y.iter_mut().zip(gate).zip(up) {
                            *y = gate * sigmoid(gate) * up;
                        }
                    },
                );
            },
        );
        (host(y, shape), [gate, up])
    }

    /// With `s = sigmoid(gate)`: `d up = g gate s`, `d gate = g up s (1 + gate (1 - s))`.
    fn backward(&self, [gate, up]: Self::Saved, mut grad: Host, _: [bool; 2]) -> [Option<Host>; 2] {
        let shape: [usize; 2] = gate.layout().shape().dims();
        let mut for_gate = vec![0.0; values(&gate).len()];
        let piece = rows_per_piece(1);
        let grads = grad.storage_mut::<f32>();
        grads
            .par_chunks_mut(piece)
            .zip(for_gate.par_chunks_mut(piece))
            .zip(values(&gate).par_chunks(piece))
            .zip(values(&up).par_chunks(piece))
            .for_each(|(((g, for_gate), gate), up)| {
                simd(
                    #[inline(always)]
                    || {
                        for (((g, for_gate), &gate), &up) in g.iter_mut().zip(for_gate).zip(gate).zip(up) {
                            let s = sigmoid(gate);
                            *for_gate = *g * up * (s * (1.0 + gate * (1.0 - s)));
                            *g *= gate * s;
                        }
                    },
                );
            });
        [Some(host(for_gate, shape)), Some(grad)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::fused::testing::{assert_same, random};

    #[test]
    fn both_forms_agree() {
        let inputs = [random([70, 600], 1), random([70, 600], 2)];
        assert_same(inputs, |[gate, up]| swiglu(gate, up), |[gate, up]| plain(gate, up));
    }
}
