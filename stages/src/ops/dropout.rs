//! Dropout whose mask depends on a seed and nothing else.
//!
//! On the CPU in f32 the mask is drawn on the host by the generator that everything random comes from. Elsewhere that
//! would mean to send a number for every entry to the device: there a hash of the entry's number and the seed decides,
//! computed where the entries are. Both kinds of mask are reproducible; they differ.

use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use rayon::prelude::*;
use sepia_engine::stage::derive_seed;

use super::{
    fused::{Fused, Host, Input, applies, apply, host, values},
    kernel::{PIECE, simd},
    precision::is_half,
};
use crate::random::Rng;

/// Random numbers of 16 bits decide: rates are rounded to this.
const LEVELS: f64 = 65_536.0;

/// `x` with each entry zero with probability `rate` (below 1) and grown by `1 / (1 - rate)` otherwise.
#[must_use]
pub fn dropout(x: Tensor<2>, rate: f64, seed: u64) -> Tensor<2> {
    let limit = (rate * LEVELS).round().clamp(0.0, LEVELS - 1.0);
    let (limit, kept) = (limit as u16, LEVELS / (LEVELS - limit));
    let (shape, count) = (x.dims(), x.shape().num_elements());
    if x.device() != Device::flex() || is_half(x.dtype()) {
        let device = x.device().without_autodiff();
        let dropped = device_mask(count, limit, seed, &device).reshape(shape);
        let dropped = if x.is_autodiff() { dropped.autodiff() } else { dropped };
        return x.mul_scalar(kept).mask_fill(dropped, 0.0);
    }
    let (keep, kept) = (mask(count, limit, seed), kept as f32);
    if applies(&x)
        && let Some(input) = Input::of(x.clone())
    {
        return apply(FusedDropout { keep, kept }, [input]);
    }
    let mask: Vec<f32> = keep.iter().map(|&keep| if keep { kept } else { 0.0 }).collect();
    let mask = Tensor::from_data(TensorData::new(mask, shape), &x.device());
    x.mul(mask)
}

/// Which entries become zero: those whose hash, of 16 bits, is below `limit`.
///
/// The hash is MurmurHash3's finalizer in 31 bits, seeded twice. Numbers are 64 bits wide, so that no product overflows.
fn device_mask(count: usize, limit: u16, seed: u64, device: &Device) -> Tensor<1, Bool> {
    const BITS: i64 = (1 << 31) - 1;
    let [low, high] = [seed as i64 & BITS, (seed >> 31) as i64 & BITS];
    let times = |hash: Tensor<1, Int>, factor: i64| hash.mul_scalar(factor).bitwise_and_scalar(BITS);
    let fold = |hash: Tensor<1, Int>, by: i64| hash.clone().bitwise_xor(hash.bitwise_right_shift_scalar(by));
    let number = Tensor::<1, Int>::arange(0..count as i64, (device, DType::I64));
    let hash = times(number, 0x1E37_79B1).bitwise_xor_scalar(low);
    let hash = times(fold(hash, 16), 0x05EB_CA6B).bitwise_xor_scalar(high);
    let hash = times(fold(hash, 13), 0x42B2_AE35);
    fold(hash, 15).bitwise_and_scalar(0xFFFF).lower_elem(i64::from(limit))
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
    use crate::{
        ops::fused::testing::{assert_same, random},
        testing::test_device,
    };

    #[test]
    fn both_forms_drop_the_same_entries() {
        if test_device() != Device::flex() {
            return; // where the entries are drawn on the device
        }
        let (rate, seed) = (0.25, 7);
        let mask = mask(70 * 600, 16_384, seed);
        let mask: Vec<f32> = mask.iter().map(|&keep| if keep { 4.0 / 3.0 } else { 0.0 }).collect();
        let mask = Tensor::<2>::from_data(TensorData::new(mask, [70, 600]), &test_device());
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
        let ones = Tensor::<2>::ones([300, 1000], &test_device());
        let dropped = dropout(ones.clone(), 0.1, 1);
        let mean = dropped.clone().mean().into_scalar::<f32>();
        assert!((mean - 1.0).abs() < 0.005, "{mean}");
        let zeros = dropped.clone().equal_elem(0.0).float().mean().into_scalar::<f32>();
        assert!((zeros - 0.1).abs() < 0.005, "{zeros}");
        let apart = |seed| (dropout(ones.clone(), 0.1, seed) - dropped.clone()).abs().max().into_scalar::<f32>();
        assert!(apart(1) == 0.0 && apart(2) > 1.0);
        assert_eq!(dropout(ones.clone(), 0.0, 1).into_data(), ones.into_data());
    }
    #[test]
    fn the_mask_of_a_device_drops_the_asked_share_and_depends_on_its_seed_alone() {
        let of = |seed| {
            let mask = device_mask(1 << 18, 16_384, seed, &test_device());
            mask.int().into_data().convert::<i64>().as_slice::<i64>().unwrap().to_vec()
        };
        let share = |mask: &[i64]| mask.iter().sum::<i64>() as f64 / mask.len() as f64;
        let (one, other) = (of(7), of(8));
        assert_eq!(one, of(7));
        assert!((share(&one) - 0.25).abs() < 0.004, "{}", share(&one));
        // Two seeds, and neighbours, are independent: a quarter of a quarter.
        let both = |a: &[i64], b: &[i64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<i64>() as f64 / a.len() as f64;
        assert!((both(&one, &other) - 0.0625).abs() < 0.003, "{}", both(&one, &other));
        for distance in [1, 2, 64, 512, 1024] {
            let apart = both(&one[..one.len() - distance], &one[distance..]);
            assert!((apart - 0.0625).abs() < 0.003, "{distance}: {apart}");
        }
    }

    #[test]
    fn in_half_precision_forward_and_backward_drop_the_same_entries() {
        let x = Tensor::<2>::ones([64, 64], &test_device()).cast(DType::BF16).autodiff().require_grad();
        let y = dropout(x.clone(), 0.5, 3);
        let grad = x.grad(&y.clone().sum().backward()).unwrap();
        assert_eq!(y.clone().inner().into_data(), grad.into_data());
        let mean = y.inner().cast(DType::F32).mean().into_scalar::<f32>();
        assert!((mean - 1.0).abs() < 0.1, "{mean}");
    }
}
