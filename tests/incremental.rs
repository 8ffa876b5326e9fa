//! What runs again after an edit, and what does not.

use crate::support::Project;

#[test]
fn an_edit_runs_what_it_concerns_and_nothing_else() {
    let project = Project::training();
    project.run("tiny.toml");

    project.edit("tiny.toml", "kind = \"rank-analysis\"", "kind = \"rank-analysis\"\nenergy = [0.5]");
    project.run("tiny.toml");
    assert_eq!(project.ran(), ["ranks"]);

    project.edit("tiny.toml", "kind = \"evaluate\"", "kind = \"evaluate\"\nbatch_size = 8");
    project.run("tiny.toml");
    assert_eq!(project.ran(), ["evaluate"]);

    project.edit("tiny.toml", "lr = 0.003", "lr = 0.004");
    project.run("tiny.toml");
    assert_eq!(project.ran(), ["train", "evaluate", "ranks"]);

    project.edit("tiny.toml", "lr = 0.004", "lr = 0.003");
    let back = project.run("tiny.toml");
    assert!(back.err.contains("0 ran, 4 cached"), "{}", back.err);
}

#[test]
fn defaults_order_names_and_knobs_change_nothing() {
    let project = Project::training();
    project.run("tiny.toml");
    project.edit("tiny.toml", "lr = 0.003", "weight_decay = 0\nlr = 3e-3\ngrad_accum = 1\nlog_every = 7\npriority = 3");
    project.edit("tiny.toml", "[stages.ranks]", "[stages.measured]");
    let again = project.run("tiny.toml");
    assert!(again.err.contains("0 ran, 4 cached"), "{}", again.err);
}

#[test]
fn a_touched_or_moved_input_changes_nothing_and_a_changed_one_is_named() {
    let project = Project::training();
    project.run("tiny.toml");
    std::fs::rename(project.path("text.txt"), project.path("moved.txt")).unwrap();
    project.edit("tiny.toml", "text.txt", "moved.txt");
    let moved = project.run("tiny.toml");
    assert!(moved.err.contains("0 ran, 4 cached"), "{}", moved.err);

    let text = std::fs::read_to_string(project.path("moved.txt")).unwrap();
    project.write("moved.txt", &text.replace("Anne", "Anna"));
    let explained = project.sepia(&["explain", "corpus", "--manifest", "tiny.toml"]);
    assert!(explained.out.contains("params.files"), "{}", explained.out);
    assert!(explained.out.contains("an input file changed"), "{}", explained.out);
}

/// Early cutoff: a stage that runs again to the same bytes stops there.
#[test]
fn the_same_bytes_stop_the_rebuild() {
    let project = Project::new();
    let chain = r#"
[stages.a]
kind = "command"
argv = ["sh", "-c", "echo same > out # one"]
outputs = { out = "out" }
[stages.b]
kind = "command"
inputs = { in = "a" }
argv = ["sh", "-c", "cat ${inputs.in} ${inputs.in} > out"]
outputs = { out = "out" }
[stages.c]
kind = "command"
inputs = { in = "b" }
argv = ["cp", "${inputs.in}", "${outputs.out}"]
outputs = { out = "out" }
"#;
    project.write("chain.toml", chain);
    project.run("chain.toml");
    project.edit("chain.toml", "# one", "# two");
    let planned = project.sepia(&["plan", "chain.toml"]).out;
    assert!(planned.contains("1 to run, 2 not known yet"), "{planned}");
    let done = project.run("chain.toml");
    assert_eq!(project.ran(), ["a"]);
    assert!(done.err.contains("same outputs as before"), "{}", done.err);
}
