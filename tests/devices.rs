//! Where stages compute, on a machine without a GPU or with a build that cannot use one.

use sepia_cache::{OpenMode, Store};

use crate::support::Project;

/// A stage that needs a GPU is named before anything runs, with a way out; without it the rest runs.
#[test]
fn a_gpu_that_is_not_there_is_an_error_before_anything_runs() {
    let project = Project::training();
    let on_gpu = std::fs::read_to_string(project.path("tiny.toml")).unwrap().replacen(
        "[stages.train]\n",
        "[stages.train]\ndevice = \"cuda:7\"\n",
        1,
    );
    project.write("gpu.toml", &on_gpu);
    let done = project.sepia(&["run", "gpu.toml"]);
    assert_eq!(done.code, 2, "{}", done.err);
    assert!(done.err.contains("error[run::no-gpu]: `train` would have to run on a GPU"), "{}", done.err);
    assert!(done.err.contains("device = \"cuda:7\""), "the line of the manifest is shown: {}", done.err);
    assert!(done.err.contains("--device cpu"), "{}", done.err);
    let results = project.json(&["results", "--format", "json"]);
    assert_eq!(results.as_array().map(Vec::len), Some(0), "nothing ran: {results}");

    let done = project.sepia(&["run", "gpu.toml", "corpus"]);
    assert_eq!(done.code, 0, "what needs no GPU runs: {}", done.err);
}

/// What was computed on a GPU is found, shown and used on a machine without one.
#[test]
fn what_a_gpu_computed_is_readable_without_one() {
    let project = Project::training();
    project.run("tiny.toml");
    project.write("gpu.toml", &std::fs::read_to_string(project.path("tiny.toml")).unwrap());
    project.edit("gpu.toml", "[stages.train]\n", "[stages.train]\ndevice = \"cuda\"\n");
    let planned = project.json(&["plan", "gpu.toml", "--format", "json"]);
    let node = |node: &&serde_json::Value| node["node"] == "train";
    let planned = planned["nodes"].as_array().unwrap().iter().find(node).unwrap().clone();
    assert_eq!(planned["state"], "run", "the device is in the key");
    // The record as a machine with a GPU leaves it.
    let root = project.path(".sepia").canonicalize().unwrap();
    let store = Store::open(root.to_str().unwrap().into(), OpenMode::Create).unwrap();
    let of_cpu = store.latest_by_node("train").unwrap().unwrap();
    let mut record = store.record(&of_cpu).unwrap().unwrap();
    record.key = planned["key"].as_str().unwrap().parse().unwrap();
    record.key_inputs["device"] = "cuda".into();
    store.commit(&[record]).unwrap();
    drop(store);

    let done = project.sepia(&["run", "gpu.toml"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(project.ran().is_empty(), "{}", done.err);
    for words in [&["show"][..], &["results", "train"], &["explain", "train"]] {
        let shown = project.sepia(words);
        assert_eq!(shown.code, 0, "{words:?}: {}", shown.err);
    }
    // It is an input like any other.
    assert_eq!(project.sepia(&["run", "gpu.toml", "--force", "evaluate"]).code, 0);
    assert_eq!(project.ran(), ["evaluate"]);
    assert_eq!(project.sepia(&["run", "gpu.toml", "--force", "train"]).code, 2, "to compute it takes a GPU");
}

/// `auto` takes the CPU where there is no GPU, with the key of a run that says `cpu`; so does `--device`.
#[test]
fn auto_and_the_option_choose_the_same_as_the_word() {
    let project = Project::training();
    project.run("tiny.toml");
    for device in ["auto", "cpu"] {
        if device == "auto" && cfg!(feature = "cuda") {
            continue;
        }
        let done = project.sepia(&["run", "tiny.toml", "--device", device]);
        assert_eq!(done.code, 0, "{}", done.err);
        assert!(project.ran().is_empty(), "{device}: {}", done.err);
    }
    let done = project.sepia(&["check", "tiny.toml", "--device", "gpu"]);
    assert_eq!(done.code, 2);
    assert!(done.err.contains("there is no device `gpu`"), "{}", done.err);
}

/// The list says why there is no GPU, and is data for programs.
#[test]
fn devices_are_listed() {
    let project = Project::new();
    let listed = project.json(&["devices", "--format", "json"]);
    assert_eq!(listed["cuda_built"], cfg!(feature = "cuda"));
    assert!(listed["cpu"]["threads"].as_u64().unwrap() >= 1);
    let gpus = listed["gpus"].as_array().unwrap();
    assert_eq!(gpus.is_empty(), listed["why_none"].is_string(), "{listed}");
    let text = project.sepia(&["devices"]);
    assert_eq!(text.code, 0);
    assert!(text.out.starts_with("cpu "), "{}", text.out);
    assert_eq!(text.out.lines().filter(|line| line.starts_with("cuda:")).count(), gpus.len());
    if !cfg!(feature = "cuda") {
        assert!(text.out.contains("--features cuda"), "{}", text.out);
    }
}
