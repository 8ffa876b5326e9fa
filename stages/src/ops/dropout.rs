//! Dropout whose mask depends on a seed and nothing else.

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;
use sepia_engine::stage::derive_seed;

use super::{
    fused::{Fused, Host, Input, applies, apply, host, values},
    kernel::{PIECE, simd},
};
use crate::random::Rng;

/// Random numbers of 16 bits decide: rates are rounded to this.
const LEVELS: f64 = 65_536.0;

/// `x` with each entry zero with probability `rate` (below 1) and grown by `1 / (1 - rate)` otherwise.
#[must_use]
pub fn dropout(x: Tensor<2>, rate: f64, seed: u64) -> Tensor<2> {
    let limit = (rate * LEVELS).round().clamp(0.0, LEVELS - 1.0);
    let (limit, kept) = (limit as u16, (LEVELS / (LEVELS - limit)) as f32);
    let keep = mask(x.shape().num_elements(), limit, seed);
    if applies(&x)
        && let Some(input) = Input::of(x.clone())
    {
        return apply(FusedDropout { keep, kept }, [input]);
    }
    let mask: Vec<f32> = keep.iter().map(|&keep| if keep { kept } else { 0.0 }).collect();
    let mask = Tensor::from_data(TensorData::new(mask, x.dims()), &x.device());
    x.mul(mask)
}

/// Which entries stay. Pieces of a fixed size have seeds of their own, so the number of threads does not matter.
fn mask(count: usize, limit: u16, seed: u64) -> Vec<bool> {
    let mut keep = vec![false; count];
    keep.par_chunks_mut(PIECE).enumerate().for_each(|(index, keep)| {
        let mut draws = vec![0u8; 2 * keep.len()];
        Rng::new(derive_seed(seed, "piece", index as u64)).bytes(&mut draws);
        for (keep, draw) in keep.iter_mut().zip(draws.as_chunks::<2>().0) {
            *keep = u16::from_le_bytes(*draw) >= limit;
        }
    });
    keep
}

#[derive(Debug)]
struct FusedDropout {
    keep: Vec<bool>,
    kept: f32,
}

impl FusedDropout {
    fn masked(&self, x: &Host) -> Host {
        let shape: [usize; 2] = x.layout().shape().dims();
        let mut y = vec![0.0f32; values(x).len()];
        y.par_chunks_mut(PIECE).zip(values(x).par_chunks(PIECE)).zip(self.keep.par_chunks(PIECE)).for_each(
            |((y, x), keep)| {
                simd(
                    #[inline(always)]
                    || {
                        for ((y, &x), &keep) in y.iter_mut().zip(x).zip(keep) {
                            *y = if keep { x * self.kept } else { 0.0 };
                        }
                    },
                );
            },
        );
        host(y, shape)
    }
}

impl Fused<1> for FusedDropout {
    type Saved = ();

    fn forward(&self, [x]: [Host; 1]) -> (Host, Self::Saved) {
        (self.masked(&x), ())
    }

    fn backward(&self, (): Self::Saved, grad: Host, _: [bool; 1]) -> [Option<Host>; 1] {
        [Some(self.masked(&grad))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::fused::testing::{assert_same, random};

    #[test]
    fn both_forms_drop_the_same_entries() {
        let (rate, seed) = (0.25, 7);
        let mask = mask(70 * 600, 16_384, seed);
        let mask: Vec<f32> = mask.iter().map(|&keep| if keep { 4.0 / 3.0 } else { 0.0 }).collect();
        let mask = Tensor::<2>::from_data(TensorData::new(mask, [70, 600]), &burn::tensor::Device::flex());
        assert_same(
            [random([70, 600], 1)],
            |[x]| dropout(x, rate, seed),
            |[x]| {
                let mask = if x.is_autodiff() { Tensor::from_inner(mask.clone()) } else { mask.clone() };
                x * mask
            },
        );
    }

    #[test]
    fn the_asked_share_is_dropped_and_the_mean_kept() {
        let ones = Tensor::<2>::ones([300, 1000], &burn::tensor::Device::flex());
        let dropped = dropout(ones.clone(), 0.1, 1);
        let mean = dropped.clone().mean().into_scalar::<f32>();
        assert!((mean - 1.0).abs() < 0.005, "{mean}");
        let zeros = dropped.clone().equal_elem(0.0).float().mean().into_scalar::<f32>();
        assert!((zeros - 0.1).abs() < 0.005, "{zeros}");
        let apart = |seed| (dropout(ones.clone(), 0.1, seed) - dropped.clone()).abs().max().into_scalar::<f32>();
        assert!(apart(1) == 0.0 && apart(2) > 1.0);
        assert_eq!(dropout(ones.clone(), 0.0, 1).into_data(), ones.into_data());
    }
}
