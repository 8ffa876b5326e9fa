//! Stages that fail, retries, time-outs, and stores that cannot be used.

use crate::support::{Project, repository};

const FORK: &str = r#"
[stages.bad]
kind = "command"
argv = ["false"]
[stages.good]
kind = "command"
argv = ["true"]
[stages.below]
kind = "command"
inputs = { in = "root" }
argv = ["true"]
[stages.root]
kind = "command"
inputs = { in = "maker" }
argv = ["sh", "-c", "exit 3"]
outputs = { out = "out" }
[stages.maker]
kind = "command"
argv = ["touch", "out"]
outputs = { out = "out" }
"#;

#[test]
fn keep_going_runs_what_does_not_depend_on_a_failure() {
    let project = Project::new();
    project.write("m.toml", FORK);
    let done = project.sepia(&["run", "m.toml", "--keep-going"]);
    assert_eq!(done.code, 1);
    assert!(done.err.contains("2 ran, 0 cached, 2 failed, 1 skipped"), "{}", done.err);
    assert!(done.err.contains("below, because root failed"), "{}", done.err);
    // What succeeded is kept, what failed is tried again.
    let again = project.sepia(&["run", "m.toml", "--keep-going"]);
    assert!(again.err.contains("0 ran, 2 cached, 2 failed, 1 skipped"), "{}", again.err);
}

#[test]
fn retries_repeat_a_failed_attempt() {
    let project = Project::new();
    let mark = project.path("mark");
    let script = format!("if test -e {0}; then touch out; else touch {0}; exit 1; fi", mark.display());
    project.write("m.toml", &format!("[stages.flaky]\nkind = \"command\"\nretries = 1\nargv = [\"sh\", \"-c\", \"{script}\"]\noutputs = {{ out = \"out\" }}\n"));
    let done = project.run("m.toml");
    assert!(done.err.contains("Retrying flaky (attempt 1)"), "{}", done.err);
    assert!(done.err.contains("1 ran, 0 cached in"), "{}", done.err);
}

#[test]
fn a_time_out_ends_a_stage_and_says_so() {
    let project = Project::new();
    project.write("m.toml", "[stages.slow]\nkind = \"command\"\ntimeout = 0.2\nargv = [\"sleep\", \"1000\"]\n");
    let done = project.sepia(&["run", "m.toml"]);
    assert_eq!(done.code, 1);
    assert!(done.err.contains("did not finish within its time-out"), "{}", done.err);
    assert!(done.err.contains("raise `timeout`"), "{}", done.err);
}

#[test]
fn an_input_that_changes_while_a_stage_reads_it_is_noticed() {
    let project = Project::new();
    project.write("data.txt", "before");
    let data = project.path("data.txt");
    project.write("m.toml", &format!("[stages.reader]\nkind = \"command\"\ndata = {{ text = \"data.txt\" }}\nargv = [\"sh\", \"-c\", \"echo after > {}; cp $0 out\", \"${{data.text}}\"]\noutputs = {{ out = \"out\" }}\n", data.display()));
    let done = project.sepia(&["run", "m.toml"]);
    assert_eq!(done.code, 1);
    assert!(done.err.contains("an input file changed while the stage ran"), "{}", done.err);
    assert_eq!(project.executions(), 0);
}

#[test]
fn an_input_that_vanishes_while_a_run_goes_on_is_said_before_and_after_its_stage() {
    let project = Project::new();
    project.write("data.txt", "before");
    // `late` is to read what is gone by then, `during` has it taken away while it runs.
    let stage = |name: &str, more: &str, script: &str| {
        format!(
            "[stages.{name}]\nkind = \"command\"\n{more}argv = [\"sh\", \"-c\", \"{script}\", \"${{data.text}}\"]\noutputs = {{ out = \"out\" }}\ndata = {{ text = \"data.txt\" }}\n"
        )
    };
    let during = stage("during", "", "cp $0 out; rm $0");
    let late = stage("late", "inputs = { in = \"between\" }\n", "cp $0 out");
    let between = "[stages.between]\nkind = \"command\"\ninputs = { in = \"maker\" }\nargv = [\"cp\", \"${inputs.in}\", \"out\"]\noutputs = { out = \"out\" }\n\
                   [stages.maker]\nkind = \"command\"\nargv = [\"touch\", \"out\"]\noutputs = { out = \"out\" }\npriority = -1\n";
    project.write("m.toml", &(during + &late + between));
    let done = project.sepia(&["run", "m.toml", "-j", "1", "--keep-going"]);
    assert_eq!(done.code, 1, "{}", done.err);
    assert!(
        done.err.contains("Failed during: an input file could not be read any more when the stage had run"),
        "{}",
        done.err
    );
    assert!(done.err.contains("Failed late: an input file cannot be read any more: "), "{}", done.err);
    assert!(done.err.contains("put it back"), "{}", done.err);
    assert_eq!(project.executions(), 2);
    project.edit("m.toml", "; rm $0", "");
    project.write("data.txt", "before");
    assert!(project.run("m.toml").err.contains("2 ran, 2 cached"));
}

#[test]
fn a_store_that_cannot_be_used_is_exit_code_3() {
    let project = Project::new();
    project.write("m.toml", "[stages.a]\nkind = \"command\"\nargv = [\"true\"]\n");
    project.write("file", "not a folder");
    let done = project.sepia(&["run", "m.toml", "--store", "file"]);
    assert_eq!(done.code, 3, "{}", done.err);
    let none = project.sepia(&["runs", "--store", "nowhere"]);
    assert_eq!(none.code, 3, "{}", none.err);
    assert!(none.err.contains("there is no store at nowhere"), "{}", none.err);
}

#[test]
fn only_runs_nothing_but_the_targets() {
    let project = Project::training();
    let early = project.sepia(&["run", "tiny.toml", "train", "--only"]);
    assert_eq!(early.code, 1);
    assert!(early.err.contains("is not in the store"), "{}", early.err);
    assert_eq!(project.sepia(&["run", "tiny.toml", "corpus"]).code, 0);
    assert_eq!(project.ran(), ["corpus"]);
    assert_eq!(project.sepia(&["run", "tiny.toml", "train", "--only"]).code, 0);
    assert_eq!(project.ran(), ["train"]);
    assert_eq!(project.sepia(&["run", "tiny.toml", "train", "--downstream", "--force", "train"]).code, 0);
    assert_eq!(project.ran(), ["train", "evaluate", "ranks"]);
    assert_eq!(project.sepia(&["run", "tiny.toml", "r*", "--force", "*k?"]).code, 0);
    assert_eq!(project.ran(), ["ranks"]);
    let unknown = project.sepia(&["run", "tiny.toml", "trian"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.err.contains("did you mean `train`?"), "{}", unknown.err);
}

#[test]
fn results_are_found_from_the_folder_above_the_manifests() {
    let project = Project::new();
    let manifest = "[stages.a]\nkind = \"command\"\nargv = [\"true\"]\n";
    for folder in ["one", "two"] {
        std::fs::create_dir(project.path(folder)).unwrap();
        project.write(&format!("{folder}/m.toml"), manifest);
    }
    project.run("one/m.toml");
    assert_eq!(project.ran(), ["a"]);
    project.run("two/m.toml");
    let which = project.sepia(&["runs"]);
    assert_eq!(which.code, 3);
    assert!(which.err.contains("--store one/.sepia, --store two/.sepia"), "{}", which.err);
}

/// The manifests that ship are valid, every one.
#[test]
fn shipped_manifests_pass_check() {
    for entry in std::fs::read_dir(repository().join("manifests")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let done = Project::new().sepia(&["check", path.to_str().unwrap()]);
            assert_eq!(done.code, 0, "{}", done.err);
        }
    }
}
