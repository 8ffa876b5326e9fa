//! The group lasso over the columns of two factors, and which columns it leaves.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which columns form a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LassoKind {
    /// All columns from b on, for every b: the importance of columns never increases, so what is cut off is the end.
    #[default]
    Hierarchical,
    /// Each column alone.
    Plain,
}

/// The squared norms of the columns of both factors, from which penalty, gradient and importance follow.
#[derive(Debug, Clone, PartialEq)]
pub struct Lasso {
    /// Norm of each group of the first factor.
    u: Vec<f64>,
    /// Norm of each group of the second.
    v: Vec<f64>,
    kind: LassoKind,
}

/// Added to a squared norm: the slope of the root is finite at 0.
const SOFT: f64 = 1e-12;

impl Lasso {
    /// From the squared norms of the columns of `U` and of `V`, of equal number.
    #[must_use]
    pub fn new(u_squares: &[f64], v_squares: &[f64], kind: LassoKind) -> Self {
        Self { u: norms(u_squares, kind), v: norms(v_squares, kind), kind }
    }

    /// The sum of the norms of all groups of both factors.
    #[must_use]
    pub fn penalty(&self) -> f64 {
        self.u.iter().chain(&self.v).map(|norm| (norm * norm + SOFT).sqrt()).sum()
    }

    /// By what each column of `U` and of `V` is multiplied to give the gradient of [`penalty`](Self::penalty).
    #[must_use]
    pub fn slopes(&self) -> (Vec<f64>, Vec<f64>) {
        let slopes = |norms: &[f64]| {
            let mut running = 0.0;
            let slope = |norm: &f64| {
                let own = 1.0 / (norm * norm + SOFT).sqrt();
                // A column is in the group of every b up to its own.
                running = if self.kind == LassoKind::Hierarchical { running + own } else { own };
                running
            };
            norms.iter().map(slope).collect()
        };
        (slopes(&self.u), slopes(&self.v))
    }

    /// Product of the norms of both factors' groups, for each column.
    #[must_use]
    pub fn importance(&self) -> Vec<f64> {
        self.u.iter().zip(&self.v).map(|(u, v)| u * v).collect()
    }

    /// The columns to keep: those before the first whose importance is below `threshold` and that of all behind it too.
    /// 0 when none is left.
    #[must_use]
    pub fn kept(&self, threshold: f64) -> usize {
        self.importance().iter().rposition(|importance| *importance >= threshold).map_or(0, |last| last + 1)
    }
}

fn norms(squares: &[f64], kind: LassoKind) -> Vec<f64> {
    match kind {
        LassoKind::Plain => squares.iter().map(|square| square.sqrt()).collect(),
        LassoKind::Hierarchical => {
            let mut norms = vec![0.0; squares.len()];
            let mut running = 0.0;
            for (norm, square) in norms.iter_mut().zip(squares).rev() {
                running += square;
                *norm = f64::sqrt(running);
            }
            norms
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vectors::{Rows, assert_near, vector};

    fn squares(rows: &Rows) -> Vec<f64> {
        (0..rows[0].len()).map(|b| rows.iter().map(|row| row[b] * row[b]).sum()).collect()
    }

    #[test]
    fn vector_maestro_hgl() {
        let vector = vector("maestro_hgl");
        let tol = vector.tol();
        let (u, v) = (squares(&vector.input("U_out_by_r")), squares(&vector.input("V_in_by_r")));
        let (hier, plain) = (Lasso::new(&u, &v, LassoKind::Hierarchical), Lasso::new(&u, &v, LassoKind::Plain));
        let near = |found: &[f64], name: &str| {
            let expected: Vec<f64> = vector.expected(name);
            assert_eq!(found.len(), expected.len());
            found.iter().zip(expected).for_each(|(found, expected)| assert_near(*found, expected, tol));
        };
        near(&hier.u, "U_suffix_norms");
        near(&hier.v, "V_suffix_norms");
        near(&hier.importance(), "importance_hier");
        near(&plain.importance(), "importance_plain");
        assert_near(hier.penalty(), vector.expected("hgl"), tol);
        assert_near(plain.penalty(), vector.expected("plain_gl"), tol);
        let thresholds: Vec<f64> = vector.input("thresholds");
        let kept: Vec<usize> = thresholds.iter().map(|eps| hier.kept(*eps)).collect();
        assert_eq!(kept, vector.expected::<Vec<usize>>("rank_hier"));
        // Plain importance is not ordered; the vector counts columns above the threshold.
        let counted: Vec<usize> = thresholds
            .iter()
            .map(|eps| plain.importance().iter().filter(|importance| **importance >= *eps).count())
            .collect();
        assert_eq!(counted, vector.expected::<Vec<usize>>("rank_plain"));
    }

    #[test]
    fn a_plain_cut_never_drops_a_column_that_counts() {
        // Column 1 is dead, column 2 is not: a prefix cut must keep both.
        let plain = Lasso::new(&[1.0, 0.0, 1.0, 0.0], &[1.0, 1.0, 1.0, 0.0], LassoKind::Plain);
        assert_eq!(plain.kept(1e-5), 3);
    }

    #[test]
    fn zeros_have_a_finite_slope_and_no_rank() {
        let dead = Lasso::new(&[0.0, 0.0], &[0.0, 0.0], LassoKind::Hierarchical);
        let (u, v) = dead.slopes();
        assert!(u.iter().chain(&v).all(|slope| slope.is_finite()));
        assert_eq!(dead.kept(1e-7), 0);
    }

    proptest! {
        #[test]
        fn slopes_are_the_derivative_of_the_penalty(
            columns in prop::collection::vec((0.1f64..2.0, 0.1f64..2.0), 1..6),
            hierarchical: bool,
        ) {
            let kind = if hierarchical { LassoKind::Hierarchical } else { LassoKind::Plain };
            // One row a factor: the entry is the column.
            let penalty = |columns: &[(f64, f64)]| {
                let u: Vec<f64> = columns.iter().map(|(u, _)| u * u).collect();
                let v: Vec<f64> = columns.iter().map(|(_, v)| v * v).collect();
                Lasso::new(&u, &v, kind)
            };
            let (slopes, _) = penalty(&columns).slopes();
            for b in 0..columns.len() {
                let mut moved = columns.clone();
                moved[b].0 += 1e-6;
                let up = penalty(&moved).penalty();
                moved[b].0 -= 2e-6;
                let numeric = (up - penalty(&moved).penalty()) / 2e-6;
                prop_assert!((numeric - slopes[b] * columns[b].0).abs() < 1e-6);
            }
        }
    }
}
