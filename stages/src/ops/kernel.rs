//! What fused operations share: pieces of work on several threads, vector instructions, and an exponential that the
//! compiler can vectorise.

use rayon::prelude::*;

/// Values in a piece of work: large enough to be worth a thread, small enough to stay in its cache.
pub(crate) const PIECE: usize = 1 << 15;

/// Rows of this width in a piece of work.
pub(super) fn rows_per_piece(width: usize) -> usize {
    (PIECE / width.max(1)).max(1)
}

/// Runs `work` compiled for the best vector instructions of this processor. Its loops must be inlined into it
/// (`#[inline(always)]`). Products and sums are not contracted, so that all processors give the same bits.
#[inline(always)]
pub(crate) fn simd<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// The sum of squares, on all threads, in an order that does not depend on their number.
pub(crate) fn sum_of_squares(values: &[f32]) -> f64 {
    let parts: Vec<f64> = values
        .par_chunks(PIECE)
        .map(|values| {
            simd(
                #[inline(always)]
                || f64::from(sum_of(values, |x| x * x)),
            )
        })
        .collect();
    parts.iter().sum()
}

/// Multiplies all values, on all threads.
pub(crate) fn scale(values: &mut [f32], factor: f32) {
    values.par_chunks_mut(PIECE).for_each(|values| {
        simd(
            #[inline(always)]
            || {
                for value in values {
                    *value *= factor;
                }
            },
        );
    });
}

/// `exp(x)` to about 2 ulp between -87 and 88; clamped outside, so `exp(-inf)` is about 1e-38 and not 0.
///
/// Cephes' `expf`: `x = n ln 2 + r` with ln 2 in two parts, a polynomial of degree 6 for `exp(r)`, and `n` added to the
/// exponent bits. NaN stays NaN.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer without a call.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.0);
    let n = (clamped * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = clamped - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 5.000_000_3e-1;
    let value = p * (r * r) + r + 1.0;
    let scale = f32::from_bits((((n as i32) + 127) << 23) as u32);
    value * scale
}

/// `1 / (1 + exp(-x))`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The sum of `f` over a slice, in eight lanes so that it can be vectorised; the order is fixed.
#[inline(always)]
pub(super) fn sum_of(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 8];
    let chunks = values.chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..8 {
            lanes[lane] += f(chunk[lane]);
        }
    }
    for (lane, &value) in rest.iter().enumerate() {
        lanes[lane] += f(value);
    }
    ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]))
}

/// The sum of `f` over two slices of one length, as [`sum_of`].
#[inline(always)]
pub(super) fn sum_of_pairs(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 8];
    let (chunks_a, chunks_b) = (a.chunks_exact(8), b.chunks_exact(8));
    let (rest_a, rest_b) = (chunks_a.remainder(), chunks_b.remainder());
    for (a, b) in chunks_a.zip(chunks_b) {
        for lane in 0..8 {
            lanes[lane] += f(a[lane], b[lane]);
        }
    }
    for (lane, (&a, &b)) in rest_a.iter().zip(rest_b).enumerate() {
        lanes[lane] += f(a, b);
    }
    ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]))
}

/// The largest value; negative infinity for none. NaN is left out, but shows in every sum of exponentials.
#[inline(always)]
pub(super) fn max_of(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 8];
    let chunks = values.chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..8 {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_right_to_two_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for step in -870_000..880_000 {
            let x = step as f32 * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max(((f64::from(exp(x)) - exact) / exact).abs());
        }
        assert!(worst < 2.4e-7, "{worst}");
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 2e-38);
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn sums_cover_every_value() {
        let values: Vec<f32> = (0..21).map(|i| i as f32).collect();
        assert_eq!(simd(|| sum_of(&values, |x| 2.0 * x)), 420.0);
        assert_eq!(simd(|| sum_of_pairs(&values, &values, |a, b| a * b)), 2870.0);
        assert_eq!(simd(|| max_of(&values)), 20.0);
    }
}
