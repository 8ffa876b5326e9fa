//! Runs that travel, results that are made again, names of runs, and making room.

use std::{fs, path::Path};

use crate::support::{Project, make_writable, repository};

const BASE: &str = r#"
[params]
word = "base"

[stages.words]
kind = "command"
data = { text = "data/" }
argv = ["sh", "count.sh", "${params.word}", "${data.text}"]
outputs = { count = "count.txt" }
"#;

const MANIFEST: &str = r#"
extends = "../base/base.toml"

[stages.words]
files = ["count.sh"]

[stages.tree]
kind = "command"
inputs = { count = "words.count" }
argv = ["sh", "-c", "mkdir tree; cp ${inputs.count} tree/count; echo end > tree/end"]
outputs = { tree = "tree" }
"#;

/// A manifest in one folder that extends one in another, with a script and data.
fn author() -> Project {
    let project = Project::new();
    for folder in ["base/data", "runs"] {
        fs::create_dir_all(project.path(folder)).unwrap();
    }
    project.write("base/base.toml", BASE);
    project.write("runs/count.sh", "cat $2/*.txt | wc -w > count.txt; echo $1 >> count.txt\n");
    project.write("base/data/a.txt", "one two three\n");
    project.write("base/data/b.txt", "four\n");
    project.write("runs/m.toml", MANIFEST);
    project
}

/// The keys of the latest run, by stage.
fn keys(project: &Project) -> Vec<(String, String)> {
    let run = project.json(&["show", "--format", "json"]);
    let nodes = run["nodes"].as_array().unwrap().iter();
    let key = |node: &serde_json::Value| {
        (node["node"].as_str().unwrap().to_owned(), node["record"]["key"].as_str().unwrap().to_owned())
    };
    nodes.map(key).collect()
}

/// The command that an import says to run, after `sepia`.
fn command_of(text: &str) -> Vec<String> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("Run it with sepia ")).unwrap();
    line.split(' ').map(|word| word.trim_matches('\'').to_owned()).collect()
}

fn run_as_told(project: &Project, told: &str) -> String {
    let words = command_of(told);
    let done = project.sepia(&words.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(done.code, 0, "{words:?}\n{}", done.err);
    done.err
}

#[test]
fn an_exported_run_is_all_there_on_another_machine() {
    let alice = author();
    let run = ["run", "runs/m.toml", "--set", "params.word=set", "--store", ".sepia"];
    assert_eq!(alice.sepia(&run).code, 0);
    let (told, outputs) = (keys(&alice), alice.outputs());
    for (to, with_outputs) in
        [("all.tar.zst", true), ("all.tar", true), ("all", true), ("less.tar", false), ("less", false)]
    {
        let mut arguments = vec!["export", "latest", "--to", to];
        arguments.extend(with_outputs.then_some("--outputs"));
        let done = alice.sepia(&arguments);
        assert_eq!(done.code, 0, "{}", done.err);
        assert!(done.out.contains("5 files, 2 records"), "{}", done.out);
        assert_eq!(alice.sepia(&arguments).code, 2, "nothing is overwritten");
        let bob = Project::new();
        let from = alice.path(to);
        let done = bob.sepia(&["import", from.to_str().unwrap(), "--trust"]);
        assert_eq!(done.code, 0, "{}", done.err);
        let ran = run_as_told(&bob, &done.err);
        let expected = if with_outputs { "0 ran, 2 cached" } else { "2 ran, 0 cached" };
        assert!(ran.contains(expected), "{to}: {ran}");
        assert_eq!(keys(&bob), told, "{to}");
        assert_eq!(bob.outputs(), outputs, "{to}");
        // Once more: nothing is new, nothing is in the way.
        let again = bob.sepia(&["import", from.to_str().unwrap(), "--trust"]);
        assert_eq!(again.code, 0, "{}", again.err);
        assert!(again.err.contains("0 files"), "{}", again.err);
    }
    // What is there can be read without Sepia.
    let folder = alice.path("all");
    assert!(fs::read_to_string(folder.join("project/base/data/a.txt")).unwrap().starts_with("one"));
    assert!(fs::read_to_string(folder.join("resolved.toml")).unwrap().contains("[stages.words]"));
    let environment: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.join("environment.json")).unwrap()).unwrap();
    assert_eq!(environment["ran"][0]["stages"].as_array().unwrap().len(), 2, "{environment}");
    assert!(environment["ran"][0]["provenance"]["sepia_version"].is_string());
}

#[test]
fn what_has_changed_since_the_run_is_not_exported_as_if_it_had_not() {
    let alice = author();
    assert_eq!(alice.sepia(&["run", "runs/m.toml", "--store", ".sepia"]).code, 0);
    alice.write("base/data/b.txt", "four five\n");
    let done = alice.sepia(&["export", "--to", "x.tar"]);
    assert_eq!(done.code, 2, "{}", done.out);
    assert!(done.err.contains("the key of `words` has changed (params.data.text"), "{}", done.err);
    assert!(!alice.path("x.tar").exists());
}

#[test]
fn absolute_paths_lead_to_what_went_along() {
    let alice = author();
    alice.edit("base/base.toml", "\"data/\"", &format!("\"{}\"", alice.path("base/data").display()));
    assert_eq!(alice.sepia(&["run", "runs/m.toml", "--store", ".sepia"]).code, 0);
    let done = alice.sepia(&["export", "--to", "x.tar", "--outputs"]);
    assert_eq!(done.code, 0, "{}", done.err);
    let (told, parcel) = (keys(&alice), fs::read(alice.path("x.tar")).unwrap());
    drop(alice);
    let bob = Project::new();
    fs::write(bob.path("x.tar"), parcel).unwrap();
    let done = bob.sepia(&["import", "x.tar", "--trust"]);
    assert_eq!(done.code, 0, "{}", done.err);
    let ran = run_as_told(&bob, &done.err);
    assert!(ran.contains("0 ran, 2 cached"), "{ran}");
    assert_eq!(keys(&bob), told);
    let mut words = command_of(&done.err);
    words.push("--force".to_owned());
    words.push("words".to_owned());
    let again = bob.sepia(&words.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(again.code, 0, "{}", again.err);
    assert!(again.err.contains("1 ran"), "{}", again.err);
}

#[test]
fn a_parcel_from_a_stranger_is_checked_before_anything_is_changed() {
    let alice = author();
    assert_eq!(alice.sepia(&["run", "runs/m.toml", "--store", ".sepia"]).code, 0);
    assert_eq!(alice.sepia(&["export", "--to", "x", "--outputs"]).code, 0);
    let bob = Project::new();
    let from = alice.path("x");
    let import = |arguments: &[&str]| bob.sepia(&[&["import", from.to_str().unwrap()], arguments].concat());
    let nothing_came = || !bob.path("m-x").exists() && (!bob.path(".sepia").exists() || bob.executions() == 0);
    let script = from.join("project/runs/count.sh");
    let text = fs::read(&script).unwrap();
    fs::write(&script, "rm -r /").unwrap();
    let done = import(&["--trust"]);
    assert_eq!(done.code, 3, "{}", done.err);
    assert!(done.err.contains("count.sh has 7 bytes and should have"), "{}", done.err);
    assert!(nothing_came());
    fs::remove_file(&script).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &script).unwrap();
    assert!(import(&[]).err.contains("is a symbolic link") && nothing_came());
    fs::remove_file(&script).unwrap();
    fs::write(&script, text).unwrap();
    // Something of the user's in the way stays.
    fs::create_dir_all(bob.path("here/runs")).unwrap();
    bob.write("here/runs/count.sh", "mine");
    let done = import(&["--to", "here"]);
    assert_eq!(done.code, 2, "{}", done.err);
    assert!(done.err.contains("is there already and is something else") && nothing_came(), "{}", done.err);
    // Whole, but nobody vouches for it: shown, marked, and not used.
    let done = import(&["--to", "there"]);
    assert_eq!(done.code, 0, "{}", done.err);
    let shown = bob.sepia(&["results"]);
    assert!(shown.out.contains("TRUST") && shown.out.contains("unsigned"), "{}", shown.out);
    assert!(shown.err.contains("2 of these results are from elsewhere"), "{}", shown.err);
    assert!(bob.sepia(&["results", "--where", "trust = own"]).err.contains("no results fit"));
    assert!(run_as_told(&bob, &done.err).contains("2 ran, 0 cached"));
    assert!(bob.json(&["results", "--format", "json"]).to_string().contains("\"trust\":\"own\""));
    let missing = bob.sepia(&["import", "nowhere.tar"]);
    assert_eq!(missing.code, 2, "{}", missing.err);
}

/// Whether a file in the folder of objects holds this.
fn stored(project: &Project, text: &str) -> bool {
    fn any(folder: &Path, text: &str) -> bool {
        let entries = fs::read_dir(folder).map(|entries| entries.map(|entry| entry.unwrap().path()).collect());
        let entries: Vec<_> = entries.unwrap_or_default();
        entries.iter().any(|path| match path.is_dir() {
            true => any(path, text),
            false => fs::read_to_string(path).is_ok_and(|found| found == text),
        })
    }
    any(&project.path(".sepia/objects"), text)
}

#[test]
fn a_stage_is_made_again_and_compared() {
    let project = Project::new();
    project.write("data.txt", "x\n");
    project.write(
        "m.toml",
        r#"
[stages.same]
kind = "command"
data = { data = "data.txt" }
argv = ["sh", "-c", "cat ${data.data} > out"]
outputs = { out = "out" }

[stages.other]
kind = "command"
inputs = { same = "same" }
env_allow = ["WHAT_TIME"]
argv = ["sh", "-c", "mkdir out; cp ${inputs.same} out/same; echo \"{\\\"loss\\\": [1, $WHAT_TIME]}\" > out/loss.json"]
outputs = { out = "out" }
"#,
    );
    let at = |time: &str, arguments: &[&str]| {
        crate::support::Done::from(project.command(arguments).env("WHAT_TIME", time).output().unwrap())
    };
    assert_eq!(at("2", &["run", "m.toml"]).code, 0);
    let outputs = project.outputs();
    let done = at("2", &["reproduce", "same"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.contains("the same bytes once more"), "{}", done.out);
    assert_eq!(at("2", &["reproduce", "latest/other"]).code, 0);
    assert_eq!(project.executions(), 2, "what is the same is not kept twice");
    let done = at("3", &["reproduce", "other"]);
    assert_eq!(done.code, 1, "{}{}", done.out, done.err);
    assert!(done.out.contains("out/loss.json: /loss/1: 2 before, 3 now"), "{}", done.out);
    let listed = project.sepia(&["divergences"]).out;
    assert!(listed.starts_with("other (command), key ") && listed.contains("  B  out "), "{listed}");
    assert!(listed.contains("(`sepia reproduce` of run ") && !listed.contains("reproduces"), "{listed}");
    // The stored result stays what runs use.
    assert!(project.run("m.toml").err.contains("0 ran, 2 cached"));
    assert_eq!(project.outputs(), outputs);
    let as_json = at("4", &["reproduce", "other", "--format", "json"]);
    assert_eq!(as_json.code, 1);
    assert!(
        as_json.out.contains("\"same\": false") && as_json.out.contains("/loss/1: 2 before, 4 now"),
        "{}",
        as_json.out
    );
    assert_eq!(project.sepia(&["cache", "verify"]).code, 0);
    // A file that is another one now would be another key.
    project.write("data.txt", "y\n");
    let done = at("2", &["reproduce", "same"]);
    assert_eq!(done.code, 2, "{}", done.out);
    assert!(done.err.contains("the files that `same` read are not what they were"), "{}", done.err);
    fs::create_dir_all(project.path("elsewhere")).unwrap();
    project.write("elsewhere/data.txt", "x\n");
    assert_eq!(at("2", &["reproduce", "same", "--manifest", "elsewhere/m.toml"]).code, 0);
    // An input that is gone is asked for; one that is damaged is no reason to believe anything.
    let object = project.object("same.out");
    make_writable(&object);
    fs::write(&object, "z\n").unwrap();
    let done = at("2", &["reproduce", "other"]);
    assert_eq!(done.code, 1, "{}", done.out);
    assert!(done.err.contains("damaged"), "{}", done.err);
    let done = at("2", &["reproduce", "other"]);
    assert_eq!(done.code, 2, "{}", done.out);
    assert!(done.err.contains("the input `same` of `other`") && done.err.contains("sepia pull"), "{}", done.err);
    assert_eq!(at("2", &["reproduce", "nothing"]).code, 2);
}

#[test]
fn a_training_comes_out_the_same() {
    let project = Project::training();
    project.run("tiny.toml");
    for stage in ["corpus", "train", "ranks"] {
        let done = project.sepia(&["reproduce", stage]);
        assert_eq!(done.code, 0, "{stage}: {}{}", done.out, done.err);
    }
}

#[test]
fn runs_have_names_and_room_is_made_without_them() {
    let project = Project::new();
    let text = |i: usize| i.to_string().repeat(1000) + "\n";
    for i in 1..=3 {
        project.write(
            "m.toml",
            &format!("[stages.s]\nkind = \"command\"\nargv = [\"sh\", \"-c\", \"echo {} > out\"]\noutputs = {{ out = \"out\" }}\n", text(i).trim()),
        );
        project.run("m.toml");
        assert_eq!(project.sepia(&["tag", "latest", &format!("try-{i}")]).code, 0);
    }
    let there = || [1, 2, 3].map(|i| stored(&project, &text(i)));
    // A tag goes wherever a run's id goes.
    let first = project.json(&["show", "try-1", "--format", "json"]);
    assert_ne!(first["run"], project.json(&["show", "try-3", "--format", "json"])["run"]);
    assert_eq!(project.sepia(&["report", "try-1", "-o", "r.html"]).code, 0);
    assert_eq!(project.sepia(&["results", "--run", "try-2"]).out.lines().count(), 3);
    assert!(project.json(&["compare", "try-1", "try-2", "--format", "json"]).to_string().contains("argv"));
    assert!(project.sepia(&["tag"]).out.lines().count() == 4);
    assert!(project.sepia(&["tag", "latest", "a b"]).err.contains("cannot be a tag"));
    assert!(project.sepia(&["tag", "--delete", "try-9"]).err.contains("did you mean"));
    // Dry runs first; the least recently used goes first, whatever a tag keeps.
    assert!(project.sepia(&["run", "m.toml"]).err.contains("1 cached"));
    let dry = project.sepia(&["cache", "gc", "--max-size", "2 KB", "--keep-tag", "try-1"]);
    assert!(dry.out.contains("would be removed") && dry.out.contains("dry run"), "{}", dry.out);
    assert_eq!(there(), [true; 3]);
    let unknown = project.sepia(&["cache", "gc", "--max-size", "2 KB", "--keep-tag", "tri-1", "--yes"]);
    assert_eq!(unknown.code, 2, "{}", unknown.out);
    assert_eq!(there(), [true; 3]);
    assert_eq!(project.sepia(&["cache", "gc", "--max-size", "2 KB", "--keep-tag", "try-1", "--yes"]).code, 0);
    assert_eq!(there(), [true, false, false]);
    project.run("m.toml");
    assert_eq!(there(), [true, false, true]);
    let kept = project.sepia(&["cache", "gc", "--max-size", "1 B", "--keep-tag", "try-*", "--yes"]).out;
    assert!(kept.contains("that is still more than 1 B"), "{kept}");
    assert_eq!(there(), [true, false, true]);
    // By run: what only it needs.
    assert_eq!(project.sepia(&["cache", "gc", "--run", "try-1", "--yes"]).code, 0);
    assert_eq!(there(), [false, false, true]);
    assert_eq!(project.sepia(&["cache", "gc", "--max-size", "lots"]).code, 2);
}

/// The shipped manifest travels, too: its data lie in a folder beside it.
#[test]
fn a_shipped_manifest_can_be_exported() {
    let project = Project::new();
    let manifest = repository().join("manifests/quickstart.toml");
    let store = project.path(".sepia");
    let arguments = ["run", manifest.to_str().unwrap(), "--profile", "smoke", "--store", store.to_str().unwrap()];
    let done = project.sepia(&arguments);
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(project.sepia(&["export", "--to", "q.tar.zst", "--outputs"]).code, 0);
    let other = Project::new();
    let file = project.path("q.tar.zst");
    let done = other.sepia(&["import", file.to_str().unwrap(), "--trust"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.err.contains("--profile smoke"), "{}", done.err);
    assert!(run_as_told(&other, &done.err).contains("0 ran, 4 cached"));
}
