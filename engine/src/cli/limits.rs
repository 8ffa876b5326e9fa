//! Warnings about what a run needs and this machine has not: the same before a run as in its plan.

use camino::Utf8Path;

use super::{output, project::Project};
use crate::{
    exec::{self, Forecast, KeyError},
    graph::NodeId,
    plan::{Machine, Selection, over_limits, select},
};

/// Says what the machine has not enough of, for the nodes that are not in the store yet.
pub(super) fn warn(store: &Utf8Path, project: &Project, forecasts: &[Forecast]) {
    let to_run = |id: &NodeId| matches!(forecasts[id.index()], Forecast::Run(..) | Forecast::Unknown(_));
    let found = over_limits(&project.plan, project.plan.ids().filter(to_run), machine(store));
    output::warnings(&found, &project.sources);
}

/// [`warn`] for a run. What is in the store is only looked up where something would be said: a run mostly has room enough.
pub(super) fn warn_of_run(
    store: &Utf8Path,
    project: &Project,
    (selection, force): (&Selection, &[String]),
    forecast: impl FnOnce(&[bool], &[bool]) -> Result<Vec<Forecast>, KeyError>,
) {
    let plan = &project.plan;
    // Targets that do not exist and files that cannot be read are for the run to report.
    let Ok(chosen) = select(plan, selection) else { return };
    let everything = plan.ids().filter(|id| chosen[id.index()]);
    if over_limits(plan, everything, machine(store)).is_empty() {
        return;
    }
    let Ok(forced) = exec::lookup::forced(plan, force, &chosen) else { return };
    if let Ok(forecasts) = forecast(&chosen, &forced) {
        warn(store, project, &forecasts);
    }
}

fn machine(store: &Utf8Path) -> Machine {
    Machine { memory: exec::slots::usable_memory(), free_disk: free_disk(store) }
}

/// Free bytes of the disk that a store is on, or would be.
fn free_disk(store: &Utf8Path) -> Option<u64> {
    let store = camino::absolute_utf8(store).ok()?;
    let folder = store.ancestors().find(|folder| folder.is_dir())?;
    let disk = rustix::fs::statvfs(folder.as_std_path()).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}
