//! The training loop and its parts.
//!
//! [`run_training`] is the loop. A [`Method`] says how the gradient of an attention or MLP matrix becomes an update; the
//! embedding, the head and the norms always go to AdamW with a learning rate of their own, so that a comparison of
//! methods is not one of the embedding's learning rate.

mod adamw;
mod batches;
mod checkpoint;
pub(crate) mod estimate;
mod eval;
mod gradients;
mod guard;
mod held;
mod initial;
mod loss_scale;
mod method;
mod params;
mod parts;
mod report;
mod rest;
mod run;
mod schedule;
mod unread;
pub mod vision;

pub use adamw::{AdamFlavour, AdamHyper, AdamState};
pub use batches::Batches;
pub use checkpoint::State;
pub use eval::{Evaluation, evaluate};
pub use gradients::Gradients;
#[cfg(test)]
pub(crate) use gradients::{load_weights, save_weights};
pub use held::Held;
pub use method::{FullAdamW, Method, Moments, Target, is_target};
pub use params::{TrainKnobs, TrainParams};
pub use report::{Throughput, TimeShare, peak_memory_bytes};
pub use rest::Rest;
pub use run::run_training;
pub use schedule::{Schedule, ScheduleKind};
