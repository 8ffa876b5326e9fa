//! Maestro (LoD): factors whose order is learned, so that a rank can be cut off at any point.
//!
//! Source: Horvath et al., "Maestro: Uncovering Low-Rank Structures via Trainable Decomposition" (ICML 2024), and its
//! public code. A layer is `W = U V^T` with `U` `[m, r]` and `V` `[n, r]`; here the second factor is kept as `V^T`
//! `[r, n]`. A step runs one layer at a sampled rank and all others at their full one; the hierarchical group lasso presses
//! the last columns together, and what falls below a threshold is cut off for good.

mod greedy;
mod hooks;
mod lasso;
mod params;
mod run;
mod sampler;

pub use greedy::{Reduction, greedy_reduction};
pub use hooks::MaestroMethod;
pub use lasso::{Lasso, LassoKind};
pub use params::MaestroParams;
pub use run::{Cut, Maestro, dense_if_larger, narrow};
pub use sampler::{Draw, Sampler, SamplerKind};

/// Whether a layer `[m, n]` of this rank stays factored: `r (m + n) <= m n`. Equality does.
#[must_use]
pub fn stays_factored(rank: usize, [rows, cols]: [usize; 2]) -> bool {
    rank * (rows + cols) <= rows * cols
}

/// The leading `ceil(r p)` of `r` columns, for a part `p` of them, at least 1.
#[must_use]
pub fn rank_of_part(rank: usize, part: f64) -> usize {
    ((rank as f64 * part - 1e-9).ceil() as usize).clamp(1, rank.max(1))
}

#[cfg(test)]
#[path = "limit_tests.rs"]
mod limit_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::vector;

    #[test]
    fn vector_maestro_dense_or_factored() {
        let vector = vector("maestro_dense_or_factored");
        let matrix = [vector.input("out"), vector.input("in")];
        let found: Vec<bool> =
            vector.input::<Vec<usize>>("r").into_iter().map(|rank| stays_factored(rank, matrix)).collect();
        assert_eq!(found, vector.expected::<Vec<bool>>("factored"));
        assert!(stays_factored(2, [4, 4]), "equality stays factored");
    }

    #[test]
    fn a_part_of_the_rank_is_rounded_up() {
        assert_eq!([0.0, 0.25, 0.26, 0.5, 1.0].map(|part| rank_of_part(8, part)), [1, 2, 3, 4, 8]);
        assert_eq!(rank_of_part(10, 0.3), 3);
    }
}
