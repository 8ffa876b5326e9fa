//! Training methods: how gradients of the attention and MLP matrices become updates.
//!
//! One file a method, with its mathematics on plain tensors in torch layout `[out, in]` (the layout of the model's
//! parameters) and its [`Method`]. A new method is one file and one line of [`methods!`](self): it is then known to the
//! stage `train`, has a reference, and is put through the tests that hold for every method.

mod adapters;
pub mod cuttlefish;
pub mod fira;
pub mod flora;
mod full;
pub mod galore;
mod lora;
mod low_rank;
pub mod lte;
pub mod maestro;
mod per_matrix;
pub mod projection;
pub mod prune;
mod relora;
pub mod sst;
#[cfg(test)]
mod suite;
pub mod trp;
pub mod vision;

use schemars::JsonSchema;
use sepia_engine::stage::{Check, MethodInfo};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use fira::FiraParams;
pub use flora::FloraParams;
pub use full::FullParams;
pub use galore::{GaloreParams, RestOptimizer};
pub use lora::{LoraInit, LoraParams, LoraScaling};
pub use low_rank::{LowRankInit, LowRankParams};
pub use lte::LteParams;
pub use per_matrix::{MatrixMethod, PerMatrix};
pub use relora::{ReloraParams, merges_after};
pub use sst::SstParams;

use crate::{
    ops::Products,
    train::{AdamHyper, Held, Method, ScheduleKind},
};

/// What a run gives a method besides its own parameters.
#[derive(Debug, Clone, Copy)]
pub struct MethodSetup {
    /// AdamW's constants: the same for every method.
    pub hyper: AdamHyper,
    /// What the optimiser's state is held in.
    pub state: Held,
    /// How exact products with gradients have to be.
    pub products: Products,
    /// Seed of whatever the method draws.
    pub seed: u64,
}

/// A method's part of the manifest: `method = { ... }`.
pub trait MethodParams: Serialize + DeserializeOwned + JsonSchema + Default + Send + Sync + 'static {
    /// The stage kind that is a front end for this method alone.
    const STAGE: &'static str;
    /// The papers that the method comes from, for the reference.
    const SOURCE: &'static str = "";

    /// Reports what cannot work; `at` is the dotted path of these parameters.
    fn check(&self, at: &str, check: &mut Check<'_>);

    /// Reports a schedule of the learning rate that does not go with the method; `at` is the dotted path of these
    /// parameters.
    fn check_schedule(&self, at: &str, schedule: &ScheduleKind, check: &mut Check<'_>) {
        let _ = (at, schedule, check);
    }

    /// Reports a batch size (sequences in one pass) that does not go with the method; `at` is the dotted path of these
    /// parameters.
    fn check_batch(&self, at: &str, batch_size: usize, check: &mut Check<'_>) {
        let _ = (at, batch_size, check);
    }

    /// Reports weights or an optimiser's state in bf16 where the method would lose by it what it learns.
    fn check_held(&self, weights: Held, state: Held, check: &mut Check<'_>) {
        let _ = (weights, state, check);
    }

    /// The method, before its first step.
    fn build(&self, setup: &MethodSetup) -> Box<dyn Method>;

    /// What training costs for one targeted matrix; `None` where that cannot be said beforehand.
    fn cost(&self, matrix: Matrix) -> Option<MatrixCost> {
        let _ = matrix;
        None
    }
}

/// A targeted matrix, before there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// Bytes of one number of its optimiser state.
    pub float: u64,
}

/// What a method holds for one matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixCost {
    /// Numbers that the model holds in the matrix's place, and copies of it.
    pub held: u64,
    /// Numbers that have a gradient.
    pub trained: u64,
    /// Bytes of optimiser state: what [`Method::state_bytes`] says.
    pub state_bytes: u64,
}

impl Matrix {
    /// Numbers of the matrix.
    #[must_use]
    pub fn numbers(self) -> u64 {
        self.shape.map(|side| side as u64).iter().product()
    }

    /// Trained as it is, with a state of so many bytes.
    #[must_use]
    pub fn dense(self, state_bytes: u64) -> MatrixCost {
        MatrixCost { held: self.numbers(), trained: self.numbers(), state_bytes }
    }

    /// Factors of a rank trained by AdamW, beside `beside` numbers that are not.
    #[must_use]
    pub fn factors(self, rank: usize, beside: u64) -> MatrixCost {
        let factors = rank as u64 * self.shape.map(|side| side as u64).iter().sum::<u64>();
        MatrixCost { held: factors + beside, trained: factors, state_bytes: 2 * factors * self.float }
    }
}

/// A row of [`METHODS`].
#[derive(Debug, Clone, Copy)]
pub struct MethodEntry {
    /// Its name in a manifest.
    pub name: &'static str,
    /// One line for the reference.
    pub about: &'static str,
}

macro_rules! methods {
    ($($(#[$attr:meta])* $variant:ident($params:ty) = $name:literal, $about:literal;)+) => {
        /// Any method, chosen by its `name`.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(tag = "name")]
        pub enum AnyMethod {
            $(#[doc = $about] #[serde(rename = $name)] $variant($params),)+
        }

        /// What the reference says about every method, in source order.
        pub const METHOD_INFOS: &[MethodInfo] = &[$(MethodInfo {
            name: $name,
            about: $about,
            source: <$params as MethodParams>::SOURCE,
            kinds: &["train", <$params as MethodParams>::STAGE],
            params_schema: |generator| generator.root_schema_for::<$params>(),
        }),+];

        /// Every method, in source order.
        pub static METHODS: &[MethodEntry] = &[$(MethodEntry { name: $name, about: $about }),+];

        impl AnyMethod {
            /// Every method with its defaults, in the order of [`METHODS`].
            #[must_use]
            pub fn all() -> Vec<Self> {
                vec![$(Self::$variant(<$params>::default())),+]
            }

            /// Its name in a manifest.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $name,)+
                }
            }
        }

        impl MethodParams for AnyMethod {
            const STAGE: &'static str = "train";

            fn check(&self, at: &str, check: &mut Check<'_>) {
                match self {
                    $(Self::$variant(params) => params.check(at, check),)+
                }
            }

            fn check_schedule(&self, at: &str, schedule: &ScheduleKind, check: &mut Check<'_>) {
                match self {
                    $(Self::$variant(params) => params.check_schedule(at, schedule, check),)+
                }
            }

            fn check_batch(&self, at: &str, batch_size: usize, check: &mut Check<'_>) {
                match self {
                    $(Self::$variant(params) => params.check_batch(at, batch_size, check),)+
                }
            }

            fn check_held(&self, weights: Held, state: Held, check: &mut Check<'_>) {
                match self {
                    $(Self::$variant(params) => params.check_held(weights, state, check),)+
                }
            }

            fn build(&self, setup: &MethodSetup) -> Box<dyn Method> {
                match self {
                    $(Self::$variant(params) => params.build(setup),)+
                }
            }

            fn cost(&self, matrix: Matrix) -> Option<MatrixCost> {
                match self {
                    $(Self::$variant(params) => params.cost(matrix),)+
                }
            }
        }
    };
}

methods! {
    Full(FullParams) = "full", "every weight, by AdamW: the baseline";
    LowRank(LowRankParams) = "low-rank", "W = B A from scratch";
    Lora(LoraParams) = "lora", "a low-rank branch beside a frozen weight";
    Relora(ReloraParams) = "relora", "LoRA that is merged and restarted: the sum of many branches has a high rank";
    Galore(GaloreParams) = "galore", "moments in a low-rank subspace of the gradient";
    Fira(FiraParams) = "fira", "GaLore with the rest of the gradient, scaled by what the optimiser did to its part";
    Flora(FloraParams) = "flora", "Adafactor with its first moment in a random projection";
    Sst(SstParams) = "sst", "all singular values, and the singular vectors of a few directions at a time";
    Lte(LteParams) = "lte", "many low-rank branches, each trained on a part of the batch, and merged by their mean";
}

impl Default for AnyMethod {
    fn default() -> Self {
        Self::Full(FullParams {})
    }
}

/// Reports a rank of zero.
fn check_rank(rank: usize, at: &str, check: &mut Check<'_>) {
    if rank == 0 {
        check.problem(format!("{at}.rank"), "`rank` must be at least 1", "a quarter of d_model is usual");
    }
}

/// Reports weights in bf16 under a method that merges branches into them.
fn check_merged_into(weights: Held, method: &str, check: &mut Check<'_>) {
    if weights == Held::Bf16 {
        let message = format!(
            "{method} merges its branches into the weights, and a weight in bf16 takes in nothing below a 512th of it"
        );
        let help = "leave `weights_dtype` out: merges are then in f32, and dtype = \"bf16\" still computes in bf16";
        check.problem("weights_dtype", message, help);
    }
}

/// Reports a number that is not positive.
fn check_positive(value: f64, name: &str, at: &str, check: &mut Check<'_>) {
    if !(value.is_finite() && value > 0.0) {
        check.problem(format!("{at}.{name}"), format!("`{name}` is {value}, but must be above 0"), "");
    }
}
