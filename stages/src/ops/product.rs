//! Products of f32 matrices that are f32 on a GPU, too.
//!
//! burn's products of f32 matrices are tuned, and on an NVIDIA GPU with tensor cores most of the kernels that are tried take
//! their operands as TF32, which has 11 significant bits of f32's 24: an error of 5e-4 in each product, for some shapes and
//! not for others, as the clock of that day decided. PyTorch does that only on request
//! (`torch.backends.cuda.matmul.allow_tf32`, off for products of matrices), and what the methods do with small differences,
//! orthonormal bases and merges, cannot bear it.
//!
//! [`product`] takes each operand apart into what bf16 holds of it, which TF32 holds as well, and the rest, which is below
//! 2^-8 of it: `A B = A1 B1 + A1 B2 + A2 B`. Each of these three may be computed in TF32; what is lost is below 2^-18 of the
//! product of magnitudes, mostly 1e-6, about what f32 loses when it adds up a thousand terms. (The same with two TF32 parts,
//! which need bit operations, is known as 3xTF32.) On tensor cores this is no slower than f32 without them. Convolutions are
//! left as they are: there TF32 is PyTorch's default, too.

use std::fmt::Debug;

// In a build that knows the CPU alone the path is never taken, but its tests are run.
#[cfg(feature = "cuda")]
use burn::backend::Cube as Gpu;
#[cfg(not(feature = "cuda"))]
use burn::backend::Flex as Gpu;
use burn::{
    backend::{
        Autodiff, Backend, TensorMetadata as _,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::NoCheckpointing},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        tensor::FloatTensor,
    },
    tensor::{DType, Device, FloatDType, Tensor},
};
use sepia_engine::stage::Dtype;

/// How exact products of f32 matrices have to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Products {
    /// As f32 is, on every device.
    #[default]
    Exact,
    /// As the device computes fastest, which may be TF32: for what was computed in 16 bits before.
    Fast,
}

impl Products {
    /// With the results of a model that computes in `dtype`.
    #[must_use]
    pub fn after(dtype: Dtype) -> Self {
        if dtype == Dtype::F32 { Self::Exact } else { Self::Fast }
    }

    /// `A B` of matrices, or of stacks of them.
    #[must_use]
    pub fn of<const D: usize>(self, a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Exact => product(a, b),
            Self::Fast => a.matmul(b),
        }
    }
}

/// `A B` of matrices, or of stacks of equally many, as exact as their type is.
#[must_use]
pub fn product<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    let wide = a.dtype() == DType::F32 && b.dtype() == DType::F32;
    if wide && a.device() != Device::flex() { in_parts(a, b) } else { a.matmul(b) }
}

fn in_parts<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    if !a.is_autodiff() && !b.is_autodiff() {
        let untracked = |tensor: Tensor<D>| tensor.try_into_primitive::<Gpu>().ok();
        return match (untracked(a.clone()), untracked(b.clone())) {
            (Some(a), Some(b)) => Tensor::from_primitive::<Gpu>(multiplied::<Gpu>(&a, &b)),
            _ => a.matmul(b),
        };
    }
    let tracked = |tensor: Tensor<D>| -> Option<FloatTensor<Autodiff<Gpu>>> {
        match tensor.is_autodiff() {
            true => tensor.try_into_primitive::<Autodiff<Gpu>>().ok(),
            false => Some(FloatTensor::<Autodiff<Gpu>>::new(tensor.try_into_primitive::<Gpu>().ok()?)),
        }
    };
    let (Some(left), Some(right)) = (tracked(a.clone()), tracked(b.clone())) else { return a.matmul(b) };
    let ((left, left_node), (right, right_node)) = (left.into_parts(), right.into_parts());
    let output = multiplied::<Gpu>(&left, &right);
    let step = Step.prepare::<NoCheckpointing>([left_node, right_node]).compute_bound().stateful();
    Tensor::from_primitive::<Autodiff<Gpu>>(match step {
        OpsKind::Tracked(prep) => prep.finish((left, right), output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    })
}

/// The gradients of a product are products.
#[derive(Debug)]
struct Step;

impl<B: Backend> Backward<B, 2> for Step {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (a, b) = ops.state;
        let [for_a, for_b] = ops.parents;
        if let Some(parent) = for_a {
            grads.register::<B>(parent.id, multiplied::<B>(&grad, &transposed::<B>(b)));
        }
        if let Some(parent) = for_b {
            grads.register::<B>(parent.id, multiplied::<B>(&transposed::<B>(a), &grad));
        }
    }
}

fn transposed<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    let rank = tensor.rank();
    B::float_swap_dims(tensor, rank - 2, rank - 1)
}

/// `A1 B1 + (A1 B2 + A2 B)`.
fn multiplied<B: Backend>(a: &FloatTensor<B>, b: &FloatTensor<B>) -> FloatTensor<B> {
    let ([a1, a2], [b1, b2]) = (parts::<B>(a), parts::<B>(b));
    let small = B::float_add(B::float_matmul(a1.clone(), b2), B::float_matmul(a2, b.clone()));
    B::float_add(B::float_matmul(a1, b1), small)
}

/// What bf16 holds of it, and the rest, which is exact.
fn parts<B: Backend>(x: &FloatTensor<B>) -> [FloatTensor<B>; 2] {
    let large = B::float_cast(B::float_cast(x.clone(), FloatDType::BF16), FloatDType::F32);
    let rest = B::float_sub(x.clone(), large.clone());
    [large, rest]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ops::fused::testing::random, vectors::flat};

    /// The largest difference, in parts of the largest entry.
    fn apart(a: &Tensor<2>, b: &Tensor<2>) -> f64 {
        let (a, b) = (flat(a), flat(b));
        let largest = b.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
        a.iter().zip(&b).fold(0.0f64, |apart, (a, b)| apart.max((a - b).abs())) / largest
    }

    /// In TF32 it would be 3e-4.
    #[test]
    fn a_product_in_parts_is_the_product_in_f32() {
        let (a, b) = (random([40, 300], 1), random([300, 24], 2));
        let exact = a.clone().cast(DType::F64).matmul(b.clone().cast(DType::F64));
        assert!(apart(&product(a.clone(), b.clone()).cast(DType::F64), &exact) < 2e-6);
        assert!(apart(&in_parts(a, b).cast(DType::F64), &exact) < 2e-6);
    }

    /// What each part would lose in TF32 is below what f32 loses.
    #[test]
    fn parts_are_small_enough_for_tf32() {
        let x = random([50, 60], 3);
        let Ok(host) = x.clone().try_into_primitive::<burn::backend::Flex>() else { return };
        let [large, rest] = parts::<burn::backend::Flex>(&host).map(Tensor::<2>::from_primitive::<burn::backend::Flex>);
        assert_eq!(flat(&(large.clone() + rest.clone())), flat(&x));
        for ((large, rest), x) in flat(&large).into_iter().zip(flat(&rest)).zip(flat(&x)) {
            assert_eq!((large as f32).to_bits() & 0x1fff, 0, "{large} has at most 11 bits");
            assert!(rest.abs() <= x.abs() / 256.0, "{rest} of {x}");
        }
    }

    #[test]
    fn its_gradients_are_those_of_a_product() {
        let inputs = [random([12, 30], 4), random([30, 9], 5)];
        let of = |form: fn(Tensor<2>, Tensor<2>) -> Tensor<2>| {
            let [a, b] = inputs.clone().map(|input| input.autodiff().require_grad());
            let output = form(a.clone(), b.clone());
            let weight = random([12, 9], 6).autodiff();
            let mut tape = (output.clone() * weight).sum().backward();
            let gradients = [&a, &b].map(|leaf| leaf.grad_remove(&mut tape).unwrap());
            // Of one operand alone.
            let one = form(a.clone(), b.clone().inner().autodiff()).sum().backward();
            let alone = a.grad(&one).unwrap();
            assert!(b.grad(&one).is_none());
            [vec![output.inner(), alone], gradients.to_vec()].concat()
        };
        let exact = |a: Tensor<2>, b: Tensor<2>| a.cast(DType::F64).matmul(b.cast(DType::F64)).cast(DType::F32);
        for (found, expected) in of(in_parts).iter().zip(of(exact)) {
            assert_eq!(found.dims(), expected.dims());
            assert!(apart(found, &expected) < 2e-6);
        }
    }

    /// Stacks, as attention has them.
    #[test]
    fn stacks_are_multiplied_one_by_one() {
        let (a, b) = (random([6, 20], 7).reshape([2, 3, 20]), random([40, 4], 8).reshape([2, 20, 4]));
        let expected = a.clone().cast(DType::F64).matmul(b.clone().cast(DType::F64)).cast(DType::F32);
        let found = in_parts(a, b);
        assert!(apart(&found.reshape([6, 4]), &expected.reshape([6, 4])) < 2e-6);
    }
}
