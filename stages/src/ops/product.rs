//! Products of matrices, and how exact those of f32 are on a GPU.
//!
//! Where cuBLAS is installed it multiplies, as it does for PyTorch: products of f32 are f32.
//!
//! Without it burn's kernels do. Its products of f32 matrices are tuned, and on an NVIDIA GPU with tensor cores most of the
//! kernels that are tried take their operands as TF32, which has 11 significant bits of f32's 24: an error of 5e-4 in each
//! product, for some shapes and not for others, as the clock of that day decided. PyTorch does that only on request
//! (`torch.backends.cuda.matmul.allow_tf32`, off for products of matrices), and what the methods do with small differences,
//! orthonormal bases and merges, cannot bear it.
//!
//! [`product`] then takes each operand apart into what bf16 holds of it, which TF32 holds as well, and the rest, which is
//! below 2^-8 of it: `A B = A1 B1 + A1 B2 + A2 B`. Each of these three may be computed in TF32; what is lost is below 2^-18
//! of the product of magnitudes, mostly 1e-6, about what f32 loses when it adds up a thousand terms. (The same with two TF32
//! parts, which need bit operations, is known as 3xTF32.) On tensor cores this is no slower than f32 without them.
//! Convolutions are left as they are: there TF32 is PyTorch's default, too.

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
        ops::FloatTensorOps as _,
        tensor::FloatTensor,
    },
    tensor::{DType, Device, FloatDType, Tensor},
};
use sepia_engine::stage::Dtype;
#[cfg(feature = "cuda")]
use sepia_kernels::{
    Kernels as _,
    cublas::{self, Exactness},
};

#[cfg(feature = "cuda")]
use super::precision::is_half;

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
        match Form::for_these(&a, &b, self) {
            Some(form) => form.product(a, b),
            None => a.matmul(b),
        }
    }
}

/// `A B` of matrices, or of stacks of equally many, as exact as their type is.
#[must_use]
pub fn product<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    Products::Exact.of(a, b)
}

/// Whether cuBLAS multiplies this tensor, which is not tracked, with others of its type.
#[cfg(feature = "cuda")]
pub(super) fn by_cublas<const D: usize>(tensor: &Tensor<D>) -> bool {
    matches!(Form::for_these(tensor, tensor, Products::Exact), Some(Form::Cublas(_)))
}

/// By whom matrices on a GPU are multiplied, if not by burn as it likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// By burn, in parts.
    Parts,
    #[cfg(feature = "cuda")]
    Cublas(Exactness),
}

impl Form {
    fn for_these<const D: usize>(a: &Tensor<D>, b: &Tensor<D>, products: Products) -> Option<Self> {
        if a.device() == Device::flex() || a.dtype() != b.dtype() {
            return None;
        }
        let wide = a.dtype() == DType::F32;
        #[cfg(feature = "cuda")]
        if cublas::is_open() && (wide || is_half(a.dtype())) {
            return Some(Self::Cublas(match products {
                Products::Exact => Exactness::Exact,
                Products::Fast => Exactness::Fast,
            }));
        }
        (wide && products == Products::Exact).then_some(Self::Parts)
    }

    fn product<const D: usize>(self, a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
        if !a.is_autodiff() && !b.is_autodiff() {
            let untracked = |tensor: Tensor<D>| tensor.try_into_primitive::<Gpu>().ok();
            return match (untracked(a.clone()), untracked(b.clone())) {
                (Some(a), Some(b)) => Tensor::from_primitive::<Gpu>(self.multiplied(a, b)),
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
        let output = self.multiplied(left.clone(), right.clone());
        let step = Step(self).prepare::<NoCheckpointing>([left_node, right_node]).compute_bound().stateful();
        Tensor::from_primitive::<Autodiff<Gpu>>(match step {
            OpsKind::Tracked(prep) => prep.finish((left, right), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        })
    }

    fn multiplied(self, a: FloatTensor<Gpu>, b: FloatTensor<Gpu>) -> FloatTensor<Gpu> {
        match self {
            Self::Parts => in_parts(&a, &b),
            #[cfg(feature = "cuda")]
            Self::Cublas(exactness) => {
                let dtype = a.dtype();
                Gpu::multiply(a, b, [false; 2], exactness, dtype)
            }
        }
    }
}

/// The gradients of a product are products.
#[derive(Debug)]
struct Step(Form);

impl Backward<Gpu, 2> for Step {
    type State = (FloatTensor<Gpu>, FloatTensor<Gpu>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Gpu>(&ops.node);
        let (a, b) = ops.state;
        let [for_a, for_b] = ops.parents;
        if let Some(parent) = for_a {
            grads.register::<Gpu>(parent.id, self.0.multiplied(grad.clone(), transposed(b)));
        }
        if let Some(parent) = for_b {
            grads.register::<Gpu>(parent.id, self.0.multiplied(transposed(a), grad));
        }
    }
}

fn transposed(tensor: FloatTensor<Gpu>) -> FloatTensor<Gpu> {
    let rank = tensor.rank();
    Gpu::float_swap_dims(tensor, rank - 2, rank - 1)
}

/// `A1 B1 + (A1 B2 + A2 B)`.
fn in_parts(a: &FloatTensor<Gpu>, b: &FloatTensor<Gpu>) -> FloatTensor<Gpu> {
    let ([a1, a2], [b1, b2]) = (parts::<Gpu>(a), parts::<Gpu>(b));
    let small = Gpu::float_add(Gpu::float_matmul(a1.clone(), b2), Gpu::float_matmul(a2, b.clone()));
    Gpu::float_add(Gpu::float_matmul(a1, b1), small)
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
    use crate::{
        ops::{cast, fused::testing::random},
        vectors::flat,
    };

    /// The largest difference, in parts of the largest entry.
    fn apart(a: &Tensor<2>, b: &Tensor<2>) -> f64 {
        let (a, b) = (flat(a), flat(b));
        let largest = b.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
        a.iter().zip(&b).fold(0.0f64, |apart, (a, b)| apart.max((a - b).abs())) / largest
    }

    /// Those that compute as f32 does, as far as they are here.
    fn exact_forms() -> Vec<Form> {
        let forms = [Some(Form::Parts), Form::for_these(&random([1, 1], 1), &random([1, 1], 1), Products::Exact)];
        forms.into_iter().flatten().collect()
    }

    fn exact<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
        a.cast(DType::F64).matmul(b.cast(DType::F64)).cast(DType::F32)
    }

    /// In TF32 it would be 3e-4.
    #[test]
    fn products_of_f32_are_f32() {
        let (a, b) = (random([40, 300], 1), random([300, 24], 2));
        let expected = exact(a.clone(), b.clone());
        assert!(apart(&product(a.clone(), b.clone()), &expected) < 2e-6);
        for form in exact_forms() {
            assert!(apart(&form.product(a.clone(), b.clone()), &expected) < 2e-6, "{form:?}");
        }
        assert!(apart(&Products::Fast.of(a, b), &expected) < 1e-3);
    }

    /// Of operands that are views: transposed, of some rows and of some columns of larger ones.
    #[test]
    fn operands_may_lie_in_any_order() {
        let (a, b) = (random([30, 70], 1), random([20, 60], 2));
        let (a, b) = (a.transpose().narrow(0, 5, 60).narrow(1, 3, 25), b.transpose().narrow(1, 2, 7));
        let expected = exact(a.clone().transpose(), b.clone());
        for form in exact_forms() {
            assert!(apart(&form.product(a.clone().transpose(), b.clone()), &expected) < 2e-6, "{form:?}");
        }
        let sixteen = [a.transpose(), b].map(|operand| cast(operand, DType::BF16));
        let [a, b] = sixteen.clone().map(|operand| cast(operand, DType::F32));
        let [x, y] = sixteen;
        let narrow = product(x, y);
        assert_eq!(narrow.dtype(), DType::BF16);
        assert!(apart(&cast(narrow, DType::F32), &exact(a, b)) < 1e-2);
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
        let of = |form: &dyn Fn(Tensor<2>, Tensor<2>) -> Tensor<2>| {
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
        let expected = of(&exact);
        for form in exact_forms() {
            for (found, expected) in of(&|a, b| form.product(a, b)).iter().zip(&expected) {
                assert_eq!(found.dims(), expected.dims());
                assert!(apart(found, expected) < 2e-6, "{form:?}");
            }
        }
    }

    /// Stacks, as attention has them.
    #[test]
    fn stacks_are_multiplied_one_by_one() {
        let (a, b) = (random([6, 20], 7).reshape([2, 3, 20]), random([40, 4], 8).reshape([2, 20, 4]));
        let expected = exact(a.clone(), b.clone()).reshape([6, 4]);
        for form in exact_forms() {
            assert!(apart(&form.product(a.clone(), b.clone()).reshape([6, 4]), &expected) < 2e-6, "{form:?}");
        }
    }
}
