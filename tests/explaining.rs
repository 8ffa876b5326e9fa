//! Questions about a pipeline: what would run, why, in what order, and what a stage said.

use crate::support::Project;

const CHAIN: &str = r#"
[stages.one]
kind = "command"
argv = ["sh", "-c", "echo to the log; echo 1 > out"]
outputs = { out = "out" }
[stages.two]
kind = "command"
inputs = { in = "one" }
argv = ["sh", "-c", "cat ${inputs.in} > out"]
outputs = { out = "out" }
[stages.other]
kind = "command"
argv = ["sh", "-c", "echo other > out"]
outputs = { out = "out" }
"#;

fn project() -> Project {
    let project = Project::new();
    project.write("m.toml", CHAIN);
    project
}

#[test]
fn a_dry_run_is_a_plan_and_makes_nothing() {
    let project = project();
    let dry = project.sepia(&["run", "m.toml", "two", "--upstream", "--dry-run"]);
    let planned = project.sepia(&["plan", "m.toml", "two"]);
    assert_eq!((dry.code, &dry.out), (0, &planned.out));
    insta::assert_snapshot!(dry.out, @r"
         run  one (command)  never ran here
     unknown  two (command)  depends on what one makes
    2 stages: 0 cached, 1 to run, 1 not known yet
    ");
    assert!(!project.path(".sepia").exists());
    project.run("m.toml");
    let globbed = project.sepia(&["plan", "m.toml", "o*", "--force", "other"]);
    insta::assert_snapshot!(globbed.out, @r"
      cached  one (command)
         run  other (command)  forced
    2 stages: 1 cached, 1 to run, 0 not known yet
    ");
}

#[test]
fn explain_names_the_fields_before_and_after() {
    let project = project();
    project.run("m.toml");
    project.edit("m.toml", "echo other", "echo another");
    let explained = project.json(&["explain", "other", "--manifest", "m.toml", "--format", "json"]);
    assert_eq!(explained["state"], "run");
    let changes = explained["why"]["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 1, "{explained:#}");
    assert_eq!(changes[0]["field"], "params.argv");
    assert_eq!(changes[0]["before"][2], "echo other > out");
    assert_eq!(changes[0]["after"][2], "echo another > out");
    // Why a past execution ran, by its key.
    let key = project.json(&["show", "--format", "json"])["nodes"][0]["record"]["key"].as_str().unwrap().to_owned();
    let past = project.json(&["explain", &key, "--format", "json"]);
    assert_eq!(past["why"]["reason"], "never", "{past:#}");
    // What was made upstream is named with the reason it was made.
    project.edit("m.toml", "echo 1 >", "echo 2 >");
    project.run("m.toml");
    let because = project.sepia(&["explain", "two"]);
    assert!(because.out.contains("inputs.in") && because.out.contains("one"), "{}", because.out);
}

#[test]
fn what_a_stage_said_is_kept_and_events_are_lines_of_json() {
    let project = project();
    let run = project.sepia(&["run", "m.toml", "--format", "json"]);
    let events: Vec<serde_json::Value> = run.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |name: &str| events.iter().filter(|event| event["event"] == name).count();
    assert_eq!((of("run-started"), of("started"), of("finished"), of("run-finished")), (1, 3, 3, 1), "{}", run.out);
    assert_eq!(project.sepia(&["log", "one"]).out, "to the log\n");
    let none = project.sepia(&["log", "three"]);
    assert_ne!(none.code, 0, "{}", none.out);
}

#[test]
fn the_graph_is_drawn_in_three_ways() {
    let project = project();
    let tree = project.sepia(&["graph", "m.toml"]).out;
    assert!(tree.contains("one") && tree.contains("two") && tree.contains("run"), "{tree}");
    let dot = project.sepia(&["graph", "m.toml", "--format", "dot"]).out;
    assert!(dot.starts_with("digraph") && dot.contains("->"), "{dot}");
    let mermaid = project.sepia(&["graph", "m.toml", "--format", "mermaid"]).out;
    assert!(mermaid.contains("-->"), "{mermaid}");
    project.run("m.toml");
    assert!(project.sepia(&["graph", "m.toml"]).out.contains("cached"));
}

/// Where a result comes from is recorded with it.
#[test]
fn a_record_says_where_and_with_what_it_was_made() {
    let project = project();
    project.run("m.toml");
    let record = &project.json(&["show", "latest", "one", "--format", "json"])["record"];
    let provenance = &record["provenance"];
    for name in [
        "sepia_version",
        "sepia_binary",
        "host",
        "os",
        "cpu",
        "cpu_count",
        "memory_bytes",
        "device",
        "dtype",
        "threads",
    ] {
        assert!(!provenance[name].is_null(), "{name}: {provenance:#}");
    }
    assert!(provenance.as_object().unwrap().contains_key("git"), "{provenance:#}");
    for name in ["seed", "started_at", "wall_seconds", "cpu_seconds", "stage_version"] {
        assert!(record[name].is_number(), "{name}: {record:#}");
    }
    assert!(record["peak_memory_bytes"].as_u64().unwrap() > 0);
}
