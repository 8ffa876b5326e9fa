//! The bias of maps.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::{
    channels::{Maps, per_channel},
    fused::{Fused, Host, Input, applies, apply, host, values},
    kernel::simd,
};

/// Adds `bias` `[channels]` to maps `[batch, channels, h, w]`.
#[must_use]
pub fn add_bias(x: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    if applies(&x)
        && applies(&bias)
        && let (Some(input), Some(bias)) = (Input::of(x.clone()), Input::of(bias.clone()))
    {
        drop(x); // so that the values have one owner and can be changed in place
        return apply(FusedBias, [input, bias]);
    }
    plain(x, bias)
}

fn plain(x: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    let [channels] = bias.dims();
    x + bias.reshape([1, channels, 1, 1])
}

#[derive(Debug)]
struct FusedBias;

impl Fused<2> for FusedBias {
    type Saved = Maps;

    fn forward(&self, [mut x, bias]: [Host; 2]) -> (Host, Maps) {
        let (maps, bias) = (Maps::of(&x), values(&bias));
        x.storage_mut::<f32>().par_chunks_mut(maps.image().max(1)).for_each(|image| {
            simd(
                #[inline(always)]
                || {
                    for (map, bias) in image.chunks_exact_mut(maps.size.max(1)).zip(bias) {
                        map.iter_mut().for_each(|x| *x += bias);
                    }
                },
            );
        });
        (x, maps)
    }

    fn backward(&self, maps: Maps, grad: Host, [_, for_bias]: [bool; 2]) -> [Option<Host>; 2] {
        let sums = for_bias.then(|| {
            let sums = per_channel(maps, values(&grad), |_, g| [g, 0.0]);
            host(sums.into_iter().map(|[sum, _]| sum as f32).collect(), [maps.channels])
        });
        [Some(grad), sums]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::fused::testing::{assert_same, random};

    #[test]
    fn both_forms_agree() {
        let form = |run: fn(Tensor<4>, Tensor<1>) -> Tensor<4>| {
            move |[x, bias]: [Tensor<2>; 2]| run(x.reshape([7, 3, 5, 9]), bias.flatten(0, 1)).reshape([7, 3 * 45])
        };
        assert_same([random([7, 3 * 45], 1), random([1, 3], 2)], form(add_bias), form(plain));
    }
}
