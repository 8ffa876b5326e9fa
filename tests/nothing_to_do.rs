//! A run that finds nothing changed does not plan again. Whatever does change is seen all the same.

use std::path::PathBuf;

use crate::support::{Project, make_writable};

/// A manifest that extends another, reads a file and a folder, and sweeps.
fn project() -> Project {
    let project = Project::new();
    std::fs::create_dir(project.path("texts")).unwrap();
    project.write("texts/a.txt", "a");
    project.write("words.txt", "words");
    project.write(
        "base.toml",
        r#"
[stages.gather]
kind = "command"
data = { texts = "texts" }
argv = ["sh", "-c", "cat ${data.texts}/* > out"]
outputs = { out = "out" }
"#,
    );
    project.write(
        "m.toml",
        r#"
extends = "base.toml"
[stages.count]
kind = "command"
inputs = { in = "gather" }
files = ["words.txt"]
argv = ["sh", "-c", "cat words.txt ${inputs.in} > out; echo ${params.n} >> out"]
outputs = { out = "out" }
params = { n = 0 }
matrix = { "params.n" = [1, 2] }
"#,
    );
    project
}

/// What the program says to developers when it takes the short way.
const SHORT: &str = "nothing has changed since the last run";

fn run(project: &Project, more: &[&str]) -> (bool, String) {
    let arguments = [&["run", "m.toml"], more].concat();
    let output = project.command(&arguments).env("SEPIA_LOG", "sepia_engine=debug").output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{told}");
    (told.contains(SHORT), told)
}

fn standing(project: &Project) -> Vec<PathBuf> {
    let cache = std::fs::read_dir(project.path(".sepia/cache")).unwrap().map(|entry| entry.unwrap().path());
    cache.filter(|path| path.to_str().unwrap().contains("standing-")).collect()
}

/// The events of the latest run, without what differs from run to run.
fn events(project: &Project) -> Vec<serde_json::Value> {
    let run = project.json(&["show", "--format", "json"])["run"].as_str().unwrap().to_owned();
    let text = std::fs::read_to_string(project.path(&format!(".sepia/runs/{run}/events.jsonl"))).unwrap();
    let lines = text.lines().map(|line| {
        let mut event: serde_json::Value = serde_json::from_str(line).unwrap();
        for name in ["at_ms", "run", "seconds"] {
            event.as_object_mut().unwrap().remove(name);
        }
        event
    });
    lines.collect()
}

#[test]
fn the_short_way_says_and_records_what_the_long_way_does() {
    let project = project();
    assert!(!run(&project, &[]).0, "the first run has everything to do");
    let (short, told) = run(&project, &[]);
    assert!(short && told.contains("0 ran, 3 cached"), "{told}");
    let (events_short, outputs, shown) =
        (events(&project), project.outputs(), project.json(&["show", "--format", "json"])["counts"].clone());
    let planned = project.sepia(&["plan", "m.toml"]).out;

    for path in standing(&project) {
        std::fs::remove_file(path).unwrap();
    }
    let planned_long = project.sepia(&["plan", "m.toml"]).out;
    assert_eq!(planned, planned_long);
    let (short, told) = run(&project, &[]);
    assert!(!short && told.contains("0 ran, 3 cached"), "{told}");
    assert_eq!(events(&project), events_short);
    assert_eq!(project.outputs(), outputs);
    assert_eq!(project.json(&["show", "--format", "json"])["counts"], shown);
}

#[test]
fn whatever_changes_is_seen() {
    type Edit = fn(&Project);
    let edits: [(&str, Edit, &str); 8] = [
        ("the manifest", |p| p.edit("m.toml", "[1, 2]", "[1, 3]"), "1 ran, 2 cached"),
        ("its base", |p| p.edit("base.toml", "cat ${data", "cat  ${data"), "1 ran, 2 cached"),
        ("a file", |p| p.write("words.txt", "other"), "2 ran, 1 cached"),
        ("a file in a folder", |p| p.write("texts/a.txt", "b"), "3 ran, 0 cached"),
        ("a new file in a folder", |p| p.write("texts/b.txt", "b"), "3 ran, 0 cached"),
        (
            "a file's name",
            |p| std::fs::rename(p.path("texts/a.txt"), p.path("texts/c.txt")).unwrap(),
            "1 ran, 2 cached",
        ),
        (
            "an output",
            |p| {
                let object = p.object("gather.out");
                make_writable(&object);
                std::fs::remove_file(object).unwrap();
            },
            "1 ran, 2 cached",
        ),
        ("the database", |p| std::fs::remove_file(p.path(".sepia/results.db")).unwrap(), "0 ran, 3 cached"),
    ];
    for (what, edit, summary) in edits {
        let project = project();
        run(&project, &[]);
        assert!(run(&project, &[]).0, "{what}");
        edit(&project);
        let planned = project.sepia(&["plan", "m.toml"]).out;
        let all_cached = planned.contains("3 cached, 0 to run");
        assert_eq!(all_cached, summary.starts_with('0'), "{what}: {planned}");
        let (_, told) = run(&project, &[]);
        assert!(told.contains(summary), "{what}: {told}");
        assert!(run(&project, &[]).0, "{what}: afterwards nothing changes any more");
    }
}

#[test]
fn other_words_are_another_question() {
    let project = project();
    run(&project, &[]);
    assert!(run(&project, &[]).0);
    let (short, told) = run(&project, &["--set", "stages.count.seed=9"]);
    assert!(!short && told.contains("2 ran, 1 cached"), "{told}");
    assert!(run(&project, &["--set", "stages.count.seed=9"]).0);
    let (short, told) = run(&project, &["gather"]);
    assert!(!short && told.contains("0 ran, 1 cached"), "{told}");
    let (short, told) = run(&project, &["--force", "gather"]);
    assert!(!short && told.contains("1 ran, 2 cached"), "{told}");
    // A damaged note of what stands is no note.
    for path in standing(&project) {
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let (short, told) = run(&project, &[]);
    assert!(!short && told.contains("0 ran, 3 cached"), "{told}");
    // A missing file is an error, whatever stood before.
    std::fs::remove_file(project.path("words.txt")).unwrap();
    let gone = project.sepia(&["run", "m.toml"]);
    assert_eq!(gone.code, 2, "{}", gone.err);
    assert!(gone.err.contains("`words.txt` does not exist"), "{}", gone.err);
}
