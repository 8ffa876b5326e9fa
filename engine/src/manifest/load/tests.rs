use std::fmt::Write as _;

use super::*;
use crate::diagnostic::render;
use crate::value::ValueKind;

mod options;
mod params;

fn files(path: &str) -> Result<String, String> {
    match path {
        "manifests/base.toml" => {
            Ok("seed = 7\n[stages.train]\nkind = \"pretrain\"\nlr = 0.1\nmax_steps = 100\n".into())
        }
        "manifests/deeper.toml" => {
            Ok("extends = \"sub/../base.toml\"\n[stages.train]\nlr = 0.2\n[stages.eval]\nkind = \"evaluate\"\n".into())
        }
        "manifests/loop.toml" => Ok("extends = \"./m.toml\"\n".into()),
        "manifests/broken.toml" => Ok("a = \n".into()),
        "manifests/newer.toml" => Ok("sepia = 9\n".into()),
        _ => Err("no such file".into()),
    }
}

fn owned(all: &[&str]) -> Vec<String> {
    all.iter().map(|one| (*one).to_owned()).collect()
}

fn load(text: &str, profile: Option<&str>, set: &[&str]) -> String {
    let (set, mut sources) = (owned(set), Sources::default());
    let options = Load { profile, set: &set, matrix: &[], loader: Some(&files), paths: None, kinds: &[] };
    match Manifest::load(&mut sources, "manifests/m.toml", text, &options) {
        Ok((manifest, warnings)) => show(&manifest, &sources) + &render(&warnings, &sources, false),
        Err(errors) => render(&errors, &sources, false),
    }
}

/// One line a parameter, with the text that its span points at.
fn show(manifest: &Manifest, sources: &Sources) -> String {
    let mut text = format!("{} seed {}\n", manifest.name, manifest.seed);
    for stage in &manifest.stages {
        let _ = writeln!(text, "{} {}", stage.name.name, stage.kind.text);
        rest(&stage.rest, "  ", sources, &mut text);
    }
    text
}

fn rest(table: &Table, indent: &str, sources: &Sources, text: &mut String) {
    for (key, value) in &table.entries {
        match &value.kind {
            ValueKind::Table(inner) => {
                let _ = writeln!(text, "{indent}{}", key.name);
                rest(inner, &format!("{indent}  "), sources, text);
            }
            _ => {
                let _ = writeln!(text, "{indent}{} = {} @ {}", key.name, value.describe(), sources.text(value.span));
            }
        }
    }
}

#[test]
fn a_manifest_is_laid_over_what_it_extends() {
    insta::assert_snapshot!(load("extends = \"deeper.toml\"\n[stages.train]\nmax_steps = 5\n", None, &[]), @"
    m seed 7
    train pretrain
      lr = the number 0.2 @ 0.2
      max_steps = the whole number 5 @ 5
    eval evaluate
    ");
    insta::assert_snapshot!(load("extends = [\"base.toml\", \"deeper.toml\"]\n", None, &[]), @"
    m seed 7
    train pretrain
      lr = the number 0.2 @ 0.2
      max_steps = the whole number 100 @ 100
    eval evaluate
    ");
}

#[test]
fn what_cannot_be_extended_is_an_error() {
    insta::assert_snapshot!(load("extends = \"loop.toml\"", None, &[]), @r#"
    error[manifest::extends-loop]: the manifest extends itself: manifests/m.toml -> manifests/loop.toml -> manifests/m.toml
     --> manifests/loop.toml:1:11
      |
    1 | extends = "./m.toml"
      |           ^^^^^^^^^^
      |
      = help: remove one of these `extends`
    "#);
    insta::assert_snapshot!(load("extends = [\"../base.toml\", 3]", None, &[]), @r#"
    error[manifest::extends]: `base.toml` cannot be read: no such file
     --> manifests/m.toml:1:12
      |
    1 | extends = ["../base.toml", 3]
      |            ^^^^^^^^^^^^^^
      |
      = help: the path is relative to the manifest that names it

    error[manifest::wrong-type]: `extends`: expected text, found the whole number 3
     --> manifests/m.toml:1:28
      |
    1 | extends = ["../base.toml", 3]
      |                            ^ expected text
      |
      = help: write it in quotes: "3"
    "#);
    insta::assert_snapshot!(load("extends = \"broken.toml\"", None, &[]), @r#"
    error[manifest::syntax]: this is not valid TOML: string values must be quoted, expected literal string
     --> manifests/broken.toml:1:5
      |
    1 | a = 
      |     ^
      |
      = help: put text in quotes: "..."
    "#);
    insta::assert_snapshot!(load("extends = \"newer.toml\"", None, &[]), @"
    error[manifest::format]: this manifest is written in format 9, and this version of sepia reads format 1
     --> manifests/newer.toml:1:9
      |
    1 | sepia = 9
      |         ^
      |
      = help: install a newer sepia
    ");
    let mut sources = Sources::default();
    let errors = Manifest::parse(&mut sources, "-", "extends = \"base.toml\"").unwrap_err();
    insta::assert_snapshot!(render(&errors, &sources, false), @r#"
    error[manifest::extends]: `extends` cannot be used here: this text has no folder
     --> -:1:11
      |
    1 | extends = "base.toml"
      |           ^^^^^^^^^^^
      |
      = help: save the manifest as a file
    "#);
}

const PROFILES: &str = r#"
[stages.train]
kind = "pretrain"
max_steps = 1000
model = { d_model = 512, n_head = 8 }
method = { name = "galore", rank = 64 }

[profile.smoke]
seed = 1
stages.train = { max_steps = 5, model.d_model = 32, method = { name = "full" } }
"#;

#[test]
fn a_profile_is_laid_over_the_manifest_when_chosen() {
    insta::assert_snapshot!(load(PROFILES, None, &[]), @r#"
    m seed 0
    train pretrain
      max_steps = the whole number 1000 @ 1000
      model
        d_model = the whole number 512 @ 512
        n_head = the whole number 8 @ 8
      method
        name = the text "galore" @ "galore"
        rank = the whole number 64 @ 64
    "#);
    insta::assert_snapshot!(load(PROFILES, Some("smoke"), &[]), @r#"
    m seed 1
    train pretrain
      max_steps = the whole number 5 @ 5
      model
        d_model = the whole number 32 @ 32
        n_head = the whole number 8 @ 8
      method
        name = the text "full" @ "full"
    "#);
    insta::assert_snapshot!(load(PROFILES, Some("smok"), &[]), @"
    error[manifest::unknown-profile]: there is no profile `smok`
     |
     = help: did you mean `smoke`?
    ");
    insta::assert_snapshot!(load("[stages.a]\nkind = 'b'\n", Some("smoke"), &[]), @"
    error[manifest::unknown-profile]: there is no profile `smoke`
     |
     = help: the manifest has no profiles: add [profile.smoke]
    ");
    insta::assert_snapshot!(load("[stages.a]\nkind = 'b'\n[profile]\nx = 3\ny.extends = 'z'\n", None, &[]), @"
    error[manifest::wrong-type]: `x`: expected a table, found the whole number 3
     --> manifests/m.toml:4:5
      |
    4 | x = 3
      |     ^ expected a table
      |
      = help: a table is { key = value, ... }, or has a header of its own: [...]

    error[manifest::profile]: a profile cannot change `extends`
     --> manifests/m.toml:5:3
      |
    5 | y.extends = 'z'
      |   ^^^^^^^
      |
      = help: move it to the top of the manifest
    ");
}

#[test]
fn defaults_lie_below_every_stage_of_their_kind() {
    let text = r#"
[defaults.pretrain]
max_steps = 10
model = { d_model = 64, n_head = 2 }
retries = 2

[defaults.evalute]
x = 1

[stages.a]
kind = "pretrain"
model.n_head = 4

[stages.b]
kind = "evaluate"
"#;
    insta::assert_snapshot!(load(text, None, &[]), @"
    m seed 0
    a pretrain
      max_steps = the whole number 10 @ 10
      model
        d_model = the whole number 64 @ 64
        n_head = the whole number 4 @ 4
    b evaluate
    warning[manifest::unused-defaults]: no stage is of the kind `evalute`: these defaults change nothing
     --> manifests/m.toml:7:11
      |
    7 | [defaults.evalute]
      |           ^^^^^^^
      |
      = help: did you mean `evaluate`?
    ");
    insta::assert_snapshot!(load("[defaults]\na = 3\nb = { kind = 'c' }\n[stages.a]\nkind = 'b'", None, &[]), @"
    error[manifest::wrong-type]: `a`: expected a table, found the whole number 3
     --> manifests/m.toml:2:5
      |
    2 | a = 3
      |     ^ expected a table
      |
      = help: a table is { key = value, ... }, or has a header of its own: [...]

    error[manifest::defaults]: defaults cannot set `kind`: they are chosen by it
     --> manifests/m.toml:3:7
      |
    3 | b = { kind = 'c' }
      |       ^^^^
      |
      = help: remove the line
    ");
}

#[test]
fn defaults_of_a_kind_that_there_is_not_are_an_error() {
    let mut sources = Sources::default();
    let options = Load { kinds: &["pretrain", "evaluate"], ..Load::default() };
    let text = "[defaults.evalute]\nx = 1\n[defaults.pretrain]\nlr = 1\n[stages.a]\nkind = 'other'\n";
    let errors = Manifest::load(&mut sources, "m.toml", text, &options).unwrap_err();
    insta::assert_snapshot!(render(&errors, &sources, false), @"
    error[manifest::unknown-kind]: there is no stage kind `evalute`, so that it has no defaults
     --> m.toml:1:11
      |
    1 | [defaults.evalute]
      |           ^^^^^^^
      |
      = help: did you mean `evaluate`?

    warning[manifest::unused-defaults]: no stage is of the kind `pretrain`: these defaults change nothing
     --> m.toml:3:11
      |
    3 | [defaults.pretrain]
      |           ^^^^^^^^
      |
      = help: kinds without defaults: `other`
    ");
}
