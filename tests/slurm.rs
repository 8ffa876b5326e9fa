//! A real Slurm cluster on this machine: a controller and four node daemons.
//!
//! `tests/services/slurm-up.sh` starts it once for all tests here (and installs Slurm from the distribution if it is not
//! there); it goes with the test process. Where Slurm cannot be had, the tests say so and check nothing. States are waited
//! for, never times.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::support::{Done, Project, repository, wait_until};

/// The cluster, for one test at a time that disturbs it (`ALONE`) or for many.
struct Cluster {
    folder: PathBuf,
}

static ALONE: std::sync::RwLock<()> = std::sync::RwLock::new(());

fn cluster() -> Option<&'static Cluster> {
    static CLUSTER: OnceLock<Option<Cluster>> = OnceLock::new();
    CLUSTER.get_or_init(start).as_ref()
}

fn start() -> Option<Cluster> {
    let folder = PathBuf::from("/tmp/sepia-slurm-tests");
    // Two test processes on one machine take turns: the daemons have fixed ports.
    let lock = std::fs::File::create("/tmp/sepia-slurm-tests.lock").ok()?;
    lock.lock().ok()?;
    let services = repository().join("tests/services");
    let down = |folder: &std::path::Path| {
        let _ = Command::new(services.join("slurm-down.sh")).arg("--dir").arg(folder).output();
    };
    down(&folder);
    let up = Command::new(services.join("slurm-up.sh"))
        .args(["--nodes", "4", "--cpus", "4", "--gpus", "2", "--dir"])
        .arg(&folder)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    if !up.status.success() {
        eprintln!("Slurm cannot be started here, its tests are skipped:\n{}", String::from_utf8_lossy(&up.stderr));
        return None;
    }
    // It goes with this process, however that ends; the lock goes with it.
    let watch = format!(
        "while kill -0 {} 2>/dev/null; do sleep 1; done; '{}' --dir '{}'",
        std::process::id(),
        services.join("slurm-down.sh").display(),
        folder.display()
    );
    Command::new("sh")
        .args(["-c", &watch])
        .stdin(Stdio::from(lock))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    Some(Cluster { folder })
}

impl Cluster {
    fn slurm(&self, words: &[&str]) -> String {
        let output = Command::new(words[0])
            .args(&words[1..])
            .env("SLURM_CONF", self.folder.join("slurm.conf"))
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn pid(&self, daemon: &str) -> Option<Pid> {
        let text = std::fs::read_to_string(self.folder.join("run").join(format!("{daemon}.pid"))).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }

    fn command(&self, project: &Project, words: &[&str]) -> Command {
        let mut command = project.command(words);
        command.env("SLURM_CONF", self.folder.join("slurm.conf"));
        command
    }

    fn sepia(&self, project: &Project, words: &[&str]) -> Done {
        Done::from(self.command(project, words).output().unwrap())
    }

    fn run(&self, project: &Project, more: &[&str]) -> Done {
        self.sepia(project, &[&["run", "m.toml", "--executor", "slurm", "-v"], more].concat())
    }

    fn start(&self, project: &Project, more: &[&str]) -> std::process::Child {
        let words = [&["run", "m.toml", "--executor", "slurm", "-v"], more].concat();
        self.command(project, &words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The names of the batches of a project that Slurm knows of: one line of `squeue` each, any state.
    fn jobs(&self, project: &Project) -> Vec<String> {
        let all = self.slurm(&["squeue", "-h", "-r", "-t", "all", "-o", "%A|%T|%Z|%j"]);
        let folder = project.path("").canonicalize().unwrap();
        let folder = folder.to_string_lossy().trim_end_matches('/').to_owned();
        all.lines().filter(|line| line.contains(&folder)).map(str::to_owned).collect()
    }
}

/// A stage that writes `text` and, while it runs, waits for the file `gate`; it says that it began in `began`.
fn gated(project: &Project, name: &str, more: &str) -> String {
    let (began, gate) = (project.path(&format!("{name}.began")), project.path(&format!("{name}.gate")));
    format!(
        "[stages.{name}]\nkind = \"command\"\nargv = [\"sh\", \"-c\", \"echo $$ >> {}; echo hello from {name}; \
         while [ ! -e {} ]; do sleep 0.05; done; echo {name} > out\"]\noutputs = {{ out = \"out\" }}\n{more}\n",
        began.display(),
        gate.display()
    )
}

fn began(project: &Project, name: &str) -> usize {
    std::fs::read_to_string(project.path(&format!("{name}.began"))).map_or(0, |text| text.lines().count())
}

fn open_gate(project: &Project, name: &str) {
    project.write(&format!("{name}.gate"), "");
}

fn shared() -> std::sync::RwLockReadGuard<'static, ()> {
    ALONE.read().unwrap_or_else(PoisonError::into_inner)
}

fn alone() -> std::sync::RwLockWriteGuard<'static, ()> {
    ALONE.write().unwrap_or_else(PoisonError::into_inner)
}

/// The tests of a busy cluster wait for each other: the machine is small.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `what` holds while a run goes on; a run that ends before has failed the test.
fn wait_during(run: &mut std::process::Child, what: impl Fn() -> bool) {
    wait_until(|| what() || run.try_wait().unwrap().is_some());
    if !what() {
        let mut err = String::new();
        std::io::Read::read_to_string(run.stderr.as_mut().unwrap(), &mut err).unwrap();
        panic!("the run ended before: {err}");
    }
}

fn text(output: std::process::Output) -> (i32, String) {
    let done = Done::from(output);
    (done.code, done.err)
}

const SWEEP: &str = r#"[stages.cell]
kind = "command"
argv = ["sh", "-c", "echo ${params.n} > out"]
outputs = { out = "out" }
params = { n = 0 }
matrix = { "params.n" = { from = 1, to = 50, count = 50 } }

[stages.sum]
kind = "command"
inputs = { all = "cell[*]" }
argv = ["sh", "-c", "cat ${inputs.all} | sort -n > out"]
outputs = { out = "out" }
"#;

#[test]
fn a_sweep_of_50_cells_is_one_array_and_a_second_run_submits_nothing() {
    let Some(cluster) = cluster() else { return };
    let (_shared, _turn) = (shared(), turn());
    let project = Project::new();
    let values: Vec<String> = (1..=50).map(|n| n.to_string()).collect();
    let list = format!("\"params.n\" = [{}]", values.join(", "));
    project.write("m.toml", &SWEEP.replace("\"params.n\" = { from = 1, to = 50, count = 50 }", &list));
    let plan = cluster.sepia(&project, &["plan", "m.toml", "--executor", "slurm"]);
    assert!(plan.out.contains("--array=0-49"), "{}", plan.out);
    let done = cluster.run(&project, &[]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(project.ran().len(), 51);
    // The same keys as locally: a local run finds everything.
    let local = project.sepia(&["run", "m.toml"]);
    assert!(local.err.contains("51 cached"), "{}", local.err);
    let before = cluster.jobs(&project).len();
    assert_eq!(before, 51);
    let again = cluster.run(&project, &[]);
    assert!(again.err.contains("51 cached"), "{}", again.err);
    assert_eq!(cluster.jobs(&project).len(), before);
    assert!(std::fs::read_dir(project.path(".sepia/jobs")).unwrap().next().is_none(), "nothing is left behind");
}

#[test]
fn small_stages_share_an_allocation() {
    let Some(cluster) = cluster() else { return };
    let (_shared, _turn) = (shared(), turn());
    let project = Project::new();
    let list = "\"params.n\" = [1, 2, 3, 4, 5, 6, 7]";
    let manifest = SWEEP.replace("\"params.n\" = { from = 1, to = 50, count = 50 }", list);
    project.write("m.toml", &format!("{manifest}\n[executor.slurm]\npack = 4\nat_once = 2\npartition = \"main\"\n"));
    // The settings choose the executor.
    let done = cluster.sepia(&project, &["run", "m.toml"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(project.ran().len(), 8);
    assert_eq!(cluster.jobs(&project).len(), 3, "two for seven cells, one for the sum");
}

#[test]
fn a_failing_cell_fails_alone_and_a_chain_waits_for_its_inputs() {
    let Some(cluster) = cluster() else { return };
    let (_shared, _turn) = (shared(), turn());
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

#[test]
fn a_time_out_is_exact_and_what_slurm_refuses_says_what_to_change() {
    let Some(cluster) = cluster() else { return };
    let (_shared, _turn) = (shared(), turn());
    let project = Project::new();
    let slow = gated(&project, "slow", "timeout = 1");
    let large = gated(&project, "large", "resources = { memory = \"900 GiB\" }");
    let wrong = gated(&project, "wrong", "executor.slurm.partition = \"nowhere\"");
    // Slurm takes this one, and would let it wait for ever.
    let long = gated(&project, "long", "timeout = \"9h\"\nexecutor.slurm.partition = \"short\"");
    project.write("m.toml", &format!("{slow}{large}{wrong}{long}"));
    let done = cluster.run(&project, &["--keep-going"]);
    assert_eq!(done.code, 1, "{}", done.err);
    for words in [
        "did not finish within its time-out",
        "lower `resources.memory`",
        "`sinfo -s` lists the partitions",
        "its time limit is above the partition's",
    ] {
        assert!(done.err.contains(words), "{words}\n{}", done.err);
    }
    assert_eq!(began(&project, "long"), 0);
}

#[test]
fn a_stage_that_takes_too_much_memory_is_told_from_others() {
    let Some(cluster) = cluster() else { return };
    let (_shared, _turn) = (shared(), turn());
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

#[test]
fn slurms_own_time_limit_is_told_as_such() {
    let Some(cluster) = cluster() else { return };
    let _shared = shared();
    let project = Project::new();
    project.write("m.toml", &gated(&project, "slow", "executor.slurm.extra = [\"--time=1\"]"));
    let done = cluster.run(&project, &[]);
    assert_eq!(done.code, 1, "{}", done.err);
    assert!(done.err.contains("reached its time limit") && done.err.contains("raise `timeout`"), "{}", done.err);
}

#[test]
fn scancel_from_outside_ends_the_stage_with_a_word_on_it() {
    let Some(cluster) = cluster() else { return };
    let (_shared, _turn) = (shared(), turn());
    let project = Project::new();
    // The held one leaves no trace in Slurm once it is cancelled.
    let held = gated(&project, "held", "executor.slurm.extra = [\"--hold\"]");
    project.write("m.toml", &format!("{}{held}", gated(&project, "runs", "")));
    let mut run = cluster.start(&project, &["--keep-going"]);
    wait_during(&mut run, || began(&project, "runs") == 1 && cluster.jobs(&project).len() == 2);
    for job in cluster.jobs(&project) {
        cluster.slurm(&["scancel", job.split('|').next().unwrap()]);
    }
    let (code, err) = text(run.wait_with_output().unwrap());
    assert_eq!(code, 1, "{err}");
    assert_eq!(err.matches("was cancelled from outside (scancel)").count(), 2, "{err}");
}

#[test]
fn ctrl_c_cancels_the_jobs_or_leaves_them_to_be_attached() {
    let Some(cluster) = cluster() else { return };
    let (_shared, _turn) = (shared(), turn());
    let project = Project::new();
    let second = "[stages.second]\nkind = \"command\"\ninputs = { first = \"first\" }\n\
                  argv = [\"sh\", \"-c\", \"cp ${inputs.first} out\"]\noutputs = { out = \"out\" }\n";
    project.write("m.toml", &format!("{}{second}", gated(&project, "first", "")));
    let interrupt = |run: &std::process::Child| {
        kill_process(Pid::from_raw(i32::try_from(run.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    };
    let mut run = cluster.start(&project, &[]);
    wait_during(&mut run, || began(&project, "first") == 1);
    interrupt(&run);
    let (code, err) = text(run.wait_with_output().unwrap());
    assert_eq!(code, 130, "{err}");
    wait_until(|| cluster.jobs(&project).iter().all(|job| job.contains("CANCELLED")));
    // Left alone, it goes on; `attach` takes it up, and what depends on it.
    let mut run = cluster.start(&project, &["--detach"]);
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
    assert_eq!(project.ran().len(), 2);
}

#[test]
fn a_killed_submitter_is_followed_by_one_that_finds_the_jobs() {
    let Some(cluster) = cluster() else { return };
    let (_shared, _turn) = (shared(), turn());
    let project = Project::new();
    project.write("m.toml", &format!("{}{}", gated(&project, "a", ""), gated(&project, "b", "")));
    let mut run = cluster.start(&project, &[]);
    wait_until(|| began(&project, "a") == 1 && began(&project, "b") == 1);
    run.kill().unwrap();
    run.wait().unwrap();
    // One ends while nobody looks, one later.
    open_gate(&project, "a");
    let run = cluster.start(&project, &[]);
    // A second run shares what the first one waits for.
    let other = cluster.start(&project, &[]);
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
#[ignore = "fails on some machines: issue 9"]
fn a_lost_node_and_a_restarted_controller_cost_time_only() {
    let Some(cluster) = cluster() else { return };
    let _alone = alone();
    let project = Project::new();
    project.write("m.toml", &gated(&project, "a", "executor.slurm.extra = [\"--nodelist=n4\"]"));
    let mut run = cluster.start(&project, &[]);
    wait_during(&mut run, || began(&project, "a") == 1);
    // The controller goes away and comes back while the job runs.
    let controller = cluster.pid("slurmctld").unwrap();
    kill_process(controller, Signal::TERM).unwrap();
    wait_until(|| test_kill_process(controller).is_err());
    cluster.slurm(&["slurmctld"]);
    wait_during(&mut run, || cluster.jobs(&project).iter().any(|job| job.contains("RUNNING")));
    // Only the node's daemon dies: Slurm starts the job again while the first copy still runs.
    kill_process(cluster.pid("slurmd.n4").unwrap(), Signal::KILL).unwrap();
    wait_during(&mut run, || cluster.jobs(&project).iter().any(|job| job.contains("PENDING")));
    cluster.slurm(&["slurmd", "-N", "n4"]);
    cluster.slurm(&["scontrol", "update", "nodename=n4", "state=resume"]);
    let job = cluster.jobs(&project)[0].split('|').next().unwrap().to_owned();
    let restarted = || {
        // Slurm would wait two minutes.
        cluster.slurm(&["scontrol", "update", &format!("jobid={job}"), "StartTime=now"]);
        began(&project, "a") == 2
    };
    wait_during(&mut run, restarted);
    open_gate(&project, "a");
    let (code, err) = text(run.wait_with_output().unwrap());
    assert_eq!(code, 0, "{err}");
    assert_eq!(project.executions(), 1, "of two copies, one result counts");
    assert_eq!(project.sepia(&["cache", "verify"]).code, 0);
}
