use super::{load, names};

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
       |
       = help: write a whole number of 0 or more

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
       |
       = help: a table is { key = value, ... }, or has a header of its own: [...]

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
       |
       = help: a table is { key = value, ... }, or has a header of its own: [...]

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
       |
       = help: write a whole number of 0 or more

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
