//! Results of several people: remotes, merging, trust.

use crate::support::{Done, Project, data_and_model};

/// What the first stage of the manifest does.
const DATA: &str = "echo data > out; mkdir folder; echo a > folder/a";

/// A project of its own, whose user has no key but what `key` says.
struct Person {
    project: Project,
    key: std::path::PathBuf,
}

impl Person {
    fn new() -> Self {
        let project = Project::new();
        project.write("m.toml", &data_and_model(DATA));
        let key = project.path("my.key");
        Self { project, key }
    }

    fn try_to(&self, arguments: &[&str]) -> Done {
        Done::from(self.project.command(arguments).env("SEPIA_KEY", &self.key).output().unwrap())
    }

    fn sepia(&self, arguments: &[&str]) -> Done {
        let done = self.try_to(arguments);
        assert_eq!(done.code, 0, "{arguments:?}\n{}{}", done.out, done.err);
        done
    }
}

/// Two people and the folder that both reach.
fn lab() -> (tempfile::TempDir, String, Person, Person) {
    let folder = tempfile::tempdir().unwrap();
    let lab = folder.path().join("lab").to_str().unwrap().to_owned();
    (folder, lab, Person::new(), Person::new())
}

#[test]
fn a_run_takes_results_from_a_remote_and_offers_its_own() {
    let (_folder, lab, alice, bob) = lab();
    alice.sepia(&["remote", "add", "lab", &lab]);
    bob.sepia(&["remote", "add", "lab", &lab, "--trust"]);
    let done = alice.sepia(&["run", "m.toml", "--remote", "lab"]);
    assert!(done.err.contains("2 ran, 0 cached") && done.err.contains("Pushed 2 results to lab"), "{}", done.err);
    let done = bob.sepia(&["run", "m.toml", "--remote", "lab"]);
    assert!(done.err.contains("0 ran, 2 cached"), "{}", done.err);
    assert_eq!(bob.project.outputs(), alice.project.outputs());
    // What bob changes alice gets by pulling.
    bob.project.edit("m.toml", "echo data >", "echo more >");
    bob.sepia(&["run", "m.toml", "--remote", "lab"]);
    let pulled = alice.sepia(&["pull"]);
    assert!(pulled.out.starts_with("pulled from lab: 2 new records"), "{}", pulled.out);
    assert!(pulled.out.contains("2 outputs") || pulled.out.contains("3 outputs"), "{}", pulled.out);
    alice.sepia(&["cache", "verify"]);
}

#[test]
fn what_is_asked_for_is_brought_and_nothing_else() {
    let (folder, lab, alice, bob) = lab();
    // Two runs: of the first stage, a file differs and a folder does not; of the second one, the model differs.
    alice.sepia(&["run", "m.toml"]);
    alice.project.edit("m.toml", "echo data >", "echo other >");
    alice.sepia(&["run", "m.toml"]);
    alice.sepia(&["remote", "add", "lab", &lab]);
    let elsewhere = folder.path().join("elsewhere").to_str().unwrap().to_owned();
    alice.sepia(&["remote", "add", "elsewhere", &elsewhere]);
    let said = |person: &Person, arguments: &[&str], words: &str| {
        let done = person.sepia(arguments);
        assert!(done.out.contains(words), "{arguments:?}: {}", done.out);
        done.out
    };
    said(&alice, &["push", "elsewhere", "train"], ": 2 records, 2 outputs,");
    said(&alice, &["push", "elsewhere", "latest"], ": 1 record, 2 outputs, 8 B (1 output there already)");
    said(&alice, &["push", "elsewhere", "data", "--results-only"], ": 1 record, 0 outputs, 0 B");
    said(&alice, &["push", "lab"], ": 4 records, 5 outputs,");
    bob.sepia(&["remote", "add", "lab", &lab, "--trust"]);
    said(&bob, &["pull", "--results-only"], ": 4 new records");
    assert_eq!(bob.project.executions(), 4);
    said(&bob, &["pull", "--models"], "; 2 outputs,");
    said(&bob, &["pull", "--run", "latest", "--node", "data"], "; 2 outputs, 8 B");
    // To a program it says as it goes how many bytes have come.
    let out = said(&bob, &["pull", "--node", "data", "--format", "json"], "pulling");
    let events: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (last, told) = events.split_last().unwrap();
    assert_eq!((&last["event"], &last["outputs"], &last["bytes"]), (&"pulled".into(), &1.into(), &5.into()));
    assert!(told.iter().all(|event| event["event"] == "pulling" && event["of_bytes"] == 5), "{out}");
    assert_eq!((&told[0]["bytes"], &told.last().unwrap()["bytes"]), (&0.into(), &5.into()));
    said(&bob, &["pull"], "; 0 outputs, 0 B");
    assert_eq!(bob.project.outputs(), alice.project.outputs());
    bob.sepia(&["cache", "verify"]);
    let unknown = bob.try_to(&["pull", "--node", "trian"]);
    assert!(unknown.code == 2 && unknown.err.contains("did you mean `sepia pull --node train`?"), "{}", unknown.err);
}

/// Two who gave one name to different runs find out, and one decides for both.
#[test]
fn tags_travel_and_nobodys_is_lost() {
    let (_folder, lab, alice, bob) = lab();
    for person in [&alice, &bob] {
        person.sepia(&["remote", "add", "lab", &lab, "--trust"]);
    }
    alice.sepia(&["run", "m.toml"]);
    alice.sepia(&["tag", "latest", "paper"]);
    let pushed = alice.sepia(&["push"]);
    assert!(pushed.out.contains("2 records, 1 tag change, "), "{}", pushed.out);
    let pulled = bob.sepia(&["pull"]);
    assert!(pulled.out.contains("1 tag"), "{}", pulled.out);
    let run = |person: &Person, name: &str| {
        person.project.json(&["show", name, "--format", "json"])["run"].as_str().unwrap().to_owned()
    };
    assert_eq!(run(&bob, "paper"), run(&alice, "latest"));
    // Both give another name to runs of their own.
    alice.sepia(&["tag", "paper", "best"]);
    bob.project.edit("m.toml", "echo data >", "echo more >");
    bob.sepia(&["run", "m.toml"]);
    bob.sepia(&["tag", "latest", "best"]);
    bob.sepia(&["push"]);
    alice.sepia(&["pull"]);
    let listed = alice.sepia(&["tag"]);
    assert_eq!(listed.out.lines().filter(|line| line.starts_with("best")).count(), 2, "{}", listed.out);
    let done = alice.try_to(&["show", "best"]);
    assert_eq!(done.code, 3, "{}", done.err);
    assert!(done.err.contains("`best` was given to several runs"), "{}", done.err);
    alice.sepia(&["tag", "paper", "best"]);
    alice.sepia(&["push"]);
    bob.sepia(&["pull"]);
    assert_eq!(run(&bob, "best"), run(&alice, "paper"));
}

#[test]
fn a_remote_that_fails_never_fails_a_run() {
    let (_folder, lab, alice, _) = lab();
    alice.sepia(&["remote", "add", "lab", &lab]);
    std::fs::rename(&lab, format!("{lab}-gone")).unwrap();
    let done = alice.sepia(&["run", "m.toml", "--remote", "lab"]);
    assert!(done.err.contains("2 ran") && done.err.contains("is it mounted?"), "{}", done.err);
    std::fs::rename(format!("{lab}-gone"), &lab).unwrap();
    // A file where the folder of objects should be: it can be read and not written.
    std::fs::write(format!("{lab}/objects"), "").unwrap();
    alice.project.edit("m.toml", "echo data >", "echo more >");
    let done = alice.sepia(&["run", "m.toml", "--remote", "lab"]);
    assert!(done.err.contains("2 ran") && done.err.contains("`sepia push lab` tries again"), "{}", done.err);
    let unknown = alice.try_to(&["run", "m.toml", "--remote", "lap"]);
    assert_eq!(unknown.code, 2, "{}", unknown.err);
    assert!(unknown.err.contains("there is no remote `lap`: there are lab"), "{}", unknown.err);
}

#[test]
fn results_of_strangers_are_shown_and_not_used_until_their_key_is_trusted() {
    let (_folder, lab, alice, bob) = lab();
    let key = alice.sepia(&["key", "new"]).out;
    assert_eq!(alice.try_to(&["key", "new"]).code, 2);
    assert_eq!(alice.sepia(&["key", "show"]).out, key);
    alice.sepia(&["run", "m.toml"]);
    alice.sepia(&["remote", "add", "lab", &lab]);
    let pushed = alice.sepia(&["push"]);
    assert!(pushed.out.starts_with("pushed to lab: 2 records, 3 outputs"), "{}", pushed.out);
    bob.sepia(&["remote", "add", "lab", &lab]);
    bob.sepia(&["pull"]);
    assert_eq!(bob.project.executions(), 2);
    let planned = bob.sepia(&["plan", "m.toml"]);
    assert!(planned.out.contains("nobody in `trusted_keys` has signed them"), "{}", planned.out);
    bob.sepia(&["key", "trust", key.trim(), "--name", "alice"]);
    let done = bob.sepia(&["run", "m.toml"]);
    assert!(done.err.contains("0 ran, 2 cached"), "{}", done.err);
    // A third one asks for everything, once.
    let carol = Person::new();
    carol.sepia(&["remote", "add", "lab", &lab]);
    carol.sepia(&["pull"]);
    let done = carol.sepia(&["run", "m.toml", "--trust-all"]);
    assert!(done.err.contains("0 ran, 2 cached"), "{}", done.err);
    let mistyped = bob.try_to(&["key", "trust", "ed25519:12"]);
    assert_eq!((mistyped.code, mistyped.err.contains("is not a key of Sepia's")), (2, true), "{}", mistyped.err);
}

#[test]
fn merging_databases_keeps_what_differs() {
    let (alice, bob) = (Person::new(), Person::new());
    for person in [&alice, &bob] {
        person.sepia(&["run", "m.toml"]);
    }
    let theirs = bob.project.path(".sepia/results.db");
    let merged = alice.sepia(&["merge", theirs.to_str().unwrap()]);
    assert!(merged.out.ends_with("results.db: 2 new records, 1 run\n"), "{}", merged.out);
    assert!(merged.err.contains("1 key left different outputs: `sepia divergences` lists them"), "{}", merged.err);
    let again = alice.sepia(&["merge", theirs.to_str().unwrap()]);
    assert!(again.out.ends_with("results.db: 0 new records, 0 runs, 2 known already\n"), "{}", again.out);
    let listed = alice.sepia(&["divergences"]).out;
    assert!(
        listed.starts_with("train (command), key ")
            && listed.contains("\n  A  model ")
            && listed.contains("\n  B  model "),
        "{listed}"
    );
    let as_json = alice.project.json(&["divergences", "--format", "json"]);
    assert_eq!(as_json[0]["variants"].as_array().unwrap().len(), 2);
    // What is not a database, or is missing.
    let refused = alice.try_to(&["merge", "m.toml"]);
    assert_eq!(refused.code, 3);
    assert!(
        refused.err.contains("m.toml is refused: it is not an SQLite database (nothing was changed)"),
        "{}",
        refused.err
    );
}

#[test]
fn damaged_outputs_come_back_from_a_remote() {
    let (_folder, lab, alice, _) = lab();
    alice.sepia(&["run", "m.toml"]);
    alice.sepia(&["remote", "add", "lab", &lab]);
    alice.sepia(&["push", "lab", "latest"]);
    let path = alice.project.object("train.model");
    // Another file in its place: the one that was there may be the remote's as well.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "damaged").unwrap();
    assert_eq!(alice.try_to(&["cache", "verify"]).code, 1);
    let repaired = alice.sepia(&["cache", "verify", "--repair-from", "lab"]);
    assert!(repaired.out.contains("1 object fetched from lab"), "{}", repaired.out);
    alice.sepia(&["cache", "verify"]);
    alice.sepia(&["cache", "gc", "--keep-days", "1"]);
}

#[test]
fn a_run_goes_on_while_outputs_come_from_a_remote() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_folder, lab, alice, bob) = lab();
    let large = "[stages.large]\nkind = \"command\"\nargv = [\"sh\", \"-c\", \"head -c 700000 /dev/urandom > out\"]\n\
                 outputs = { out = \"out\" }\n";
    alice.project.write("m.toml", large);
    alice.sepia(&["remote", "add", "lab", &lab]);
    alice.sepia(&["run", "m.toml", "--remote", "lab"]);
    // A way to the same folder that brings 100 kB, and the rest once another stage has run.
    let (gate, ssh) = (bob.project.path("gate"), bob.project.path("ssh"));
    let script = format!(
        "#!/bin/sh\n'{}' serve --stdio | {{ dd bs=1 count=100000 status=none; while ! [ -e '{}' ]; do sleep 0.05; done; cat; }}\n",
        env!("CARGO_BIN_EXE_sepia"),
        gate.display()
    );
    std::fs::write(&ssh, script).unwrap();
    std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).unwrap();
    let other = format!(
        "{large}[stages.other]\nkind = \"command\"\nargv = [\"sh\", \"-c\", \"touch '{}'; echo > out\"]\n\
         outputs = {{ out = \"out\" }}\n",
        gate.display()
    );
    bob.project.write("m.toml", &other);
    let through = |arguments: &[&str]| {
        let done = Done::from(bob.project.command(arguments).env("SEPIA_SSH", &ssh).output().unwrap());
        assert_eq!(done.code, 0, "{arguments:?}\n{}{}", done.out, done.err);
        done
    };
    std::fs::write(&gate, "").unwrap();
    through(&["remote", "add", "lab", &format!("ssh://host{lab}"), "--trust"]);
    std::fs::remove_file(&gate).unwrap();
    let done = through(&["run", "m.toml", "--remote", "lab"]);
    assert!(done.err.contains("1 ran, 1 cached"), "{}", done.err);
    assert_eq!(bob.project.executions(), 2);
}
