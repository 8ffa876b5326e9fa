//! The manifests that ship, and the starter manifests made from them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::support::{Project, repository};

/// Copies a folder into a project.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if path.is_dir() && name != ".sepia" {
            copy(&path, &to.join(name));
        } else if path.is_file() {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

/// A project with a copy of `manifests/`.
fn shipped() -> Project {
    let project = Project::new();
    copy(&repository().join("manifests"), &project.path("manifests"));
    project
}

/// The manifests of a folder below the repository, by path.
fn manifests(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(repository().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|one| one == "toml")).collect();
    found.sort();
    assert!(!found.is_empty(), "{folder}");
    found.iter().map(|path| format!("{folder}/{}", path.file_name().unwrap().to_str().unwrap())).collect()
}

#[test]
fn every_shipped_manifest_runs_in_its_smoke_profile() {
    let project = shipped();
    for manifest in manifests("manifests") {
        let done = project.sepia(&["run", &manifest, "--profile", "smoke"]);
        assert_eq!(done.code, 0, "{manifest}\n{}", done.err);
        assert!(!done.err.contains("warning"), "{manifest}\n{}", done.err);
    }
}

/// At full size, too: that takes no data of that size and no GPU.
#[test]
fn every_shipped_manifest_can_be_planned_and_says_what_to_expect() {
    let project = shipped();
    for manifest in manifests("manifests").into_iter().chain(manifests("manifests/paper")) {
        for profile in [None, Some("smoke")] {
            let mut arguments = vec!["plan", manifest.as_str(), "--format", "json"];
            arguments.extend(profile.iter().flat_map(|profile| ["--profile", *profile]));
            assert!(project.json(&arguments)["nodes"].as_array().is_some_and(|nodes| !nodes.is_empty()), "{manifest}");
        }
        let text = fs::read_to_string(repository().join(&manifest)).unwrap();
        let head: String = text.lines().take_while(|line| line.is_empty() || line.starts_with('#')).collect();
        assert!(head.contains("Expect") && head.contains("sepia run"), "{manifest} does not say what to expect");
    }
}

/// The published models, and what training them takes, known without a single tensor.
#[test]
fn the_published_sizes_are_estimated_before_anything_runs() {
    let project = shipped();
    let plan = project.json(&["plan", "manifests/paper/galore.toml", "--format", "json"]);
    let nodes = plan["nodes"].as_array().unwrap();
    let of = |name: &str, figure: &str| {
        let node = nodes.iter().find(|node| node["node"] == name).unwrap();
        node["estimate"][figure].as_u64().unwrap()
    };
    let published = [
        ("60m", 58_073_600),
        ("130m", 134_105_856),
        ("350m", 367_969_280),
        ("1b", 1_339_082_752),
        ("7b", 6_738_415_616),
    ];
    for (name, parameters) in published {
        assert_eq!(of(name, "parameters"), parameters, "{name}");
    }
    // AdamW keeps two numbers a parameter; GaLore less; with 8 bits far less than its weights.
    assert_eq!(of("full-60m[lr=0.001]", "optimizer_state_bytes"), 2 * 4 * 58_073_600);
    assert!(of("60m", "optimizer_state_bytes") < 2 * 4 * 58_073_600);
    assert!(of("7b", "optimizer_state_bytes") < of("7b", "weight_bytes") / 2);
    // What the machine lacks is a warning: the plan is for another one.
    let done = project.sepia(&["plan", "manifests/paper/galore.toml"]);
    assert!(done.out.contains("58,073,600 parameters"), "{}", done.out);
}

#[test]
fn shipped_manifests_are_formatted() {
    let project = shipped();
    for manifest in manifests("manifests").into_iter().chain(manifests("manifests/paper")) {
        let done = project.sepia(&["fmt", "--check", &manifest]);
        assert_eq!(done.code, 0, "{}", done.err);
    }
}

#[test]
fn a_new_manifest_is_valid_as_it_is_and_never_replaces_a_file() {
    let list = Project::new().sepia(&["new", "--list"]).out;
    let templates: Vec<&str> =
        list.lines().take_while(|line| !line.is_empty()).map(|line| line.split_once(' ').unwrap().0).collect();
    assert!(templates.len() >= 4, "{list}");
    for template in templates {
        let project = Project::new();
        let done = project.sepia(&["new", "studies/mine", "--template", template]);
        assert_eq!(done.code, 0, "{}", done.err);
        for command in ["run", "plan"] {
            assert!(done.err.contains(&format!("`sepia {command} studies/mine.toml`")), "{}", done.err);
        }
        assert_eq!(project.sepia(&["check", "studies/mine.toml"]).code, 0, "{template}");
        assert_eq!(project.sepia(&["fmt", "--check", "studies/mine.toml"]).code, 0, "{template}");
        let done = project.sepia(&["run", "studies/mine.toml", "--profile", "smoke"]);
        assert_eq!(done.code, 0, "{template}\n{}", done.err);
        let again = project.sepia(&["new", "studies/mine"]);
        assert_eq!(again.code, 2);
        assert!(again.err.contains("studies/mine.toml exists already"), "{}", again.err);
    }
}
