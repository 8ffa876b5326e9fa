//! The manifests of the factorisation methods, small: from the data to a model that is really smaller.

use crate::support::{Project, repository};

/// Puts the images that ship where manifests expect them.
fn copy_images(project: &Project) {
    std::fs::create_dir_all(project.path("data/fashion-mnist")).unwrap();
    for file in std::fs::read_dir(repository().join("manifests/data/fashion-mnist")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), project.path("data/fashion-mnist").join(file.file_name())).unwrap();
    }
}

/// Runs a shipped manifest in its smoke form, twice: the second time nothing runs. Returns the project.
fn smoke(name: &str) -> Project {
    let project = Project::new();
    project.write(name, &std::fs::read_to_string(repository().join("manifests").join(name)).unwrap());
    copy_images(&project);
    let first = project.sepia(&["run", name, "--profile", "smoke"]);
    assert_eq!(first.code, 0, "{}", first.err);
    let second = project.sepia(&["run", name, "--profile", "smoke"]);
    assert!(second.err.contains(" 0 ran"), "{}", second.err);
    project
}

/// A figure of a stage, or of the cell of one method.
fn figure(project: &Project, stage: &str, name: &str) -> f64 {
    let (stage, method) = stage.split_once('/').map_or((stage, None), |(stage, method)| (stage, Some(method)));
    let filter = method.map(|method| format!("method = {method}"));
    let filter: Vec<&str> = filter.iter().flat_map(|filter| ["--where", filter]).collect();
    let results = project.json(&[&["results", stage, "--format", "json"], &filter[..]].concat());
    results[0]["results"][name].as_f64().unwrap_or_else(|| panic!("{stage} has no {name}: {results}"))
}

#[test]
fn cuttlefish_ends_with_a_smaller_model() {
    let project = smoke("cuttlefish.toml");
    assert_eq!(figure(&project, "train/cuttlefish", "switch_epoch"), 1.0);
    assert!(figure(&project, "evaluate", "parameters_ratio") > 1.5);
    assert!(figure(&project, "profile", "speedup/fc") > 0.0);
}

#[test]
fn trp_is_compared_with_a_plain_decomposition_at_the_same_ranks() {
    let project = smoke("trp.toml");
    for rank in ["rank/fc1", "rank/fc2"] {
        assert_eq!(figure(&project, "train/trp", rank), figure(&project, "plain", rank));
    }
    assert!(figure(&project, "evaluate", "parameters_ratio") > 1.0);
}

#[test]
fn maestro_serves_a_budget_without_training_again() {
    let project = smoke("maestro.toml");
    assert!(figure(&project, "reduced", "parameters_kept") <= 0.2);
    assert!(figure(&project, "evaluate-reduced", "accuracy") > 0.0);
}

#[test]
fn a_search_over_lambda_ends_with_the_smallest_that_is_accurate_enough() {
    let project = smoke("maestro-lambda.toml");
    assert_eq!(figure(&project, "chosen", "candidates"), 2.0);
    assert!(figure(&project, "chosen", "accuracy") >= figure(&project, "chosen", "least_accuracy"));
    // Where none is, the best is named.
    let text = std::fs::read_to_string(project.path("maestro-lambda.toml")).unwrap();
    project.write(
        "none.toml",
        &text.replace("accuracy_drop = 0.5", "accuracy_drop = 0.0").replace("lr = 0.02\nmethod", "lr = 1e-9\nmethod"),
    );
    let done = project.sepia(&["run", "none.toml", "--profile", "smoke"]);
    assert_eq!(done.code, 1, "{}", done.err);
    assert!(done.err.contains("none of 2 models reaches an accuracy of"), "{}", done.err);
}

#[test]
fn the_factors_of_a_trained_network_learn_from_it_and_are_evaluated_against_it() {
    let project = smoke("pela.toml");
    assert!(figure(&project, "evaluate", "parameters_ratio") > 1.8);
    assert!(figure(&project, "evaluate-plain", "parameters_ratio") > 1.8);
    // Without its teacher it is refused before anything runs, where it is asked for.
    let text = std::fs::read_to_string(project.path("pela.toml")).unwrap();
    project.write("alone.toml", &text.replace(", teacher = \"dense.model\"", ""));
    let done = project.sepia(&["check", "alone.toml"]);
    assert_eq!(done.code, 2, "{}", done.err);
    assert!(done.err.contains("but the input `teacher` is not connected"), "{}", done.err);
    assert!(done.err.contains("alone.toml:"), "{}", done.err);
}

const FACTORIZE: &str = r#"name = "bad"

[stages.images]
kind = "image-dataset"
format = "idx"
train = ["data/fashion-mnist/train-images-idx3-ubyte.gz", "data/fashion-mnist/train-labels-idx1-ubyte.gz"]
max_per_class = 10

[stages.train]
kind = "train-classifier"
inputs = { data = "images" }
model = { name = "lenet" }
epochs = 1
batch_size = 50

[stages.small]
kind = "factorize"
inputs = { model = "train.model" }
ranks = { rank = 4 }
"#;

#[test]
fn ranks_and_layers_that_cannot_be_had_are_named() {
    let project = Project::new();
    project.write("bad.toml", FACTORIZE);
    copy_images(&project);
    for (set, code, says) in [
        ("ranks.rank=0", 2, "rank 0 leaves nothing"),
        ("table.conv2=0", 2, "rank 0 leaves nothing of `conv2`"),
        ("ranks.rank=17", 1, "`conv2`: rank 17 is above 16, the smaller side of the 16x150 matrix"),
        ("table.fc1=121", 1, "rank 121 of `fc1` must be between 1 and 120"),
        ("layers=[\"fc9\"]", 1, "no layer is named `fc9`"),
        ("table.fc9=3", 1, "no layer is named `fc9`"),
    ] {
        let done = project.sepia(&["run", "bad.toml", "--set", &format!("stages.small.{set}")]);
        assert_eq!(done.code, code, "{set}\n{}", done.err);
        assert!(done.err.contains(says), "{set}\n{}", done.err);
    }
    let done = project.sepia(&["run", "bad.toml", "--set", "stages.small.layers=[\"fc9\"]"]);
    assert!(done.err.contains("the nearest of its 5 are `fc1`, `fc2`, `fc3`"), "{}", done.err);
    // What was right is still there.
    let done = project.run("bad.toml");
    assert!(done.err.contains(" 1 ran, 2 cached"), "{}", done.err);
}

#[test]
fn images_of_wrong_sizes_and_labels_out_of_range_name_the_file() {
    let idx = |sizes: &[u32], values: &[u8]| {
        let mut bytes = vec![0, 0, 8, sizes.len() as u8];
        sizes.iter().for_each(|size| bytes.extend(size.to_be_bytes()));
        bytes.extend(values);
        bytes
    };
    let project = Project::new();
    let manifest = FACTORIZE.split("\n[stages.train]").next().unwrap();
    let manifest = manifest.replace("data/fashion-mnist/train-images-idx3-ubyte.gz", "images");
    let manifest = manifest.replace("data/fashion-mnist/train-labels-idx1-ubyte.gz", "labels");
    project.write("bad.toml", &manifest.replace("max_per_class = 10", "classes = 3"));
    let four = (idx(&[4, 2, 2], &[0; 16]), idx(&[4], &[0, 1, 2, 0]));
    for (images, labels, says) in [
        (idx(&[4, 2, 2], &[0; 15]), four.1.clone(), ["images cannot be read", "[4, 2, 2]"]),
        (four.0.clone(), idx(&[3], &[0, 1, 2]), ["images has 4 images, but ", "labels has 3 labels"]),
        (four.0.clone(), idx(&[4], &[0, 1, 2, 9]), ["labels has the label 9", "there are 3 classes"]),
        (b"pixels".to_vec(), four.1.clone(), ["images cannot be read", "IDX"]),
    ] {
        std::fs::write(project.path("images"), images).unwrap();
        std::fs::write(project.path("labels"), labels).unwrap();
        let done = project.sepia(&["run", "bad.toml"]);
        assert_eq!(done.code, 1, "{}", done.err);
        assert!(says.iter().all(|part| done.err.contains(part)), "{says:?}\n{}", done.err);
        assert_eq!(project.executions(), 0);
    }
}

#[test]
fn a_language_model_is_evaluated_as_factors() {
    let project = Project::training();
    let text = std::fs::read_to_string(project.path("tiny.toml")).unwrap();
    let more = r#"
[stages.small]
kind = "factorize"
inputs = { model = "train" }
ranks = { ratio = 0.25 }

[stages.evaluate-small]
kind = "evaluate"
inputs = { model = "small", data = "corpus" }
"#;
    project.write("tiny.toml", &(text + more));
    project.run("tiny.toml");
    let parameters = |stage| figure(&project, stage, "parameters");
    assert!(parameters("evaluate-small") < parameters("evaluate"));
    assert_eq!(parameters("evaluate-small"), parameters("small"));
    assert!(figure(&project, "evaluate-small", "perplexity") < 2.0 * figure(&project, "evaluate", "perplexity"));
}
