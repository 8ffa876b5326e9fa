//! Which stages run at the same time, and which of those that could start goes first.

use serde_json::Value;

use crate::support::{Project, script};

/// Runs, and gives the `(event, node)` pairs of what started and finished, in their order.
fn story(project: &Project, arguments: &[&str]) -> Vec<(String, String)> {
    let done = project.sepia(&[&["run", "m.toml", "--format", "json"], arguments].concat());
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    let events = done.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let text = |event: &Value, name: &str| event[name].as_str().unwrap_or_default().to_owned();
    let pairs = events.map(|event| (text(&event, "event"), text(&event, "node")));
    pairs.filter(|(event, _)| event == "started" || event == "finished").collect()
}

fn place(story: &[(String, String)], event: &str, node: &str) -> usize {
    story.iter().position(|(what, of)| what == event && of == node).unwrap()
}

/// What started, in order.
fn started(story: Vec<(String, String)>) -> Vec<String> {
    story.into_iter().filter(|(event, _)| event == "started").map(|(_, node)| node).collect()
}

#[test]
fn stages_that_together_need_more_memory_than_there_is_do_not_run_at_once() {
    let project = Project::new();
    let marks = project.path("marks");
    std::fs::create_dir(&marks).unwrap();
    let marks = marks.display();
    // The large ones refuse to run beside each other. The first of them only ends when the small one runs too.
    let large =
        format!("mkdir {marks}/busy || exit 1; until test -e {marks}/small; do sleep 0.01; done; rmdir {marks}/busy");
    let small = format!("until test -e {marks}/busy; do sleep 0.01; done; touch {marks}/small");
    let memory = |size: &str| format!("timeout = \"5m\"\nresources = {{ memory = \"{size}\" }}");
    let text = [
        script("a", &large, &memory("600 MiB")),
        script("b", &format!("{large} # b"), &memory("600 MiB")),
        script("small", &small, &memory("400 MiB")),
    ];
    project.write("m.toml", &text.concat());
    let story = story(&project, &["-j", "8", "--memory", "1GiB"]);
    let [a, b] = ["a", "b"].map(|node| (place(&story, "started", node), place(&story, "finished", node)));
    assert!(a.1 < b.0 || b.1 < a.0, "{story:?}");
}

#[test]
fn more_memory_than_there_is_runs_alone() {
    let project = Project::new();
    let alone = |name: &str| script(name, &format!("echo {name}"), "resources = { memory = \"100 TiB\" }");
    project.write("m.toml", &(alone("a") + &alone("b") + &alone("c")));
    let story = story(&project, &["-j", "8"]);
    for pair in story.chunks(2) {
        assert_eq!((&pair[0].0[..], &pair[1].0[..], &pair[0].1), ("started", "finished", &pair[1].1), "{story:?}");
    }
}

#[test]
fn a_priority_goes_first_and_then_the_longest_way_to_the_end() {
    let project = Project::new();
    let stage = |name: &str, more: &str| {
        script(name, &format!("echo {name} > out"), &format!("outputs = {{ out = \"out\" }}\n{more}"))
    };
    let needs = |name: &str| format!("inputs = {{ in = \"{name}\" }}");
    // Written in an order that is not the one they shall run in.
    let text = [
        stage("late", "priority = -1"),
        stage("short", ""),
        stage("pair", ""),
        stage("pair-end", &needs("pair")),
        stage("long", ""),
        stage("long-middle", &needs("long")),
        stage("long-end", &needs("long-middle")),
        stage("urgent", "priority = 3"),
    ];
    project.write("m.toml", &text.concat());
    let order = started(story(&project, &["-j", "1"]));
    assert_eq!(order, ["urgent", "long", "pair", "long-middle", "short", "pair-end", "long-end", "late"]);
}
