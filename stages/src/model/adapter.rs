//! The low-rank branch of a linear layer, `y = W x + scale * B A dropout(x)`, or several, each for a part of the batch.
//!
//! The factors are parameters of the model like any other, so that gradients, checkpoints and clipping know them; what is
//! frozen, merged and restarted is a method's business. Dropout draws from (seed, update, forward pass), never from a
//! shared generator: a resumed run draws what an uninterrupted one drew.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use sepia_engine::stage::derive_seed;

use crate::ops;

/// Factors beside a weight `[out, in]`.
#[derive(Module, Debug)]
pub struct Adapter {
    /// `[r, in]`.
    pub lora_a: Param<Tensor<2>>,
    /// `[out, r]`.
    pub lora_b: Param<Tensor<2>>,
    /// `[1, 1]`: the branch is multiplied by its hyperbolic tangent too, where the scale is trained.
    pub lora_scale: Option<Param<Tensor<2>>>,
    /// What the weight has taken in of the branches already, where they go on as they are.
    pub merged: Option<Merged>,
    /// How the branch is used.
    #[module(skip)]
    pub options: AdapterOptions,
}

/// The factors of branches at their last merge, which are not trained: their product is taken off each branch again.
#[derive(Module, Debug)]
pub struct Merged {
    /// As the adapter's.
    pub a: Param<Tensor<2>>,
    /// As the adapter's.
    pub b: Param<Tensor<2>>,
}

/// How the branch is used.
#[derive(Debug, Clone)]
pub struct AdapterOptions {
    /// Branches beside the weight, each with its share of the rows of a pass: the first with the first, and so on. Factors
    /// lie in each other's prolongation, `A [heads * r, in]` and `B [out, heads * r]`.
    pub heads: usize,
    /// What `B A` is multiplied by.
    pub scale: f64,
    /// Whether the branch stands in place of the weight instead of beside it.
    pub replaces: bool,
    /// Dropout of its input while training; `None` for none.
    pub dropout: Option<Dropout>,
}

/// Dropout with a probability, at a time that all adapters of a model share.
#[derive(Debug, Clone)]
pub struct Dropout {
    /// Share of the entries that become zero; the others grow by `1 / (1 - rate)`.
    pub rate: f64,
    /// Where in the run it is.
    pub clock: Arc<DropoutClock>,
}

/// What dropout masks derive from: the seed, the update, and how many masks this update has drawn.
///
/// A forward pass that is run again, for its activations, sets the clock back to where the first one began.
#[derive(Debug)]
pub struct DropoutClock {
    seed: u64,
    /// Whether entries are dropped off the tape, too.
    off_tape: AtomicBool,
    update: AtomicU64,
    drawn: AtomicU64,
}

impl DropoutClock {
    /// At the first update.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, off_tape: AtomicBool::new(false), update: AtomicU64::new(0), drawn: AtomicU64::new(0) }
    }

    /// Says whether the passes from now on belong to training although they leave no tape.
    pub fn drop_off_tape(&self, on: bool) {
        self.off_tape.store(on, Ordering::SeqCst);
    }

    /// Moves to an update, after so many masks of it.
    pub fn set(&self, update: u64, drawn: u64) {
        self.update.store(update, Ordering::SeqCst);
        self.drawn.store(drawn, Ordering::SeqCst);
    }

    /// The update, and how many masks it has drawn.
    #[must_use]
    pub fn now(&self) -> (u64, u64) {
        (self.update.load(Ordering::SeqCst), self.drawn.load(Ordering::SeqCst))
    }

    fn next_seed(&self) -> u64 {
        let drawn = self.drawn.fetch_add(1, Ordering::SeqCst);
        derive_seed(derive_seed(self.seed, "dropout", self.update.load(Ordering::SeqCst)), "mask", drawn)
    }
}

impl Dropout {
    /// Drops entries of `x` while training: where `x` is on a tape, or the clock says so.
    fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        if self.rate <= 0.0 || !(x.device().is_autodiff() || self.clock.off_tape.load(Ordering::SeqCst)) {
            return x;
        }
        ops::dropout(x, self.rate, self.clock.next_seed())
    }
}

impl Adapter {
    /// The layer's output for `x` `[n, in]`, given what the weight alone would give.
    pub(crate) fn forward(&self, x: Tensor<2>, dense: impl FnOnce(Tensor<2>) -> Tensor<2>) -> Tensor<2> {
        let options = &self.options;
        let dropped = options.dropout.as_ref().map_or_else(|| x.clone(), |dropout| dropout.apply(x.clone()));
        let branch = self.branch(dropped, &self.lora_a, &self.lora_b); // [n, out]
        let branch = match &self.merged {
            Some(merged) => branch - self.branch(x.clone(), &merged.a, &merged.b),
            None => branch,
        };
        let branch = match &self.lora_scale {
            Some(scale) => {
                let factor = ops::cast(scale.val().tanh(), branch.dtype());
                branch.mul(factor)
            }
            None => branch,
        };
        if options.replaces { branch } else { dense(x) + branch }
    }

    /// `scale * B A x` for `x` `[n, in]`, of each head for its rows.
    fn branch(&self, x: Tensor<2>, a: &Param<Tensor<2>>, b: &Param<Tensor<2>>) -> Tensor<2> {
        let (heads, scale) = (self.options.heads.max(1), self.options.scale);
        if heads == 1 {
            return ops::linear(ops::linear(x, a.val()), b.val()).mul_scalar(scale);
        }
        let ([rows, inputs], [outputs, ranks]) = (x.dims(), b.val().dims());
        let rank = ranks / heads;
        let (a, b) = (ops::cast(a.val(), x.dtype()), ops::cast(b.val(), x.dtype()));
        let a = a.reshape([heads, rank, inputs]).swap_dims(1, 2); // [head, in, r]
        let b = b.reshape([outputs, heads, rank]).permute([1, 2, 0]); // [head, r, out]
        let y = ops::product(ops::product(x.reshape([heads, rows / heads, inputs]), a), b);
        y.reshape([rows, outputs]).mul_scalar(scale)
    }

    /// What is merged into the weight: `scale * B A` `[out, in]`, in f32 and off the tape. Of several heads
    /// the mean, less what the weight has taken in already.
    #[must_use]
    pub fn delta(&self) -> Tensor<2> {
        let plain = |factor: &Param<Tensor<2>>| ops::widened(factor.val().inner());
        // The product of stacked factors is the sum over heads.
        let scale = self.options.scale / self.options.heads.max(1) as f64;
        let product = |a, b| ops::product(plain(b), plain(a)).mul_scalar(scale);
        let delta = product(&self.lora_a, &self.lora_b);
        let delta = match &self.merged {
            Some(merged) => delta - product(&merged.a, &merged.b),
            None => delta,
        };
        match &self.lora_scale {
            Some(scale) => delta.mul(plain(scale).tanh()),
            None => delta,
        }
    }
}
