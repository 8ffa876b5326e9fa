//! What clusters do to jobs: nodes are lost, controllers restart, something more urgent comes. It costs time only.

use rustix::process::Signal;

use super::cluster::{Cluster, Watched, began, cluster, gated, interrupt, open_gate, started, text, turn, wait_during};
use crate::support::Project;

/// The node that a project's only running job is on.
fn node_of(cluster: &Cluster, project: &Project) -> String {
    let jobs = cluster.jobs(project);
    let running = jobs.iter().find(|job| job.contains("|RUNNING|")).unwrap();
    running.rsplit('|').next().unwrap().to_owned()
}

#[test]
fn a_lost_node_and_a_restarted_controller_cost_time_only() {
    let Some(cluster) = Cluster::own("losses") else { return };
    let project = Project::new();
    project.write("m.toml", &gated(&project, "a", ""));
    let mut run = cluster.start_run(&project, &[]);
    wait_during(&mut run, || began(&project, "a") == 1);
    let node = node_of(&cluster, &project);
    // The controller goes away and comes back while the job runs.
    cluster.end_daemon("slurmctld", Signal::TERM);
    cluster.slurm(&["slurmctld"]);
    wait_during(&mut run, || cluster.jobs(&project).iter().any(|job| job.contains("|RUNNING|")));
    // Only the node's daemon dies: Slurm queues the job again while the first copy still runs.
    cluster.end_daemon(&format!("slurmd.{node}"), Signal::KILL);
    wait_during(&mut run, || cluster.jobs(&project).iter().any(|job| job.contains("|PENDING|")));
    let job = cluster.jobs(&project)[0].split('|').next().unwrap().to_owned();
    // The node comes back, and kills the first copy. Slurm muddles a job that starts there before that is done: it calls it
    // failed, or takes it to be running until the node's next report, minutes later.
    cluster.slurm(&["slurmd", "-N", &node]);
    cluster.slurm(&["scontrol", "update", &format!("nodename={node}"), "state=resume"]);
    let first = std::fs::read_to_string(project.path("a.began")).unwrap().lines().next().unwrap().to_owned();
    wait_during(&mut run, || !std::path::Path::new("/proc").join(&first).exists());
    wait_during(&mut run, || {
        // Slurm would wait two minutes.
        cluster.slurm(&["scontrol", "update", &format!("jobid={job}"), "StartTime=now"]);
        began(&project, "a") >= 2
    });
    open_gate(&project, "a");
    let (code, err) = text(run.wait_with_output().unwrap());
    assert_eq!(code, 0, "{err}");
    assert_eq!(project.executions(), 1, "of several copies, one result counts");
    assert_eq!(project.sepia(&["cache", "verify"]).code, 0);
}

#[test]
fn two_living_copies_of_one_task_leave_one_result() {
    let Some(cluster) = Cluster::own("copies") else { return };
    let project = Project::new();
    project.write("m.toml", &gated(&project, "a", ""));
    let mut run = cluster.start_run(&project, &[]);
    wait_during(&mut run, || began(&project, "a") == 1);
    let node = node_of(&cluster, &project);
    // Nobody on the node hears that the job is to end; to Slurm the node is lost, and the job starts on the other one.
    cluster.end_daemon(&format!("slurmd.{node}"), Signal::KILL);
    wait_during(&mut run, || cluster.jobs(&project).iter().any(|job| job.contains("|PENDING|")));
    let job = cluster.jobs(&project)[0].split('|').next().unwrap().to_owned();
    wait_during(&mut run, || {
        cluster.slurm(&["scontrol", "update", &format!("jobid={job}"), "StartTime=now"]);
        began(&project, "a") == 2
    });
    let copies = std::fs::read_to_string(project.path("a.began")).unwrap();
    let alive = |pid: &&str| std::path::Path::new(&format!("/proc/{pid}")).exists();
    assert_eq!(copies.lines().filter(alive).count(), 2, "both run");
    open_gate(&project, "a");
    let (code, err) = text(run.wait_with_output().unwrap());
    assert_eq!(code, 0, "{err}");
    assert_eq!(project.executions(), 1);
    assert_eq!(project.sepia(&["cache", "verify"]).code, 0);
}

#[test]
fn a_controller_that_is_down_during_submission_is_waited_for() {
    let Some(cluster) = Cluster::own("silence") else { return };
    let project = Project::new();
    project.write("m.toml", &gated(&project, "a", ""));
    open_gate(&project, "a");
    cluster.end_daemon("slurmctld", Signal::TERM);
    let slurm = Watched::new(&project);
    let mut command = cluster.command(&project, &["run", "m.toml", "--executor", "slurm"]);
    let mut run = started(slurm.before(&mut command));
    // It has tried to submit, and now looks for the job by its name.
    wait_during(&mut run, || slurm.calls(&["sbatch"]).len() == 1 && slurm.calls(&["squeue"]).len() == 1);
    cluster.slurm(&["slurmctld"]);
    let (code, err) = text(run.wait_with_output().unwrap());
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("Warning a: Slurm did not answer"), "{err}");
    assert_eq!((began(&project, "a"), cluster.jobs(&project).len()), (1, 1));
}

#[test]
fn a_submission_that_slurm_took_without_saying_so_is_found_and_not_made_twice() {
    let Some(cluster) = cluster() else { return };
    let _turn = turn();
    let project = Project::new();
    project.write("m.toml", &gated(&project, "a", ""));
    open_gate(&project, "a");
    let slurm = Watched::new(&project);
    slurm.script(
        "sbatch",
        "\"$real\" \"$@\" > /dev/null\necho 'sbatch: error: Batch job submission failed: Socket timed out' >&2\nexit 1",
    );
    let mut command = cluster.command(&project, &["run", "m.toml", "--executor", "slurm"]);
    let (code, err) = text(slurm.before(&mut command).output().unwrap());
    assert_eq!(code, 0, "{err}");
    assert_eq!((slurm.calls(&["sbatch"]).len(), cluster.jobs(&project).len(), began(&project, "a")), (1, 1, 1));
}

/// Training that goes on until it is stopped, on one node, saving a checkpoint every second.
fn training(partition: &str) -> (Project, String) {
    let project = Project::training();
    project.edit("tiny.toml", "max_steps = 40\n", "max_steps = 1000000\ncheckpoint_every = \"1s\"\n");
    let manifest = std::fs::read_to_string(project.path("tiny.toml")).unwrap();
    let settings = "[executor.slurm]\nextra = [\"--nodelist=n2\"]\n";
    let text = format!("{manifest}\n{settings}partition = \"{partition}\"\n");
    project.write("m.toml", &text);
    (project, text)
}

/// Whether a job of the project has said something in its reports.
fn said(project: &Project, what: &str) -> bool {
    let Ok(batches) = std::fs::read_dir(project.path(".sepia/jobs")) else { return false };
    let status = batches.filter_map(Result::ok).filter_map(|batch| std::fs::read_dir(batch.path().join("status")).ok());
    let reports =
        status.flatten().filter_map(Result::ok).filter(|file| file.path().extension().is_some_and(|e| e == "reports"));
    reports.filter_map(|file| std::fs::read_to_string(file.path()).ok()).any(|text| text.contains(what))
}

/// Runs training, does something to its job once it has saved a checkpoint, and waits until it goes on from there.
fn goes_on_from_its_checkpoint(cluster: &Cluster, partition: &str, mut disturb: impl FnMut(&str)) {
    let (project, _) = training(partition);
    let mut run = cluster.start_run(&project, &["train"]);
    wait_during(&mut run, || said(&project, "\"checkpoint\""));
    let job = cluster.jobs(&project).iter().find(|job| job.contains("|RUNNING|")).unwrap().clone();
    let job = job.split('|').next().unwrap();
    disturb(job);
    wait_during(&mut run, || {
        cluster.slurm(&["scontrol", "update", &format!("jobid={job}"), "StartTime=now"]);
        said(&project, "\"resumed\"")
    });
    interrupt(&run);
    let (code, err) = text(run.wait_with_output().unwrap());
    assert_eq!(code, 130, "{err}");
    assert!(err.contains("Resuming train at step"), "{err}");
}

#[test]
fn a_requeued_stage_goes_on_from_its_last_checkpoint() {
    let Some(cluster) = cluster() else { return };
    let _turn = turn();
    goes_on_from_its_checkpoint(cluster, "main", |job| {
        cluster.slurm(&["scontrol", "requeue", job]);
    });
}

#[test]
fn a_preempted_stage_goes_on_from_its_last_checkpoint() {
    let Some(cluster) = cluster() else { return };
    let _turn = turn();
    goes_on_from_its_checkpoint(cluster, "low", |_| {
        // All of the node, for a moment.
        let urgent =
            ["sbatch", "-p", "urgent", "-w", "n2", "--exclusive", "-o", "/dev/null", "-D", "/", "--wrap", "true"];
        cluster.slurm(&urgent);
    });
}
