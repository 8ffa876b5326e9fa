use std::collections::BTreeMap;

use serde::Deserialize;

use super::super::{Span, Table, Value, ValueError, ValueErrorKind, ValueKind, parse_toml};

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Model {
    n_head: usize,
    #[serde(default)]
    dropout: f32,
    preset: Option<String>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
enum Method {
    Full,
    Galore { rank: u32, scale: f64 },
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Schedule {
    Constant,
    Step(u32),
    Cosine { min_lr: f64 },
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(untagged)]
enum Batch {
    Size(u32),
    Name(String),
}

fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, (ValueError, String)> {
    let table = parse_toml(0, text).unwrap();
    table.decode(Span::default()).map_err(|error| {
        let place = text[error.span.start as usize..error.span.end as usize].to_owned();
        (error, place)
    })
}

/// The error as text, with the place it points at.
fn error<T: serde::de::DeserializeOwned + std::fmt::Debug>(text: &str) -> String {
    let (error, place) = read::<T>(text).unwrap_err();
    format!("{error} @ {place}")
}

type Map<T> = BTreeMap<String, T>;

#[test]
fn structs_maps_options_and_lists_decode() {
    let models: Map<Model> = read("a = { n_head = 4, dropout = 1 }\n[b]\nn_head = 8\npreset = \"llama-tiny\"").unwrap();
    assert_eq!(models["a"], Model { n_head: 4, dropout: 1.0, preset: None });
    assert_eq!(models["b"], Model { n_head: 8, dropout: 0.0, preset: Some("llama-tiny".into()) });
    assert_eq!(read::<Map<Vec<f64>>>("a = [1, 0.5, -2]").unwrap()["a"], [1.0, 0.5, -2.0]);
    assert_eq!(read::<Map<(u8, String)>>("a = [1, \"x\"]").unwrap()["a"], (1, "x".into()));
    assert!(read::<Map<BTreeMap<u32, bool>>>("a = { 3 = true }").unwrap()["a"][&3]);
}

#[test]
fn all_enum_forms_decode() {
    let methods: Map<Method> = read("a = { name = \"full\" }\nb = { rank = 4, name = \"galore\", scale = 1 }").unwrap();
    assert_eq!(methods["a"], Method::Full);
    assert_eq!(methods["b"], Method::Galore { rank: 4, scale: 1.0 });
    let schedules: Map<Schedule> =
        read("a = \"constant\"\nb = { step = 3 }\nc = { cosine = { min_lr = 0.1 } }\nd.constant = {}").unwrap();
    assert_eq!(schedules["a"], Schedule::Constant);
    assert_eq!(schedules["b"], Schedule::Step(3));
    assert_eq!(schedules["c"], Schedule::Cosine { min_lr: 0.1 });
    assert_eq!(schedules["d"], Schedule::Constant);
    assert_eq!(read::<Map<Batch>>("a = 3").unwrap()["a"], Batch::Size(3));
    assert_eq!(read::<Map<Batch>>("a = \"auto\"").unwrap()["a"], Batch::Name("auto".into()));
}

#[test]
fn errors_name_the_innermost_place_and_the_path() {
    let model = error::<Map<Model>>;
    insta::assert_snapshot!(model("m.n_head = \"12\""), @r#"m.n_head: expected a whole number of 0 or more, found the text "12" @ "12""#);
    insta::assert_snapshot!(model("m.n_head = -1"), @"m.n_head: expected a whole number of 0 or more, found the whole number -1 @ -1");
    insta::assert_snapshot!(model("m.n_head = 1.0"), @"m.n_head: expected a whole number of 0 or more, found the number 1.0 @ 1.0");
    insta::assert_snapshot!(model("m = { n_head = 1, n_heads = 1 }"), @"m.n_heads: unknown field `n_heads` @ n_heads");
    insta::assert_snapshot!(model("m = { dropout = 1 }"), @"m: `n_head` is missing @ { dropout = 1 }");
    insta::assert_snapshot!(model("m = 3"), @"m: expected a table, found the whole number 3 @ 3");
    insta::assert_snapshot!(model("m = { n_head = 1, preset = true }"), @"m.preset: expected text, found `true` @ true");
    insta::assert_snapshot!(model("m = { n_head = 1, preset = [[1]] }"), @"m.preset: expected text, found a list @ [[1]]");
    insta::assert_snapshot!(error::<Map<Vec<u8>>>("a = [1, 2, 300]"), @"a[2]: expected a whole number from 0 to 255, found the whole number 300 @ 300");
    insta::assert_snapshot!(error::<Map<(u8, u8)>>("a = [1, 2, 3]"), @"a: expected a list of 2, found a list of 3 @ [1, 2, 3]");
    insta::assert_snapshot!(error::<Map<(u8, u8)>>("a = [1]"), @"a: expected a list of 2, found 1 @ [1]");
    insta::assert_snapshot!(error::<Map<f64>>("a = \"1\""), @r#"a: expected a number, found the text "1" @ "1""#);
    insta::assert_snapshot!(error::<Map<f64>>("a = 9007199254740993"), @"a: this whole number has more digits than a number with a fraction can hold @ 9007199254740993");
    insta::assert_snapshot!(error::<Map<BTreeMap<u32, u8>>>("a = { x = 1 }"), @"a: expected a whole number from 0 to 4294967295, found the key `x` @ x");
    insta::assert_snapshot!(error::<Map<String>>("a = 2026-01-01\nb = 3"), @"b: expected text, found the whole number 3 @ 3");
}

#[test]
fn errors_of_enums_name_the_variant() {
    let schedule = error::<Map<Schedule>>;
    insta::assert_snapshot!(schedule("a = \"cosin\""), @r#"a: unknown value `cosin` @ "cosin""#);
    insta::assert_snapshot!(schedule("a = { cosin = 1 }"), @"a: unknown value `cosin` @ cosin");
    insta::assert_snapshot!(schedule("a = { cosine = { min_lr = true } }"), @"a.cosine.min_lr: expected a number, found `true` @ true");
    insta::assert_snapshot!(schedule("a = \"step\""), @r#"a: `step` takes values: write { step = ... } @ "step""#);
    insta::assert_snapshot!(schedule("a = { constant = 1 }"), @r#"a.constant: `constant` takes no values: write "constant" @ 1"#);
    insta::assert_snapshot!(schedule("a = { step = 1, cosine = 2 }"), @"a: expected a table with one key out of `constant`, `step` or `cosine`, found a table @ { step = 1, cosine = 2 }");
    insta::assert_snapshot!(schedule("a = 1"), @"a: expected one of `constant`, `step` or `cosine`, found the whole number 1 @ 1");
    let method = error::<Map<Method>>;
    insta::assert_snapshot!(method("a = { name = \"galor\" }"), @r#"a.name: unknown value `galor` @ "galor""#);
    insta::assert_snapshot!(method("a = { rank = 1 }"), @"a: `name` is missing @ { rank = 1 }");
    insta::assert_snapshot!(method("a = { name = \"galore\", rank = -1, scale = 1 }"), @r#"a: expected a whole number from 0 to 4294967295, found the whole number -1 @ { name = "galore", rank = -1, scale = 1 }"#);
    insta::assert_snapshot!(method("a = { name = \"galore\", rank = 1, scale = 1, rnk = 1 }"), @"a.rnk: unknown field `rnk` @ rnk");
    insta::assert_snapshot!(error::<Map<Batch>>("a = true"), @"a: this fits none of the forms that can stand here @ true");
}

#[test]
fn an_unknown_field_lists_those_that_are_known() {
    let (error, _) = read::<Map<Model>>("m = { heads = 3 }").unwrap_err();
    let expected = vec!["n_head".to_owned(), "dropout".to_owned(), "preset".to_owned()];
    assert_eq!(error.kind, ValueErrorKind::UnknownField { field: "heads".into(), expected });
}

#[test]
fn the_root_has_the_place_that_the_caller_gives() {
    let span = Span { source: 3, start: 5, end: 9 };
    let error = Table::default().decode::<Model>(span).unwrap_err();
    assert_eq!((error.span, error.path.as_str()), (span, ""));
    let error = Value { span, kind: ValueKind::Integer(1) }.decode::<Model>().unwrap_err();
    assert_eq!(error.span, span);
}
