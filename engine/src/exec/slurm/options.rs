//! What a manifest, a profile or a user's configuration say about a cluster, and the arguments of `sbatch` that follow.

use std::num::NonZero;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{manifest::StageDecl, stage::Device};

/// Settings of `[executor.slurm]`. None of them is part of a key. A stage's own go before the manifest's, and those
/// before the user's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SlurmOptions {
    /// The partition; the cluster's default without it.
    pub partition: Option<String>,
    /// The account that pays.
    pub account: Option<String>,
    /// The quality of service.
    pub qos: Option<String>,
    /// Features that a node must have.
    pub constraint: Option<String>,
    /// More arguments for `sbatch`, as they are.
    pub extra: Option<Vec<String>>,
    /// How many jobs of a run (elements of arrays count) may be in Slurm's queue at once. 200 without it.
    pub max_jobs: Option<NonZero<u32>>,
    /// How many stages share one allocation. For stages of seconds: Slurm starts some 40 jobs a second, one allocation
    /// runs many times that number of small stages.
    pub pack: Option<NonZero<u32>>,
    /// How many of the stages that share an allocation run at the same time; it asks for so many times the resources.
    pub at_once: Option<NonZero<u32>>,
    /// How often a stage is submitted again that the cluster lost: a node that failed, a preemption. 3 without it.
    pub infrastructure_retries: Option<u32>,
}

/// Jobs in the queue, if nothing is said.
const MAX_JOBS: usize = 200;
/// Submissions after a loss, if nothing is said.
const RETRIES: u32 = 3;

impl SlurmOptions {
    /// These settings where they say something, else those below.
    #[must_use]
    pub fn over(&self, below: &Self) -> Self {
        let below = below.clone();
        let this = self.clone();
        Self {
            partition: this.partition.or(below.partition),
            account: this.account.or(below.account),
            qos: this.qos.or(below.qos),
            constraint: this.constraint.or(below.constraint),
            extra: this.extra.or(below.extra),
            max_jobs: this.max_jobs.or(below.max_jobs),
            pack: this.pack.or(below.pack),
            at_once: this.at_once.or(below.at_once),
            infrastructure_retries: this.infrastructure_retries.or(below.infrastructure_retries),
        }
    }

    pub(super) fn max_jobs(&self) -> usize {
        self.max_jobs.map_or(MAX_JOBS, |jobs| jobs.get() as usize)
    }

    pub(super) fn retries(&self) -> u32 {
        self.infrastructure_retries.unwrap_or(RETRIES)
    }

    /// How many stages share an allocation.
    #[must_use]
    pub fn pack(&self) -> usize {
        self.pack.map_or(1, |pack| pack.get() as usize)
    }

    pub(super) fn at_once(&self) -> usize {
        self.at_once.map_or(1, |at_once| at_once.get() as usize).min(self.pack())
    }

    /// The arguments that say what one job of such stages needs.
    #[must_use]
    pub fn arguments(&self, decl: &StageDecl, threads: usize, device: Device) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut say = |name: &str, value: Option<String>| {
            arguments.extend(value.map(|value| format!("--{name}={value}")));
        };
        say("partition", self.partition.clone());
        say("account", self.account.clone());
        say("qos", self.qos.clone());
        say("constraint", self.constraint.clone());
        let at_once = self.at_once();
        say("cpus-per-task", Some((threads * at_once).to_string()));
        let mebibytes = |bytes: u64| bytes.saturating_mul(at_once as u64).div_ceil(1 << 20);
        say("mem", decl.resources.memory.map(|bytes| format!("{}M", mebibytes(bytes))));
        let on_device = usize::from(matches!(device, Device::Cuda(_)));
        let devices = decl.resources.device.unwrap_or(on_device) * at_once;
        say("gres", (devices > 0).then(|| format!("gpu:{devices}")));
        if let Some(seconds) = decl.timeout {
            let rounds = self.pack().div_ceil(at_once);
            #[expect(clippy::cast_precision_loss, reason = "packs are small")]
            let minutes = minutes(seconds * rounds as f64);
            say("time", Some(minutes.to_string()));
            // The stage's own time-out comes first and to the second; this is for what it shares the allocation with.
            say("signal", (minutes >= LONG).then(|| "B:TERM@60".to_owned()));
        }
        arguments.extend(self.extra.iter().flatten().cloned());
        arguments
    }
}

/// From this many minutes on there is a minute for a last checkpoint.
const LONG: u64 = 5;

/// Slurm counts minutes. One more, so that a stage's own time-out comes first: it is exact, and Slurm's is not.
fn minutes(seconds: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a duration is positive and short")]
    let minutes = (seconds / 60.0).ceil() as u64;
    minutes.saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Resources;

    #[test]
    fn resources_become_arguments() {
        let options = SlurmOptions {
            partition: Some("gpu".into()),
            account: Some("phys".into()),
            qos: Some("long".into()),
            constraint: Some("a100|h100".into()),
            extra: Some(vec!["--mail-type=FAIL".into()]),
            ..SlurmOptions::default()
        };
        let resources = Resources { threads: Some(4), memory: Some((4 << 30) + 1), device: Some(2) };
        let decl = StageDecl { resources, timeout: Some(7200.0), ..StageDecl::default() };
        let expected = [
            "--partition=gpu",
            "--account=phys",
            "--qos=long",
            "--constraint=a100|h100",
            "--cpus-per-task=4",
            "--mem=4097M",
            "--gres=gpu:2",
            "--time=121",
            "--signal=B:TERM@60",
            "--mail-type=FAIL",
        ];
        assert_eq!(options.arguments(&decl, 4, Device::Cpu), expected);
    }

    #[test]
    fn a_gpu_stage_asks_for_a_gpu_and_a_small_one_for_little() {
        let decl = StageDecl { timeout: Some(1.0), ..StageDecl::default() };
        let options = SlurmOptions::default();
        assert_eq!(options.arguments(&decl, 1, Device::Cuda(0)), ["--cpus-per-task=1", "--gres=gpu:1", "--time=2"]);
    }

    #[test]
    fn what_shares_an_allocation_asks_for_what_runs_at_once() {
        let number = |n| NonZero::new(n);
        let options = SlurmOptions { pack: number(10), at_once: number(4), ..SlurmOptions::default() };
        let resources = Resources { memory: Some(1 << 30), ..Resources::default() };
        let decl = StageDecl { resources, timeout: Some(60.0), ..StageDecl::default() };
        assert_eq!(options.arguments(&decl, 2, Device::Cpu), ["--cpus-per-task=8", "--mem=4096M", "--time=4"]);
    }

    #[test]
    fn a_stage_goes_before_the_manifest() {
        let stage = SlurmOptions { partition: Some("short".into()), ..SlurmOptions::default() };
        let manifest =
            SlurmOptions { partition: Some("long".into()), qos: Some("q".into()), ..SlurmOptions::default() };
        let both = stage.over(&manifest);
        assert_eq!((both.partition.as_deref(), both.qos.as_deref()), (Some("short"), Some("q")));
    }
}
