//! The linear layer.

use burn::tensor::Tensor;

use super::{
    fused::{Fused, Host, Input, applies, apply},
    matmul::matmul,
    precision::cast,
    product::product,
};

/// `x W^T`: `[n, in]` and weight `[out, in]` to `[n, out]`, computed in the type of `x`.
#[must_use]
pub fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    if applies(&x)
        && applies(&weight)
        && let (Some(x), Some(weight)) = (Input::of(x.clone()), Input::of(weight.clone()))
    {
        return apply(FusedLinear, [x, weight]);
    }
    plain(x, weight)
}

fn plain(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let weight = cast(weight, x.dtype());
    product(x, weight.transpose())
}

/// Three products whose operands are read transposed where they need to be, and whose results lie in memory as the
/// weights and activations do: the plain form returns the weight's gradient as a transposed view, which every later use
/// has to copy.
#[derive(Debug)]
struct FusedLinear;

impl Fused<2> for FusedLinear {
    type Saved = [Host; 2];

    fn forward(&self, [x, weight]: [Host; 2]) -> (Host, Self::Saved) {
        let y = matmul(&x, &weight.transpose(0, 1));
        (y, [x, weight])
    }

    fn backward(&self, [x, weight]: Self::Saved, grad: Host, wanted: [bool; 2]) -> [Option<Host>; 2] {
        let for_weight = wanted[1].then(|| matmul(&grad.transpose(0, 1), &x));
        let for_x = wanted[0].then(|| matmul(&grad, &weight));
        [for_x, for_weight]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::fused::testing::{assert_same, random};

    #[test]
    fn both_forms_agree() {
        let inputs = [random([40, 24], 1), random([56, 24], 2)];
        assert_same(inputs, |[x, weight]| linear(x, weight), |[x, weight]| plain(x, weight));
    }
}
