//! Cuttlefish: train in full until the stable ranks settle, then factorise at the ranks they scale to.
//!
//! Source: Wang et al., "Cuttlefish: Low-Rank Model Training without All the Tuning" (MLSys 2023), and its public code.
//! What the code gets wrong is not repeated here: everything is keyed by layer name, ranks are floats unless
//! `integer_ranks` asks for the code's truncation, a layer whose factors would not be smaller stays dense, and no switch
//! happens in the last tenth of training.

mod decay;
mod detect;
mod hooks;
mod layers;
mod params;
mod preset;
mod rate;
mod run;

pub use decay::{frobenius_decay, frobenius_penalties};
pub use detect::{Detector, Trace};
pub use hooks::CuttlefishMethod;
pub use layers::{StackCost, compared_rank, costs, eligible, is_candidate, proxy_costs};
pub use params::CuttlefishParams;
pub use preset::{Constants, Preset, Relaxation};
pub use rate::Rewarm;
pub use run::Cuttlefish;
