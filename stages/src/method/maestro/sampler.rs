//! Which ranks a training step runs at.
//!
//! All draws of a pass derive from (seed, pass): a sampler is described by two counters, and one that was saved goes on as
//! if it had not stopped.

use schemars::JsonSchema;
use sepia_engine::stage::derive_seed;
use serde::{Deserialize, Serialize};

use super::rank_of_part;
use crate::random::Rng;

/// How ranks are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SamplerKind {
    /// One (layer, rank) pair a step, uniformly over all pairs: each pass goes through all of them once in a random order.
    #[default]
    PerLayer,
    /// A uniform rank for every layer, independently.
    AcrossLayers,
    /// Every layer at this part of its rank, rounded up: no sampling (Pufferfish, 0.25).
    Constant {
        /// The part, above 0 and at most 1.
        part: f64,
    },
}

/// The ranks of one step: of every layer, its own rank where none is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Draw {
    /// One layer, by its number, at this rank.
    One(usize, usize),
    /// All layers at these ranks.
    All(Vec<usize>),
}

/// Draws the ranks of one step after another.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampler {
    kind: SamplerKind,
    seed: u64,
    /// Ranks of the layers.
    ranks: Vec<usize>,
    /// Passes begun before this one.
    pass: u64,
    /// Draws taken from this pass.
    taken: u64,
    /// The pass's pairs in their order; only for `per-layer`.
    order: Vec<(usize, usize)>,
}

impl Sampler {
    /// A sampler over layers of these ranks. Layers of rank 0 are never drawn.
    #[must_use]
    pub fn new(kind: SamplerKind, seed: u64, ranks: &[usize]) -> Self {
        Self::resume(kind, seed, ranks, (0, 0))
    }

    /// The sampler that [`position`](Self::position) described.
    #[must_use]
    pub fn resume(kind: SamplerKind, seed: u64, ranks: &[usize], (pass, taken): (u64, u64)) -> Self {
        let mut sampler = Self { kind, seed, ranks: ranks.to_vec(), pass, taken, order: Vec::new() };
        sampler.shuffle();
        sampler
    }

    /// Passes begun, and draws taken from the last.
    #[must_use]
    pub fn position(&self) -> (u64, u64) {
        (self.pass, self.taken)
    }

    /// The ranks it draws from.
    #[must_use]
    pub fn ranks(&self) -> &[usize] {
        &self.ranks
    }

    /// Goes on with other ranks, in a new pass; nothing happens when they are the same.
    pub fn shrink(&mut self, ranks: &[usize]) {
        if self.ranks != ranks {
            *self = Self::resume(self.kind, self.seed, ranks, (self.pass + 1, 0));
        }
    }

    /// The ranks of the next step.
    pub fn draw(&mut self) -> Draw {
        match self.kind {
            SamplerKind::Constant { part } => Draw::All(self.ranks.iter().map(|r| rank_of_part(*r, part)).collect()),
            SamplerKind::AcrossLayers => {
                // A pass begins anew after shrinking only.
                let pass = derive_seed(self.seed, "ranks across layers", self.pass);
                let mut rng = Rng::new(derive_seed(pass, "step", self.taken));
                self.taken += 1;
                Draw::All(self.ranks.iter().map(|r| (1 + rng.below(*r as u64) as usize).min(*r)).collect())
            }
            SamplerKind::PerLayer => {
                if self.taken as usize >= self.order.len() {
                    self.pass += 1;
                    self.taken = 0;
                    self.shuffle();
                }
                let drawn = self.order.get(self.taken as usize).copied();
                self.taken += 1;
                drawn.map_or_else(|| Draw::All(self.ranks.clone()), |(layer, rank)| Draw::One(layer, rank))
            }
        }
    }

    fn shuffle(&mut self) {
        if self.kind != SamplerKind::PerLayer {
            return;
        }
        let pairs = |(layer, rank): (usize, &usize)| (1..=*rank).map(move |b| (layer, b));
        self.order = self.ranks.iter().enumerate().flat_map(pairs).collect();
        let mut rng = Rng::new(derive_seed(self.seed, "ranks by layer", self.pass));
        for last in (1..self.order.len()).rev() {
            let other = rng.below(last as u64 + 1) as usize;
            self.order.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::vectors::{assert_near, vector};

    fn draws(sampler: &mut Sampler, count: usize) -> Vec<Draw> {
        (0..count).map(|_| sampler.draw()).collect()
    }

    #[test]
    fn vector_maestro_sampler() {
        let vector = vector("maestro_sampler");
        let ranks: Vec<usize> = vector.input("ranks");
        let pairs: Vec<(usize, usize)> = vector.expected("pairs");
        let mut sampler = Sampler::new(SamplerKind::PerLayer, 5, &ranks);
        let mut counts: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        for _ in 0..40 {
            // Every pass has each pair once.
            let mut pass: Vec<(usize, usize)> = draws(&mut sampler, pairs.len())
                .into_iter()
                .map(|draw| match draw {
                    Draw::One(layer, rank) => (layer, rank),
                    Draw::All(_) => unreachable!(),
                })
                .collect();
            pass.iter().for_each(|pair| *counts.entry(*pair).or_default() += 1);
            pass.sort_unstable();
            assert_eq!(pass, pairs);
        }
        let total: usize = counts.values().sum();
        for layer in 0..2 {
            let drawn: usize = counts.iter().filter(|((l, _), _)| *l == layer).map(|(_, count)| count).sum();
            let expected = vector.expected::<Vec<f64>>("layer_prob")[layer];
            assert_near(drawn as f64 / total as f64, expected, vector.tol());
        }
        assert_near(counts[&(1, 3)] as f64 / total as f64, vector.expected("prob"), vector.tol());
    }

    #[test]
    fn passes_differ_and_a_saved_sampler_goes_on_as_it_would_have() {
        for kind in [SamplerKind::PerLayer, SamplerKind::AcrossLayers, SamplerKind::Constant { part: 0.25 }] {
            let ranks = [5, 9, 2];
            let mut sampler = Sampler::new(kind, 3, &ranks);
            let first = draws(&mut sampler, 23);
            let mut resumed = Sampler::resume(kind, 3, &ranks, sampler.position());
            assert_eq!(draws(&mut resumed, 30), draws(&mut sampler, 30));
            if !matches!(kind, SamplerKind::Constant { .. }) {
                assert_ne!(first[..16], draws(&mut sampler, 16)[..]);
            }
        }
    }

    #[test]
    fn a_layer_that_shrank_is_drawn_no_more_at_the_ranks_it_lost() {
        let mut sampler = Sampler::new(SamplerKind::PerLayer, 3, &[4, 4]);
        draws(&mut sampler, 3);
        sampler.shrink(&[4, 0]);
        assert!(draws(&mut sampler, 40).iter().all(|draw| matches!(draw, Draw::One(0, 1..=4))));
        sampler.shrink(&[0, 0]);
        assert_eq!(sampler.draw(), Draw::All(vec![0, 0]));
    }

    #[test]
    fn ranks_across_layers_are_uniform_and_independent() {
        let mut sampler = Sampler::new(SamplerKind::AcrossLayers, 1, &[2, 3]);
        let mut counts: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
        for draw in draws(&mut sampler, 6000) {
            match draw {
                Draw::All(ranks) => *counts.entry(ranks).or_default() += 1,
                Draw::One(..) => unreachable!(),
            }
        }
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
