//! A project in a folder of its own, and the program in it.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;

/// A folder with manifests and a store, gone when dropped.
pub(crate) struct Project {
    folder: tempfile::TempDir,
}

/// What the program did.
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Project {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A project with a small training pipeline on real text: corpus, train, evaluate, ranks.
    pub(crate) fn training() -> Self {
        let project = Self::new();
        let text = std::fs::read_to_string(repository().join("manifests/data/austen/persuasion.txt")).unwrap();
        project.write("text.txt", &text[..60_000]);
        project.write("tiny.toml", TINY);
        project
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Replaces text in a file; it must be there.
    pub(crate) fn edit(&self, name: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{name} does not contain {from}");
        self.write(name, &text.replace(from, to));
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sepia"));
        command.args(arguments).current_dir(self.folder.path()).env_remove("SEPIA_STORE").env_remove("SEPIA_LOG");
        command
    }

    pub(crate) fn sepia(&self, arguments: &[&str]) -> Done {
        Done::from(self.command(arguments).output().unwrap())
    }

    /// Runs and expects success.
    pub(crate) fn run(&self, manifest: &str) -> Done {
        let done = self.sepia(&["run", manifest]);
        assert_eq!(done.code, 0, "{}", done.err);
        done
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let done = self.sepia(arguments);
        assert_eq!(done.code, 0, "{}", done.err);
        serde_json::from_str(&done.out).unwrap()
    }

    /// The stages that the latest run executed, by name.
    pub(crate) fn ran(&self) -> Vec<String> {
        let run = self.json(&["show", "--format", "json"]);
        let nodes = run["nodes"].as_array().unwrap();
        let ran = nodes.iter().filter(|node| node["outcome"] == "done");
        ran.map(|node| node["node"].as_str().unwrap().to_owned()).collect()
    }

    /// Digests of all outputs of the latest run, by `stage.port`.
    pub(crate) fn outputs(&self) -> Vec<(String, String)> {
        let run = self.json(&["show", "--format", "json"]);
        let mut found = Vec::new();
        for node in run["nodes"].as_array().unwrap() {
            for output in node["record"]["outputs"].as_array().unwrap() {
                let name = format!("{}.{}", node["node"].as_str().unwrap(), output["port"].as_str().unwrap());
                found.push((name, output["object"]["digest"].as_str().unwrap().to_owned()));
            }
        }
        assert!(!found.is_empty());
        found
    }

    /// Where an output of the latest run lies in the store.
    pub(crate) fn object(&self, name: &str) -> PathBuf {
        let digest = self.outputs().into_iter().find(|(output, _)| output == name).unwrap().1;
        let store = self.path(".sepia");
        let file = store.join("objects").join(&digest[..2]).join(&digest[2..]);
        if file.exists() { file } else { store.join("trees").join(&digest[..2]).join(&digest[2..]) }
    }

    /// How many good executions the results database holds.
    pub(crate) fn executions(&self) -> usize {
        self.json(&["results", "--format", "json"]).as_array().unwrap().len()
    }
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The repository's root.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Waits until `what` holds; a test that hangs is ended by its runner, so there is no limit here that load could break.
pub(crate) fn wait_until(mut what: impl FnMut() -> bool) {
    while !what() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Lets a file be written again, and its folder be changed: stored objects are read-only.
pub(crate) fn make_writable(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    for one in [path, path.parent().unwrap()] {
        let mut permissions = one.metadata().unwrap().permissions();
        permissions.set_mode(permissions.mode() | 0o200);
        std::fs::set_permissions(one, permissions).unwrap();
    }
}

/// A `command` stage that runs a script of the shell; `more` has the rest of its table.
pub(crate) fn script(name: &str, script: &str, more: &str) -> String {
    format!("[stages.{name}]\nkind = \"command\"\nargv = [\"sh\", \"-c\", {script:?}]\n{more}\n")
}

/// A manifest of a stage `data` that runs a script, which writes `out` and `folder`, and a stage `train` that writes another
/// `model` from it each time.
pub(crate) fn data_and_model(data: &str) -> String {
    let model = "cat ${inputs.data} > model; date +%N >> model";
    script("data", data, "outputs = { out = \"out\", folder = \"folder\" }")
        + &script("train", model, "inputs = { data = \"data.out\" }\noutputs = { model = \"model\" }")
}

pub(crate) const TINY: &str = r#"name = "tiny"

[stages.corpus]
kind = "text-dataset"
files = ["text.txt"]
tokenizer = { kind = "byte" }
validation = 0.1

[stages.train]
kind = "pretrain"
inputs = { data = "corpus" }
model = { d_model = 16, n_layer = 1, n_head = 2 }
seq_len = 16
batch_size = 4
max_steps = 40
lr = 0.003

[stages.evaluate]
kind = "evaluate"
inputs = { model = "train", data = "corpus" }

[stages.ranks]
kind = "rank-analysis"
inputs = { model = "train" }
"#;
