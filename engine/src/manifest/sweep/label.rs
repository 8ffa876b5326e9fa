//! What a value is called in the name of a cell.

use crate::value::{Key, Table, Value, ValueKind};

/// Longest text of a value within a name, in characters.
const MAX_TEXT: usize = 60;

/// The label of a value on an axis whose short name is `prefix`.
pub(super) fn label(prefix: &str, value: &Value) -> String {
    match &value.kind {
        ValueKind::Table(table) => match table.get("name").and_then(Value::as_str) {
            Some(name) => clean(name),
            None => format!("{}={}", clean(prefix), text(value)),
        },
        _ => format!("{}={}", clean(prefix), text(value)),
    }
}

fn text(value: &Value) -> String {
    match &value.kind {
        ValueKind::String(text) | ValueKind::Datetime(text) => clean(text),
        ValueKind::Integer(number) => number.to_string(),
        ValueKind::Float(number) => format!("{number:?}"),
        ValueKind::Boolean(flag) => flag.to_string(),
        ValueKind::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(";"),
        ValueKind::Table(table) => entries(table),
    }
}

fn entries(table: &Table) -> String {
    let entries: Vec<String> =
        table.entries.iter().map(|(key, value)| format!("{}:{}", clean(&key.name), text(value))).collect();
    entries.join(";")
}

/// Without the characters that mean something in a reference, a path or a shell.
fn clean(text: &str) -> String {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | ':' | '@' | '%');
    let short = text.chars().take(MAX_TEXT);
    let clean: String = short.map(|c| if fits(c) { c } else { '_' }).collect();
    if clean.is_empty() { "_".to_owned() } else { clean }
}

/// Whether a value is meant by another: equal, its name or label, or a table that is part of it.
pub(super) fn selects(given: &Value, value: &Value, label: &str) -> bool {
    match (&given.kind, &value.kind) {
        (ValueKind::String(text), _) if text == label => true,
        (ValueKind::String(text), ValueKind::Table(table)) => table.get("name").and_then(Value::as_str) == Some(text),
        (ValueKind::Table(part), ValueKind::Table(whole)) => {
            part.entries.iter().all(|(key, inner)| whole.get(&key.name).is_some_and(|other| selects(inner, other, "")))
        }
        _ => equal(given, value),
    }
}

/// Equal as people see it: places do not count, nor whether a whole number has a fraction.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    match (&a.kind, &b.kind) {
        #[expect(clippy::cast_precision_loss, reason = "what differs beyond 2^53 is told apart as whole numbers")]
        (ValueKind::Integer(a), ValueKind::Float(b)) | (ValueKind::Float(b), ValueKind::Integer(a)) => *a as f64 == *b,
        (ValueKind::Array(a), ValueKind::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (ValueKind::Table(a), ValueKind::Table(b)) => {
            let within = |(key, value): &(Key, Value)| b.get(&key.name).is_some_and(|other| equal(value, other));
            a.entries.len() == b.entries.len() && a.entries.iter().all(within)
        }
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        crate::value::parse_toml(0, &format!("x = {text}")).unwrap().entries.remove(0).1
    }

    #[test]
    fn labels_are_short_and_safe() {
        for (text, expected) in [
            ("3", "lr=3"),
            ("0.003", "lr=0.003"),
            ("1e-7", "lr=1e-7"),
            ("1.0", "lr=1.0"),
            ("true", "lr=true"),
            ("'a/b, [c]'", "lr=a_b___c_"),
            ("''", "lr=_"),
            ("[0.9, 0.95]", "lr=0.9;0.95"),
            ("{ name = 'galore', rank = 4 }", "galore"),
            ("{ rank = 4, b = [1] }", "lr=rank:4;b:1"),
        ] {
            assert_eq!(label("lr", &value(text)), expected);
        }
        assert_eq!(label("p", &value(&format!("'{}'", "a".repeat(100)))).len(), 62);
    }

    #[test]
    fn a_value_is_selected_by_what_it_is_or_is_called() {
        let galore = value("{ name = 'galore', rank = 4 }");
        for given in ["'galore'", "{ rank = 4.0 }", "{ name = 'galore', rank = 4 }"] {
            assert!(selects(&value(given), &galore, "galore"), "{given}");
        }
        for given in ["'full'", "{ rank = 5 }", "{ x = 1 }", "4"] {
            assert!(!selects(&value(given), &galore, "galore"), "{given}");
        }
        assert!(selects(&value("1"), &value("1.0"), "lr=1.0"));
        assert!(!selects(&value("[1]"), &value("[1, 2]"), ""));
        assert!(equal(&value("{ a = 1, b = [2] }"), &value("{ b = [2.0], a = 1 }")));
        assert!(!equal(&value("'1'"), &value("1")));
    }
}
