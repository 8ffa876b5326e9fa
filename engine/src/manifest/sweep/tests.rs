use std::fmt::Write as _;

use crate::diagnostic::{Sources, render};
use crate::manifest::{Load, Manifest, StageDecl};
use crate::value::{Table, ValueKind};

fn load(text: &str) -> String {
    let mut sources = Sources::default();
    match Manifest::load(&mut sources, "m.toml", text, &Load::default()) {
        Ok((manifest, warnings)) => {
            manifest.stages.iter().map(show).collect::<String>() + &render(&warnings, &sources, false)
        }
        Err(errors) => render(&errors, &sources, false),
    }
}

fn names(text: &str) -> String {
    let mut sources = Sources::default();
    match Manifest::load(&mut sources, "m.toml", text, &Load::default()) {
        Ok((manifest, _)) => manifest.stages.iter().map(|stage| stage.name.name.clone() + "\n").collect(),
        Err(errors) => render(&errors, &sources, false),
    }
}

/// A node on one line: name, inputs, seed, parameters.
fn show(node: &StageDecl) -> String {
    let mut text = node.name.name.clone();
    for input in &node.inputs {
        let from: Vec<&str> = input.from.iter().map(|word| word.text.as_str()).collect();
        let _ = write!(text, " {}<-{}", input.port.name, from.join("+"));
    }
    if let Some(seed) = node.seed {
        let _ = write!(text, " seed {seed}");
    }
    text + &rest(&node.rest) + "\n"
}

fn rest(table: &Table) -> String {
    let entry = |value: &ValueKind| match value {
        ValueKind::Table(inner) => format!("{{{} }}", rest(inner)),
        ValueKind::Integer(number) => number.to_string(),
        ValueKind::Float(number) => format!("{number:?}"),
        ValueKind::String(text) => text.clone(),
        other => other.describe(),
    };
    table.entries.iter().map(|(key, value)| format!(" {}={}", key.name, entry(&value.kind))).collect()
}

#[test]
fn a_matrix_makes_a_cell_for_every_combination() {
    insta::assert_snapshot!(load(r#"
[stages.train]
kind = "pretrain"
lr = 1
max_steps = 10
model = { d_model = 8, n_head = 2 }
[stages.train.matrix]
method = [{ name = "full" }, { name = "galore", rank = 4 }]
lr = [0.1, 3e-3]
seed = { count = 2 }
[stages.other]
kind = "x"
matrix = { "model.d_model" = [16, 32], model.n_head = [4], "resources.threads" = [2] }
model.d_model = 8
"#), @"
    train[full,lr=0.1,seed=0] seed 0 lr=0.1 max_steps=10 model={ d_model=8 n_head=2 } method={ name=full }
    train[full,lr=0.1,seed=1] seed 1 lr=0.1 max_steps=10 model={ d_model=8 n_head=2 } method={ name=full }
    train[full,lr=0.003,seed=0] seed 0 lr=0.003 max_steps=10 model={ d_model=8 n_head=2 } method={ name=full }
    train[full,lr=0.003,seed=1] seed 1 lr=0.003 max_steps=10 model={ d_model=8 n_head=2 } method={ name=full }
    train[galore,lr=0.1,seed=0] seed 0 lr=0.1 max_steps=10 model={ d_model=8 n_head=2 } method={ name=galore rank=4 }
    train[galore,lr=0.1,seed=1] seed 1 lr=0.1 max_steps=10 model={ d_model=8 n_head=2 } method={ name=galore rank=4 }
    train[galore,lr=0.003,seed=0] seed 0 lr=0.003 max_steps=10 model={ d_model=8 n_head=2 } method={ name=galore rank=4 }
    train[galore,lr=0.003,seed=1] seed 1 lr=0.003 max_steps=10 model={ d_model=8 n_head=2 } method={ name=galore rank=4 }
    other[d_model=16,n_head=4,threads=2] model={ d_model=16 n_head=4 }
    other[d_model=32,n_head=4,threads=2] model={ d_model=32 n_head=4 }
    ");
}

#[test]
fn rules_make_the_values() {
    insta::assert_snapshot!(names(r#"
[stages.a]
kind = "x"
matrix.x = { linspace = [0, 1, 11] }
[stages.b]
kind = "x"
matrix.x = { logspace = [1e-4, 0.1, 4] }
[stages.c]
kind = "x"
matrix.x = { from = 1, to = 10, step = 4 }
[stages.d]
kind = "x"
matrix.x = { from = 3, to = 1, step = -1 }
[stages.e]
kind = "x"
matrix.seed = { from = 7, count = 2, step = 10 }
[stages.f]
kind = "x"
matrix.x = { linspace = [2, 3, 1] }
[stages.g]
kind = "x"
matrix.betas = [[0.9, 0.95], [0.9, 0.999]]
"#), @"
    a[x=0.0]
    a[x=0.1]
    a[x=0.2]
    a[x=0.3]
    a[x=0.4]
    a[x=0.5]
    a[x=0.6]
    a[x=0.7]
    a[x=0.8]
    a[x=0.9]
    a[x=1.0]
    b[x=0.0001]
    b[x=0.001]
    b[x=0.01]
    b[x=0.1]
    c[x=1]
    c[x=5]
    c[x=9]
    d[x=3]
    d[x=2]
    d[x=1]
    e[seed=7]
    e[seed=17]
    f[x=2.0]
    g[betas=0.9;0.95]
    g[betas=0.9;0.999]
    ");
}

#[test]
fn wrong_axes_are_errors() {
    insta::assert_snapshot!(names(r#"
[stages.a]
kind = "x"
[stages.a.matrix]
a = 3
b = []
c = { linspace = [0, 1] }
d = { logspace = [-4, -2, 3] }
e = { from = 1, to = 10, step = -1 }
f = { from = 1 }
g = { linspce = [0, 1, 3] }
h = { from = 0.5, to = 2 }
i = { count = 1000000 }
j = { count = 0 }
k = { linspace = [1, 1, 3] }
inputs = ["a"]
seed = [1, "x", "y"]
"a..b" = [1]
"p.q" = [1]
p.q = [2]
n = { step = 0, count = 2 }
o = { linspace = [0, 1, 3], count = 3 }
[stages.b]
kind = "x"
matrix = 3
[stages.c]
kind = "x"
include = 3
exclude = [3]
[stages.d]
kind = "x"
matrix.m = [{ name = "x", a = 1 }, { name = "x", a = 2 }]
"#), @r#"
    error[manifest::matrix]: the axis `a`: expected a list, found the whole number 3
     --> m.toml:5:5
      |
    5 | a = 3
      |     ^
      |
      = help: write a list, [1, 2], or a rule, { linspace = [0, 1, 5] }

    error[manifest::matrix]: the axis `b`: it has no values
     --> m.toml:6:5
      |
    6 | b = []
      |     ^^
      |
      = help: remove it, or add values

    error[manifest::matrix]: the axis `c`: `linspace` expects a first number, a last number and how many
     --> m.toml:7:5
      |
    7 | c = { linspace = [0, 1] }
      |     ^^^^^^^^^^^^^^^^^^^^^
      |
      = help: write [first, last, how many], for example [0.001, 0.1, 5]

    error[manifest::matrix]: the axis `d`: `logspace` expects two numbers above zero
     --> m.toml:8:5
      |
    8 | d = { logspace = [-4, -2, 3] }
      |     ^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: it goes between the values themselves, not their exponents: [0.0001, 0.01, 3]

    error[manifest::matrix]: the axis `e`: no steps of -1 lead from 1 to 10
     --> m.toml:9:5
      |
    9 | e = { from = 1, to = 10, step = -1 }
      |     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: choose a step that goes from the first to the last

    error[manifest::matrix]: the axis `f`: a range has `from` and `to`, or `count`
      --> m.toml:10:5
       |
    10 | f = { from = 1 }
       |     ^^^^^^^^^^^^
       |
       = help: write { from = 1, to = 10, step = 3 }

    error[manifest::unknown-field]: unknown field `linspce` in the axis `g`
      --> m.toml:11:7
       |
    11 | g = { linspce = [0, 1, 3] }
       |       ^^^^^^^
       |
       = help: did you mean `linspace`?

    error[manifest::matrix]: the axis `h`: `from` expects a whole number, found the number 0.5
      --> m.toml:12:5
       |
    12 | h = { from = 0.5, to = 2 }
       |     ^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: for other numbers use { linspace = [first, last, how many] }

    error[manifest::matrix]: the axis `i`: it has 1000000 values, and a manifest may have 100000 nodes in all
      --> m.toml:13:5
       |
    13 | i = { count = 1000000 }
       |     ^^^^^^^^^^^^^^^^^^^
       |
       = help: sweep fewer values

    error[manifest::matrix]: the axis `j`: it has 0 values
      --> m.toml:14:5
       |
    14 | j = { count = 0 }
       |     ^^^^^^^^^^^^^
       |
       = help: an axis has at least one value

    error[manifest::matrix]: the axis `k`: `linspace` goes from 1.0 to itself
      --> m.toml:15:5
       |
    15 | k = { linspace = [1, 1, 3] }
       |     ^^^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: write [first, last, how many], for example [0.001, 0.1, 5]

    error[manifest::matrix]: `inputs` cannot be swept
      --> m.toml:16:1
       |
    16 | inputs = ["a"]
       | ^^^^^^
       |
       = help: sweep a parameter, `seed`, `device`, `dtype`, or a dotted name: "model.d_model"

    error[manifest::wrong-type]: `seed`: expected a whole number of 0 or more, found the text "x"
      --> m.toml:17:12
       |
    17 | seed = [1, "x", "y"]
       |            ^^^ expected a whole number of 0 or more

    error[manifest::matrix]: a name in a matrix has an empty part
      --> m.toml:18:1
       |
    18 | "a..b" = [1]
       | ^^^^^^
       |
       = help: sweep a parameter, `seed`, `device`, `dtype`, or a dotted name: "model.d_model"

    error[manifest::duplicate-name]: the axis `p.q` is given twice
      --> m.toml:20:1
       |
    19 | "p.q" = [1]
       | ----- first here
    20 | p.q = [2]
       | ^ a second time here
       |
       = help: remove one of the two

    error[manifest::matrix]: the axis `n`: a step of 0 gives the same number again and again
      --> m.toml:21:5
       |
    21 | n = { step = 0, count = 2 }
       |     ^^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: choose another step

    error[manifest::matrix]: the axis `o`: `linspace` and `logspace` stand alone
      --> m.toml:22:5
       |
    22 | o = { linspace = [0, 1, 3], count = 3 }
       |     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       |
       = help: write { linspace = [0, 1, 5] }

    error[manifest::wrong-type]: `matrix`: expected a table, found the whole number 3
      --> m.toml:25:10
       |
    25 | matrix = 3
       |          ^ expected a table

    error[manifest::wrong-type]: `include`: expected a list of tables, found the whole number 3
      --> m.toml:28:11
       |
    28 | include = 3
       |           ^ expected a list of tables
       |
       = help: write include = [{ lr = 0.1, seed = 1 }]

    error[manifest::wrong-type]: `exclude`: expected a table, found the whole number 3
      --> m.toml:29:12
       |
    29 | exclude = [3]
       |            ^ expected a table

    error[manifest::duplicate-label]: two values of the axis `m` are both called `x`
      --> m.toml:32:36
       |
    32 | matrix.m = [{ name = "x", a = 1 }, { name = "x", a = 2 }]
       |             ---------------------  ^^^^^^^^^^^^^^^^^^^^^ the second
       |             |
       |             the first
       |
       = help: remove one, give each table a `name` of its own, or sweep what differs as an axis
    "#);
}

#[test]
fn exclude_removes_cells_and_include_adds_to_them_or_makes_new_ones() {
    insta::assert_snapshot!(load(r#"
[stages.train]
kind = "x"
rank = 1
exclude = [{ method = "full", lr = 1 }, { method = { rank = 4 }, lr = 2.0 }]
include = [
  { lr = 2, steps = 7 },
  { method = "galore", steps = 8, note = "later wins" },
  { method = { name = "fira" }, lr = 1 },
  { lr = 9 },
  { all = true },
]
[stages.train.matrix]
method = [{ name = "full" }, { name = "galore", rank = 4 }]
lr = [1, 2]
"#), @"
    train[full,lr=2] rank=1 method={ name=full } lr=2 steps=7 all=`true`
    train[galore,lr=1] rank=1 method={ name=galore rank=4 } lr=1 steps=8 note=later wins all=`true`
    train[fira,lr=1] rank=1 method={ name=fira } lr=1
    train[lr=9] rank=1 lr=9
    ");
    insta::assert_snapshot!(load(r#"
[stages.train]
kind = "x"
include = [{ lr = 1, "m.rank" = 4 }, { lr = 2 }, { seed = 3, lr = 1 }]
"#), @"
    train[lr=1,rank=4] lr=1 m={ rank=4 }
    train[lr=2] lr=2
    train[lr=1,seed=3] seed 3 lr=1
    ");
}

#[test]
fn what_include_and_exclude_cannot_do() {
    insta::assert_snapshot!(load(r#"
[stages.a]
kind = "x"
matrix.lr = [1, 2]
exclude = [{ rl = 1 }, { lr = 3 }]
[stages.b]
kind = "x"
matrix.lr = [1, 2]
exclude = [{ lr = 1 }, { lr = 2 }]
[stages.c]
kind = "x"
matrix.lr = [1]
include = [{ lr = 2, a = 1 }, { lr = 2, a = 2 }, { lr = 1, inputs = 3 }, { lr = 1, seed = "x" }]
[stages.d]
kind = "x"
matrix.lr = [1]
include = [{ lr = 2, a = 1 }, { lr = 2, a = 2 }]
[stages.e]
kind = "x"
matrix.m = [{ name = "full" }]
include = [{ m = "ful" }]
"#), @r#"
    error[manifest::exclude]: `rl` is not an axis of the matrix
     --> m.toml:5:14
      |
    5 | exclude = [{ rl = 1 }, { lr = 3 }]
      |              ^^
      |
      = help: did you mean `lr`?

    warning[manifest::unused-exclude]: this excludes no cell
     --> m.toml:5:24
      |
    5 | exclude = [{ rl = 1 }, { lr = 3 }]
      |                        ^^^^^^^^^^
      |
      = help: check the values, or remove it

    error[manifest::matrix]: every cell of `b` is excluded
     --> m.toml:6:9
      |
    6 | [stages.b]
      |         ^
      |
      = help: exclude less, or remove the stage

    error[manifest::matrix]: `inputs` cannot be swept
      --> m.toml:13:60
       |
    13 | include = [{ lr = 2, a = 1 }, { lr = 2, a = 2 }, { lr = 1, inputs = 3 }, { lr = 1, seed = "x" }]
       |                                                            ^^^^^^
       |
       = help: sweep a parameter, `seed`, `device`, `dtype`, or a dotted name: "model.d_model"

    error[manifest::wrong-type]: `seed`: expected a whole number of 0 or more, found the text "x"
      --> m.toml:13:91
       |
    13 | include = [{ lr = 2, a = 1 }, { lr = 2, a = 2 }, { lr = 1, inputs = 3 }, { lr = 1, seed = "x" }]
       |                                                                                           ^^^ expected a whole number of 0 or more

    error[manifest::duplicate-label]: two cells are both called `d[lr=2]`
      --> m.toml:14:9
       |
    14 | [stages.d]
       |         ^
       |
       = help: let each table of `include` differ from the others in a value of an axis

    error[manifest::include]: no value of the axis `m` is called `ful`
      --> m.toml:21:18
       |
    21 | include = [{ m = "ful" }]
       |                  ^^^^^
       |
       = help: did you mean `full`?
    "#);
}

const CHAIN: &str = r#"
[stages.corpus]
kind = "text"
[stages.train]
kind = "pretrain"
inputs = { data = "corpus" }
matrix = { method = [{ name = "full" }, { name = "galore" }], seed = [1, 2] }
[stages.ranks]
kind = "rank-analysis"
inputs = { model = "train.model" }
"#;

#[test]
fn what_takes_a_swept_stage_fans_out_along_its_cells() {
    insta::assert_snapshot!(load(&format!(r#"{CHAIN}
[stages.eval]
kind = "evaluate"
inputs = {{ model = "train", ranks = "ranks", data = ["corpus", "train.log"] }}
matrix.batch = [8]
"#)), @"
    corpus
    train[full,seed=1] data<-corpus seed 1 method={ name=full }
    train[full,seed=2] data<-corpus seed 2 method={ name=full }
    train[galore,seed=1] data<-corpus seed 1 method={ name=galore }
    train[galore,seed=2] data<-corpus seed 2 method={ name=galore }
    ranks[full,seed=1] model<-train[full,seed=1].model
    ranks[full,seed=2] model<-train[full,seed=2].model
    ranks[galore,seed=1] model<-train[galore,seed=1].model
    ranks[galore,seed=2] model<-train[galore,seed=2].model
    eval[full,seed=1,batch=8] model<-train[full,seed=1] ranks<-ranks[full,seed=1] data<-corpus+train[full,seed=1].log batch=8
    eval[full,seed=2,batch=8] model<-train[full,seed=2] ranks<-ranks[full,seed=2] data<-corpus+train[full,seed=2].log batch=8
    eval[galore,seed=1,batch=8] model<-train[galore,seed=1] ranks<-ranks[galore,seed=1] data<-corpus+train[galore,seed=1].log batch=8
    eval[galore,seed=2,batch=8] model<-train[galore,seed=2] ranks<-ranks[galore,seed=2] data<-corpus+train[galore,seed=2].log batch=8
    ");
}

#[test]
fn brackets_select_and_gather() {
    insta::assert_snapshot!(load(&format!(r#"{CHAIN}
[stages.all]
kind = "x"
inputs = {{ models = "train[*]" }}
[stages.some]
kind = "x"
inputs = {{ models = "train[galore,*].model" }}
[stages.one]
kind = "x"
inputs = {{ model = "train[galore,seed=2]" }}
[stages.mean]
kind = "x"
inputs = {{ models = "train[seed=*]" }}
[stages.against]
kind = "x"
inputs = {{ model = "ranks", baseline = "train[full].model" }}
[stages.unswept]
kind = "x"
inputs = {{ data = "corpus[*]" }}
"#)), @"
    corpus
    train[full,seed=1] data<-corpus seed 1 method={ name=full }
    train[full,seed=2] data<-corpus seed 2 method={ name=full }
    train[galore,seed=1] data<-corpus seed 1 method={ name=galore }
    train[galore,seed=2] data<-corpus seed 2 method={ name=galore }
    ranks[full,seed=1] model<-train[full,seed=1].model
    ranks[full,seed=2] model<-train[full,seed=2].model
    ranks[galore,seed=1] model<-train[galore,seed=1].model
    ranks[galore,seed=2] model<-train[galore,seed=2].model
    all models<-train[full,seed=1]+train[full,seed=2]+train[galore,seed=1]+train[galore,seed=2]
    some models<-train[galore,seed=1].model+train[galore,seed=2].model
    one model<-train[galore,seed=2]
    mean[full] models<-train[full,seed=1]+train[full,seed=2]
    mean[galore] models<-train[galore,seed=1]+train[galore,seed=2]
    against[full,seed=1] model<-ranks[full,seed=1] baseline<-train[full,seed=1].model
    against[full,seed=2] model<-ranks[full,seed=2] baseline<-train[full,seed=2].model
    against[galore,seed=1] model<-ranks[galore,seed=1] baseline<-train[full,seed=1].model
    against[galore,seed=2] model<-ranks[galore,seed=2] baseline<-train[full,seed=2].model
    unswept data<-corpus
    ");
}

#[test]
fn inputs_of_different_origin_are_crossed() {
    insta::assert_snapshot!(load(r#"
[stages.a]
kind = "x"
matrix.seed = [1, 2]
[stages.b]
kind = "x"
matrix.seed = [3, 4]
[stages.c]
kind = "x"
inputs = { a = "a", b = "b" }
matrix.seed = [5]
[stages.d]
kind = "x"
inputs = { c = "c[a.seed=1, b.seed=*]" }
"#), @"
    a[seed=1] seed 1
    a[seed=2] seed 2
    b[seed=3] seed 3
    b[seed=4] seed 4
    c[a.seed=1,b.seed=3,seed=5] a<-a[seed=1] b<-b[seed=3] seed 5
    c[a.seed=1,b.seed=4,seed=5] a<-a[seed=1] b<-b[seed=4] seed 5
    c[a.seed=2,b.seed=3,seed=5] a<-a[seed=2] b<-b[seed=3] seed 5
    c[a.seed=2,b.seed=4,seed=5] a<-a[seed=2] b<-b[seed=4] seed 5
    d[seed=5] c<-c[a.seed=1,b.seed=3,seed=5]+c[a.seed=1,b.seed=4,seed=5]
    ");
}

#[test]
fn references_that_lead_nowhere_are_errors() {
    insta::assert_snapshot!(load(&format!(r#"{CHAIN}
[stages.a]
kind = "x"
inputs = {{ p = "trian", q = "train[galor]", r = "train[lr=*]", s = "train[", t = "corpus[x]", u = "train[full,galore]" }}
[stages.b]
kind = "x"
inputs = {{ p = "nothing" }}
[stages.c]
kind = "x"
inputs = {{ p = "a" }}
"#)), @r#"
    error[manifest::unknown-stage]: there is no stage `trian`
      --> m.toml:14:16
       |
    14 | inputs = { p = "trian", q = "train[galor]", r = "train[lr=*]", s = "train[", t = "corpus[x]", u = "train[full,galore]" }
       |                ^^^^^^^
       |
       = help: did you mean `train`?

    error[manifest::unknown-label]: no cell of `train` has the label `galor`
      --> m.toml:14:29
       |
    14 | inputs = { p = "trian", q = "train[galor]", r = "train[lr=*]", s = "train[", t = "corpus[x]", u = "train[full,galore]" }
       |                             ^^^^^^^^^^^^^^
       |
       = help: did you mean `galore`?

    error[manifest::unknown-label]: `train` has no axis `lr`
      --> m.toml:14:49
       |
    14 | inputs = { p = "trian", q = "train[galor]", r = "train[lr=*]", s = "train[", t = "corpus[x]", u = "train[full,galore]" }
       |                                                 ^^^^^^^^^^^^^
       |
       = help: its axes are `method`, `seed`

    error[manifest::bad-reference]: the `[` in `train[` is not closed
      --> m.toml:14:68
       |
    14 | inputs = { p = "trian", q = "train[galor]", r = "train[lr=*]", s = "train[", t = "corpus[x]", u = "train[full,galore]" }
       |                                                                    ^^^^^^^^
       |
       = help: write "stage", "stage.port" or "stage[label, label].port"

    error[manifest::unknown-label]: no cell of `corpus` has the label `x`
      --> m.toml:14:82
       |
    14 | inputs = { p = "trian", q = "train[galor]", r = "train[lr=*]", s = "train[", t = "corpus[x]", u = "train[full,galore]" }
       |                                                                                  ^^^^^^^^^^^
       |
       = help: it is not swept: leave the brackets out

    error[manifest::unknown-label]: no cell of `train` has all of these labels: full, galore
      --> m.toml:14:99
       |
    14 | inputs = { p = "trian", q = "train[galor]", r = "train[lr=*]", s = "train[", t = "corpus[x]", u = "train[full,galore]" }
       |                                                                                                   ^^^^^^^^^^^^^^^^^^^^
       |
       = help: each label names one value on one axis

    error[manifest::unknown-stage]: there is no stage `nothing`
      --> m.toml:17:16
       |
    17 | inputs = { p = "nothing" }
       |                ^^^^^^^^^
       |
       = help: the stages are: `a`, `b`, `c`, `corpus`, `ranks`, `train`
    "#);
}

#[test]
fn a_circle_is_shown_as_a_path() {
    insta::assert_snapshot!(load(r#"
[stages.start]
kind = "x"
matrix.seed = [1]
inputs.x = "a"
[stages.a]
kind = "x"
inputs.x = "c"
[stages.b]
kind = "x"
inputs.x = "a"
[stages.c]
kind = "x"
inputs.x = "b"
"#), @"
    error[manifest::cycle]: the stages depend on each other in a circle: a -> b -> c -> a
     --> m.toml:6:9
      |
    6 | [stages.a]
      |         ^
      |
      = help: remove one of these inputs
    ");
}

#[test]
fn too_many_nodes_are_refused_with_their_number() {
    insta::assert_snapshot!(load(r#"
[stages.a]
kind = "x"
matrix = { x = { count = 1000 }, y = { count = 1000 }, z = { count = 100000 } }
[stages.b]
kind = "x"
matrix.x = { count = 60000 }
[stages.c]
kind = "x"
inputs.b = "b"
[stages.d]
kind = "x"
matrix.x = { count = 300 }
[stages.e]
kind = "x"
inputs = { a = "d", b = "b[x=1]", c = "d" }
matrix.y = { count = 200 }
"#), @"
    error[manifest::too-large]: the sweep of `a` has 100000000000 cells (1000 of `x` x 1000 of `y` x 100000 of `z`), and a manifest may have 100000 nodes in all
     --> m.toml:2:9
      |
    2 | [stages.a]
      |         ^
      |
      = help: sweep fewer values, or split the manifest

    error[manifest::too-large]: the sweep of `c` has 60000 cells (60000 of its inputs x 1 of its own): that makes 120301 nodes, and a manifest may have 100000 in all
     --> m.toml:8:9
      |
    8 | [stages.c]
      |         ^
      |
      = help: sweep fewer values, or split the manifest

    error[manifest::too-large]: the sweep of `e` has 60000 cells (300 of its inputs x 200 of its own): that makes 120300 nodes, and a manifest may have 100000 in all
      --> m.toml:14:9
       |
    14 | [stages.e]
       |         ^
       |
       = help: sweep fewer values, or split the manifest
    ");
}

#[test]
fn names_are_unique_and_cells_know_where_they_come_from() {
    let mut sources = Sources::default();
    let (manifest, _) = Manifest::parse(&mut sources, "m.toml", &format!("{CHAIN}\n")).unwrap();
    let mut names: Vec<&str> = manifest.stages.iter().map(|stage| stage.name.name.as_str()).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    let ranks = manifest.stages.iter().find(|stage| stage.name.name == "ranks[galore,seed=2]").unwrap();
    assert_eq!(&*ranks.origin, "ranks");
    let cell: Vec<(&str, &str)> = ranks.cell.iter().map(|(axis, label)| (&**axis, &**label)).collect();
    assert_eq!(cell, [("method", "galore"), ("seed", "seed=2")]);
    assert_eq!(ranks.inputs[0].from[0].reference(), ("train[galore,seed=2]", Some("model")));
    let plain = manifest.stages.first().unwrap();
    assert_eq!((&*plain.origin, plain.cell.len()), ("corpus", 0));
}

#[test]
fn what_would_take_too_long_is_refused() {
    let keys: String = (0..40).map(|i| format!("k{i} = [1]\n")).collect();
    insta::assert_snapshot!(names(&format!("[stages.a]\nkind = 'x'\n[stages.a.matrix]\n{keys}")), @"
    error[manifest::too-large]: a stage is swept along 40 axes, and at most 32 can be
      --> m.toml:36:1
       |
    36 | k32 = [1]
       | ^^^ one too many
       |
       = help: sweep fewer parameters, or whole tables of them
    ");
    let entries = "{ x = 1, y = 2 }, ".repeat(2000);
    insta::assert_snapshot!(names(&format!(
        "[stages.a]\nkind = 'x'\nmatrix.x = {{ count = 50000 }}\nexclude = [\n{entries}\n]\n[stages.b]\nkind = 'x'\nmatrix.x = {{ count = 90000 }}\n"
    )), @"
    error[manifest::too-large]: the sweeps of this manifest are too large to expand: `a` would need 200000000 steps more
     --> m.toml:1:9
      |
    1 | [stages.a]
      |         ^
      |
      = help: sweep fewer values, or gather fewer cells at a time; a manifest may have 100000 nodes
    ");
    let gather = "[stages.b]\nkind = 'x'\nmatrix.x = { count = 40000 }\n".to_owned()
        + &(0..100).map(|i| format!("[stages.c{i}]\nkind = 'x'\ninputs.x = 'b[*]'\n")).collect::<String>();
    insta::assert_snapshot!(names(&gather), @"
    error[manifest::too-large]: the sweeps of this manifest are too large to expand: `b[*]` would need 80000 steps more
       --> m.toml:129:12
        |
    129 | inputs.x = 'b[*]'
        |            ^^^^^^
        |
        = help: sweep fewer values, or gather fewer cells at a time; a manifest may have 100000 nodes
    ");
    let many =
        format!("[stages.b]\nkind = 'x'\nmatrix.x = [1]\n[stages.c]\nkind = 'x'\ninputs.x = [{}]", "'b', ".repeat(65));
    assert!(names(&many).contains("by more than 64 references"));
}

/// A small sweep: axes with their numbers of values, and what two more stages take.
fn sweep() -> impl proptest::strategy::Strategy<Value = (Vec<usize>, usize, &'static str)> {
    use proptest::prelude::*;
    let reference = prop::sample::select(vec!["train", "train[*]", "train[a0=*]", "train[a0=0]", "train[a0=0,*]"]);
    (prop::collection::vec(1usize..4, 1..4), 1usize..3, reference)
}

proptest::proptest! {
    /// The number of nodes is known without making them, and every wire leads to a node.
    #[test]
    fn cells_are_as_many_as_their_axes_say((sizes, own, reference) in sweep()) {
        let axes: String = sizes.iter().enumerate().map(|(axis, size)| format!("a{axis} = {{ count = {size} }}\n")).collect();
        let text = format!(
            "[stages.train]\nkind = 'x'\n[stages.train.matrix]\n{axes}\n[stages.eval]\nkind = 'x'\ninputs.model = '{reference}'\nmatrix.b = {{ count = {own} }}\n"
        );
        let mut sources = Sources::default();
        let (manifest, _) = Manifest::parse(&mut sources, "m.toml", &text).unwrap();
        let cells: usize = sizes.iter().product();
        let groups = match reference {
            "train" => cells,
            "train[*]" | "train[a0=0,*]" => 1,
            _ => cells / sizes[0],
        };
        let of = |origin: &str| manifest.stages.iter().filter(|node| &*node.origin == origin).count();
        proptest::prop_assert_eq!(of("train"), cells);
        proptest::prop_assert_eq!(of("eval"), groups * own);
        let names: std::collections::HashSet<&str> = manifest.stages.iter().map(|node| node.name.name.as_str()).collect();
        proptest::prop_assert_eq!(names.len(), manifest.stages.len());
        for word in manifest.stages.iter().flat_map(|node| &node.inputs).flat_map(|input| &input.from) {
            proptest::prop_assert!(names.contains(word.text.as_str()), "{}", word.text);
        }
    }
}
