//! Jobs that nobody wants any more.

use std::collections::BTreeSet;

use super::{
    Slurm,
    batch::Stand,
    client::{Request, SHORTEST},
};

/// How the claim of a run begins that will not have a task run.
pub(super) const GIVEN_UP: &str = "given up";

impl Slurm {
    pub(super) fn cancel_jobs(&mut self) -> std::io::Result<()> {
        let jobs = self.unwanted_jobs();
        if jobs.is_empty() {
            return Ok(());
        }
        self.patience = SHORTEST;
        self.send(Request::Cancel { jobs, at_once: false })
    }

    /// The jobs to cancel whose tasks are all cancelled or ended.
    pub(super) fn unwanted_jobs(&mut self) -> Vec<String> {
        let mut jobs = Vec::new();
        let wanted: BTreeSet<(&str, usize)> = self
            .tasks
            .values()
            .filter(|task| !task.cancelled)
            .filter_map(|task| task.place.as_ref().map(|(batch, n)| (batch.as_str(), *n)))
            .collect();
        for (name, batch) in &mut self.batches {
            let Stand::Submitted(job) = &batch.stand else { continue };
            if !std::mem::take(&mut batch.to_cancel) {
                continue;
            }
            let groups = &batch.shape.groups;
            let unwanted = |group: &Vec<usize>| group.iter().all(|n| !wanted.contains(&(name.as_str(), *n)));
            let unwanted: Vec<usize> = (0..groups.len()).filter(|group| unwanted(&groups[*group])).collect();
            if unwanted.len() == groups.len() {
                jobs.push(job.clone());
            } else {
                jobs.extend(unwanted.iter().map(|group| format!("{job}_{group}")));
            }
        }
        jobs
    }

    /// Who may claim a task in this process's name.
    pub(super) fn claimant() -> String {
        format!("{GIVEN_UP} by process {}", std::process::id())
    }
}
