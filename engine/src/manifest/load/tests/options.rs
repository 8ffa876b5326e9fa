//! `--set` and `--matrix`.

use super::*;

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
      = help: parameters belong into a stage; known at the top level: `sepia`, `extends`, `name`, `seed`, `device`, `dtype`, `params`, `defaults`, `profile`, `stages`
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
fn setting_a_parameter_ends_the_sweep_that_a_stage_has_from_its_defaults() {
    let text = "[defaults.pretrain]\nmatrix = { lr = [1, 2], seed = [0, 1] }\n[stages.a]\nkind = 'pretrain'\n[stages.b]\nkind = 'pretrain'\n";
    let names = |set: &[&str], matrix: &[&str]| {
        let (set, matrix) = (owned(set), owned(matrix));
        let options = Load { set: &set, matrix: &matrix, ..Load::default() };
        let (manifest, _) = Manifest::load(&mut Sources::default(), "m.toml", text, &options).unwrap();
        manifest.stages.into_iter().map(|stage| stage.name.name).collect::<Vec<_>>().join(" ")
    };
    let b = "b[lr=1,seed=0] b[lr=1,seed=1] b[lr=2,seed=0] b[lr=2,seed=1]";
    assert_eq!(names(&["stages.a.lr=5"], &[]), format!("a[seed=0] a[seed=1] {b}"));
    assert_eq!(names(&["stages.a.lr=5"], &["a.lr=[7]"]), format!("a[lr=7,seed=0] a[lr=7,seed=1] {b}"));
}
