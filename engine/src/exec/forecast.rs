//! What a run would do, without doing it.

use std::sync::Arc;

use sepia_cache::Store;

use super::{
    keys::{KeyError, KeyMaker, NodeOutputs},
    lookup::Lookup,
};
use crate::{
    graph::NodeId,
    key::{KeyInputs, StageKey},
    plan::Plan,
    wide,
};

/// What would become of a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Forecast {
    /// Not chosen.
    Outside,
    /// In the store.
    Cached(StageKey),
    /// It would run.
    Run(StageKey, Box<KeyInputs>),
    /// It depends on what these nodes, which would run, turn out to make.
    Unknown(Vec<NodeId>),
}

/// Looks every chosen node up in a store, in order. Nothing is written.
///
/// # Errors
/// When the store or an external file cannot be read.
pub fn forecast(plan: &Plan, store: &Arc<Store>, chosen: &[bool], forced: &[bool]) -> Result<Vec<Forecast>, KeyError> {
    forecast_from(plan, &Lookup::open(store)?, chosen, forced)
}

/// [`forecast`] with a look-up that was opened before.
///
/// # Errors
/// As [`forecast`].
pub fn forecast_from(
    plan: &Plan,
    lookup: &Lookup,
    chosen: &[bool],
    forced: &[bool],
) -> Result<Vec<Forecast>, KeyError> {
    let keys = KeyMaker::new(plan, lookup.store().file_digests());
    let mut outputs: Vec<Option<NodeOutputs>> = vec![None; plan.nodes.len()];
    let mut forecasts = vec![Forecast::Outside; plan.nodes.len()];
    for level in plan.graph.levels() {
        let level: Vec<NodeId> = level.into_iter().filter(|id| chosen[id.index()]).collect();
        // Making keys is most of the work; what the store has is then asked in order.
        let inputs = wide::map(&level, |id| {
            let needed = plan.graph.dependencies(*id);
            let open: Vec<NodeId> = needed.into_iter().filter(|needed| outputs[needed.index()].is_none()).collect();
            if !open.is_empty() {
                return Ok(Err(open));
            }
            keys.inputs_of(*id, &outputs).map(|inputs| Ok((inputs.key(), inputs)))
        });
        for (id, inputs) in level.into_iter().zip(inputs) {
            forecasts[id.index()] = match inputs? {
                Err(open) => Forecast::Unknown(open),
                Ok((key, inputs)) => match lookup.find(&key)? {
                    Some(found) if !forced[id.index()] => {
                        outputs[id.index()] = Some(found);
                        Forecast::Cached(key)
                    }
                    _ => Forecast::Run(key, Box::new(inputs)),
                },
            };
        }
    }
    Ok(forecasts)
}
