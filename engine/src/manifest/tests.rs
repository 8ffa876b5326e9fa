use proptest::prelude::*;

use super::*;
use crate::diagnostic::{Diagnostic, Sources, render};

fn parse(text: &str) -> Manifest {
    let mut sources = Sources::default();
    Manifest::parse(&mut sources, "manifests/quickstart.toml", text)
        .unwrap_or_else(|errors| panic!("{}", render(&errors, &sources, false)))
        .0
}

/// What a person sees.
fn errors(text: &str) -> String {
    let mut sources = Sources::default();
    let errors = Manifest::parse(&mut sources, "m.toml", text).unwrap_err();
    render(&errors, &sources, false)
}

const WHOLE: &str = r#"#:schema sepia.schema.json
sepia = 1
name = "quick start"
seed = 7
device = "cuda:1"
dtype = "bf16"

[stages.corpus]
kind = "text-dataset"
files = ["data/text.txt"]

[stages.train]
kind = "pretrain"
description = "the model"
inputs = { data = "corpus", more = ["corpus.data", "other"] }
seed = 3
resources = { threads = 2, memory = "4 GiB", device = 1 }
retries = 1
timeout = "2h"
priority = 10
checkpoint_every = "5m"
max_steps = 300
model.d_model = 64
"#;

#[test]
fn every_reserved_key_is_read_and_the_rest_is_left() {
    let manifest = parse(WHOLE);
    assert_eq!((manifest.name.as_str(), manifest.seed), ("quick start", 7));
    assert_eq!(manifest.device.unwrap().text, "cuda:1");
    assert_eq!(manifest.dtype.unwrap().text, "bf16");
    let [corpus, train] = manifest.stages.as_slice() else { panic!("two stages") };
    assert_eq!((corpus.name.name.as_str(), corpus.kind.text.as_str()), ("corpus", "text-dataset"));
    assert_eq!(train.description.as_deref(), Some("the model"));
    let inputs: Vec<(&str, Vec<&str>)> = train
        .inputs
        .iter()
        .map(|input| (input.port.name.as_str(), input.from.iter().map(|word| word.text.as_str()).collect()))
        .collect();
    assert_eq!(inputs, [("data", vec!["corpus"]), ("more", vec!["corpus.data", "other"])]);
    assert_eq!(train.seed, Some(3));
    assert_eq!(train.resources, Resources { threads: Some(2), memory: Some(4 << 30), device: Some(1) });
    assert_eq!((train.retries, train.timeout, train.priority), (1, Some(7200.0), 10));
    assert_eq!(train.checkpoint_every, Some(300.0));
    let rest: Vec<&str> = train.rest.entries.iter().map(|(key, _)| key.name.as_str()).collect();
    assert_eq!(rest, ["max_steps", "model"]);
    let span = train.rest.entries[0].1.span;
    assert_eq!(&WHOLE[span.start as usize..span.end as usize], "300");
}

#[test]
fn what_is_left_out_has_defaults() {
    let manifest = parse("[stages.a]\nkind = \"b\"");
    assert_eq!((manifest.name.as_str(), manifest.seed), ("quickstart", 0));
    assert_eq!((manifest.device, manifest.dtype), (None, None));
    let stage = &manifest.stages[0];
    assert_eq!((stage.retries, stage.timeout, stage.priority, stage.seed), (0, None, 0, None));
}

#[test]
fn the_name_comes_from_the_file() {
    assert_eq!(stem("manifests/quickstart.toml"), "quickstart");
    assert_eq!(stem("a.b.toml"), "a.b");
    assert_eq!(stem(".toml"), ".toml");
    assert_eq!(stem("-"), "-");
}

#[test]
fn all_errors_of_a_file_come_at_once() {
    insta::assert_snapshot!(errors(r#"
naem = "x"
seed = -1
device = "gpu"
max_steps = 3
retries = 3

[stages.corpus]
knid = "text-dataset"

[stages.train]
kind = "pretrain"
inputs = { data = 3, more = [], other = ["a", true] }
seed = "3"
dtype = "fp32"
resources = { thread = 2, memory = "4 Gigs", threads = 0 }
timeout = "2"
retries = 1.0

[stages."a b"]
kind = 3

[stages]
eval = "x"
"#), @r#"
    error[manifest::unknown-field]: unknown field `naem`
     --> m.toml:2:1
      |
    2 | naem = "x"
      | ^^^^
      |
      = help: did you mean `name`?

    error[manifest::wrong-type]: `seed`: expected a whole number of 0 or more, found the whole number -1
     --> m.toml:3:8
      |
    3 | seed = -1
      |        ^^ expected a whole number of 0 or more
      |
      = help: write a whole number of 0 or more

    error[manifest::unknown-value]: `device`: there is no device `gpu`
     --> m.toml:4:10
      |
    4 | device = "gpu"
      |          ^^^^^
      |
      = help: did you mean `cpu`?

    error[manifest::unknown-field]: unknown field `max_steps`
     --> m.toml:5:1
      |
    5 | max_steps = 3
      | ^^^^^^^^^
      |
      = help: parameters belong into a stage; known at the top level: `sepia`, `extends`, `name`, `seed`, `device`, `dtype`, `executor`, `params`, `defaults`, `profile`, `stages`

    error[manifest::unknown-field]: unknown field `retries`
     --> m.toml:6:1
      |
    6 | retries = 3
      | ^^^^^^^
      |
      = help: `retries` belongs into a stage: [stages.NAME]

    error[manifest::missing-kind]: the stage `corpus` does not say its kind
     --> m.toml:8:9
      |
    8 | [stages.corpus]
      |         ^^^^^^
      |
      = help: add kind = "..."; `sepia stages` lists the kinds

    error[manifest::wrong-type]: `inputs.data`: expected the name of a stage, "stage" or "stage.port", or a list of them, found the whole number 3
      --> m.toml:13:19
       |
    13 | inputs = { data = 3, more = [], other = ["a", true] }
       |                   ^ expected the name of a stage
       |
       = help: write inputs.data = "NAME", or leave the port out

    error[manifest::wrong-type]: `inputs.more`: expected the name of a stage, "stage" or "stage.port", or a list of them, found a list of 0
      --> m.toml:13:29
       |
    13 | inputs = { data = 3, more = [], other = ["a", true] }
       |                             ^^ expected the name of a stage
       |
       = help: write inputs.more = "NAME", or leave the port out

    error[manifest::wrong-type]: `inputs.other`: expected the name of a stage, "stage" or "stage.port", or a list of them, found `true`
      --> m.toml:13:47
       |
    13 | inputs = { data = 3, more = [], other = ["a", true] }
       |                                               ^^^^ expected the name of a stage
       |
       = help: write inputs.other = "NAME", or leave the port out

    error[manifest::wrong-type]: `seed`: expected a whole number of 0 or more, found the text "3"
      --> m.toml:14:8
       |
    14 | seed = "3"
       |        ^^^ expected a whole number of 0 or more
       |
       = help: write it without quotes: 3

    error[manifest::unknown-value]: `dtype`: there is no dtype `fp32`
      --> m.toml:15:9
       |
    15 | dtype = "fp32"
       |         ^^^^^^
       |
       = help: did you mean `f32`?

    error[manifest::unknown-field]: unknown field `thread` in `resources`
      --> m.toml:16:15
       |
    16 | resources = { thread = 2, memory = "4 Gigs", threads = 0 }
       |               ^^^^^^
       |
       = help: did you mean `threads`?

    error[manifest::wrong-value]: `resources.memory`: expected a size such as "4 GiB" or "512 MB", or bytes as a whole number, found the text "4 Gigs"
      --> m.toml:16:36
       |
    16 | resources = { thread = 2, memory = "4 Gigs", threads = 0 }
       |                                    ^^^^^^^^
       |
       = help: for example: memory = "4 GiB"

    error[manifest::wrong-type]: `resources.threads`: expected a whole number other than 0, found the whole number 0
      --> m.toml:16:56
       |
    16 | resources = { thread = 2, memory = "4 Gigs", threads = 0 }
       |                                                        ^ expected a whole number other than 0
       |
       = help: write a whole number other than 0

    error[manifest::wrong-value]: `timeout`: expected a duration such as "90s", "1h 30m" or "2 days", or seconds as a number, found the text "2"
      --> m.toml:17:11
       |
    17 | timeout = "2"
       |           ^^^
       |
       = help: for example: timeout = "2h"

    error[manifest::wrong-type]: `retries`: expected a whole number from 0 to 4294967295, found the number 1.0
      --> m.toml:18:11
       |
    18 | retries = 1.0
       |           ^^^ expected a whole number from 0 to 4294967295
       |
       = help: write it without the fraction: 1

    error[manifest::bad-name]: `a b` is not a name for a stage
      --> m.toml:20:9
       |
    20 | [stages."a b"]
       |         ^^^^^
       |
       = help: a name has letters a-z and A-Z, digits, `_` and `-`

    error[manifest::wrong-type]: `kind`: expected text, found the whole number 3
      --> m.toml:21:8
       |
    21 | kind = 3
       |        ^ expected text
       |
       = help: write it in quotes: "3"

    error[manifest::wrong-type]: `stages.eval`: expected a table, found the text "x"
      --> m.toml:24:8
       |
    24 | eval = "x"
       |        ^^^ expected a table
       |
       = help: a table is { key = value, ... }, or has a header of its own: [...]
    "#);
}

#[test]
fn a_newer_format_is_refused_before_anything_else() {
    insta::assert_snapshot!(errors("sepia = 2\nfrobnicate = true"), @"
    error[manifest::format]: this manifest is written in format 2, and this version of sepia reads format 1
     --> m.toml:1:9
      |
    1 | sepia = 2
      |         ^
      |
      = help: install a newer sepia
    ");
    insta::assert_snapshot!(errors("sepia = \"1\""), @r#"
    error[manifest::wrong-type]: `sepia`: expected a whole number, found the text "1"
     --> m.toml:1:9
      |
    1 | sepia = "1"
      |         ^^^ expected a whole number
      |
      = help: write it without quotes: 1
    "#);
}

#[test]
fn nothing_to_run_is_an_error() {
    insta::assert_snapshot!(errors("# only a comment\n"), @"
    error[manifest::empty]: the manifest is empty
     --> m.toml:1:1
      |
    1 | # only a comment
      | ^
      |
      = help: `sepia new NAME` writes a manifest to start from
    ");
    insta::assert_snapshot!(errors("name = \"x\"\n"), @r#"
    error[manifest::no-stages]: the manifest has no stages
     --> m.toml:1:1
      |
    1 |
      | ^
      |
      = help: add one: [stages.NAME] with kind = "..."; `sepia stages` lists the kinds
    "#);
    insta::assert_snapshot!(errors("[profile.a]"), @r#"
    error[manifest::no-stages]: the manifest has no stages
     --> m.toml:1:12
      |
    1 | [profile.a]
      |            ^
      |
      = help: add one: [stages.NAME] with kind = "..."; `sepia stages` lists the kinds
    "#);
    insta::assert_snapshot!(errors("stages = {}"), @r#"
    error[manifest::no-stages]: the manifest has no stages
     --> m.toml:1:10
      |
    1 | stages = {}
      |          ^^
      |
      = help: add one: [stages.NAME] with kind = "..."; `sepia stages` lists the kinds
    "#);
    insta::assert_snapshot!(errors("stages = 3"), @"
    error[manifest::wrong-type]: `stages`: expected a table, found the whole number 3
     --> m.toml:1:10
      |
    1 | stages = 3
      |          ^ expected a table
      |
      = help: a table is { key = value, ... }, or has a header of its own: [...]
    ");
}

#[test]
fn a_stage_given_twice_shows_both_places() {
    insta::assert_snapshot!(errors("[stages.a]\nkind = \"x\"\n[stages.b]\nkind = \"y\"\n[stages.a]\nkind = \"z\""), @"
    error[manifest::duplicate-name]: `a` is given twice
     --> m.toml:5:9
      |
    1 | [stages.a]
      |         - first here
    ...
    5 | [stages.a]
      |         ^ a second time here
      |
      = help: rename one of the two, or remove it
    ");
}

#[test]
fn long_names_are_refused() {
    insta::assert_snapshot!(errors(&format!("name = \"\"\n[stages.{}]\nkind = \"x\"", "a".repeat(101))), @r#"
    error[manifest::bad-name]: `name`: expected one line of text, at most 100 bytes long
     --> m.toml:1:8
      |
    1 | name = ""
      |        ^^
      |
      = help: leave it out to use the file's name

    error[manifest::bad-name]: the name of this stage is longer than 100 characters
     --> m.toml:2:9
      |
    2 | [stages.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa]
      |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: a name has letters a-z and A-Z, digits, `_` and `-`
    "#);
}

fn check(text: &str) {
    let mut sources = Sources::default();
    let found = match Manifest::parse(&mut sources, "m.toml", text) {
        Ok((_, warnings)) => warnings,
        Err(errors) => {
            assert!(errors.iter().any(Diagnostic::is_error));
            errors
        }
    };
    for label in found.iter().flat_map(|found| &found.labels) {
        let (_, text) = sources.get(label.span.source).unwrap();
        assert!(text.get(label.span.start as usize..label.span.end as usize).is_some(), "{label:?}");
    }
    let _ = render(&found, &sources, false);
}

/// A word of the manifest language, or something near to one.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(RESERVED.to_vec()).prop_map(ToOwned::to_owned),
        prop::sample::select(vec![
            "sepia",
            "name",
            "stages",
            "stages.a",
            "stages.b",
            "stages.a.matrix",
            "params",
            "lr"
        ])
        .prop_map(ToOwned::to_owned),
        "[a-z\"\u{e9}.]{1,4}",
    ]
}

fn line() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        Just("\"a\"".to_owned()),
        "-?[0-9]{1,20}",
        "[0-9]\\.[0-9]",
        Just("true".to_owned()),
        Just("\"${params.x}\"".to_owned()),
        Just("\"a[*]\"".to_owned()),
    ];
    let value = scalar.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(", "))),
            prop::collection::vec((word(), inner), 0..3).prop_map(|entries| {
                let entries: Vec<String> = entries.iter().map(|(key, value)| format!("{key} = {value}")).collect();
                format!("{{ {} }}", entries.join(", "))
            }),
        ]
    });
    prop_oneof![
        1 => word().prop_map(|word| format!("[{word}]")),
        3 => (word(), value).prop_map(|(word, value)| format!("{word} = {value}")),
    ]
}

proptest! {
    #[test]
    fn any_bytes_give_a_manifest_or_errors_with_places_in_the_text(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn anything_that_looks_like_a_manifest_does_too(lines in prop::collection::vec(line(), 0..12)) {
        check(&lines.join("\n"));
    }
}
