//! Programs of the author's as stages.

use crate::support::Project;

/// One `command` stage named `it`.
fn it(more: &str) -> String {
    format!("[stages.it]\nkind = \"command\"\n{more}\n")
}

#[test]
fn a_script_of_ones_own_runs_beside_the_built_in_stages() {
    let project = Project::training();
    project.write("count.py", "import sys, json\nn = len(open(sys.argv[1] + '/train.bin', 'rb').read())\njson.dump({'bytes': n, 'seed': int(sys.argv[3]), 'by': sys.argv[4]}, open(sys.argv[2], 'w'))\n");
    project.edit(
        "tiny.toml",
        "[stages.ranks]",
        r#"[stages.count]
kind = "command"
inputs = { data = "corpus" }
files = ["count.py"]
argv = ["python3", "count.py", "${inputs.data}", "${outputs.report}", "${seed}", "${params.by}"]
outputs = { report = "out/report.json" }
params = { by = "hand" }
seed = 5

[stages.ranks]"#,
    );
    project.run("tiny.toml");
    let report = std::fs::read_to_string(project.object("count.report")).unwrap();
    assert!(report.contains("\"seed\": 5") && report.contains("\"by\": \"hand\""), "{report}");

    // The script's content is part of the key.
    project.edit("count.py", "'by'", "'author'");
    project.run("tiny.toml");
    assert_eq!(project.ran(), ["count"]);
}

#[test]
fn what_a_program_does_wrong_is_said() {
    let cases = [
        ("argv = [\"sh\", \"-c\", \"echo why >&2; exit 7\"]", "it exited with code 7", "why"),
        ("argv = [\"true\"]\noutputs = { model = \"model.bin\" }", "did not make its output `model`", "model.bin"),
        ("argv = [\"touch\", \"stray.txt\"]", "left stray.txt", "does not declare"),
        ("argv = [\"no-such-program\"]", "`no-such-program` cannot be started", "is it installed"),
        ("argv = [\"sh\", \"-c\", \"kill -11 $$\"]", "SIGSEGV", "signal 11"),
        (
            "argv = [\"ln\", \"-s\", \"/etc/passwd\", \"link\"]\noutputs = { link = \"link\" }",
            "cannot be stored",
            "link",
        ),
    ];
    for (stage, message, also) in cases {
        let project = Project::new();
        project.write("m.toml", &it(stage));
        let done = project.sepia(&["run", "m.toml"]);
        assert_eq!(done.code, 1, "{stage}\n{}", done.err);
        assert!(done.err.contains(message) && done.err.contains(also), "{stage}\n{}", done.err);
        assert_eq!(project.executions(), 0, "a failure is never a result");
    }
}

#[test]
fn a_script_that_cannot_be_started_says_what_it_lacks() {
    use std::os::unix::fs::PermissionsExt as _;
    let cases = [
        ("echo hello > out\n", 0o755, "a first line that names its interpreter", "argv = [\"sh\", \"run.sh\", ...]"),
        ("#!/no/such/interpreter\n", 0o755, "the interpreter that its first line names is not here", "install it"),
        ("#!/bin/sh\n", 0o644, "`run.sh` cannot be started: it is not executable", "chmod +x"),
        ("\u{7f}ELF of another machine", 0o755, "a program for another kind of machine", "for this one"),
    ];
    for (text, mode, message, help) in cases {
        let project = Project::new();
        project.write("run.sh", text);
        std::fs::set_permissions(project.path("run.sh"), std::fs::Permissions::from_mode(mode)).unwrap();
        project.write("m.toml", &it("files = [\"run.sh\"]\nargv = [\"./run.sh\"]"));
        let done = project.sepia(&["run", "m.toml"]);
        assert_eq!(done.code, 1, "{text}\n{}", done.err);
        assert!(done.err.contains(message) && done.err.contains(help), "{text}\n{}", done.err);
    }
}

#[test]
fn the_environment_is_what_the_stage_declares() {
    let project = Project::new();
    project.write("m.toml", &it("argv = [\"sh\", \"-c\", \"env > env.txt\"]\noutputs = { env = \"env.txt\" }\nenv = { MINE = \"${seed}-x\" }\nenv_allow = [\"PASSED\"]\nseed = 3"));
    let done = project.command(&["run", "m.toml"]).env("PASSED", "yes").env("HIDDEN", "no").output().unwrap();
    assert!(done.status.success());
    let environment = std::fs::read_to_string(project.object("it.env")).unwrap();
    assert!(environment.contains("MINE=3-x") && environment.contains("PASSED=yes"), "{environment}");
    assert!(!environment.contains("HIDDEN"), "{environment}");
}

#[test]
fn megabytes_of_rubbish_go_to_the_log_and_the_end_of_it_is_shown() {
    let project = Project::new();
    project.write(
        "m.toml",
        &it("argv = [\"sh\", \"-c\", \"head -c 5000000 /dev/urandom; echo; echo the last line; exit 1\"]"),
    );
    let done = project.sepia(&["run", "m.toml"]);
    assert_eq!(done.code, 1);
    assert!(done.err.contains("the last line"), "{}", done.err);
}

#[test]
fn files_of_a_base_in_another_folder_arrive_under_their_own_names() {
    let project = Project::new();
    for folder in ["study", "base/lib"] {
        std::fs::create_dir_all(project.path(folder)).unwrap();
    }
    project.write("base/say.sh", ". lib/words.sh; echo $word > said\n");
    project.write("base/lib/words.sh", "word=hello\n");
    project.write("base/lib/more.txt", "");
    let stage = "files = [\"say.sh\", \"lib/*.sh\"]\nargv = [\"sh\", \"say.sh\"]\noutputs = { said = \"said\" }\n";
    project.write("base/base.toml", &it(stage));
    project.write("study/m.toml", "extends = \"../base/base.toml\"\n");
    project.run("study/m.toml");
    let said = |store: &str| {
        let run = project.json(&["--store", store, "show", "--format", "json"]);
        let output = &run["nodes"][0]["record"]["outputs"][0]["object"]["digest"];
        let digest = output.as_str().unwrap().to_owned();
        std::fs::read_to_string(project.path(store).join("objects").join(&digest[..2]).join(&digest[2..])).unwrap()
    };
    assert_eq!(said("study/.sepia"), "hello\n");
    assert!(!project.path("study/base").exists());
    // Written out, it means the same.
    let resolved = project.sepia(&["plan", "study/m.toml", "--resolved"]).out;
    assert!(resolved.contains("../base/./say.sh"), "{resolved}");
    // Names that lead out of the folder, and names that two files have.
    for (files, why) in [
        ("[\"../base/say.sh\"]", "leads outside the working folder"),
        ("[\"../base/./../base/say.sh\"]", "leads outside the working folder"),
        ("[\"/etc/hostname\"]", "leads outside the working folder"),
        ("[\"say.sh\", \"../base/./say.sh\"]", "two files would arrive in the working folder as"),
    ] {
        project.write("study/say.sh", "echo mine > said\n");
        let text = it(&format!("files = {files}\nargv = [\"sh\", \"say.sh\"]\noutputs = {{ said = \"said\" }}"));
        project.write("study/other.toml", &text);
        let done = project.sepia(&["check", "study/other.toml"]);
        assert!(done.code == 2 && done.err.contains(why), "{files}: {}", done.err);
    }
    // What only the disk shows is found when the stage begins.
    std::fs::create_dir_all(project.path("study/lib")).unwrap();
    project.write("study/lib/words.sh", "word=mine\n");
    let text = it("files = [\"lib\", \"../base/./lib/*.sh\"]\nargv = [\"true\"]\noutputs = { said = \"said\" }");
    project.write("study/other.toml", &text);
    let done = project.sepia(&["run", "study/other.toml"]);
    assert!(done.code == 1 && done.err.contains("a name that another file has"), "{}", done.err);
    assert_eq!(std::fs::read_to_string(project.path("study/lib/words.sh")).unwrap(), "word=mine\n");
}
