//! What Slurm refuses, and what it ends.

use super::cluster::{began, cluster, gated, turn};
use crate::support::Project;

#[test]
fn a_time_out_is_exact_and_what_slurm_refuses_says_what_to_change() {
    let Some(cluster) = cluster() else { return };
    let _turn = turn();
    let project = Project::new();
    let slow = gated(&project, "slow", "timeout = 1");
    let large = gated(&project, "large", "resources = { memory = \"900 GiB\" }");
    let wrong = gated(&project, "wrong", "executor.slurm.partition = \"nowhere\"");
    let devices = gated(&project, "devices", "resources = { device = 9 }");
    // Slurm takes this one, and would let it wait for ever.
    let long = gated(&project, "long", "timeout = \"9h\"\nexecutor.slurm.partition = \"short\"");
    project.write("m.toml", &format!("{slow}{large}{wrong}{devices}{long}"));
    let done = cluster.run(&project, &["--keep-going"]);
    assert_eq!(done.code, 1, "{}", done.err);
    for words in [
        "did not finish within its time-out",
        "lower `resources.memory`",
        "`sinfo -s` lists the partitions",
        "lower `resources.threads` or `resources.device`",
        "its time limit is above the partition's",
    ] {
        assert!(done.err.contains(words), "{words}\n{}", done.err);
    }
    assert_eq!(began(&project, "long"), 0);
}

#[test]
fn a_stage_that_takes_too_much_memory_is_told_from_others() {
    let Some(cluster) = cluster() else { return };
    let _turn = turn();
    let project = Project::new();
    project.write(
        "m.toml",
        r#"[stages.eats]
kind = "command"
argv = ["python3", "-c", "x = bytearray(400 << 20); import time; time.sleep(600)"]
resources = { memory = "64 MiB" }
"#,
    );
    let done = cluster.run(&project, &[]);
    assert_eq!(done.code, 1, "{}", done.err);
    assert!(done.err.contains("ran out of memory") && done.err.contains("raise `resources.memory`"), "{}", done.err);
}

/// Slurm counts minutes: this one takes more than one.
#[test]
fn slurms_own_time_limit_is_told_as_such() {
    let Some(cluster) = cluster() else { return };
    let project = Project::new();
    project.write("m.toml", &gated(&project, "slow", "executor.slurm.extra = [\"--time=1\"]"));
    let done = cluster.run(&project, &[]);
    assert_eq!(done.code, 1, "{}", done.err);
    assert!(done.err.contains("reached its time limit") && done.err.contains("raise `timeout`"), "{}", done.err);
}

#[test]
fn where_there_is_no_slurm_or_no_cluster_that_is_said_at_once() {
    let Some(cluster) = cluster() else { return };
    let _turn = turn();
    let project = Project::new();
    project.write("m.toml", &gated(&project, "a", ""));
    let empty = project.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let words = ["run", "m.toml", "--executor", "slurm"];
    let run = |path: Option<&std::path::Path>| {
        let mut command = cluster.command(&project, &words);
        match path {
            Some(path) => command.env("PATH", path),
            // A configuration without a cluster in it. One that is not there lets Slurm look for it for a minute.
            None => command.env("SLURM_CONF", "/dev/null"),
        };
        crate::support::Done::from(command.output().unwrap())
    };
    let done = run(Some(&empty));
    assert!(done.code == 1 && done.err.contains("Slurm is not installed here"), "{}", done.err);
    let done = run(None);
    assert!(done.code == 1 && done.err.contains("Slurm's commands find no cluster"), "{}", done.err);
}
