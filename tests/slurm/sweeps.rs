//! Many stages: arrays, allocations that are shared, and how little Slurm is asked.

use super::cluster::{ARRAY, Watched, began, cluster, gated, open_gate, started, sweep, text, turn, wait_during};
use crate::support::Project;

#[test]
fn a_sweep_of_50_cells_is_one_array_and_a_second_run_asks_slurm_nothing() {
    let Some(cluster) = cluster() else { return };
    let _turn = turn();
    let project = Project::new();
    project.write("m.toml", &sweep(50));
    let plan = cluster.sepia(&project, &["plan", "m.toml", "--executor", "slurm"]);
    assert!(plan.out.contains("--array=0-49"), "{}", plan.out);
    let slurm = Watched::new(&project);
    let run = || {
        let mut command = cluster.command(&project, &["run", "m.toml", "--executor", "slurm"]);
        text(slurm.before(&mut command).output().unwrap())
    };
    let (code, err) = run();
    assert_eq!(code, 0, "{err}");
    assert_eq!(project.ran().len(), 51);
    assert_eq!(slurm.arrays(), ["0-49"], "{err}");
    let lost = submitted_again(&err);
    let calls = slurm.calls(&["sbatch"]).len();
    assert!((2..=2 + lost).contains(&calls), "one array, and the sum, in {calls} calls: {err}");
    assert_eq!(slurm.calls(&["scontrol"]).len(), 1, "the cluster's limits are asked for once");
    let questions = slurm.questions();
    let too_close = questions.windows(2).filter(|two| two[1] - two[0] < 2_000_000_000).count();
    assert_eq!(too_close, 0, "questions at {questions:?} ns");
    // The same keys as locally: a local run finds everything.
    let local = project.sepia(&["run", "m.toml"]);
    assert!(local.err.contains("51 cached"), "{}", local.err);
    assert_eq!(cluster.jobs(&project).len(), 51 + lost, "{err}");
    slurm.forget();
    let (_, again) = run();
    assert!(again.contains("51 cached"), "{again}");
    assert_eq!(slurm.questions().len() + slurm.calls(&["sbatch", "scancel"]).len(), 0);
    assert!(std::fs::read_dir(project.path(".sepia/jobs")).unwrap().next().is_none(), "nothing is left behind");
}

#[test]
fn a_sweep_beyond_the_clusters_largest_array_becomes_several() {
    let Some(cluster) = cluster() else { return };
    let _turn = turn();
    for the_cluster_says in [true, false] {
        let project = Project::new();
        project.write("m.toml", &sweep(ARRAY + 4));
        let slurm = Watched::new(&project);
        if !the_cluster_says {
            slurm.script("scontrol", "exit 1");
        }
        let mut command = cluster.command(&project, &["run", "m.toml", "--executor", "slurm"]);
        let (code, err) = text(slurm.before(&mut command).output().unwrap());
        assert_eq!(code, 0, "{err}");
        assert_eq!(project.ran().len(), ARRAY + 5, "{err}");
        // Where nothing was said, the first try is refused, and halves are submitted.
        let expected: &[&str] = if the_cluster_says { &["0-50", "0-3"] } else { &["0-54", "0-26", "0-26"] };
        assert_eq!(slurm.arrays(), expected, "{err}");
        let (calls, least) = (slurm.calls(&["sbatch"]).len(), if the_cluster_says { 3 } else { 5 });
        assert!((least..=least + submitted_again(&err)).contains(&calls), "{calls} calls: {err}");
    }
}

/// Cells whose jobs the cluster lost, as the run said. Rare, and then each is submitted once more, by itself.
fn submitted_again(err: &str) -> usize {
    err.matches("submitting it again").count()
}

#[test]
fn small_stages_share_an_allocation() {
    let Some(cluster) = cluster() else { return };
    let _turn = turn();
    let project = Project::new();
    let settings = "\n[executor.slurm]\npack = 4\nat_once = 2\npartition = \"main\"\n";
    project.write("m.toml", &format!("{}{settings}", sweep(7)));
    // The settings choose the executor.
    let done = cluster.sepia(&project, &["run", "m.toml"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(project.ran().len(), 8);
    assert_eq!(cluster.jobs(&project).len(), 3, "two for seven cells, one for the sum");
}

#[test]
fn the_users_configuration_chooses_slurm_and_gpus_are_shared_out_within_an_allocation() {
    let Some(cluster) = cluster() else { return };
    let _turn = turn();
    let project = Project::new();
    std::fs::create_dir_all(project.path("config/sepia")).unwrap();
    project.write("config/sepia/config.toml", "[executor.slurm]\npartition = \"urgent\"\npack = 2\nat_once = 2\n");
    project.write(
        "m.toml",
        r#"[stages.gpu]
kind = "command"
argv = ["sh", "-c", "echo sees $CUDA_VISIBLE_DEVICES on $SLURM_JOB_PARTITION; echo ${params.n} > out"]
env_allow = ["SLURM_JOB_PARTITION"]
outputs = { out = "out" }
params = { n = 0 }
matrix = { "params.n" = [1, 2] }
resources = { device = 1 }
"#,
    );
    let done = cluster.sepia(&project, &["run", "m.toml"]);
    assert_eq!(done.code, 0, "{}", done.err);
    let log = |n: u32| project.sepia(&["log", &format!("gpu[n={n}]")]).out.trim().to_owned();
    let mut logs = [log(1), log(2)];
    logs.sort();
    assert_eq!(logs, ["sees 0 on urgent", "sees 1 on urgent"]);
}

#[test]
fn no_more_jobs_are_in_the_queue_than_was_said() {
    let Some(cluster) = cluster() else { return };
    let _turn = turn();
    let project = Project::new();
    let names: Vec<String> = (1..=5).map(|n| format!("s{n}")).collect();
    let stages: String = names.iter().map(|name| gated(&project, name, "")).collect();
    project.write("m.toml", &format!("{stages}\n[executor.slurm]\nmax_jobs = 2\n"));
    let slurm = Watched::new(&project);
    let mut command = cluster.command(&project, &["run", "m.toml"]);
    let mut run = started(slurm.before(&mut command));
    let all_began = || names.iter().map(|name| began(&project, name)).sum::<usize>();
    wait_during(&mut run, || all_began() == 2);
    // Whatever it might do more, it would have done when it has asked about them.
    wait_during(&mut run, || slurm.calls(&["squeue"]).len() >= 2);
    assert_eq!((all_began(), cluster.jobs(&project).len()), (2, 2));
    names.iter().for_each(|name| open_gate(&project, name));
    let (code, err) = text(run.wait_with_output().unwrap());
    assert_eq!(code, 0, "{err}");
    assert_eq!(cluster.jobs(&project).len(), 5);
}

#[test]
fn a_failing_cell_fails_alone_and_a_chain_waits_for_its_inputs() {
    let Some(cluster) = cluster() else { return };
    let _turn = turn();
    let project = Project::new();
    project.write(
        "m.toml",
        r#"[stages.one]
kind = "command"
argv = ["sh", "-c", "echo 1 > out"]
outputs = { out = "out" }
[stages.two]
kind = "command"
inputs = { one = "one" }
argv = ["sh", "-c", "cat ${inputs.one} > out"]
outputs = { out = "out" }
[stages.cell]
kind = "command"
inputs = { two = "two" }
argv = ["sh", "-c", "echo on $SLURM_JOB_ID; [ ${params.n} != 2 ] || { echo the reason; exit 7; }; echo ${params.n} > out"]
env_allow = ["SLURM_JOB_ID"]
outputs = { out = "out" }
params = { n = 0 }
matrix = { "params.n" = [1, 2, 3] }
[stages.after]
kind = "command"
inputs = { cell = "cell" }
argv = ["sh", "-c", "cp ${inputs.cell} out"]
outputs = { out = "out" }
"#,
    );
    let done = cluster.run(&project, &["--keep-going"]);
    assert_eq!(done.code, 1, "{}", done.err);
    assert!(done.err.contains("exited with code 7") && done.err.contains("the reason"), "{}", done.err);
    assert_eq!(project.ran().len(), 6, "{}", done.err);
    let log = project.sepia(&["log", "cell[n=2]"]);
    assert!(log.out.contains("the reason"), "{}{}", log.out, log.err);
}
