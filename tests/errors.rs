//! Manifests that are wrong, and what is said about them.

use crate::support::{Project, repository};

/// Every manifest of `tests/manifests/invalid` is refused with exit code 2 and the message of its snapshot.
#[test]
fn invalid_manifests_are_refused_with_a_good_message() {
    let folder = repository().join("tests/manifests/invalid");
    let mut names: Vec<String> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.ends_with(".toml"));
    names.sort();
    assert!(names.len() >= 60, "{}", names.len());
    for name in names {
        let project = Project::new();
        project.write("empty.txt", "");
        project.write("short.txt", "Too short to train on.");
        project.write("text.txt", &"It is a truth universally acknowledged. ".repeat(500));
        std::fs::copy(folder.join(&name), project.path(&name)).unwrap();
        let done = project.sepia(&["check", &name]);
        assert_eq!(done.code, 2, "{name}\n{}{}", done.out, done.err);
        for message in
            done.err.split("\n\n").filter(|message| message.starts_with("error") || message.starts_with("warning"))
        {
            assert!(message.contains("= help: "), "{name} says no way out:\n{message}");
            let line = message.lines().any(|line| line.trim_start().starts_with("--> ") && line.contains(".toml:"));
            assert!(line, "{name} names no line:\n{message}");
        }
        let folder = project.path("").display().to_string();
        insta::with_settings!({ snapshot_path => "manifests/invalid/snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name.trim_end_matches(".toml"), done.err.replace(folder.trim_end_matches('/'), "[FOLDER]"));
        });
    }
}

/// The schema that ships is the one that this build generates, and every shipped manifest names it.
#[test]
fn the_shipped_schema_is_up_to_date() {
    let shipped = std::fs::read_to_string(repository().join("manifests/sepia.schema.json")).unwrap();
    let generated = Project::new().sepia(&["schema"]).out;
    assert!(shipped == generated, "run: cargo run --release -- schema > manifests/sepia.schema.json");
    for entry in std::fs::read_dir(repository().join("manifests")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("#:schema sepia.schema.json\n"), "{}", path.display());
        }
    }
    for entry in std::fs::read_dir(repository().join("manifests/paper")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("#:schema ../sepia.schema.json\n"), "{}", path.display());
    }
}

/// A manifest's name is looked for in the folder that it should be in, which may be the one that we are in.
#[test]
fn a_mistyped_manifest_is_met_with_the_nearest_name() {
    let project = Project::new();
    project.write("study.toml", "");
    std::fs::create_dir(project.path("deeper")).unwrap();
    project.write("deeper/other.toml", "");
    for (typed, meant) in [("stduy.toml", "`study.toml`"), ("deeper/othr.toml", "`deeper/other.toml`")] {
        let done = project.sepia(&["run", typed]);
        assert_eq!(done.code, 2);
        assert!(done.err.contains(&format!("did you mean {meant}?")), "{}", done.err);
    }
}
