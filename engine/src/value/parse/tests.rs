use proptest::prelude::*;

use super::super::{Span, Table, Value, ValueKind};
use super::parse_toml;
use crate::diagnostic::Diagnostic;

fn errors(text: &str) -> Vec<String> {
    let show = |diagnostic: Diagnostic| {
        let labels: Vec<String> = diagnostic
            .labels
            .iter()
            .map(|label| format!("{:?} {}", &text[label.span.start as usize..label.span.end as usize], label.text))
            .collect();
        format!("{}: {} | {}", diagnostic.code, diagnostic.message, labels.join(" | "))
    };
    parse_toml(0, text).unwrap_err().into_iter().map(show).collect()
}

#[test]
fn the_order_of_the_text_is_kept() {
    let table = parse_toml(0, "z = 1\na = 2\n[m.q]\n[m]\ny = { d = 1, c = 2 }\n[b]").unwrap();
    let names = |table: &Table| table.entries.iter().map(|(key, _)| key.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&table), ["z", "a", "m", "b"]);
    assert_eq!(names(table.get("m").unwrap().as_table().unwrap()), ["q", "y"]);
    assert_eq!(names(table.get("m").unwrap().as_table().unwrap().get("y").unwrap().as_table().unwrap()), ["d", "c"]);
}

#[test]
fn every_kind_of_value_is_read() {
    let table =
        parse_toml(0, "i = 0x1F\nf = 1e-3\nn = -inf\nb = true\nd = 2026-01-02T03:04:05Z\ns = 'x'\nl = [1]").unwrap();
    let kind = |name: &str| table.get(name).unwrap().kind.clone();
    assert_eq!(kind("i"), ValueKind::Integer(31));
    assert_eq!(kind("f"), ValueKind::Float(0.001));
    assert_eq!(kind("n"), ValueKind::Float(f64::NEG_INFINITY));
    assert_eq!(kind("b"), ValueKind::Boolean(true));
    assert_eq!(kind("d"), ValueKind::Datetime("2026-01-02T03:04:05Z".into()));
    assert_eq!(kind("s"), ValueKind::String("x".into()));
    assert!(matches!(kind("l"), ValueKind::Array(items) if items.len() == 1));
}

#[test]
fn a_name_given_twice_shows_both_places() {
    insta::assert_debug_snapshot!(errors("[stages.a]\nx = 1\nx = 2\n[stages.b]\nx = 1\n[stages.a]\n"), @r#"
    [
        "manifest::duplicate-name: `x` is given twice | \"x\" a second time here | \"x\" first here",
        "manifest::duplicate-name: `a` is given twice | \"a\" a second time here | \"a\" first here",
    ]
    "#);
    insta::assert_debug_snapshot!(errors("a = { b = 1, c = { b = 1 }, \"b\" = 2 }\nc = [{ b = 1 }, { b = 2, b = 3 }]"), @r#"
    [
        "manifest::duplicate-name: `b` is given twice | \"\\\"b\\\"\" a second time here | \"b\" first here",
        "manifest::duplicate-name: `b` is given twice | \"b\" a second time here | \"b\" first here",
    ]
    "#);
    insta::assert_debug_snapshot!(errors("[[l]]\nx = 1\n[[l]]\nx = 2\nx = 3"), @r#"
    [
        "manifest::duplicate-name: `x` is given twice | \"x\" a second time here | \"x\" first here",
    ]
    "#);
}

#[test]
fn one_slip_does_not_hide_the_next() {
    insta::assert_debug_snapshot!(errors("a = hello\nb = [1, 2\nc = 1\nd\n= 3\n[x\n"), @r#"
    [
        "manifest::syntax: this is not valid TOML: missing comma between array elements, expected `,` | \"\" ",
        "manifest::syntax: this is not valid TOML: unexpected `=` in array, expected value or `]` | \"=\" ",
        "manifest::syntax: this is not valid TOML: missing comma between array elements, expected `,` | \"\" ",
        "manifest::syntax: this is not valid TOML: missing comma between array elements, expected `,` | \"\" ",
        "manifest::syntax: this is not valid TOML: unexpected `=` in array, expected value or `]` | \"=\" ",
        "manifest::syntax: this is not valid TOML: missing comma between array elements, expected `,` | \"\" ",
        "manifest::syntax: this is not valid TOML: missing comma between array elements, expected `,` | \"\" ",
        "manifest::syntax: this is not valid TOML: unclosed array, expected `]` | \"\" ",
        "manifest::syntax: this is not valid TOML: unclosed array, expected `]` | \"\" ",
        "manifest::syntax: this is not valid TOML: string values must be quoted, expected literal string | \"hello\" ",
        "manifest::syntax: this is not valid TOML: string values must be quoted, expected literal string | \"c\" ",
        "manifest::syntax: this is not valid TOML: string values must be quoted, expected literal string | \"d\" ",
        "manifest::syntax: this is not valid TOML: string values must be quoted, expected literal string | \"x\" ",
    ]
    "#);
    insta::assert_debug_snapshot!(errors("a = 9223372036854775808\nb = 1e999\nc = 0xFFFFFFFFFFFFFFFF"), @r#"
    [
        "manifest::number: this whole number is too large | \"9223372036854775808\" ",
        "manifest::number: this number is too large | \"1e999\" ",
        "manifest::number: this whole number is too large | \"0xFFFFFFFFFFFFFFFF\" ",
    ]
    "#);
}

#[test]
fn a_thousand_errors_are_counted_not_shown() {
    let found = errors(&"x\n".repeat(1000));
    assert_eq!(found.len(), super::MAX_ERRORS + 1);
    assert!(found[super::MAX_ERRORS].contains("950 more"), "{}", found[super::MAX_ERRORS]);
}

#[test]
fn deep_nesting_is_refused_without_overflowing_the_stack() {
    let key = vec!["a"; 79].join(".");
    for text in [
        format!("[{key}]\n{key} = {}1{}", format!("{{{key} =").repeat(78), "}".repeat(78)),
        format!("a = {}1{}", "{a =".repeat(50) + &"{a.a.a.a = ".repeat(20), "}".repeat(70)),
        "[".repeat(100_000),
        format!("a = {}", "[".repeat(100_000)),
        format!("a = {}", "{a=".repeat(100_000)),
        format!("{} = 1", vec!["a"; 100_000].join(".")),
        format!("[{}]", vec!["a"; 100_000].join(".")),
        format!("[[{}]]", vec!["a"; 100_000].join(".")),
    ] {
        assert!(!errors(&text).is_empty());
    }
    let fine = format!("a = {}{}", "[".repeat(70), "]".repeat(70));
    assert!(parse_toml(0, &fine).is_ok());
}

#[test]
fn the_tree_is_the_one_that_the_toml_crate_builds() {
    for text in [
        "[a.b]\nx = 1\n[a]\ny = 2\n[a.c]",
        "[[a]]\nx = 1\n[a.b]\n[[a]]\nx = 2\n[[a.l]]\n[[a.l]]",
        "a.b.c = 1\na.b.d = 2\na.e = { f.g = 1, f.h = [{ x = 1 }] }",
        "[a]\nb.c = 1\n[a.b.d]\nx = 1",
        "'' = 1\n\"\\u00e9\" = '''\nx'''\nb = 0b11\n",
        "[x]\ny = [\n 1, # c\n 2,\n]",
    ] {
        assert!(parse_toml(0, text).is_ok(), "{text}");
        compare(text);
    }
    for text in [
        "[a]\n[a]",
        "a = 1\n[a]",
        "a = 1\na.b = 2",
        "a = {}\n[a.b]",
        "[a.b]\n[a]\nb.c = 1",
        "[[a]]\n[a]",
        "a = []\n[[a]]",
    ] {
        assert!(parse_toml(0, text).is_err(), "{text}");
        compare(text);
    }
}

/// Both parsers say the same of a text, except that ours has a limit of its own on depth, and refuses what TOML forbids
/// and the crate lets pass: `[[a.b]]`, then `[a]`, then `b.c = 1`, which would reach into a list.
fn compare(text: &str) {
    let ours = parse_toml(0, text);
    let theirs = toml::from_str::<toml::Table>(text);
    match (&ours, &theirs) {
        (Ok(ours), Ok(theirs)) => assert_eq!(format!("{:?}", plain(ours)), format!("{theirs:?}"), "{text}"),
        (Err(_), Err(_)) => {}
        (Err(errors), Ok(_)) if errors.iter().all(|error| error.message.contains("nested")) => {}
        (Err(errors), Ok(_)) if text.contains("[[") && errors.iter().all(|error| error.message.contains("twice")) => {}
        _ => panic!("{text:?}: {ours:?} {theirs:?}"),
    }
}

fn plain(table: &Table) -> toml::Table {
    fn value(one: &Value) -> toml::Value {
        match &one.kind {
            ValueKind::String(text) => toml::Value::String(text.clone()),
            ValueKind::Integer(number) => toml::Value::Integer(*number),
            ValueKind::Float(number) => toml::Value::Float(*number),
            ValueKind::Boolean(flag) => toml::Value::Boolean(*flag),
            ValueKind::Datetime(text) => toml::Value::Datetime(text.parse().unwrap()),
            ValueKind::Array(items) => toml::Value::Array(items.iter().map(value).collect()),
            ValueKind::Table(table) => toml::Value::Table(plain(table)),
        }
    }
    table.entries.iter().map(|(key, inner)| (key.name.clone(), value(inner))).collect()
}

fn in_range(table: &Table, text: &str) {
    for (key, value) in &table.entries {
        span_in_range(key.span, text);
        value_in_range(value, text);
    }
}

fn value_in_range(value: &Value, text: &str) {
    span_in_range(value.span, text);
    match &value.kind {
        ValueKind::Array(items) => items.iter().for_each(|item| value_in_range(item, text)),
        ValueKind::Table(table) => in_range(table, text),
        _ => {}
    }
}

fn span_in_range(span: Span, text: &str) {
    assert!(text.get(span.start as usize..span.end as usize).is_some(), "{span:?}");
}

fn check(text: &str) {
    match parse_toml(0, text) {
        Ok(table) => in_range(&table, text),
        Err(errors) => {
            assert!(!errors.is_empty());
            for label in errors.iter().flat_map(|error| &error.labels) {
                span_in_range(label.span, text);
            }
        }
    }
}

proptest! {
    #[test]
    fn any_text_parses_or_gives_errors_with_places_in_it(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        check(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn anything_that_looks_like_toml_does_too(text in "([a-c.=\"'\\[\\]{},#0-9 \n\u{e9}-]|stages|= 1\n|\\[a\\]\n|\\[\\[a\\]\\]\n|a = ){0,60}") {
        check(&text);
        compare(&text);
    }

    #[test]
    fn lines_in_any_order_give_what_the_toml_crate_gives(
        lines in proptest::collection::vec(prop_oneof![
            "\\[[ab](\\.[ab]){0,2}\\]",
            "\\[\\[[ab](\\.[ab]){0,2}\\]\\]",
            "[ab](\\.[abc]){0,2} = [0-9]",
            "[ab](\\.[abc]){0,2} = \\{ [ab](\\.[ab]){0,2} = 1, [ab](\\.[ab]){0,2} = \\[[12], \\{\\}\\] \\}",
        ], 0..8),
    ) {
        compare(&lines.join("\n"));
    }
}
