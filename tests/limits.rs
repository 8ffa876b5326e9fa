//! What a machine has to give: memory that runs out, devices that are shared, disks that are full or read-only.

use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Done, Project, wait_until};

/// As the kernel does when memory runs out.
#[test]
fn a_program_killed_from_outside_is_a_failed_stage_and_nothing_of_it_is_kept() {
    let project = Project::new();
    let (pid, calm) = (project.path("pid"), project.path("calm"));
    let script = format!(
        "if test -e {1}; then echo fine > out; exit; fi; echo half > out; echo $$ > {0}.new; mv {0}.new {0}; sleep 1000",
        pid.display(),
        calm.display()
    );
    project.write("m.toml", &format!("[stages.hungry]\nkind = \"command\"\nargv = [\"sh\", \"-c\", \"{script}\"]\noutputs = {{ out = \"out\" }}\n[stages.below]\nkind = \"command\"\ninputs = {{ in = \"hungry\" }}\nargv = [\"true\"]\n"));
    let child = project.start(&["run", "m.toml"]);
    wait_until(|| pid.exists());
    let victim: i32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    kill_process(Pid::from_raw(victim).unwrap(), Signal::KILL).unwrap();
    let done = Done::from(child.wait_with_output().unwrap());
    assert_eq!(done.code, 1, "{}", done.err);
    assert!(done.err.contains("it was killed (SIGKILL): by the kernel, if memory ran out"), "{}", done.err);
    assert!(done.err.contains("below, because hungry failed"), "{}", done.err);
    assert_eq!(project.executions(), 0);
    project.write("calm", "");
    project.run("m.toml");
    assert_eq!(project.executions(), 2);
}

/// `tail` has to hold what it shall print at last: 300 MB, where it may have 100.
#[test]
fn a_program_that_gets_no_more_memory_says_so() {
    let project = Project::new();
    project.write(
        "m.toml",
        r#"
[stages.hungry]
kind = "command"
argv = ["sh", "-c", "ulimit -v 100000; head -c 400000000 /dev/zero | tail -c 300000000 > out"]
outputs = { out = "out" }
"#,
    );
    let done = project.sepia(&["run", "m.toml"]);
    assert_eq!(done.code, 1, "{}", done.err);
    assert!(done.err.contains("memory exhausted"), "{}", done.err);
    assert_eq!(project.executions(), 0);
}

#[test]
fn devices_are_shared_out_one_to_a_child() {
    let project = Project::new();
    let marks = project.path("marks");
    std::fs::create_dir(&marks).unwrap();
    let marks = marks.display();
    // Each waits until both devices are taken: were they one after the other, or on one device, none would end.
    let meet = format!(
        "mkdir {marks}/$CUDA_VISIBLE_DEVICES || exit 1; until test -d {marks}/0 -a -d {marks}/1; do sleep 0.01; done; echo $0"
    );
    let one = |name: &str| {
        format!(
            "[stages.{name}]\nkind = \"command\"\ntimeout = \"5m\"\nresources = {{ device = 1 }}\nargv = [\"sh\", \"-c\", \"{meet}\", \"{name}\"]\n"
        )
    };
    let rest = r#"
[stages.both]
kind = "command"
resources = { device = 2 }
priority = -1
argv = ["sh", "-c", "echo $CUDA_VISIBLE_DEVICES > out"]
outputs = { out = "out" }
[stages.none]
kind = "command"
argv = ["sh", "-c", "echo ${params.x}$CUDA_VISIBLE_DEVICES > out"]
outputs = { out = "out" }
params = { x = "none" }
"#;
    project.write("m.toml", &format!("{}{}{rest}", one("first"), one("second")));
    let done = project.sepia(&["run", "m.toml", "-j", "4", "--devices", "2"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(std::fs::read_to_string(project.object("both.out")).unwrap(), "0,1\n");
    assert_eq!(std::fs::read_to_string(project.object("none.out")).unwrap(), "none\n");

    // What the user or a cluster's scheduler has chosen is shared out under its own names.
    project.edit("m.toml", "echo $CUDA_VISIBLE_DEVICES > out", "echo chosen $CUDA_VISIBLE_DEVICES > out");
    let chosen = project.command(&["run", "m.toml"]).env("CUDA_VISIBLE_DEVICES", "GPU-a,3").output().unwrap();
    assert!(chosen.status.success());
    assert_eq!(std::fs::read_to_string(project.object("both.out")).unwrap(), "chosen GPU-a,3\n");
}

/// Runs a script in a mount namespace of its own, with a file system of 4 MiB at `small`; `None` where the system does
/// not allow that to this user.
fn with_small_disk(project: &Project, script: &str) -> Option<Done> {
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
        command.current_dir(project.path("")).env("SEPIA", env!("CARGO_BIN_EXE_sepia"));
        command
    };
    std::fs::create_dir(project.path("small")).unwrap();
    let mount = "mount -t tmpfs -o size=4m none small";
    unshare(mount).output().is_ok_and(|tried| tried.status.success()).then_some(())?;
    Some(Done::from(unshare(&format!("{mount} || exit 99; {script}")).output().unwrap()))
}

#[test]
fn a_full_disk_is_said_and_nothing_is_lost() {
    let project = Project::new();
    project.write(
        "m.toml",
        r#"
[stages.little]
kind = "command"
argv = ["sh", "-c", "echo little > out"]
outputs = { out = "out" }
[stages.large]
kind = "command"
inputs = { in = "little" }
argv = ["sh", "-c", "head -c 6000000 /dev/zero > out"]
outputs = { out = "out" }
"#,
    );
    let script = "run() { \"$SEPIA\" run m.toml --store small/s; echo code $?; }; run; \
                  mount -o remount,size=64m small; run; \"$SEPIA\" cache verify --store small/s; \
                  mount -o remount,ro small; run; \"$SEPIA\" runs --store small/s";
    let Some(done) = with_small_disk(&project, script) else {
        return;
    };
    let codes: Vec<&str> = done.out.lines().filter(|line| line.starts_with("code")).collect();
    assert_eq!(codes, ["code 1", "code 0", "code 3"], "{}\n{}", done.out, done.err);
    assert!(done.err.contains("make room, then run again"), "{}", done.err);
    assert!(done.err.contains("1 ran, 1 cached"), "{}", done.err);
    assert!(done.out.contains("2 objects sound"), "{}", done.out);
}
