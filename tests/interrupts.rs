//! Signals and kills, at any moment.

use std::process::{Child, Output};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::support::{Project, wait_until};

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), signal).unwrap();
}

/// A training pipeline of so many updates, and what it gives when nobody interrupts it.
fn training(steps: u32) -> (Project, Vec<(String, String)>) {
    let longer = format!("max_steps = {steps}\ncheckpoint_every = 1");
    let [whole, project] = [0, 1].map(|_| {
        let project = Project::training();
        project.edit("tiny.toml", "max_steps = 40", &longer);
        project
    });
    whole.run("tiny.toml");
    (project, whole.outputs())
}

/// A training run that `interrupt` ended early: where this machine was too slow to interrupt it in time, a longer one is
/// taken, so that no load decides the test.
fn interrupted(interrupt: impl Fn(&Project, &mut Child)) -> (Project, Vec<(String, String)>, Output) {
    let mut steps = 1000;
    loop {
        let (project, whole) = training(steps);
        let mut child = project.start(&["run", "tiny.toml"]);
        interrupt(&project, &mut child);
        let output = child.wait_with_output().unwrap();
        if !output.status.success() {
            return (project, whole, output);
        }
        steps *= 2;
    }
}

/// Whether the events of some run of the project contain a text.
fn told(project: &Project, text: &str) -> bool {
    let Ok(runs) = std::fs::read_dir(project.path(".sepia/runs")) else {
        return false;
    };
    runs.filter_map(Result::ok)
        .any(|run| std::fs::read_to_string(run.path().join("events.jsonl")).is_ok_and(|events| events.contains(text)))
}

const TRAIN_STARTED: &str = "\"started\",\"node\":\"train\"";

#[test]
fn ctrl_c_saves_a_checkpoint_and_the_next_run_ends_with_the_same_bytes() {
    stops_and_goes_on(Signal::INT);
}

#[test]
fn a_request_to_terminate_does_what_ctrl_c_does() {
    stops_and_goes_on(Signal::TERM);
}

fn stops_and_goes_on(with: Signal) {
    let (project, whole, output) = interrupted(|project, child| {
        wait_until(|| told(project, TRAIN_STARTED));
        signal(child, with);
    });
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{err}");
    assert!(err.contains("Stopping"), "{err}");
    project.run("tiny.toml");
    assert_eq!(project.outputs(), whole);
    assert_eq!(project.executions(), 4);
}

#[test]
fn a_time_out_ends_training_and_the_next_run_ends_with_the_same_bytes() {
    let mut steps = 1000;
    let (project, whole, err) = loop {
        let (project, whole) = training(steps);
        project.edit("tiny.toml", "checkpoint_every = 1", "checkpoint_every = 1\ntimeout = 0.5");
        let done = project.sepia(&["run", "tiny.toml"]);
        if done.code != 0 {
            break (project, whole, done.err);
        }
        // This machine was too fast for the time-out.
        steps *= 2;
    };
    assert!(err.contains("it did not finish within its time-out"), "{err}");
    project.edit("tiny.toml", "timeout = 0.5", "timeout = \"50m\"");
    project.run("tiny.toml");
    assert_eq!(project.outputs(), whole);
}

#[test]
fn kill_9_at_any_moment_costs_nothing_but_time() {
    let (project, whole) = training(1000);
    // Moments spread over the run by what it has reached, and by a number of steps of a fixed generator in between.
    let mut state = 7u64;
    let mut finished = false;
    for _ in 0..12 {
        let mut child = project.start(&["run", "tiny.toml"]);
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(std::time::Duration::from_millis((state >> 33) % 900));
        finished |= child.try_wait().unwrap().is_some_and(|status| status.success());
        let _ = child.kill();
        child.wait().unwrap();
    }
    let last = project.sepia(&["run", "tiny.toml"]);
    assert_eq!(last.code, 0, "finished before: {finished}\n{}", last.err);
    assert_eq!(project.outputs(), whole);
    assert_eq!(project.executions(), 4, "nothing was computed to the end twice");
    let verified = project.sepia(&["cache", "verify"]);
    assert_eq!(verified.code, 0, "{}{}", verified.out, verified.err);
}

#[test]
fn a_killed_child_is_a_failed_stage_and_the_run_says_how() {
    let (project, whole, output) = interrupted(|project, child| {
        wait_until(|| told(project, TRAIN_STARTED));
        wait_until(|| !children_of(child.id()).is_empty() || child.try_wait().unwrap().is_some());
        for worker in children_of(child.id()) {
            let _ = kill_process(Pid::from_raw(worker).unwrap(), Signal::KILL);
        }
    });
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("SIGKILL"), "{err}");
    project.run("tiny.toml");
    assert_eq!(project.outputs(), whole);
}

fn children_of(parent: u32) -> Vec<i32> {
    let mut found = Vec::new();
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{parent}/task")) else {
        return found;
    };
    for task in tasks.filter_map(Result::ok) {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(children.split_whitespace().map(|pid| pid.parse::<i32>().unwrap()));
    }
    found
}

#[test]
fn no_program_outlives_a_killed_run() {
    let project = Project::new();
    let note = project.path("pid");
    project.write("m.toml", &format!("[stages.slow]\nkind = \"command\"\nargv = [\"sh\", \"-c\", \"sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait\"]\n", note.display()));
    let mut child = project.start(&["run", "m.toml"]);
    wait_until(|| note.exists());
    let grandchild: i32 = std::fs::read_to_string(&note).unwrap().trim().parse().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until(|| test_kill_process(Pid::from_raw(grandchild).unwrap()).is_err() || is_zombie(grandchild));
}

/// A process that nobody has waited for is dead, too.
fn is_zombie(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}
