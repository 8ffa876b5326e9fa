//! Jobs without the run that submitted them: cancelled, left, found again, shared, swept away.

use std::process::Stdio;

use super::cluster::{Watched, began, cluster, gated, interrupt, open_gate, started, text, turn, wait_during};
use crate::support::{Done, Project, wait_until};

#[test]
fn scancel_from_outside_ends_the_stage_with_a_word_on_it() {
    let Some(cluster) = cluster() else { return };
    let _turn = turn();
    let project = Project::new();
    // The held one leaves no trace in Slurm once it is cancelled.
    let held = gated(&project, "held", "executor.slurm.extra = [\"--hold\"]");
    project.write("m.toml", &format!("{}{held}", gated(&project, "runs", "")));
    let mut run = cluster.start_run(&project, &["--keep-going"]);
    wait_during(&mut run, || began(&project, "runs") == 1 && cluster.jobs(&project).len() == 2);
    for job in cluster.jobs(&project) {
        cluster.slurm(&["scancel", job.split('|').next().unwrap()]);
    }
    let (code, err) = text(run.wait_with_output().unwrap());
    assert_eq!(code, 1, "{err}");
    assert_eq!(err.matches("was cancelled from outside (scancel)").count(), 2, "{err}");
}

#[test]
fn ctrl_c_cancels_all_jobs_with_one_call_or_leaves_them_to_be_attached() {
    let Some(cluster) = cluster() else { return };
    let _turn = turn();
    let project = Project::new();
    let second = "[stages.second]\nkind = \"command\"\ninputs = { first = \"first\" }\n\
                  argv = [\"sh\", \"-c\", \"cp ${inputs.first} out\"]\noutputs = { out = \"out\" }\n";
    let beside = gated(&project, "beside", "");
    project.write("m.toml", &format!("{}{beside}{second}", gated(&project, "first", "")));
    let slurm = Watched::new(&project);
    let mut command = cluster.command(&project, &["run", "m.toml", "--executor", "slurm"]);
    let mut run = started(slurm.before(&mut command));
    wait_during(&mut run, || began(&project, "first") == 1 && began(&project, "beside") == 1);
    interrupt(&run);
    let (code, err) = text(run.wait_with_output().unwrap());
    assert_eq!(code, 130, "{err}");
    assert_eq!(slurm.calls(&["scancel"]).len(), 1);
    wait_until(|| cluster.jobs(&project).iter().all(|job| job.contains("CANCELLED")));
    // Left alone, they go on; `attach` takes them up, and what depends on them.
    open_gate(&project, "beside");
    let mut run = cluster.start_run(&project, &["--detach"]);
    wait_during(&mut run, || began(&project, "first") == 2);
    interrupt(&run);
    let (code, err) = text(run.wait_with_output().unwrap());
    assert_eq!(code, 130, "{err}");
    assert!(err.contains("first goes on as job"), "{err}");
    let log = cluster.sepia(&project, &["log", "first"]);
    assert!(log.out.contains("hello from first"), "{}{}", log.out, log.err);
    let follow = cluster.command(&project, &["log", "first", "-f"]).stdout(Stdio::piped()).spawn().unwrap();
    open_gate(&project, "first");
    let followed = Done::from(follow.wait_with_output().unwrap());
    assert!(followed.code == 0 && followed.out.contains("hello from first"), "{}", followed.out);
    let attached = cluster.sepia(&project, &["attach"]);
    assert_eq!(attached.code, 0, "{}", attached.err);
    assert_eq!(began(&project, "first"), 2, "it was not submitted again");
    assert_eq!(project.executions(), 3);
}

#[test]
fn a_killed_submitter_is_followed_by_one_that_finds_the_jobs_and_two_runs_share_them() {
    let Some(cluster) = cluster() else { return };
    let _turn = turn();
    let project = Project::new();
    project.write("m.toml", &format!("{}{}", gated(&project, "a", ""), gated(&project, "b", "")));
    let mut run = cluster.start_run(&project, &[]);
    wait_during(&mut run, || began(&project, "a") == 1 && began(&project, "b") == 1);
    run.kill().unwrap();
    run.wait().unwrap();
    // One ends while nobody looks, one later.
    open_gate(&project, "a");
    let run = cluster.start_run(&project, &[]);
    // A second run shares what the first one waits for.
    let other = cluster.start_run(&project, &[]);
    open_gate(&project, "b");
    for run in [run, other] {
        let (code, err) = text(run.wait_with_output().unwrap());
        assert_eq!(code, 0, "{err}");
    }
    assert_eq!((began(&project, "a"), began(&project, "b")), (1, 1), "nothing ran twice");
    assert_eq!(cluster.jobs(&project).len(), 2);
    assert_eq!(project.executions(), 2);
}

#[test]
fn gc_keeps_what_living_jobs_need_and_results_that_no_run_has_seen_yet() {
    let Some(cluster) = cluster() else { return };
    let _turn = turn();
    let project = Project::new();
    project.write("m.toml", &gated(&project, "a", ""));
    let mut run = cluster.start_run(&project, &[]);
    wait_during(&mut run, || began(&project, "a") == 1);
    run.kill().unwrap();
    run.wait().unwrap();
    let gc = || {
        let done = cluster.sepia(&project, &["cache", "gc", "--yes"]);
        assert_eq!(done.code, 0, "{}", done.err);
        done.out
    };
    let batches = || {
        let entries = std::fs::read_dir(project.path(".sepia/jobs")).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
    };
    assert!(gc().contains("jobs that are over: 0 removed, 0 B; 1 kept"), "the job is alive");
    open_gate(&project, "a");
    wait_until(|| cluster.jobs(&project).iter().all(|job| job.contains("COMPLETED")));
    assert!(gc().contains("1 kept"), "no run has recorded its result");
    assert_eq!(batches(), 1);
    cluster.run_well(&project);
    assert_eq!((began(&project, "a"), cluster.jobs(&project).len(), batches()), (1, 1, 0), "it was taken over");
    assert!(!gc().contains("jobs"));
}
