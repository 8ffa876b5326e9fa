//! What Slurm says of a job, and what that means for a stage that left no result.

use crate::event::Failure;

/// One line of `squeue`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JobLine {
    /// Its name, which is that of the batch.
    pub(super) name: String,
    /// The job's number; of an array, that of the whole array.
    pub(super) job: String,
    /// Its place in an array; 0 if it is none.
    pub(super) index: usize,
    /// `PENDING`, `RUNNING`, ...
    pub(super) state: String,
    /// Why it waits or ended.
    pub(super) reason: String,
}

/// The format that [`parse`] reads: no field of it can contain the separator but the last.
pub(super) const FORMAT: &str = "%j|%A|%F|%K|%T|%r";

/// Reads what `squeue -h -r -o FORMAT` printed. Lines of another form are left out.
pub(super) fn parse(text: &str) -> Vec<JobLine> {
    let line = |line: &str| {
        let mut fields = line.splitn(6, '|').map(str::trim);
        let (name, job, array, index) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let (state, reason) = (fields.next()?, fields.next()?);
        let index = if index == "N/A" { None } else { Some(index.parse().ok()?) };
        let job = if index.is_some() { array } else { job };
        Some(JobLine {
            name: name.to_owned(),
            job: job.to_owned(),
            index: index.unwrap_or(0),
            state: state.to_owned(),
            reason: reason.to_owned(),
        })
    };
    text.lines().filter_map(line).collect()
}

/// Reads what `sacct -X -n -P -o JobName,JobID,State` printed: `sepia-1|12_3|CANCELLED by 0`.
pub(super) fn parse_accounts(text: &str) -> Vec<JobLine> {
    let line = |line: &str| {
        let mut fields = line.splitn(3, '|').map(str::trim);
        let (name, id, state) = (fields.next()?, fields.next()?, fields.next()?);
        let (job, index) = id.split_once('_').unwrap_or((id, "0"));
        let (state, reason) = state.split_once(' ').unwrap_or((state, ""));
        Some(JobLine {
            name: name.to_owned(),
            job: job.to_owned(),
            index: index.parse().ok()?,
            state: state.to_owned(),
            reason: reason.to_owned(),
        })
    };
    text.lines().filter_map(line).collect()
}

/// What a state of Slurm's means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// It waits or runs.
    Alive,
    /// It has ended, and its own record says how; if there is none, this does.
    Over(Over),
}

/// How a job ended in Slurm's eyes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// By itself, well or not.
    ByItself,
    /// At its time limit.
    TimeLimit,
    /// For want of memory.
    Memory,
    /// Somebody cancelled it.
    Cancelled,
    /// The cluster lost it: a node failed, or something more urgent came.
    Lost,
    /// It failed on its node before its first line.
    Launch,
}

/// Reads a state. What is not known counts as alive: a new word of Slurm's must not end a stage that runs.
pub(super) fn life(line: &JobLine, own_uid: u32) -> Life {
    let state = line.state.trim_end_matches('+');
    match state {
        // One that failed before its first line (JobLaunchFailure) is known by its lack of a start.
        "COMPLETED" | "FAILED" => Life::Over(Over::ByItself),
        "TIMEOUT" | "DEADLINE" => Life::Over(Over::TimeLimit),
        "OUT_OF_MEMORY" => Life::Over(Over::Memory),
        // An administrator who drains a node cancels for no fault of the stage's.
        "CANCELLED" if line.reason == "by 0" && own_uid != 0 => Life::Over(Over::Lost),
        "CANCELLED" => Life::Over(Over::Cancelled),
        // Slurm gave up on starting it, and would hold it in the queue until an administrator releases it.
        "PENDING" if line.reason.replace('_', " ").starts_with("launch failed requeued held") => {
            Life::Over(Over::Launch)
        }
        "NODE_FAIL" | "BOOT_FAIL" | "PREEMPTED" | "REVOKED" => Life::Over(Over::Lost),
        _ => Life::Alive,
    }
}

/// A job that Slurm accepted and that can never start, with what to change.
pub(super) fn hopeless(line: &JobLine) -> Option<Failure> {
    if line.state != "PENDING" {
        return None;
    }
    let failure = |message: &str, help: &str, param: Option<&str>| {
        Some(Failure {
            message: message.to_owned(),
            help: Some(help.to_owned()),
            param: param.map(str::to_owned),
            ..Failure::default()
        })
    };
    match line.reason.as_str() {
        "PartitionTimeLimit" => failure(
            "Slurm accepted its job but will never start it: its time limit is above the partition's",
            "lower `timeout`, or name another partition in `[executor.slurm]`; `sinfo -o '%P %l'` lists the limits",
            Some("timeout"),
        ),
        "PartitionNodeLimit" | "BadConstraints" => failure(
            "Slurm accepted its job but will never start it: no node of the partition has what it asks for",
            "lower `resources`, or name another partition in `[executor.slurm]`",
            Some("resources"),
        ),
        "DependencyNeverSatisfied" => failure(
            "its job waits for another job that failed, and will never start",
            "leave `--dependency` out of `extra`: Sepia submits a stage when its inputs are there",
            None,
        ),
        _ => None,
    }
}

/// Whether what a job wrote says that it was ended for its memory: Slurm's state says so only where cgroups watch it.
pub(super) fn memory_ran_out(output: &[String]) -> bool {
    let says = |line: &String| {
        line.starts_with("slurmstepd")
            && ["memory limit", "oom_kill", "oom-kill", "Out Of Memory"].iter().any(|words| line.contains(words))
    };
    output.iter().any(says)
}

/// What a stage's failure is when its job ended and left no result.
pub(super) fn failure(over: Over, job: &str, checkpoint: Option<u64>) -> Failure {
    let saved = match checkpoint {
        Some(step) if step > 0 => format!("; a checkpoint at step {step} is saved"),
        _ => String::new(),
    };
    let (message, help, param) = match over {
        Over::TimeLimit => (
            format!("job {job} reached its time limit{saved}"),
            "raise `timeout`, or name a partition with a longer limit; the next run goes on from the last checkpoint",
            Some("timeout"),
        ),
        Over::Memory => (
            format!("job {job} ran out of memory"),
            "raise `resources.memory`: Slurm ends a job that uses more than it asked for",
            Some("resources"),
        ),
        Over::Cancelled => {
            (format!("job {job} was cancelled from outside (scancel){saved}"), "run again to submit it anew", None)
        }
        Over::Lost => (
            format!("the cluster lost job {job} again and again{saved}"),
            "`sinfo -R` says which nodes are down; name another partition in `[executor.slurm]`, or run again",
            None,
        ),
        Over::Launch => (
            format!("job {job} failed on its node before Sepia could begin there"),
            "do all nodes see the store's folder and this `sepia`, under the same paths, and is there room?",
            None,
        ),
        Over::ByItself => (
            format!("job {job} ended without a result: its process was killed, or could not write to the store"),
            "is the store on a file system that all nodes share, and is there room on it?",
            None,
        ),
    };
    Failure { message, help: Some(help.to_owned()), param: param.map(str::to_owned), ..Failure::default() }
}

/// Why `sbatch` did not take a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nobody knows whether the job is in the queue: look before trying again.
    Unclear(String),
    /// The queue is full for this user: later.
    Later(String),
    /// Too many elements for one array.
    ArrayTooLarge,
    /// It could not even be asked: the machine's own access to the cluster does not work.
    Access(Failure),
    /// Never.
    Never(Failure),
}

/// Reads the error text of `sbatch`.
pub(super) fn refusal(text: &str) -> Refusal {
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let text_only = || {
        let bare = |line: &str| {
            let line = line.trim().trim_start_matches("sbatch: error: ").trim_start_matches("sbatch: fatal: ");
            line.trim_start_matches("Batch job submission failed: ").to_owned()
        };
        text.lines().map(bare).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
    };
    if says(&["cannot be started"]) {
        return Refusal::Never(Failure {
            message: format!("Slurm is not installed here: {}", text_only()),
            help: Some("run on a login node of the cluster, or without `--executor slurm`".to_owned()),
            ..Failure::default()
        });
    }
    if says(&["munge", "Munge", "authentication"]) {
        // The first line is advice to administrators; the one that says what happened names munge or the protocol.
        let line = text.lines().find(|line| line.contains("Munge")).or_else(|| text.lines().last()).unwrap_or_default();
        return Refusal::Access(Failure {
            message: format!("Slurm does not know who asks: {}", line.trim_start_matches("sbatch: error: ")),
            help: Some("`munge -n | unmunge` tests it: is the daemon munged running on this machine?".to_owned()),
            ..Failure::default()
        });
    }
    if says(&["configuration source", "Could not find any configuration", "process configuration file"]) {
        return Refusal::Access(Failure {
            message: format!("Slurm's commands find no cluster: {}", text_only()),
            help: Some("run on a login node of the cluster, or set SLURM_CONF".to_owned()),
            ..Failure::default()
        });
    }
    if says(&[
        "Socket timed out",
        "Unable to contact slurm controller",
        "Transport endpoint",
        "Connection refused",
        "Zero Bytes were transmitted",
        "temporarily unable to accept job",
        "Resource temporarily unavailable",
    ]) {
        return Refusal::Unclear(text_only());
    }
    if says(&["SubmitJob", "MaxJobs", "job submit limit", "MaxJobCount", "QOSMaxSubmit"]) {
        return Refusal::Later(text_only());
    }
    if says(&["Invalid job array specification"]) {
        return Refusal::ArrayTooLarge;
    }
    let (help, param) = if says(&["emory"]) {
        ("lower `resources.memory`, or name a partition with larger nodes", Some("resources"))
    } else if says(&["gres", "Gres", "GRES"]) {
        ("`sinfo -o '%P %G'` lists the GPUs of each partition: lower `resources.device`", Some("resources"))
    } else if says(&["artition"]) {
        ("`sinfo -s` lists the partitions: correct `partition` in `[executor.slurm]`", None)
    } else if says(&["ccount", "QOS", "qos"]) {
        ("`sacctmgr show associations user=$USER` lists what you may use: correct `account` or `qos`", None)
    } else if says(&["CPU count", "node configuration", "Requested node"]) {
        (
            "no node of the partition has so many threads or GPUs: lower `resources.threads` or `resources.device`, or name \
             another partition (`sinfo -o '%P %c %m %G'` lists what nodes have)",
            Some("resources"),
        )
    } else {
        ("`sepia plan --executor slurm` prints the sbatch line: try it by hand", None)
    };
    Refusal::Never(Failure {
        message: format!("Slurm refused the job: {}", text_only()),
        help: Some(help.to_owned()),
        param: param.map(str::to_owned),
        ..Failure::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(state: &str, reason: &str) -> JobLine {
        JobLine { name: "n".into(), job: "1".into(), index: 0, state: state.into(), reason: reason.into() }
    }

    #[test]
    fn lines_of_squeue_and_sacct() {
        let found = parse("sepia-a|13|12|3|RUNNING|None\nsepia-b|14|14|N/A|PENDING|Nodes required (a|b)\nrubbish\n");
        assert_eq!((found[0].job.as_str(), found[0].index), ("12", 3));
        assert_eq!((found[1].job.as_str(), found[1].index), ("14", 0));
        assert_eq!(found[1].reason, "Nodes required (a|b)");
        assert_eq!(found.len(), 2);
        let found = parse_accounts("sepia-a|12_3|CANCELLED by 0\nsepia-b|14|COMPLETED\n\n");
        assert_eq!((found[0].index, found[0].state.as_str(), found[0].reason.as_str()), (3, "CANCELLED", "by 0"));
        assert_eq!(found.len(), 2);
    }

    /// Recorded from Slurm 22.05.8 with slurmdbd, after failures, a `scancel` of a running and of a waiting element, and a
    /// requeue of another: the waiting ones are not listed at all.
    #[test]
    fn what_sacct_printed() {
        let recorded = "sepia-1|1|FAILED\nsepia-3|3|FAILED\nsepia-4|4|COMPLETED\nsepia-2|2_0|CANCELLED by 0\n\
                        sepia-2|2_1|REQUEUED\nsepia-2|2_2|RUNNING\nsepia-2|2_[3-5%1]|PENDING\n";
        let found = parse_accounts(recorded);
        let meanings: Vec<_> =
            found.iter().map(|line| (line.name.as_str(), line.job.as_str(), line.index, life(line, 1000))).collect();
        let itself = Life::Over(Over::ByItself);
        assert_eq!(
            meanings,
            [
                ("sepia-1", "1", 0, itself),
                ("sepia-3", "3", 0, itself),
                ("sepia-4", "4", 0, itself),
                ("sepia-2", "2", 0, Life::Over(Over::Lost)),
                ("sepia-2", "2", 1, Life::Alive),
                ("sepia-2", "2", 2, Life::Alive),
            ]
        );
        assert!(parse_accounts("").is_empty(), "of names that it does not know, with exit code 0");
    }

    #[test]
    fn every_end_of_slurm_has_a_meaning_and_new_words_end_nothing() {
        let meaning = |state| life(&line(state, "None"), 1000);
        assert_eq!(meaning("COMPLETED"), Life::Over(Over::ByItself));
        assert_eq!(meaning("FAILED"), Life::Over(Over::ByItself));
        assert_eq!(meaning("TIMEOUT"), Life::Over(Over::TimeLimit));
        assert_eq!(meaning("OUT_OF_MEMORY"), Life::Over(Over::Memory));
        for lost in ["NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED"] {
            assert_eq!(meaning(lost), Life::Over(Over::Lost));
        }
        for alive in ["PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "A_NEW_WORD"] {
            assert_eq!(meaning(alive), Life::Alive);
        }
        let held = line("PENDING", "launch failed requeued held");
        assert_eq!(life(&held, 1000), Life::Over(Over::Launch));
        assert_eq!(life(&line("CANCELLED", "by 0"), 1000), Life::Over(Over::Lost));
        assert_eq!(life(&line("CANCELLED", "by 1000"), 1000), Life::Over(Over::Cancelled));
        assert_eq!(life(&line("CANCELLED", "by 0"), 0), Life::Over(Over::Cancelled));
    }

    #[test]
    fn a_job_that_would_wait_for_ever_is_found_out() {
        assert!(hopeless(&line("PENDING", "PartitionTimeLimit")).unwrap().help.unwrap().contains("timeout"));
        assert!(hopeless(&line("PENDING", "DependencyNeverSatisfied")).is_some());
        assert!(hopeless(&line("PENDING", "Resources")).is_none());
        assert!(hopeless(&line("RUNNING", "PartitionTimeLimit")).is_none());
    }

    #[test]
    fn messages_say_what_to_change() {
        for (over, word) in [
            (Over::TimeLimit, "timeout"),
            (Over::Memory, "resources.memory"),
            (Over::Cancelled, "run again"),
            (Over::Lost, "sinfo"),
            (Over::ByItself, "share"),
            (Over::Launch, "same paths"),
        ] {
            assert!(failure(over, "7", None).help.unwrap().contains(word), "{over:?}");
        }
        assert!(failure(Over::TimeLimit, "7", Some(40)).message.contains("step 40"));
    }

    #[test]
    fn the_daemon_says_when_memory_ran_out() {
        let says = |line: &str| memory_ran_out(&[line.to_owned()]);
        assert!(says(
            "slurmstepd: error: Detected 1 oom_kill event in StepId=5.batch. Some of the step tasks have been OOM Killed."
        ));
        assert!(says(
            "slurmstepd-n1: error: StepId=1.batch exceeded memory limit (245108736 > 20971520), being killed"
        ));
        assert!(!says("my program exceeded its own memory limit"));
    }

    #[test]
    fn refusals() {
        let unclear =
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)";
        assert!(matches!(refusal(unclear), Refusal::Unclear(_)));
        assert!(matches!(refusal("sbatch: error: Socket timed out on send/recv operation"), Refusal::Unclear(_)));
        assert!(matches!(refusal("Job violates accounting/QOS policy (job submit limit, ...)"), Refusal::Later(_)));
        assert_eq!(refusal("Invalid job array specification"), Refusal::ArrayTooLarge);
        let Refusal::Never(failure) = refusal("sbatch: error: invalid partition specified: nope") else {
            unreachable!("a wrong partition is final")
        };
        assert!(failure.help.unwrap().contains("sinfo -s"));
        let Refusal::Access(failure) = refusal("resolve_ctls_from_dns_srv: Could not establish a configuration source")
        else {
            unreachable!("no cluster is final")
        };
        assert!(failure.help.unwrap().contains("SLURM_CONF"));
        let without_munge = "sbatch: error: If munged is up, restart with --num-threads=10\n\
            sbatch: error: Munge encode failed: Failed to access \"/run/munge.sock\": No such file or directory\n\
            sbatch: error: Batch job submission failed: Protocol authentication error\n";
        let Refusal::Access(failure) = refusal(without_munge) else { unreachable!("nothing was submitted") };
        assert!(failure.message.contains("Failed to access") && failure.help.unwrap().contains("munged"));
        let two_lines = "sbatch: error: Memory specification can not be satisfied\n\
            sbatch: error: Batch job submission failed: Requested node configuration is not available\n";
        let Refusal::Never(failure) = refusal(two_lines) else { unreachable!("too much memory is final") };
        assert_eq!(
            failure.message,
            "Slurm refused the job: Memory specification can not be satisfied; Requested node configuration is not available"
        );
        assert_eq!(failure.param.as_deref(), Some("resources"));
    }
}
