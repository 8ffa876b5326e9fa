//! Matrices into smaller ones: kernels as matrices, truncation, factors, and which rank to give them.
//!
//! Everything here is a pure function on the host in f64. A factorisation keeps `k` of the `q = min(m, n)` singular
//! directions of a matrix `[m, n]`. Weights of linear layers are `[out, in]`; how a convolution becomes a matrix is the
//! model's business, see [`crate::model::vision::Form`].

mod assign;
mod budget;
mod choose;
mod decouple;
mod layer;
mod lorap;
mod split;
mod truncate;

pub use assign::{Measure, Ranks, by_names, by_rule, by_table, chosen, chosen_names, form_of, only_smaller};
pub use budget::{RankRule, RankRuleError, fits, is_smaller_factored};
pub use choose::{ChooseError, choose};
pub use decouple::{Decoupled, decouple, truncate_filters};
pub use layer::{
    LayerError, factorize_layer, factorize_layer_weighted, is_body, is_grouped, pays, rank_by_rule, truncate_layer,
};
pub use lorap::{Lorap, LorapRanks};
pub use split::{Sigma, split, split_weighted};
pub use truncate::{Keep, Truncated, truncate};
