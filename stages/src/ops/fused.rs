//! The bridge between fused operations and burn's autodiff on the CPU.
//!
//! A [`Fused`] operation says how its output and the gradients of its inputs are computed from tensors of the `Flex`
//! backend. [`apply`] registers it with autodiff where one of the inputs is tracked, and just runs it elsewhere.

use std::fmt::Debug;

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
    tensor::{DType, Device, Shape, Tensor, TensorData},
};

/// A tensor of the CPU backend.
pub(crate) type Host = FloatTensor<Flex>;
type Tracked = FloatTensor<Autodiff<Flex>>;

/// An operation with a backward pass of its own.
pub(super) trait Fused<const N: usize>: Debug + Send + 'static {
    /// What the backward pass needs.
    type Saved: Clone + Debug + Send + 'static;

    /// The output. All inputs are contiguous f32.
    fn forward(&self, inputs: [Host; N]) -> (Host, Self::Saved);

    /// The gradient of each input, for the gradient of the output; may leave out those that are not `wanted`.
    fn backward(&self, saved: Self::Saved, grad: Host, wanted: [bool; N]) -> [Option<Host>; N];
}

/// Whether all of these tensors are f32 on the CPU, where fused forms apply.
pub(super) fn applies<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.dtype() == DType::F32 && tensor.device() == Device::flex()
}

/// An input of [`apply`], whatever its rank.
pub(super) enum Input {
    Tracked(Box<Tracked>),
    Plain(Host),
}

impl Input {
    /// The input, or `None` for a tensor that is elsewhere.
    pub(super) fn of<const D: usize>(tensor: Tensor<D>) -> Option<Self> {
        if tensor.is_autodiff() {
            tensor.try_into_primitive::<Autodiff<Flex>>().ok().map(|tensor| Input::Tracked(Box::new(tensor)))
        } else {
            tensor.try_into_primitive::<Flex>().ok().map(Input::Plain)
        }
    }

    /// Its values, tracked or not.
    pub(super) fn host(&self) -> Host {
        contiguous(match self {
            Self::Tracked(tensor) => tensor.primitive().clone(),
            Self::Plain(tensor) => tensor.clone(),
        })
    }
}

/// Runs an operation; its output has rank `D`.
pub(super) fn apply<const N: usize, const D: usize, F: Fused<N>>(fused: F, inputs: [Input; N]) -> Tensor<D> {
    if inputs.iter().all(|input| matches!(input, Input::Plain(_))) {
        let inputs = inputs.map(|input| match input {
            Input::Plain(tensor) => contiguous(tensor),
            Input::Tracked(tensor) => contiguous(tensor.into_primitive()),
        });
        return Tensor::from_primitive::<Flex>(fused.forward(inputs).0);
    }
    let mut nodes = Vec::with_capacity(N);
    let inputs = inputs.map(|input| {
        let tensor = match input {
            Input::Tracked(tensor) => *tensor,
            Input::Plain(tensor) => Tracked::new(tensor),
        };
        let (primitive, node) = tensor.into_parts();
        nodes.push(node);
        contiguous(primitive)
    });
    let Ok(nodes) = <[_; N]>::try_from(nodes) else { unreachable!("one node for each of the {N} inputs") };
    let (output, saved) = fused.forward(inputs);
    let output = match Step(fused).prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(saved, output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(output)
}

#[derive(Debug)]
struct Step<F>(F);

impl<const N: usize, F: Fused<N>> Backward<Flex, N> for Step<F> {
    type State = F::Saved;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = contiguous(grads.consume::<Flex>(&ops.node));
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let found = self.0.backward(ops.state, grad, wanted);
        for (parent, grad) in ops.parents.into_iter().zip(found) {
            if let (Some(parent), Some(grad)) = (parent, grad) {
                grads.register::<Flex>(parent.id, grad);
            }
        }
    }
}

fn contiguous(tensor: Host) -> Host {
    if tensor.is_contiguous() && tensor.layout().start_offset() == 0 { tensor } else { tensor.to_contiguous() }
}

/// The values of a contiguous tensor.
pub(super) fn values(tensor: &Host) -> &[f32] {
    &tensor.storage::<f32>()[..tensor.layout().num_elements()]
}

/// A tensor of these values.
pub(super) fn host<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Host {
    Host::from_data(TensorData::new(values, Shape::from(shape)))
}

/// A tensor without autodiff as contiguous f32 values on the CPU, or the tensor itself where it is something else.
#[expect(clippy::result_large_err, reason = "the tensor goes back to a caller who has it on the stack already")]
pub(crate) fn on_host<const D: usize>(tensor: Tensor<D>) -> Result<Host, Tensor<D>> {
    if !applies(&tensor) || tensor.is_autodiff() {
        return Err(tensor);
    }
    match tensor.clone().try_into_primitive::<Flex>() {
        Ok(host) => {
            drop(tensor); // so that the values have one owner and can be changed in place
            Ok(contiguous(host))
        }
        Err(_) => Err(tensor),
    }
}

/// Back from [`on_host`].
pub(crate) fn to_tensor<const D: usize>(host: Host) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(host)
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::{random::Rng, testing::test_device};

    /// A normal random matrix.
    pub(in crate::ops) fn random(shape: [usize; 2], seed: u64) -> Tensor<2> {
        let values = Rng::new(seed).normal(shape[0] * shape[1], 1.0);
        Tensor::from_data(TensorData::new(values, shape), &test_device())
    }

    /// Outputs of two forms and the gradients of all their inputs agree, for a random gradient of the output.
    pub(in crate::ops) fn assert_same<const N: usize>(
        inputs: [Tensor<2>; N],
        fused: impl Fn([Tensor<2>; N]) -> Tensor<2>,
        plain: impl Fn([Tensor<2>; N]) -> Tensor<2>,
    ) {
        let results = [&fused as &dyn Fn([Tensor<2>; N]) -> Tensor<2>, &plain].map(|form| {
            let leaves = inputs.clone().map(|input| input.autodiff().require_grad());
            let output = form(leaves.clone());
            let weight = random(output.dims(), 99).autodiff();
            let mut tape = (output.clone() * weight).sum().backward();
            let mut all = vec![output.inner()];
            all.extend(leaves.map(|leaf| leaf.grad_remove(&mut tape).unwrap()));
            // The same without autodiff.
            let untracked = form(inputs.clone());
            assert!((untracked - all[0].clone()).abs().max().into_scalar::<f32>() < 1e-6);
            all
        });
        let [fused, plain] = results;
        for (index, (fused, plain)) in fused.into_iter().zip(plain).enumerate() {
            assert_eq!(fused.dims(), plain.dims());
            let scale = plain.clone().abs().max().into_scalar::<f32>();
            let difference = (fused - plain).abs().max().into_scalar::<f32>();
            assert!(difference <= 2e-5 * scale, "{index}: {difference} of {scale}");
        }
    }
}
