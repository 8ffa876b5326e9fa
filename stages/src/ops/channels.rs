//! Sums over the channels of maps.

use rayon::prelude::*;

use super::{fused::Host, kernel::simd};

/// Sizes of maps `[batch, channels, h, w]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Maps {
    shape: [usize; 4],
    pub(super) batch: usize,
    pub(super) channels: usize,
    /// Values of one map.
    pub(super) size: usize,
}

impl Maps {
    pub(super) fn of(x: &Host) -> Self {
        let shape: [usize; 4] = x.layout().shape().dims();
        let [batch, channels, h, w] = shape;
        Self { shape, batch, channels, size: h * w }
    }

    pub(super) fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// Values of one image.
    pub(super) fn image(&self) -> usize {
        self.channels * self.size
    }

    /// For each channel two sums over what `f` makes of every value in two tensors of this size, given the channel. The
    /// order of the sums is fixed: eight lanes in a map, then map by map in f64.
    pub(super) fn sums_of_pairs(
        self,
        a: &[f32],
        b: &[f32],
        f: impl Fn(usize, f32, f32) -> [f32; 2] + Sync,
    ) -> Vec<[f64; 2]> {
        let Self { batch, size, .. } = self;
        let one = |channel: usize| {
            simd(
                #[inline(always)]
                || {
                    let mut sums = [0.0f64; 2];
                    for image in 0..batch {
                        let at = image * self.image() + channel * size;
                        let (a, b) = (&a[at..at + size], &b[at..at + size]);
                        let found = of_map(a, b, |a, b| f(channel, a, b));
                        sums = [sums[0] + found[0], sums[1] + found[1]];
                    }
                    sums
                },
            )
        };
        (0..self.channels).into_par_iter().map(one).collect()
    }
}

/// [`Maps::sums_of_pairs`] of one tensor.
pub(super) fn per_channel(maps: Maps, x: &[f32], f: impl Fn(usize, f32) -> [f32; 2] + Sync) -> Vec<[f64; 2]> {
    maps.sums_of_pairs(x, x, |channel, x, _| f(channel, x))
}

#[inline(always)]
fn of_map(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> [f32; 2]) -> [f64; 2] {
    const LANES: usize = 16;
    let (mut first, mut second) = ([0.0f32; LANES], [0.0f32; LANES]);
    let (chunks_a, chunks_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = chunks_a.remainder().iter().zip(chunks_b.remainder());
    for (a, b) in chunks_a.zip(chunks_b) {
        for lane in 0..LANES {
            let [one, other] = f(a[lane], b[lane]);
            first[lane] += one;
            second[lane] += other;
        }
    }
    for (lane, (a, b)) in rest.enumerate() {
        let [one, other] = f(*a, *b);
        first[lane] += one;
        second[lane] += other;
    }
    [first, second].map(|lanes| lanes.iter().map(|sum| f64::from(*sum)).sum())
}
