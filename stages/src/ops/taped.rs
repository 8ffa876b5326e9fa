//! The bridge between burn's autodiff and operations that are written in burn's tensor operations, but bring a backward pass
//! of their own: what runs on a GPU, and on the CPU in types other than f32.
//!
//! Left to itself, autodiff keeps every intermediate result of an operation, in f32 where the operation widens, and walks
//! back through them one kernel after the other. A [`Taped`] operation says what it keeps. On a GPU both of its passes are
//! kernels of `sepia_kernels`, which are tested against what is written here for the CPU.

use std::fmt::Debug;

#[cfg(feature = "cuda")]
use burn::{backend::Cube, tensor::DType};
use burn::{
    backend::{
        Autodiff, Flex,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::NoCheckpointing},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        tensor::FloatTensor,
    },
    tensor::{Device, Gradients as Tape, Tensor},
};

/// An operation with a backward pass of its own. No tensor that it sees is tracked.
pub(super) trait Taped<const N: usize>: Debug + Send + 'static {
    /// What the backward pass needs.
    type Saved: Clone + Debug + Send + 'static;

    /// The output, and what is kept.
    fn forward(&self, inputs: [Tensor<2>; N]) -> (Tensor<2>, Self::Saved);

    /// The gradient of each input, in its type, for the gradient of the output; may leave out those that are not `wanted`.
    fn backward(&self, saved: Self::Saved, grad: Tensor<2>, wanted: [bool; N]) -> [Option<Tensor<2>>; N];
}

/// Runs an operation, and registers it with autodiff where one of the inputs is tracked. All inputs are on one device.
pub(super) fn run<const N: usize, T: Taped<N>>(operation: T, inputs: [Tensor<2>; N]) -> Tensor<2> {
    if !inputs.iter().any(Tensor::is_autodiff) {
        return operation.forward(inputs).0;
    }
    if inputs.iter().any(|input| input.device() != Device::flex()) {
        with_gpu(operation, inputs)
    } else {
        with_cpu(operation, inputs)
    }
}

/// Whether the kernels for GPUs can compute with this tensor, which is not tracked.
#[cfg(feature = "cuda")]
pub(crate) fn on_gpu<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.device() != Device::flex() && tensor.dtype() != DType::F64
}

/// The backward pass from an output whose gradient is known.
pub(crate) fn backward_from(output: Tensor<2>, grad: Tensor<2>) -> Tape {
    run(Known(grad), [output]).backward()
}

/// Nothing is computed of the output: what is gone back from has the gradient 1, whatever its value.
#[derive(Debug)]
struct Known(Tensor<2>);

impl Taped<1> for Known {
    type Saved = ();

    fn forward(&self, _: [Tensor<2>; 1]) -> (Tensor<2>, ()) {
        (Tensor::zeros([1, 1], (&self.0.device(), self.0.dtype())), ())
    }

    fn backward(&self, (): (), _: Tensor<2>, _: [bool; 1]) -> [Option<Tensor<2>>; 1] {
        [Some(self.0.clone())]
    }
}

#[derive(Debug)]
struct Step<T>(T);

/// For a backend: burn does not export what would let this be generic.
macro_rules! on {
    ($name:ident, $Backend:ty) => {
        fn $name<const N: usize, T: Taped<N>>(operation: T, inputs: [Tensor<2>; N]) -> Tensor<2> {
            let mut nodes = Vec::with_capacity(N);
            let inputs = inputs.map(|input| {
                let tracked = match input.is_autodiff() {
                    true => input.try_into_primitive::<Autodiff<$Backend>>(),
                    false => input.try_into_primitive::<$Backend>().map(FloatTensor::<Autodiff<$Backend>>::new),
                };
                let Ok(tracked) = tracked else { unreachable!("all inputs are floats on one device") };
                let (primitive, node) = tracked.into_parts();
                nodes.push(node);
                Tensor::from_primitive::<$Backend>(primitive)
            });
            let Ok(nodes) = <[_; N]>::try_from(nodes) else { unreachable!("one node for each of the {N} inputs") };
            let (output, saved) = operation.forward(inputs);
            let Ok(output) = output.try_into_primitive::<$Backend>() else {
                unreachable!("it is where its inputs are")
            };
            let output = match Step(operation).prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
                OpsKind::Tracked(prep) => prep.finish(saved, output),
                OpsKind::UnTracked(prep) => prep.finish(output),
            };
            Tensor::from_primitive::<Autodiff<$Backend>>(output)
        }

        impl<const N: usize, T: Taped<N>> Backward<$Backend, N> for Step<T> {
            type State = T::Saved;

            fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = Tensor::from_primitive::<$Backend>(grads.consume::<$Backend>(&ops.node));
                let wanted = ops.parents.each_ref().map(Option::is_some);
                let found = self.0.backward(ops.state, grad, wanted);
                for (parent, grad) in ops.parents.into_iter().zip(found) {
                    if let (Some(parent), Some(grad)) = (parent, grad)
                        && let Ok(grad) = grad.try_into_primitive::<$Backend>()
                    {
                        grads.register::<$Backend>(parent.id, grad);
                    }
                }
            }
        }
    };
}

on!(with_cpu, Flex);
#[cfg(feature = "cuda")]
on!(with_gpu, Cube);
#[cfg(not(feature = "cuda"))]
use with_cpu as with_gpu;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::fused::testing::random;

    #[test]
    fn a_backward_pass_from_a_known_gradient_is_the_products_with_it() {
        let (x, grad) = (random([3, 4], 1), random([3, 4], 2));
        let leaf = x.clone().autodiff().require_grad();
        let mut tape = backward_from(leaf.clone() * leaf.clone(), grad.clone());
        let found = leaf.grad_remove(&mut tape).unwrap();
        assert_eq!(found.into_data(), (x.clone() * grad.clone() + x * grad).into_data());
    }
}

#[cfg(test)]
pub(super) mod testing {
    use burn::tensor::DType;

    use super::*;
    use crate::ops::{cast, fused::testing::random, total, widened};

    /// An operation with its own backward pass gives what autodiff finds for the plain form, in every type that models
    /// compute in.
    pub(in crate::ops) fn assert_as_autodiff<const N: usize>(
        shapes: [[usize; 2]; N],
        // How much two results may differ in bf16, as a part of the largest entry.
        bf16: f32,
        operation: impl Fn([Tensor<2>; N]) -> Tensor<2>,
        plain: impl Fn([Tensor<2>; N]) -> Tensor<2>,
    ) {
        for (dtype, bound) in [(DType::F32, 2e-5), (DType::BF16, bf16)] {
            let inputs: [Tensor<2>; N] = std::array::from_fn(|k| cast(random(shapes[k], 1 + k as u64), dtype));
            let results = [&operation as &dyn Fn([Tensor<2>; N]) -> Tensor<2>, &plain].map(|form| {
                let leaves = inputs.clone().map(|input| input.autodiff().require_grad());
                let output = form(leaves.clone());
                let weight = cast(random(output.dims(), 99), output.dtype()).autodiff();
                let mut tape = total(output.clone() * weight).backward();
                let mut all = vec![output.inner()];
                all.extend(leaves.map(|leaf| leaf.grad_remove(&mut tape).unwrap()));
                let untracked = form(inputs.clone());
                assert!(apart(untracked, all[0].clone()) <= bound * largest(all[0].clone()));
                all
            });
            let [found, expected] = results;
            for (index, (found, expected)) in found.into_iter().zip(expected).enumerate() {
                assert_eq!((found.dims(), found.dtype()), (expected.dims(), expected.dtype()), "{index}");
                let largest = largest(expected.clone());
                let apart = apart(found, expected);
                assert!(apart <= bound * largest, "{dtype:?}, {index}: {apart:e} of {largest:e}");
            }
        }
    }

    fn largest(x: Tensor<2>) -> f32 {
        widened(x).abs().max().into_scalar::<f32>()
    }

    fn apart(a: Tensor<2>, b: Tensor<2>) -> f32 {
        largest(widened(a) - widened(b))
    }
}
