//! Training of image classifiers.
//!
//! [`run_vision`] is the loop, to be read in `run.rs`. A [`VisionMethod`] hooks into it: it may change the model before
//! the first step, before and after each step and epoch, add terms to the gradients, choose which components of factored
//! layers a step uses, and say what is evaluated and deployed. Defaults do nothing.

mod gradients;
mod method;
mod optimizer;
mod params;
mod run;
mod schedule;
mod scores;

pub use gradients::VisionGradients;
pub use method::{At, Forward, VisionData, VisionMethod};
pub use optimizer::{OptimizerParams, VisionOptimizer};
pub use params::{ClassifierKnobs, ClassifierParams, VisionMethodParams, VisionSetup};
pub(crate) use run::fits_data;
pub use run::run_vision;
pub use schedule::VisionSchedule;
pub use scores::{Scores, classify, classify_split, smoothed_loss};
