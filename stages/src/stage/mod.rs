//! Stage kinds, one file each.

pub mod rank_analysis;
mod rank_table;
