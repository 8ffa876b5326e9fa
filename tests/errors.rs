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
    assert!(!names.is_empty());
    for name in names {
        let project = Project::new();
        project.write("empty.txt", "");
        project.write("short.txt", "Too short to train on.");
        project.write("text.txt", &"It is a truth universally acknowledged. ".repeat(500));
        std::fs::copy(folder.join(&name), project.path(&name)).unwrap();
        let done = project.sepia(&["check", &name]);
        assert_eq!(done.code, 2, "{name}\n{}{}", done.out, done.err);
        assert!(done.err.contains("help") || done.err.contains("expected"), "{name} says no way out:\n{}", done.err);
        let folder = project.path("").display().to_string();
        insta::with_settings!({ snapshot_path => "manifests/invalid/snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name.trim_end_matches(".toml"), done.err.replace(folder.trim_end_matches('/'), "[FOLDER]"));
        });
    }
}
