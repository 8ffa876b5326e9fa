//! Which rank a matrix gets, and whether it is worth having.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Keep;

/// Which rank a matrix `[m, n]` gets; q = min(m, n).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RankRule {
    /// The smallest k whose squared singular values reach this share of the total, above 0 and at most 1.
    Energy(f64),
    /// The same with the singular values themselves.
    Accumulative(f64),
    /// Singular values up to the first one below this number.
    Value(f64),
    /// This part of q, rounded down, at least 1: above 0 and at most 1.
    Ratio(f64),
    /// `floor(m n / (c (m + n)))`, at least 1: the factors have a c-th of the parameters, c at least 1 (PELA).
    Compression(f64),
    /// This many.
    Rank(usize),
}

/// A rank that cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RankRuleError {
    /// Nothing would be left.
    #[error("rank 0 leaves nothing of the {rows}x{cols} matrix")]
    Zero {
        /// m.
        rows: usize,
        /// n.
        cols: usize,
    },
    /// More directions than there are.
    #[error("rank {rank} is above {most}, the smaller side of the {rows}x{cols} matrix")]
    TooLarge {
        /// What was asked for.
        rank: usize,
        /// min(m, n).
        most: usize,
        /// m.
        rows: usize,
        /// n.
        cols: usize,
    },
}

impl RankRule {
    /// The rank for a matrix of these dimensions with these singular values (descending).
    ///
    /// # Errors
    /// [`RankRuleError`] when the rule says 0 (a value threshold above the largest singular value, a zero matrix) or more
    /// than min(m, n).
    pub fn rank(self, [rows, cols]: [usize; 2], s: &[f64]) -> Result<usize, RankRuleError> {
        let q = rows.min(cols);
        let rank = match self {
            RankRule::Energy(share) => Keep::Energy(share).count(s),
            RankRule::Accumulative(share) => Keep::LinearEnergy(share).count(s),
            RankRule::Value(value) => Keep::Value(value).count(s),
            RankRule::Ratio(ratio) => ((q as f64 * ratio + 1e-9).floor() as usize).clamp(1, q),
            RankRule::Compression(c) => {
                let rank = (rows * cols) as f64 / (c * (rows + cols) as f64);
                ((rank + 1e-9).floor() as usize).clamp(1, q)
            }
            RankRule::Rank(rank) => rank,
        };
        fits(rank, [rows, cols])?;
        Ok(rank)
    }

    /// Whether the rule needs singular values.
    #[must_use]
    pub fn needs_spectrum(self) -> bool {
        matches!(self, RankRule::Energy(_) | RankRule::Accumulative(_) | RankRule::Value(_))
    }

    /// What is wrong with the rule whatever the matrix, and what would do.
    #[must_use]
    pub fn problem(self) -> Option<(String, &'static str)> {
        match self {
            RankRule::Energy(share) | RankRule::Accumulative(share) | RankRule::Ratio(share) => {
                let fits = share > 0.0 && share <= 1.0;
                (!fits).then(|| (format!("{share} is not a share"), "give a number above 0 and at most 1"))
            }
            RankRule::Value(value) => {
                let fits = value > 0.0 && value.is_finite();
                (!fits).then(|| (format!("{value} is not a threshold"), "give a number above 0"))
            }
            RankRule::Compression(c) => {
                let fits = c >= 1.0 && c.is_finite();
                (!fits).then(|| (format!("a compression of {c} makes nothing smaller"), "give a number of at least 1"))
            }
            RankRule::Rank(0) => Some(("rank 0 leaves nothing".to_owned(), "give a rank of at least 1")),
            RankRule::Rank(_) => None,
        }
    }
}

/// Whether a matrix `[m, n]` can have this rank.
///
/// # Errors
/// [`RankRuleError`] when it cannot.
pub fn fits(rank: usize, [rows, cols]: [usize; 2]) -> Result<(), RankRuleError> {
    let most = rows.min(cols);
    if rank == 0 {
        return Err(RankRuleError::Zero { rows, cols });
    }
    if rank > most {
        return Err(RankRuleError::TooLarge { rank, most, rows, cols });
    }
    Ok(())
}

/// Whether factors of this rank have fewer parameters than the matrix `[m, n]`: `r (m + n) < m n`.
#[must_use]
pub fn is_smaller_factored(rank: usize, [rows, cols]: [usize; 2]) -> bool {
    rank * (rows + cols) < rows * cols
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::vector;

    #[test]
    fn vector_pela_rank() {
        let vector = vector("pela_rank");
        let shapes: Vec<[usize; 2]> = vector.input("shapes");
        let rule = RankRule::Compression(vector.input("c"));
        let found: Vec<usize> = shapes.iter().map(|shape| rule.rank(*shape, &[]).unwrap()).collect();
        assert_eq!(found, vector.expected::<Vec<usize>>("rank"));
    }

    #[test]
    fn ranks_that_cannot_be_had_are_typed_errors() {
        assert_eq!(
            RankRule::Rank(65).rank([64, 576], &[]).unwrap_err().to_string(),
            "rank 65 is above 64, the smaller side of the 64x576 matrix"
        );
        assert_eq!(
            RankRule::Value(2.0).rank([3, 2], &[1.0, 0.5]).unwrap_err().to_string(),
            "rank 0 leaves nothing of the 3x2 matrix"
        );
        assert_eq!(RankRule::Ratio(0.25).rank([3, 2], &[]), Ok(1));
        assert_eq!(RankRule::Ratio(0.25).rank([64, 576], &[]), Ok(16));
        assert_eq!(RankRule::Energy(0.89).rank([2, 2], &[3.0, 1.0]), Ok(1));
        assert_eq!(RankRule::Accumulative(0.89).rank([2, 2], &[3.0, 1.0]), Ok(2));
    }

    #[test]
    fn rules_that_fit_no_matrix_say_so() {
        for rule in [
            RankRule::Energy(0.0),
            RankRule::Accumulative(1.5),
            RankRule::Ratio(f64::NAN),
            RankRule::Value(-1.0),
            RankRule::Compression(0.5),
            RankRule::Rank(0),
        ] {
            assert!(rule.problem().is_some(), "{rule:?}");
        }
        assert_eq!(RankRule::Energy(1.0).problem(), None);
    }

    #[test]
    fn factors_of_half_the_harmonic_size_save_nothing() {
        assert!(is_smaller_factored(37, [60, 100]));
        assert!(!is_smaller_factored(38, [60, 100]));
        assert!(!is_smaller_factored(2, [4, 4]));
    }
}
