//! The manifests of the factorisation methods, small: from the data to a model that is really smaller.

use crate::support::{Project, repository};

/// Runs a shipped manifest in its smoke form, twice: the second time nothing runs. Returns the project.
fn smoke(name: &str) -> Project {
    let project = Project::new();
    let manifests = repository().join("manifests");
    project.write(name, &std::fs::read_to_string(manifests.join(name)).unwrap());
    std::fs::create_dir_all(project.path("data/fashion-mnist")).unwrap();
    for file in std::fs::read_dir(manifests.join("data/fashion-mnist")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), project.path("data/fashion-mnist").join(file.file_name())).unwrap();
    }
    let first = project.sepia(&["run", name, "--profile", "smoke"]);
    assert_eq!(first.code, 0, "{}", first.err);
    let second = project.sepia(&["run", name, "--profile", "smoke"]);
    assert!(second.err.contains(" 0 ran"), "{}", second.err);
    project
}

fn figure(project: &Project, stage: &str, name: &str) -> f64 {
    let results = project.json(&["results", stage, "--format", "json"]);
    results[0]["results"][name].as_f64().unwrap_or_else(|| panic!("{stage} has no {name}: {results}"))
}

#[test]
fn cuttlefish_ends_with_a_smaller_model() {
    let project = smoke("cuttlefish.toml");
    assert_eq!(figure(&project, "cuttlefish", "switch_epoch"), 1.0);
    assert!(figure(&project, "evaluate", "parameters_ratio") > 1.5);
    assert!(figure(&project, "profile", "speedup/fc") > 0.0);
}

#[test]
fn trp_is_compared_with_a_plain_decomposition_at_the_same_ranks() {
    let project = smoke("trp.toml");
    for rank in ["rank/fc1", "rank/fc2"] {
        assert_eq!(figure(&project, "trp", rank), figure(&project, "plain", rank));
    }
    assert!(figure(&project, "evaluate", "parameters_ratio") > 1.0);
}

#[test]
fn maestro_serves_a_budget_without_training_again() {
    let project = smoke("maestro.toml");
    assert!(figure(&project, "reduced", "parameters_kept") <= 0.2);
    assert!(figure(&project, "evaluate-reduced", "parameters_ratio") >= 5.0);
}
