//! What a person types around a manifest: `fmt`, `methods`, `completions`, and inputs from outside.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
};

use crate::support::Project;

#[test]
fn fmt_keeps_comments_and_check_changes_nothing() {
    let project = Project::new();
    let wild = "# Why.\n[stages.a]\nkind=\"command\"   # own program\nargv=[\"true\"]\n";
    project.write("m.toml", wild);
    let check = project.sepia(&["fmt", "--check", "m.toml"]);
    assert_eq!((check.code, std::fs::read_to_string(project.path("m.toml")).unwrap().as_str()), (1, wild));
    assert!(check.err.contains("`sepia fmt m.toml`"), "{}", check.err);
    assert_eq!(project.sepia(&["fmt", "m.toml"]).code, 0);
    let text = std::fs::read_to_string(project.path("m.toml")).unwrap();
    assert_eq!(text, "# Why.\n[stages.a]\nkind = \"command\"   # own program\nargv = [\"true\"]\n");
    assert_eq!(project.sepia(&["fmt", "--check", "m.toml"]).code, 0);
    project.write("bad.toml", "a = \n");
    assert_eq!(project.sepia(&["fmt", "bad.toml"]).code, 2);
}

#[test]
fn methods_are_described_with_their_papers() {
    let project = Project::new();
    let list = project.sepia(&["methods"]).out;
    for name in ["full", "galore", "fira", "relora"] {
        assert!(list.lines().any(|line| line.trim_start().starts_with(name)), "{list}");
        let text = project.sepia(&["methods", name]).out;
        assert!(text.contains("source: "), "{text}");
    }
    let galore = project.sepia(&["methods", "galore"]).out;
    for part in ["rank = 128  [whole number]", "arXiv 2403.03507", "kind = \"galore\"", "subspace.iterations = 2"] {
        assert!(galore.contains(part), "{part}\n{galore}");
    }
    assert!(list.contains("methods of train-classifier"), "{list}");
    // Two kinds have a method of this name; front ends are listed with the method that they are for.
    let full = project.sepia(&["methods", "full"]).out;
    for kind in ["kind = \"train\"  method = { name = \"full\" }", "kind = \"train-classifier\"  method = { name"] {
        assert_eq!(full.matches(kind).count(), 1, "{kind}\n{full}");
    }
    let trp = project.sepia(&["methods", "trp"]).out;
    for part in ["kind = \"trp\"  method = {}", "Xu et al. 2020", "energy = 0.9"] {
        assert!(trp.contains(part), "{part}\n{trp}");
    }
    let unknown = project.sepia(&["methods", "galor"]);
    assert!(unknown.code == 2 && unknown.err.contains("did you mean `galore`?"), "{}", unknown.err);
    assert!(project.json(&["methods", "--format", "json"]).as_array().unwrap().len() >= 16);
}

#[test]
fn shells_complete_stages_runs_and_kinds() {
    let project = Project::training();
    for shell in ["bash", "zsh", "fish"] {
        let script = project.sepia(&["completions", shell]).out;
        assert!(script.contains("COMPLETE"), "{script}");
    }
    let complete = |words: &[&str]| {
        let mut command = project.command(&["--"]);
        command.args(words).env("COMPLETE", "fish");
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert!(complete(&["sepia", "run", "tiny.toml", "tr"]).contains("train"));
    assert!(complete(&["sepia", "help", "rank"]).contains("rank-analysis"));
    project.run("tiny.toml");
    let run = project.json(&["runs", "--format", "json"])[0]["run"].as_str().unwrap()[..8].to_owned();
    let runs = complete(&["sepia", "show", ""]);
    assert!(runs.contains("latest") && runs.contains(&run), "{runs}");
    assert!(complete(&["sepia", "log", "eval"]).contains("evaluate"));
}

const COUNT: &str = "[stages.count]\nkind = \"command\"\nargv = [\"sh\", \"-c\", \"cat texts/*.txt > o\"]\n\
                     files = [\"texts/*.txt\"]\noutputs = { o = \"o\" }\n";

#[test]
fn a_new_match_and_a_vanished_one_run_the_stage_again_and_explain_names_them() {
    let project = Project::new();
    std::fs::create_dir(project.path("texts")).unwrap();
    project.write("texts/a.txt", "a\n");
    project.write("texts/notes.md", "no text");
    project.write("m.toml", COUNT);
    project.run("m.toml");
    project.write("texts/notes.md", "changed, and of no concern");
    assert!(project.run("m.toml").err.contains("0 ran, 1 cached"));
    project.write("texts/b.txt", "b\n");
    let why = project.sepia(&["explain", "count", "--manifest", "m.toml"]).out;
    assert!(why.contains("new: b.txt"), "{why}");
    project.run("m.toml");
    std::fs::remove_file(project.path("texts/a.txt")).unwrap();
    project.write("texts/b.txt", "B\n");
    let why = project.sepia(&["explain", "count", "--manifest", "m.toml"]).out;
    assert!(why.contains("gone: a.txt") && why.contains("changed: b.txt"), "{why}");
    project.run("m.toml");
    assert_eq!(std::fs::read_to_string(project.object("count.o")).unwrap(), "B\n");
}

#[test]
fn a_url_is_fetched_once_into_the_store() {
    let text = "fetched\n";
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/some/text.txt", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        // One request and no more: a second one would find nobody.
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while reader.read_line(&mut line).unwrap() > 2 {
            line.clear();
        }
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len()).unwrap();
    });
    let project = Project::new();
    // `printf 'fetched\n' | sha256sum`
    let digest = "4f2cb1b5b9a5b4d2b6ad1a7e1ec3d3b8f9d4f6e1c2a3b4c5d6e7f8091a2b3c4d";
    let manifest = |digest: &str, more: &str| {
        format!(
            "[stages.copy]\nkind = \"command\"\nargv = [\"sh\", \"-c\", \"cat ${{data.text}} > o {more}\"]\n\
             data = {{ text = {{ url = \"{url}\", sha256 = \"{digest}\" }} }}\noutputs = {{ o = \"o\" }}\n"
        )
    };
    project.write("m.toml", &manifest(digest, ""));
    // Planning asks nobody.
    assert_eq!(project.sepia(&["plan", "m.toml"]).code, 0);
    let wrong = project.sepia(&["run", "m.toml"]);
    assert_eq!(wrong.code, 1, "{}", wrong.err);
    let found = wrong.err.split("sha256 = \"").last().unwrap()[..64].to_owned();
    assert!(wrong.err.contains(&format!("its sha256 is {found}, not {digest}")), "{}", wrong.err);
    server.join().unwrap();

    // The right digest; the server is gone, so the first run says so and the file is put where it belongs by hand.
    project.write("m.toml", &manifest(&found, ""));
    let gone = project.sepia(&["run", "m.toml"]);
    assert!(gone.code == 1 && gone.err.contains("cannot be fetched"), "{}", gone.err);
    let place = project.path(".sepia/downloads").join(format!("sha256-{found}"));
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join("text.txt"), text).unwrap();
    project.run("m.toml");
    assert_eq!(std::fs::read_to_string(project.object("copy.o")).unwrap(), text);
    // Another stage over the same file needs no network either.
    project.write("m.toml", &manifest(&found, "; true"));
    assert!(project.run("m.toml").err.contains("1 ran"));
}

#[test]
fn paths_in_a_base_are_relative_to_the_base() {
    let project = Project::new();
    std::fs::create_dir_all(project.path("shared/texts")).unwrap();
    std::fs::create_dir(project.path("study")).unwrap();
    project.write("shared/texts/a.txt", "from the base\n");
    project.write("shared/base.toml", "[stages.copy]\nkind = \"command\"\nargv = [\"cp\", \"${data.texts}/a.txt\", \"o\"]\noutputs = { o = \"o\" }\ndata = { texts = \"texts\" }\n");
    project.write("study/m.toml", "extends = \"../shared/base.toml\"\n");
    project.run("study/m.toml");
    let resolved = project.sepia(&["plan", "study/m.toml", "--resolved"]).out;
    project.write("study/alone.toml", &resolved);
    assert!(project.run("study/alone.toml").err.contains("0 ran, 1 cached"), "{resolved}");
}
