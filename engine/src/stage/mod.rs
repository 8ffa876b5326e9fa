//! What a stage is: the trait that every stage kind implements, and the registry that holds them.
//!
//! A stage is a pure function of its parameters, its seed and the bytes of its inputs. It sees nothing else: the
//! [`StageContext`] gives it paths, a seed, a device and ways to report, and no clock, environment or path outside.
//! That is what lets the engine reuse a result whenever those three are the same.
//!
//! A new kind is one file that implements [`Stage`] and one line in a [`Registry`].

mod canonical;
mod check;
pub(crate) mod command;
mod context;
mod entry;
mod error;
mod estimate;
pub(crate) mod input_files;
mod method_info;
mod metrics;
mod port;
mod seed;
mod written;

pub use canonical::Canonical;
pub use check::{Check, Facts, Problem};
pub use command::{Command, CommandParams};
pub use context::{Device, Dtype, Job, Progress, Sink, StageContext, StopFlag};
pub use entry::{Registry, StageEntry};
pub use error::StageError;
pub use estimate::Estimate;
pub use input_files::{InputFile, InputFiles, Places, ResolvedFile};
pub use method_info::MethodInfo;
pub use metrics::{MetricPoint, parse_metrics};
pub use port::{Port, PortType};
pub use seed::derive_seed;
pub use written::{Remote, Written};

pub(crate) use written::is_pattern;

use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

/// One kind of stage.
///
/// The doc comment of `Params` (and of its fields) is the reference that `sepia help KIND` prints.
pub trait Stage: 'static {
    /// The name in a manifest, for example `rank-analysis`.
    const KIND: &'static str;
    /// Raised when results change: results of an older version are then no longer reused.
    const VERSION: u32;
    /// Named, typed inputs. Wiring is checked when the plan is made.
    const INPUTS: &'static [Port];
    /// Named, typed outputs. `run` must create every one of them.
    const OUTPUTS: &'static [Port];
    /// Whether the seed changes the result. A kind without randomness is not run again when the seed changes.
    const SEEDED: bool;
    /// Whether the stage computes on the device, so that device class and dtype are part of its key.
    const ON_DEVICE: bool;
    /// What it can compute in, on every device: f32 is always among them.
    const DTYPES: &'static [Dtype] = &[Dtype::F32];
    /// Threads of a node that asks for none. Fixed, so that results do not depend on the machine.
    const THREADS: usize = 1;

    /// What decides the result: part of the key. Derive `Deserialize` with `deny_unknown_fields` and give defaults.
    type Params: DeserializeOwned + Serialize + JsonSchema;
    /// What does not change the result (`log_every`, ...): never part of the key.
    type Knobs: DeserializeOwned + Serialize + JsonSchema + Default;

    /// Checks that need more than one field, before anything runs; also says what is known of the outputs.
    fn check(params: &Self::Params, check: &mut Check<'_>) {
        let _ = (params, check);
    }

    /// What the stage will need, from its parameters and the facts of its inputs, in a dtype. Called after
    /// [`check`](Self::check), with the same `check`; what is not known stays empty.
    fn estimate(params: &Self::Params, check: &Check<'_>, dtype: Dtype) -> Estimate {
        let _ = (params, check, dtype);
        Estimate::default()
    }

    /// Does the work, in a child process of its own.
    ///
    /// # Errors
    /// [`StageError`] says what went wrong, what to change, and which parameter it concerns. Nothing of a failed
    /// stage is kept but its log and checkpoints.
    fn run(params: &Self::Params, knobs: &Self::Knobs, ctx: &mut StageContext<'_>) -> Result<(), StageError>;
}

/// For stages that have no knobs.
#[derive(Debug, Default, Clone, Copy, Serialize, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoKnobs {}
