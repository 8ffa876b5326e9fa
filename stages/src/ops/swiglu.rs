//! The gate of SwiGLU (Shazeer 2020).

use burn::tensor::{Tensor, activation};
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use super::taped::on_gpu;
use super::{
    fused::{Fused, Host, Input, applies, apply, host, values},
    kernel::{rows_per_piece, sigmoid, simd},
    precision::{cast, widened},
    taped::{Taped, run},
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
    run(TapedSwiglu, [gate, up])
}

/// In f32 between what is read and what is written.
#[derive(Debug)]
struct TapedSwiglu;

impl Taped<2> for TapedSwiglu {
    type Saved = [Tensor<2>; 2];

    fn forward(&self, [gate, up]: [Tensor<2>; 2]) -> (Tensor<2>, Self::Saved) {
        #[cfg(feature = "cuda")]
        if on_gpu(&gate) {
            return (sepia_kernels::swiglu(gate.clone(), up.clone()), [gate, up]);
        }
        let x = widened(gate.clone());
        let y = x.clone() * activation::sigmoid(x) * widened(up.clone());
        (cast(y, gate.dtype()), [gate, up])
    }

    /// See [`FusedSwiglu`].
    fn backward(&self, [gate, up]: Self::Saved, grad: Tensor<2>, _: [bool; 2]) -> [Option<Tensor<2>>; 2] {
        #[cfg(feature = "cuda")]
        if on_gpu(&gate) {
            return sepia_kernels::swiglu_backward(gate, up, grad).map(Some);
        }
        let dtype = gate.dtype();
        let (gate, up, grad) = (widened(gate), widened(up), widened(grad));
        let s = activation::sigmoid(gate.clone());
        let silu = gate * s.clone();
        let slope = s.clone() + silu.clone() - silu.clone() * s;
        [Some(cast(grad.clone() * up * slope, dtype)), Some(cast(grad * silu, dtype))]
    }
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
    use crate::ops::{
        fused::testing::{assert_same, random},
        taped::testing::assert_as_autodiff,
    };

    fn plain([gate, up]: [Tensor<2>; 2]) -> Tensor<2> {
        activation::silu(gate) * up
    }

    #[test]
    fn both_forms_agree() {
        let inputs = [random([70, 600], 1), random([70, 600], 2)];
        assert_same(inputs, |[gate, up]| swiglu(gate, up), plain);
        assert_as_autodiff([[7, 60]; 2], 2e-2, |inputs| run(TapedSwiglu, inputs), plain);
    }
}
