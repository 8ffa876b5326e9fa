//! Randomness from explicit seeds.
//!
//! Every draw starts from a seed that names what is drawn (see [`sepia_engine::stage::derive_seed`]) and never from a
//! shared generator, so the order in which things are drawn cannot matter and a resumed run draws what an
//! uninterrupted one drew. burn's own generator is process-wide and is not used.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use rayon::prelude::*;

/// Pairs of normal draws that a thread makes at once.
const PAIRS: usize = 1 << 14;
/// 32-bit words that such a pair takes of the generator: two of [`Rng::unit`].
const WORDS: u128 = 4;

/// A generator for one purpose.
#[derive(Debug, Clone)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// The generator of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Uniform in `0..bound`; 0 for a bound of 0. The bias is below `bound / 2^64`.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.0.next_u64()) * u128::from(bound);
        (wide >> 64) as u64
    }

    /// Fills a slice with random bytes.
    pub fn bytes(&mut self, out: &mut [u8]) {
        self.0.fill_bytes(out);
    }

    /// Uniform in `(0, 1]`, with 53 random bits.
    fn unit(&mut self) -> f64 {
        ((self.0.next_u64() >> 11) + 1) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// `count` draws from the normal distribution with mean 0 (Box-Muller, in f64, rounded once).
    ///
    /// All threads draw, each from where the generator would have been: a model of a billion parameters begins with as many
    /// draws, half a minute of one thread. How many threads there are changes nothing.
    pub fn normal(&mut self, count: usize, std: f64) -> Vec<f32> {
        let begin = self.0.get_word_pos();
        let mut values = vec![0.0; count];
        values.par_chunks_mut(2 * PAIRS).enumerate().for_each(|(chunk, values)| {
            let mut rng = self.clone();
            rng.0.set_word_pos(begin + (chunk * PAIRS) as u128 * WORDS);
            for pair in values.chunks_mut(2) {
                let drawn = rng.pair(std);
                pair.copy_from_slice(&drawn[..pair.len()]);
            }
        });
        self.0.set_word_pos(begin + count.div_ceil(2) as u128 * WORDS);
        values
    }

    fn pair(&mut self, std: f64) -> [f32; 2] {
        let radius = (-2.0 * self.unit().ln()).sqrt() * std;
        let angle = 2.0 * std::f64::consts::PI * self.unit();
        [(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_draws_and_another_seed_others() {
        assert_eq!(Rng::new(7).normal(9, 1.0), Rng::new(7).normal(9, 1.0));
        assert_ne!(Rng::new(7).normal(9, 1.0), Rng::new(8).normal(9, 1.0));
    }

    #[test]
    fn normal_draws_are_those_of_one_generator_that_goes_on() {
        for (skipped, count) in [(0, 2 * PAIRS), (4, 4 * PAIRS + 3), (12, 6 * PAIRS - 1), (0, 1), (0, 0)] {
            let mut all = Rng::new(5);
            all.bytes(&mut vec![0; skipped]);
            let mut one = all.clone();
            let drawn = all.normal(count, 0.5);
            let alone: Vec<f32> = (0..count.div_ceil(2)).flat_map(|_| one.pair(0.5)).take(count).collect();
            assert!(drawn == alone, "{skipped} {count}");
            assert_eq!(all.below(u64::MAX), one.below(u64::MAX), "{skipped} {count}");
        }
    }

    #[test]
    fn normal_draws_have_the_asked_mean_and_deviation() {
        let values = Rng::new(1).normal(100_000, 0.02);
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / values.len() as f64;
        let var = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 3e-4, "{mean}");
        assert!((var.sqrt() - 0.02).abs() < 3e-4, "{}", var.sqrt());
    }

    #[test]
    fn below_reaches_every_value_and_no_other() {
        let mut rng = Rng::new(3);
        let mut seen = [0u32; 5];
        for _ in 0..5000 {
            seen[rng.below(5) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| count > 850), "{seen:?}");
        assert_eq!(rng.below(0), 0);
    }
}
