use std::fmt::Write as _;

use super::*;
use crate::diagnostic::render;
use crate::value::ValueKind;

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
    let options = Load { profile, set: &set, matrix: &[], loader: Some(&files) };
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
fn the_command_line_has_the_last_word() {
    let set = ["stages.train.lr=0.01", "stages.train.model.preset = tiny model", "stages.train.note=\"a=b\"", "seed=3"];
    insta::assert_snapshot!(load(PROFILES, Some("smoke"), &set), @r#"
    m seed 3
    train pretrain
      max_steps = the whole number 5 @ 5
      model
        d_model = the whole number 32 @ 32
        n_head = the whole number 8 @ 8
        preset = the text "tiny model" @  tiny model
      method
        name = the text "full" @ "full"
      lr = the number 0.01 @ 0.01
      note = the text "a=b" @ "a=b"
    "#);
    let set = [
        "stages.train.model={ d_model = 8 }",
        "stages.train.opt.beta=[1, 2]",
        "stages.trian.x=1",
        "seed=x",
        "lr",
        "=1",
        "a=1\nb=2",
    ];
    insta::assert_snapshot!(load(PROFILES, None, &set), @r#"
    error[manifest::missing-kind]: the stage `trian` does not say its kind
     --> --set:1:8
      |
    1 | stages.trian.x=1
      |        ^^^^^
      |
      = help: add kind = "..."; `sepia stages` lists the kinds
      = help: or did you mean the stage `train`?

    error[manifest::wrong-type]: `seed`: expected a whole number of 0 or more, found the text "x"
     --> --set:1:6
      |
    1 | seed=x
      |      ^ expected a whole number of 0 or more
      |
      = help: write a whole number of 0 or more

    error[manifest::option]: `--set` expects KEY=VALUE, found `lr`
     --> --set:1:1
      |
    1 | lr
      | ^^
      |
      = help: for example: --set 'stages.train.lr=0.01'

    error[manifest::option]: `--set` expects KEY=VALUE, found `=1`
     --> --set:1:1
      |
    1 | =1
      | ^^
      |
      = help: for example: --set 'stages.train.lr=0.01'

    error[manifest::unknown-field]: unknown field `a`
     --> --set:1:1
      |
    1 | a=1
      | ^
      |
      = help: parameters belong into a stage; known at the top level: `sepia`, `extends`, `name`, `seed`, `device`, `dtype`, `executor`, `params`, `defaults`, `profile`, `stages`
    "#);
}

#[test]
fn setting_a_swept_parameter_ends_the_sweep_over_it() {
    let text = "[stages.a]\nkind = 'b'\n[stages.a.matrix]\nlr = [1, 2]\n\"m.rank\" = [4, 8]\n";
    insta::assert_snapshot!(load(text, None, &["stages.a.lr=5", "stages.a.m.rank=6"]), @"
    m seed 0
    a b
      lr = the whole number 5 @ 5
      m
        rank = the whole number 6 @ 6
    ");
}

#[test]
fn a_matrix_can_come_from_the_command_line() {
    let text = "[stages.a]\nkind = 'b'\nx = 0\n[stages.a.matrix]\nlr = [1, 2]\nm.rank = [4, 8]\nm.alpha = [1]\n";
    let nodes = |matrix: &[&str], set: &[&str]| {
        let (matrix, set, mut sources) = (owned(matrix), owned(set), Sources::default());
        let options = Load { matrix: &matrix, set: &set, ..Load::default() };
        match Manifest::load(&mut sources, "m.toml", text, &options) {
            Ok((manifest, _)) => manifest.stages.iter().map(|stage| stage.name.name.clone() + "\n").collect(),
            Err(errors) => render(&errors, &sources, false),
        }
    };
    insta::assert_snapshot!(nodes(&["a.lr=[3]", "stages.a.m.rank=[16]", "a.x={ count = 2 }"], &[]), @"
    a[lr=3,alpha=1,rank=16,x=0]
    a[lr=3,alpha=1,rank=16,x=1]
    ");
    insta::assert_snapshot!(nodes(&[], &["stages.a.m.rank=5", "stages.a.lr=5"]), @"a[alpha=1]");
    insta::assert_snapshot!(nodes(&["a=[3]", "b.x=[1]", "a.lr=text"], &[]), @r#"
    error[manifest::option]: `a=[3]` names no parameter
     --> --matrix:1:1
      |
    1 | a=[3]
      | ^
      |
      = help: write --matrix STAGE.PARAMETER=[VALUE, VALUE]

    error[manifest::missing-kind]: the stage `b` does not say its kind
     --> --matrix:1:1
      |
    1 | b.x=[1]
      | ^
      |
      = help: add kind = "..."; `sepia stages` lists the kinds
      = help: or did you mean the stage `a`?

    error[manifest::matrix]: the axis `lr`: expected a list, found the text "text"
     --> --matrix:1:6
      |
    1 | a.lr=text
      |      ^^^^
      |
      = help: write a list, [1, 2], or a rule, { linspace = [0, 1, 5] }
    "#);
}

#[test]
fn interpolation_keeps_the_type_of_a_whole_value() {
    let text = r#"
[params]
steps = 300
lr = 3e-4
half = "${params.steps}"
model = { d_model = 64, name = "m-${params.steps}" }
list = [1, "${params.steps}"]

[stages.train]
kind = "pretrain"
seed = "${params.steps}"
max_steps = "${params.half}"
model = "${params.model}"
d = "${ params.model.d_model }"
list = "${params.list}"
note = "lr ${params.lr} for ${params.steps} steps, $${params.lr}, ${inputs.data} ${seed} $${seed}"
"#;
    insta::assert_snapshot!(load(text, None, &[]), @r#"
    m seed 0
    train pretrain
      max_steps = the whole number 300 @ "${params.half}"
      model
        d_model = the whole number 64 @ 64
        name = the text "m-300" @ "m-${params.steps}"
      d = the whole number 64 @ "${ params.model.d_model }"
      list = a list of 2 @ "${params.list}"
      note = a long text @ "lr ${params.lr} for ${params.steps} steps, $${params.lr}, ${inputs.data} ${seed} $${seed}"
    "#);
}

#[test]
fn interpolation_errors_show_the_way() {
    let text = r#"
[params]
a = "${params.b}"
b = "x${params.c.d}"
c = { d = "${params.a}" }
steps = 1
unused = 3
list = [1]

[stages.train]
kind = "pretrain"
seed = "${params.step}"
retries = "${params.steps.x}"
timeout = "${params.steps"
x = "a ${params.list}"
y = "${param.steps}"
z = "${params.a}"
"#;
    insta::assert_snapshot!(load(text, None, &[]), @r#"
    error[manifest::param-loop]: the parameter `a` refers to itself: a -> b -> c.d -> a
     --> manifests/m.toml:5:11
      |
    5 | c = { d = "${params.a}" }
      |           ^^^^^^^^^^^^^
      |
      = help: give one of them a value of its own

    warning[manifest::unused-param]: the parameter `unused` is not used
     --> manifests/m.toml:7:1
      |
    7 | unused = 3
      | ^^^^^^
      |
      = help: use it as "${params.unused}", or remove it

    error[manifest::param-unknown]: there is no `step` in `params`
      --> manifests/m.toml:12:8
       |
    12 | seed = "${params.step}"
       |        ^^^^^^^^^^^^^^^^
       |
       = help: did you mean `steps`?

    error[manifest::param]: `params.steps` is the whole number 1, not a table
      --> manifests/m.toml:13:11
       |
    13 | retries = "${params.steps.x}"
       |           ^^^^^^^^^^^^^^^^^^^
       |
       = help: write ${params.steps}

    error[manifest::param]: `${params` is not closed
      --> manifests/m.toml:14:11
       |
    14 | timeout = "${params.steps"
       |           ^^^^^^^^^^^^^^^^
       |
       = help: write ${params.NAME}

    error[manifest::param]: `params.list` is a list of 1, which cannot stand inside text
      --> manifests/m.toml:15:5
       |
    15 | x = "a ${params.list}"
       |     ^^^^^^^^^^^^^^^^^^
       |
       = help: write "${params.list}" alone, without text around it

    error[manifest::param-unknown]: there is nothing called `${param.steps}`
      --> manifests/m.toml:16:5
       |
    16 | y = "${param.steps}"
       |     ^^^^^^^^^^^^^^^^
       |
       = help: did you mean `${params.steps}`? For the text itself write `$${param.steps}`
    "#);
    insta::assert_snapshot!(load("[stages.a]\nkind = 'b'\nx = '${params.y}'", None, &[]), @"
    error[manifest::param-unknown]: there is no `y` in `params`
     --> manifests/m.toml:3:5
      |
    3 | x = '${params.y}'
      |     ^^^^^^^^^^^^^
      |
      = help: add y = ... to [params]
    ");
}

#[test]
fn interpolation_cannot_explode() {
    let mut text = String::from("[params]\np0 = \"0123456789\"\n");
    for i in 1..30 {
        let _ = writeln!(text, "p{i} = [\"${{params.p{}}}\", \"${{params.p{}}}\"]", i - 1, i - 1);
    }
    text.push_str("[stages.a]\nkind = 'b'\nx = \"${params.p29}\"\n");
    assert!(load(&text, None, &[]).contains("grow into more than 1 MB"));
    let mut text = String::from("[params]\np0 = 1\n");
    for i in 1..5000 {
        let _ = writeln!(text, "p{i} = \"${{params.p{}}}\"", i - 1);
    }
    text.push_str("[stages.a]\nkind = 'b'\nx = \"${params.p4999}\"\n");
    assert!(load(&text, None, &[]).contains("more than 32 parameters"));
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
