//! JSON in its canonical form, for digests: keys sorted by their bytes at every depth, no white space.
//!
//! Written out here because `serde_json`'s maps keep the order of insertion as soon as any crate of the build asks for
//! it. Numbers and strings are written as `serde_json` writes them (shortest digits that read back to the same number).
//! Records are identified by this form, and so are the keys of stages: it never changes.

use std::fmt::Write as _;

use serde_json::Value;

/// The canonical text of a value.
#[must_use]
pub fn canonical_json(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(&mut text, value);
    text
}

/// Appends the canonical text of a value.
fn write_canonical(text: &mut String, value: &Value) {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(flag) => text.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => {
            // Into a string: it cannot fail.
            let _ = write!(text, "{number}");
        }
        Value::String(string) => write_canonical_text(text, string),
        Value::Array(items) => {
            text.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                write_canonical(text, item);
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
                write_canonical_text(text, name);
                text.push(':');
                write_canonical(text, item);
            }
            text.push('}');
        }
    }
}

/// Appends the canonical text of a string.
pub fn write_canonical_text(text: &mut String, string: &str) {
    if string.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        // Most are plain, and there are many.
        text.push('"');
        text.push_str(string);
        text.push('"');
    } else {
        text.push_str(&Value::from(string).to_string());
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
        assert_eq!(canonical_json(&value), r#"{"":-0.5,"a":true,"b":[1,1.0,{"a":"\"\u0001é","z":null}]}"#);
    }

    proptest! {
        #[test]
        fn text_is_written_as_serde_json_writes_it(string in any::<String>()) {
            let mut text = String::new();
            write_canonical_text(&mut text, &string);
            prop_assert_eq!(text, serde_json::to_string(&string).unwrap());
        }

        #[test]
        fn numbers_are_written_as_serde_json_writes_them(float in any::<f64>(), whole in any::<i64>()) {
            for number in [Value::from(float), Value::from(whole)] {
                prop_assert_eq!(canonical_json(&number), serde_json::to_string(&number).unwrap());
            }
        }

        #[test]
        fn reading_and_writing_again_changes_nothing(value in any_json()) {
            let text = canonical_json(&value);
            let read: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(canonical_json(&read), text);
        }
    }
}
