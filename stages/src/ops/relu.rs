//! ReLU, alone and of a sum.

use burn::tensor::{Tensor, activation};
use rayon::prelude::*;

use super::{
    fused::{Fused, Host, Input, applies, apply, values},
    kernel::{PIECE, simd},
};

/// The values above 0, and 0 in place of the others. NaN goes through.
#[must_use]
pub fn relu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if applies(&x)
        && let Some(input) = Input::of(x.clone())
    {
        drop(x); // so that the values have one owner and can be changed in place
        return apply(FusedRelu, [input]);
    }
    activation::relu(x)
}

/// [`relu`] of `x + y`, both of one shape.
#[must_use]
pub fn add_relu(x: Tensor<4>, y: Tensor<4>) -> Tensor<4> {
    if applies(&x)
        && applies(&y)
        && x.dims() == y.dims()
        && let (Some(input), Some(other)) = (Input::of(x.clone()), Input::of(y.clone()))
    {
        drop((x, y));
        return apply(FusedAddRelu, [input, other]);
    }
    activation::relu(x + y)
}

#[inline(always)]
fn above_zero(x: f32) -> f32 {
    // Not `max`, which would make 0 of NaN.
    if x < 0.0 { 0.0 } else { x }
}

/// The gradient where the output is above 0.
fn masked(mut grad: Host, output: &Host) -> Host {
    let pieces = grad.storage_mut::<f32>().par_chunks_mut(PIECE).zip(values(output).par_chunks(PIECE));
    pieces.for_each(|(grad, output)| {
        simd(
            #[inline(always)]
            || {
                for (grad, output) in grad.iter_mut().zip(output) {
                    *grad = if *output > 0.0 { *grad } else { 0.0 };
                }
            },
        );
    });
    grad
}

/// In place; keeps its output.
#[derive(Debug)]
struct FusedRelu;

impl Fused<1> for FusedRelu {
    type Saved = Host;

    fn forward(&self, [mut x]: [Host; 1]) -> (Host, Host) {
        x.storage_mut::<f32>().par_chunks_mut(PIECE).for_each(|x| {
            simd(
                #[inline(always)]
                || {
                    for x in x {
                        *x = above_zero(*x);
                    }
                },
            );
        });
        (x.clone(), x)
    }

    fn backward(&self, output: Host, grad: Host, _: [bool; 1]) -> [Option<Host>; 1] {
        [Some(masked(grad, &output))]
    }
}

/// In the place of the first input; keeps its output.
#[derive(Debug)]
struct FusedAddRelu;

impl Fused<2> for FusedAddRelu {
    type Saved = Host;

    fn forward(&self, [mut x, y]: [Host; 2]) -> (Host, Host) {
        x.storage_mut::<f32>().par_chunks_mut(PIECE).zip(values(&y).par_chunks(PIECE)).for_each(|(x, y)| {
            simd(
                #[inline(always)]
                || {
                    for (x, y) in x.iter_mut().zip(y) {
                        *x = above_zero(*x + y);
                    }
                },
            );
        });
        (x.clone(), x)
    }

    fn backward(&self, output: Host, grad: Host, _: [bool; 2]) -> [Option<Host>; 2] {
        let grad = masked(grad, &output);
        [Some(grad.clone()), Some(grad)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::fused::testing::{assert_same, random};

    #[test]
    fn both_forms_agree() {
        let inputs = [random([30, 2000], 1), random([30, 2000], 2)];
        assert_same([inputs[0].clone()], |[x]| relu(x), |[x]| activation::relu(x));
        let maps = |x: Tensor<2>| x.reshape([30, 2, 25, 40]);
        let flat = |y: Tensor<4>| y.flatten::<3>(2, 3).flatten::<2>(1, 2);
        assert_same(
            inputs,
            |[x, y]| flat(add_relu(maps(x), maps(y))),
            |[x, y]| flat(activation::relu(maps(x) + maps(y))),
        );
    }

    #[test]
    fn what_others_hold_stays_as_it_is() {
        let x = random([3, 4], 1).reshape([1, 1, 3, 4]);
        let before = x.clone().into_data();
        let y = add_relu(x.clone(), x.clone());
        assert_eq!(relu(x.clone()).into_data(), y.div_scalar(2.0).into_data());
        assert_eq!(x.into_data(), before);
    }

    #[test]
    fn nan_goes_through() {
        assert!(relu(random([2, 3], 1) * f32::NAN).is_nan().all().into_scalar::<bool>());
    }
}
