//! The linear layer.

use burn::tensor::{DType, Tensor};
#[cfg(feature = "cuda")]
use sepia_kernels::cublas::Exactness;

#[cfg(feature = "cuda")]
use super::product::by_cublas;
use super::{
    fused::{Fused, Host, Input, applies, apply},
    matmul::matmul,
    precision::cast,
    product::product,
    taped::{Taped, run},
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
    run(TapedLinear, [x, weight])
}

/// The weight's gradient is a product of its own. Autodiff would transpose what it finds for the transposed weight: a view
/// that every later use has to copy, entry by entry from far apart.
#[derive(Debug)]
struct TapedLinear;

impl Taped<2> for TapedLinear {
    type Saved = (Tensor<2>, Tensor<2>, DType);

    fn forward(&self, [x, weight]: [Tensor<2>; 2]) -> (Tensor<2>, Self::Saved) {
        let held = weight.dtype();
        let weight = cast(weight, x.dtype());
        #[cfg(feature = "cuda")]
        if by_cublas(&x) {
            let (dtype, turns) = (x.dtype(), [false, true]);
            let y = sepia_kernels::multiply(x.clone(), weight.clone(), turns, Exactness::Exact, dtype);
            return (y, (x, weight, held));
        }
        (product(x.clone(), weight.clone().transpose()), (x, weight, held))
    }

    fn backward(&self, (x, weight, held): Self::Saved, grad: Tensor<2>, wanted: [bool; 2]) -> [Option<Tensor<2>>; 2] {
        // What is summed up in f32 is not rounded to 16 bits where f32 is wanted.
        #[cfg(feature = "cuda")]
        if by_cublas(&x) && wanted == [true; 2] {
            return sepia_kernels::linear_backward(grad, x, weight, held).map(Some);
        }
        let for_x = wanted[0].then(|| product(grad.clone(), weight));
        let for_weight = wanted[1].then(|| cast(product(grad.transpose(), x), held));
        [for_x, for_weight]
    }
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
    use crate::ops::{
        fused::testing::{assert_same, random},
        taped::testing::assert_as_autodiff,
        total,
    };

    fn plain([x, weight]: [Tensor<2>; 2]) -> Tensor<2> {
        product(x, weight.transpose())
    }

    #[test]
    fn both_forms_agree() {
        let inputs = [random([40, 24], 1), random([56, 24], 2)];
        assert_same(inputs, |[x, weight]| linear(x, weight), plain);
        assert_as_autodiff([[40, 24], [56, 24]], 1e-2, |inputs| run(TapedLinear, inputs), plain);
    }

    #[test]
    fn a_gradient_has_the_type_its_weight_is_held_in() {
        let x = cast(random([8, 6], 1), DType::BF16).autodiff().require_grad();
        let weight = random([4, 6], 2).autodiff().require_grad();
        let y = linear(x.clone(), weight.clone());
        assert_eq!(y.dtype(), DType::BF16);
        let mut tape = total(y).backward();
        assert_eq!(weight.grad_remove(&mut tape).unwrap().dtype(), DType::F32);
        assert_eq!(x.grad_remove(&mut tape).unwrap().dtype(), DType::BF16);
    }
}
