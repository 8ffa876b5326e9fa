//! Whether the GPUs that a run needs are there, asked before anything runs.
//!
//! A result that was computed on a GPU is as readable as any other: a run whose GPU stages are all in the store needs no
//! GPU. One that would have to compute on a GPU that is not there fails at once, not after the hours its first stages take.

use std::{cell::LazyCell, sync::Arc};

use sepia_cache::Store;

use super::{
    forecast::{Forecast, forecast},
    keys::KeyError,
};
use crate::{
    device::{Gpus, MathLibrary, NoGpu},
    graph::NodeId,
    plan::Plan,
    stage::{Device, Dtype},
};

/// Chosen nodes that may have to run and cannot, with the reason. A node of which it is not known yet whether it will run,
/// because something before it runs first, counts.
///
/// # Errors
/// When the store or an external file cannot be read.
pub fn missing_gpus(
    plan: &Plan,
    store: &Arc<Store>,
    (chosen, forced): (&[bool], &[bool]),
    gpus: impl FnOnce() -> &'static Gpus,
) -> Result<Vec<(NodeId, NoGpu)>, KeyError> {
    let wanting: Vec<(NodeId, usize)> = plan
        .ids()
        .filter(|id| chosen[id.index()])
        .filter_map(|id| match plan.node(id).device {
            Device::Cuda(number) => Some((id, number)),
            Device::Cpu => None,
        })
        .collect();
    if wanting.is_empty() {
        return Ok(Vec::new());
    }
    let gpus = gpus();
    // Only where there is a GPU: why there is none is the better answer.
    let math_library = LazyCell::new(MathLibrary::of_this_machine);
    let mut missing = Vec::new();
    for (id, number) in wanting {
        let dtype = plan.node(id).dtype;
        match gpus.get(number) {
            Err(why) => missing.push((id, why)),
            Ok(gpu) if !gpu.dtypes().contains(&dtype) => {
                missing.push((id, NoGpu::LacksDtype { gpu: gpu.name.clone(), dtype: Dtype::name(dtype) }));
            }
            Ok(_) => missing.extend(math_library.as_ref().err().map(|why| (id, why.clone()))),
        }
    }
    if missing.is_empty() {
        return Ok(missing);
    }
    let forecasts = forecast(plan, store, chosen, forced)?;
    missing.retain(|(id, _)| matches!(forecasts[id.index()], Forecast::Run(..) | Forecast::Unknown(_)));
    Ok(missing)
}
