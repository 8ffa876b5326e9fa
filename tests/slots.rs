//! Which stages run at the same time, and which of those that could start goes first.
//!
//! The stages themselves write down when they begin and end: events of a run tell of a start only once what it builds on
//! is durable.

use crate::support::{Project, script};

/// A stage that writes `begin NAME` and `end NAME` into the file `order` around its script.
fn noted(project: &Project, name: &str, does: &str, more: &str) -> String {
    let order = project.path("order");
    let order = order.display();
    script(name, &format!("echo begin {name} >> {order}; {does}; echo end {name} >> {order}"), more)
}

/// Runs, and gives what the stages wrote down.
fn story(project: &Project, arguments: &[&str]) -> Vec<String> {
    let done = project.sepia(&[&["run", "m.toml"], arguments].concat());
    assert_eq!(done.code, 0, "{}", done.err);
    std::fs::read_to_string(project.path("order")).unwrap().lines().map(str::to_owned).collect()
}

fn place(story: &[String], line: &str) -> usize {
    story.iter().position(|one| one == line).unwrap()
}

#[test]
fn stages_that_together_need_more_memory_than_there_is_do_not_run_at_once() {
    let project = Project::new();
    // A large stage ends only when the small one runs beside it.
    let small = project.path("small");
    let small = small.display();
    let large = format!("until test -e {small}; do sleep 0.01; done");
    let memory = |size: &str| format!("timeout = \"5m\"\nresources = {{ memory = \"{size}\" }}");
    let text = [
        noted(&project, "a", &large, &memory("600 MiB")),
        noted(&project, "b", &large, &memory("600 MiB")),
        noted(&project, "small", &format!("touch {small}"), &memory("400 MiB")),
    ];
    project.write("m.toml", &text.concat());
    let story = story(&project, &["-j", "8", "--memory", "1GiB"]);
    let [a, b] =
        ["a", "b"].map(|name| (place(&story, &format!("begin {name}")), place(&story, &format!("end {name}"))));
    assert!(a.1 < b.0 || b.1 < a.0, "{story:?}");
}

#[test]
fn more_memory_than_there_is_runs_alone() {
    let project = Project::new();
    let alone = |name: &str| noted(&project, name, "true", "resources = { memory = \"100 TiB\" }");
    project.write("m.toml", &(alone("a") + &alone("b") + &alone("c")));
    let story = story(&project, &["-j", "8"]);
    assert_eq!(story.len(), 6);
    for pair in story.chunks(2) {
        assert_eq!(pair[0].strip_prefix("begin"), pair[1].strip_prefix("end"), "{story:?}");
    }
}

#[test]
fn a_priority_goes_first_and_then_the_longest_way_to_the_end() {
    let project = Project::new();
    let stage = |name: &str, more: &str| {
        noted(&project, name, &format!("echo {name} > out"), &format!("outputs = {{ out = \"out\" }}\n{more}"))
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
    let story = story(&project, &["-j", "1"]);
    let order: Vec<&str> = story.iter().filter_map(|line| line.strip_prefix("begin ")).collect();
    assert_eq!(order, ["urgent", "long", "pair", "long-middle", "short", "pair-end", "long-end", "late"]);
}
