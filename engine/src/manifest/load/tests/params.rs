//! `${params.x}`.

use super::*;

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
