//! Rank measures of a matrix, all computed from its singular values in f64.
//!
//! With `s_1 >= ... >= s_q`, `q = min(m, n)`. A zero matrix has rank 0 by every measure.

use serde::{Deserialize, Serialize};

/// The singular values of an `[m, n]` matrix and the threshold below which one counts as zero.
#[derive(Debug, Clone, Copy)]
pub struct Spectrum<'a> {
    s: &'a [f64],
    tol: f64,
}

/// How many directions reach a share of the total.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EnergyRank {
    /// The share, 0 to 1.
    pub threshold: f64,
    /// Smallest k with `sum_{i<=k} s_i^2 >= threshold * sum s_i^2`.
    pub energy_rank: usize,
    /// The same with `s_i` in place of `s_i^2`.
    pub accumulative_rank: usize,
}

/// Every measure of one matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankMeasures {
    /// Singular values above the tolerance.
    pub rank: usize,
    /// `sum s_i^2 / s_1^2`, 1 to q.
    pub stable_rank: f64,
    /// The stable rank rounded down, as the Cuttlefish code uses it.
    pub stable_rank_int: usize,
    /// `exp` of the entropy of `s_i / sum s`, 1 to q (Roy and Vetterli).
    pub effective_rank: f64,
    /// Effective rank over q.
    pub proportional_effective_rank: f64,
    /// `exp` of the entropy of `s_i^2 / sum s^2`.
    pub energy_entropy_rank: f64,
    /// `(sum s_i^2)^2 / sum s_i^4`.
    pub participation_ratio: f64,
    /// Nuclear norm over spectral norm.
    pub intrinsic_dimension: f64,
    /// `s_1 / s_q`; absent (infinite) when `s_q` counts as zero.
    pub condition_number: Option<f64>,
    /// `s_1` over the smallest singular value that does not count as zero.
    pub condition_number_nonzero: f64,
    /// `sum s_i`.
    pub nuclear_norm: f64,
    /// `sqrt(sum s_i^2)`.
    pub frobenius_norm: f64,
    /// `s_1`.
    pub spectral_norm: f64,
    /// Energy ranks at the thresholds asked for, in that order.
    pub energy: Vec<EnergyRank>,
}

impl<'a> Spectrum<'a> {
    /// Singular values, descending; those at or below `tol` count as zero.
    #[must_use]
    pub fn new(s: &'a [f64], tol: f64) -> Self {
        Self { s, tol }
    }

    /// The customary tolerance `max(m, n) * eps * s_1`.
    #[must_use]
    pub fn default_tol(m: usize, n: usize, eps: f64, s: &[f64]) -> f64 {
        m.max(n) as f64 * eps * s.first().copied().unwrap_or(0.0)
    }

    fn first(&self) -> f64 {
        self.s.first().copied().unwrap_or(0.0)
    }

    fn sum(&self, power: i32) -> f64 {
        self.s.iter().map(|s| s.powi(power)).sum()
    }

    fn ratio(top: f64, bottom: f64) -> f64 {
        if bottom > 0.0 { top / bottom } else { 0.0 }
    }

    /// Singular values above the tolerance.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.s.iter().filter(|s| **s > self.tol).count()
    }

    /// `||W||_F^2 / ||W||_2^2`.
    #[must_use]
    pub fn stable_rank(&self) -> f64 {
        // Scaled by s_1 first, so that the squares of tiny or huge values neither vanish nor overflow.
        self.s.iter().map(|s| Self::ratio(*s, self.first()).powi(2)).sum()
    }

    /// The stable rank rounded down. 1e-9 is added first: a matrix like the identity would otherwise lose one to
    /// round-off.
    #[must_use]
    pub fn stable_rank_int(&self) -> usize {
        (self.stable_rank() + 1e-9).floor() as usize
    }

    /// `exp(-sum p ln p)` with `p_i = s_i^power / sum s^power`.
    fn entropy_rank(&self, power: i32) -> f64 {
        let scaled: Vec<f64> = self.s.iter().map(|s| Self::ratio(*s, self.first()).powi(power)).collect();
        let total: f64 = scaled.iter().sum();
        if total <= 0.0 {
            return 0.0;
        }
        let shares = scaled.iter().map(|s| s / total).filter(|p| *p > 0.0);
        (-shares.map(|p| p * p.ln()).sum::<f64>()).exp()
    }

    /// Effective rank: entropy of the singular values.
    #[must_use]
    pub fn effective_rank(&self) -> f64 {
        self.entropy_rank(1)
    }

    /// Entropy of the squared singular values.
    #[must_use]
    pub fn energy_entropy_rank(&self) -> f64 {
        self.entropy_rank(2)
    }

    /// `(sum s_i^2)^2 / sum s_i^4`.
    #[must_use]
    pub fn participation_ratio(&self) -> f64 {
        let squares: Vec<f64> = self.s.iter().map(|s| Self::ratio(*s, self.first()).powi(2)).collect();
        let sum: f64 = squares.iter().sum();
        Self::ratio(sum * sum, squares.iter().map(|e| e * e).sum())
    }

    /// Smallest k (from 1) whose leading `s_i^power` reach `threshold` of the total; 0 for a zero matrix.
    fn share_rank(&self, threshold: f64, power: i32) -> usize {
        let scaled: Vec<f64> = self.s.iter().map(|s| Self::ratio(*s, self.first()).powi(power)).collect();
        let total: f64 = scaled.iter().sum();
        if total <= 0.0 {
            return 0;
        }
        let mut running = 0.0;
        let reached = scaled.iter().position(|share| {
            running += share;
            running / total >= threshold
        });
        reached.map_or(self.s.len(), |index| index + 1)
    }

    /// Energy and accumulative rank at one threshold.
    #[must_use]
    pub fn energy(&self, threshold: f64) -> EnergyRank {
        EnergyRank {
            threshold,
            energy_rank: self.share_rank(threshold, 2),
            accumulative_rank: self.share_rank(threshold, 1),
        }
    }

    /// `s_1 / s_q`; `None` when the last singular value counts as zero.
    #[must_use]
    pub fn condition_number(&self) -> Option<f64> {
        let last = *self.s.last()?;
        (last > self.tol && last > 0.0).then(|| self.first() / last)
    }

    /// `s_1` over the smallest singular value that does not count as zero.
    #[must_use]
    pub fn condition_number_nonzero(&self) -> f64 {
        let rank = self.rank();
        if rank == 0 { 0.0 } else { Self::ratio(self.first(), self.s[rank - 1]) }
    }

    /// Every measure, with energy ranks at these thresholds.
    #[must_use]
    pub fn measures(&self, thresholds: &[f64]) -> RankMeasures {
        let effective_rank = self.effective_rank();
        RankMeasures {
            rank: self.rank(),
            stable_rank: self.stable_rank(),
            stable_rank_int: self.stable_rank_int(),
            effective_rank,
            proportional_effective_rank: Self::ratio(effective_rank, self.s.len() as f64),
            energy_entropy_rank: self.energy_entropy_rank(),
            participation_ratio: self.participation_ratio(),
            intrinsic_dimension: Self::ratio(self.sum(1), self.first()),
            condition_number: self.condition_number(),
            condition_number_nonzero: self.condition_number_nonzero(),
            nuclear_norm: self.sum(1),
            frobenius_norm: self.sum(2).sqrt(),
            spectral_norm: self.first(),
            energy: thresholds.iter().map(|threshold| self.energy(*threshold)).collect(),
        }
    }
}

/// Scaled stable rank `xi * stable_rank(W_t)` with `xi = q / stable_rank(W_0)`, clipped to q (Cuttlefish): 1 to q, and q
/// at initialisation.
#[must_use]
pub fn scaled_stable_rank(now: f64, at_init: f64, q: usize) -> f64 {
    (Spectrum::ratio(q as f64, at_init) * now).min(q as f64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use faer::Mat;

    use super::*;
    use crate::{
        linalg::svd::singular_values,
        vectors::{Rows, assert_near, vector},
    };

    fn check(id: &str) {
        let vector = vector(id);
        let rows: Rows = vector.input("W");
        let w = Mat::from_fn(rows.len(), rows[0].len(), |i, j| rows[i][j]);
        let s = singular_values(w.as_ref()).unwrap();
        let tol = vector.tol();
        for (found, expected) in s.iter().zip(vector.expected::<Vec<f64>>("singular_values")) {
            assert_near(*found, expected, tol);
        }
        let shares = vector.expected::<BTreeMap<String, usize>>("energy_rank_sigma2");
        let accumulated = vector.expected::<BTreeMap<String, usize>>("energy_rank_sigma");
        let thresholds: Vec<f64> = shares.keys().map(|key| key.parse().unwrap()).collect();
        let found = Spectrum::new(&s, 1e-6).measures(&thresholds);
        for (measure, name) in [
            (found.frobenius_norm, "frobenius"),
            (found.spectral_norm, "spectral"),
            (found.nuclear_norm, "nuclear"),
            (found.stable_rank, "stable_rank"),
            (found.intrinsic_dimension, "nuclear_over_spectral"),
            (found.effective_rank, "effective_rank_sigma"),
            (found.proportional_effective_rank, "proportional_effective_rank"),
            (found.energy_entropy_rank, "effective_rank_sigma2"),
            (found.participation_ratio, "participation_ratio"),
            (found.condition_number_nonzero, "condition_number_nonzero"),
        ] {
            assert_near(measure, vector.expected(name), tol);
        }
        assert_eq!(found.stable_rank_int, vector.expected::<usize>("stable_rank_int"));
        assert_eq!(found.rank, vector.expected::<usize>("numerical_rank_1e6"));
        for energy in &found.energy {
            let key = energy.threshold.to_string();
            assert_eq!(
                (energy.energy_rank, energy.accumulative_rank),
                (shares[&key], accumulated[&key]),
                "{id} at {key}"
            );
        }
        assert_eq!(found.condition_number.is_none(), found.rank < s.len());
    }

    #[test]
    fn vector_rank_diag421() {
        check("rank_diag421");
    }

    #[test]
    fn vector_rank_3x4() {
        check("rank_3x4");
    }

    #[test]
    fn vector_rank_deficient() {
        check("rank_deficient");
    }

    #[test]
    fn vector_rank_identity() {
        check("rank_identity");
    }

    #[test]
    fn a_zero_matrix_has_rank_zero_by_every_measure() {
        let found = Spectrum::new(&[0.0, 0.0], 0.0).measures(&[0.5]);
        assert_eq!((found.rank, found.stable_rank, found.effective_rank), (0, 0.0, 0.0));
        assert_eq!((found.participation_ratio, found.condition_number), (0.0, None));
        assert_eq!(found.energy[0].energy_rank, 0);
    }

    #[test]
    fn tiny_and_huge_matrices_have_the_rank_of_their_shape() {
        for scale in [1e-200, 1.0, 1e200] {
            let s: Vec<f64> = [4.0, 2.0, 1.0].iter().map(|s| s * scale).collect();
            let spectrum = Spectrum::new(&s, 0.0);
            assert_near(spectrum.stable_rank(), 1.3125, 1e-12);
            assert_near(spectrum.participation_ratio(), 441.0 / 273.0, 1e-12);
            assert_eq!(spectrum.energy(0.9).energy_rank, 2);
        }
    }

    #[test]
    fn a_share_of_one_asks_for_all_directions() {
        let s = [0.3, 0.2, 0.1];
        assert_eq!(Spectrum::new(&s, 0.0).energy(1.0).energy_rank, 3);
    }

    #[test]
    fn the_scaled_stable_rank_starts_at_q_and_is_clipped_there() {
        assert_near(scaled_stable_rank(5.0, 5.0, 8), 8.0, 1e-12);
        assert_near(scaled_stable_rank(2.5, 5.0, 8), 4.0, 1e-12);
        assert_near(scaled_stable_rank(7.0, 5.0, 8), 8.0, 1e-12);
    }
}
