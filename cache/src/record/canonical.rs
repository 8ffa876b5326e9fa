//! JSON in its canonical form: keys sorted by their bytes at every depth, no white space.
//!
//! Written out here because `serde_json`'s maps keep the order of insertion as soon as any crate of the build asks for
//! it. Numbers and strings are written as `serde_json` writes them (shortest digits that read back to the same number).

use serde_json::Value;

/// The canonical text of a value.
#[must_use]
pub(crate) fn to_string(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => text.push_str(&value.to_string()),
        Value::Array(items) => {
            text.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                write(item, text);
            }
            text.push(']');
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by(|a, b| a.0.cmp(b.0));
            text.push('{');
            for (i, (name, item)) in entries.into_iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(name.as_str()).to_string());
                text.push(':');
                write(item, text);
            }
            text.push('}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    use crate::test_support::any_json;

    #[test]
    fn keys_are_sorted_at_every_depth() {
        let value = json!({"b": [1, 1.0, {"z": null, "a": "\"\u{1}é"}], "a": true, "": -0.5});
        assert_eq!(to_string(&value), r#"{"":-0.5,"a":true,"b":[1,1.0,{"a":"\"\u0001é","z":null}]}"#);
    }

    proptest! {
        #[test]
        fn reading_and_writing_again_changes_nothing(value in any_json()) {
            let text = to_string(&value);
            let read: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(to_string(&read), text);
        }
    }
}
