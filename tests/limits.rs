//! What a machine has to give: memory that runs out, devices that are shared, disks that are full or read-only.

use std::{path::PathBuf, process::Command};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Done, Project, script, wait_until};

const OUT: &str = "outputs = { out = \"out\" }";

/// As the kernel does when memory runs out.
#[test]
fn a_program_killed_from_outside_is_a_failed_stage_and_nothing_of_it_is_kept() {
    let project = Project::new();
    let (pid, calm) = (project.path("pid"), project.path("calm"));
    let hungry = format!(
        "if test -e {1}; then echo fine > out; exit; fi; echo half > out; echo $$ > {0}.new; mv {0}.new {0}; sleep 1000",
        pid.display(),
        calm.display()
    );
    let below = script("below", "true", "inputs = { in = \"hungry\" }");
    project.write("m.toml", &(script("hungry", &hungry, OUT) + &below));
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
    let hungry = "ulimit -v 100000; head -c 400000000 /dev/zero | tail -c 300000000 > out";
    project.write("m.toml", &script("hungry", hungry, OUT));
    let done = project.sepia(&["run", "m.toml"]);
    assert_eq!(done.code, 1, "{}", done.err);
    assert!(done.err.contains("memory exhausted"), "{}", done.err);
    assert_eq!(project.executions(), 0);
}

/// The kernel's count of processes killed for lack of memory stands in a file; here that file is the test's own, laid
/// over the real one in a mount namespace, and the stage raises it before it is killed.
#[test]
fn a_program_that_the_kernel_killed_for_memory_says_what_to_change() {
    let project = Project::new();
    let hungry = "echo 'oom_kill 1' > $COUNT; kill -9 $$";
    project.write("m.toml", &script("hungry", hungry, "env_allow = [\"COUNT\"]"));
    let run = r#"
        group=$(sed -n 's/^[0-9]*:\([^:]*,\)*memory\(,[^:]*\)*:/memory/p' /proc/self/cgroup | head -n 1)
        name=memory.oom_control
        test -n "$group" || { group=$(sed -n 's/^0:://p' /proc/self/cgroup); name=memory.events; }
        mount -t tmpfs none /sys/fs/cgroup && mkdir -p "/sys/fs/cgroup/$group" || exit 99
        export COUNT="/sys/fs/cgroup/$group/$name"
        echo 'oom_kill 0' > "$COUNT"
        exec "$SEPIA" run m.toml"#;
    let Some(done) = in_namespace(&project, "mount -t tmpfs none /sys/fs/cgroup", run) else {
        return;
    };
    assert_eq!(done.code, 1, "{}", done.err);
    assert!(done.err.contains("the program failed: the kernel killed it: out of memory (it held "), "{}", done.err);
    assert!(done.err.contains("resources = { memory = "), "{}", done.err);
}

/// A real limit and the real kernel: where this user may make a control group with a limit of memory of its own, which is
/// the privilege of root as a rule.
#[test]
fn a_program_that_outgrows_its_control_group_is_told_from_one_that_merely_fails() {
    let Some(group) = Group::with_limit(64 << 20) else {
        eprintln!("skipped: this user may not make a control group that limits memory");
        return;
    };
    let project = Project::new();
    // The one holds its bytes itself; the other is a shell whose child does.
    let tail = "head -c 400000000 /dev/zero | tail -c 300000000 > out";
    let itself = script("itself", &format!("{tail}; kill -9 $$"), OUT);
    let child = script("child", tail, OUT);
    project.write(
        "m.toml",
        &(itself + &child + &script("merely", "exit 4", "") + &script("fine", "echo fine > out", OUT)),
    );
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$0\" run m.toml -j 1 --keep-going", group.0.display());
    let mut command = Command::new("sh");
    command.args(["-c", &enter, env!("CARGO_BIN_EXE_sepia")]).current_dir(project.path(""));
    let done = Done::from(command.output().unwrap());
    assert_eq!(done.code, 1, "{}", done.err);
    let line =
        |name: &str| done.err.lines().find(|line| line.contains(&format!("Failed {name}: "))).unwrap().to_owned();
    assert!(line("itself").contains("the kernel killed it: out of memory"), "{}", done.err);
    assert!(line("itself").contains("all together may use 64.0 MiB"), "{}", done.err);
    assert!(line("child").contains("after the kernel had killed a process of it: out of memory"), "{}", done.err);
    assert!(line("merely").ends_with("it exited with code 4"), "{}", done.err);
    assert!(done.err.contains("1 ran, 0 cached, 3 failed"), "{}", done.err);
}

/// A control group of a test's own below that of this process.
struct Group(PathBuf);

impl Group {
    fn with_limit(bytes: u64) -> Option<Self> {
        let listed = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let path_of = |wanted: &str| {
            listed.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                controllers.split(',').any(|one| one == wanted).then(|| path.trim_start_matches('/').to_owned())
            })
        };
        let (above, limit) = match (path_of("memory"), path_of("")) {
            (Some(path), _) => (PathBuf::from("/sys/fs/cgroup/memory").join(path), "memory.limit_in_bytes"),
            (None, Some(path)) => (PathBuf::from("/sys/fs/cgroup").join(path), "memory.max"),
            (None, None) => return None,
        };
        let own = above.join(format!("sepia-test-{}", std::process::id()));
        std::fs::create_dir(&own).ok()?;
        let group = Self(own);
        let limited = std::fs::write(group.0.join(limit), bytes.to_string());
        // Version 2 must also be kept from swapping; where there is no such file there is no swap to be had.
        let _ = std::fs::write(group.0.join("memory.swap.max"), "0");
        let _ = std::fs::write(group.0.join("memory.swappiness"), "0");
        limited.is_ok().then_some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
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

/// Runs a script in a mount namespace of its own, as its root; `None`, said aloud, where the system does not allow this
/// user to `try_out` that there.
fn in_namespace(project: &Project, try_out: &str, script: &str) -> Option<Done> {
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
        command.current_dir(project.path("")).env("SEPIA", env!("CARGO_BIN_EXE_sepia"));
        command
    };
    if !unshare(try_out).output().is_ok_and(|tried| tried.status.success()) {
        eprintln!("skipped: this user may not do `{try_out}` in a mount namespace of their own");
        return None;
    }
    Some(Done::from(unshare(script).output().unwrap()))
}

#[test]
fn a_full_disk_is_said_and_nothing_is_lost() {
    let project = Project::new();
    let large = script("large", "head -c 6000000 /dev/zero > out", &format!("inputs = {{ in = \"little\" }}\n{OUT}"));
    project.write("m.toml", &(script("little", "echo little > out", OUT) + &large));
    std::fs::create_dir(project.path("small")).unwrap();
    let mount = "mount -t tmpfs -o size=4m none small";
    let steps = "run() { \"$SEPIA\" run m.toml --store small/s; echo code $?; }; run; \
                 mount -o remount,size=64m small; run; \"$SEPIA\" cache verify --store small/s; \
                 mount -o remount,ro small; run; \"$SEPIA\" runs --store small/s";
    let Some(done) = in_namespace(&project, mount, &format!("{mount} || exit 99; {steps}")) else {
        return;
    };
    let codes: Vec<&str> = done.out.lines().filter(|line| line.starts_with("code")).collect();
    assert_eq!(codes, ["code 1", "code 0", "code 3"], "{}\n{}", done.out, done.err);
    assert!(done.err.contains("make room, then run again"), "{}", done.err);
    assert!(done.err.contains("1 ran, 1 cached"), "{}", done.err);
    assert!(done.out.contains("2 objects sound"), "{}", done.out);
}

/// The folders that hold objects may be links to another disk: what stages leave is copied there, whole or not at all.
#[test]
fn objects_on_another_file_system_come_over_and_its_being_full_is_said() {
    let project = Project::new();
    let tree = script("tree", "mkdir -p out/a/b; echo leaf > out/a/b/c; echo top > out/d", OUT);
    let file = script("file", "head -c 3000000 /dev/zero > out", &format!("inputs = {{ in = \"tree\" }}\n{OUT}"));
    project.write("m.toml", &(tree + &file));
    let mount = "mkdir other && mount -t tmpfs -o size=1m none other";
    let steps = "mkdir other/objects other/trees; \"$SEPIA\" run m.toml tree; rm -rf .sepia/objects; ln -s \"$PWD/other/objects\" .sepia/objects; \
                 mv .sepia/trees/* other/trees; rmdir .sepia/trees; ln -s \"$PWD/other/trees\" .sepia/trees; \
                 run() { \"$SEPIA\" run m.toml; echo code $?; }; run; ls other/objects/*/* | grep -v '^other/objects/..$'; \
                 mount -o remount,size=64m other; run; run; \"$SEPIA\" cache verify; find -L .sepia/objects -type f | xargs wc -c";
    let Some(done) = in_namespace(
        &project,
        &format!("{mount} && rmdir other 2> /dev/null; umount other; rmdir other"),
        &format!("{mount} || exit 99; {steps}"),
    ) else {
        return;
    };
    let codes: Vec<&str> = done.out.lines().filter(|line| line.starts_with("code")).collect();
    assert_eq!(codes, ["code 1", "code 0", "code 0"], "{}\n{}", done.out, done.err);
    assert!(done.err.contains("cannot be stored: "), "{}", done.err);
    assert!(done.err.contains("0 ran, 2 cached"), "{}", done.err);
    assert!(done.out.contains("2 objects sound") && done.out.contains("3000000 "), "{}", done.out);
    assert!(!done.out.contains("other/objects"), "nothing half-written is left: {}", done.out);
}

#[test]
fn a_run_warns_of_what_its_plan_warns_of() {
    let project = Project::training();
    let huge = "stages.train.model={ d_model = 65536, n_layer = 96, n_head = 64 }";
    let planned = project.sepia(&["plan", "tiny.toml", "train", "--set", huge]);
    assert_eq!(planned.code, 0, "{}", planned.err);
    assert!(planned.err.contains("warning[plan::memory]: `train` needs about"), "{}", planned.err);
    // Nothing is trained: with `--only`, the corpus that `train` needs may not run.
    let run = project.sepia(&["run", "tiny.toml", "train", "--only", "--set", huge]);
    assert_eq!(run.code, 1, "{}", run.err);
    assert!(run.err.contains("warning[plan::memory]: `train` needs about"), "{}", run.err);
    let enough = project.sepia(&["run", "tiny.toml", "train", "--only"]);
    assert!(!enough.err.contains("warning"), "{}", enough.err);
}
