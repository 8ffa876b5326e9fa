//! Work on many small things: on all threads where they are many, on this one where they are few.

use rayon::prelude::*;

/// Below this, waking other threads costs more than they save.
const FEW: usize = 64;

/// What `work` makes of each item, in their order.
pub(crate) fn map<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync + Send) -> Vec<R> {
    if items.len() < FEW { items.iter().map(work).collect() } else { items.par_iter().map(work).collect() }
}
