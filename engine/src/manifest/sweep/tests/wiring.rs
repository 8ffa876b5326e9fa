use super::load;
use crate::diagnostic::Sources;
use crate::manifest::Manifest;

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
