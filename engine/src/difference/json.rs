//! Two texts in JSON: the first place, by JSON Pointer, at which they differ.

use serde_json::Value;

/// `None` if one of them is no JSON object or list, or only its white space differs.
pub(super) fn difference(before: &[u8], after: &[u8]) -> Option<String> {
    let read = |bytes: &[u8]| {
        let value = serde_json::from_slice::<Value>(bytes).ok()?;
        (value.is_object() || value.is_array()).then_some(value)
    };
    first("", &read(before)?, &read(after)?)
}

fn first(place: &str, before: &Value, after: &Value) -> Option<String> {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            // Both are sorted by key, or in the order of their text: the one before first, then what is new.
            let known = before.iter().find_map(|(key, value)| {
                let place = format!("{place}/{}", key.replace('~', "~0").replace('/', "~1"));
                match after.get(key) {
                    Some(now) => first(&place, value, now),
                    None => Some(format!("{place}: {} before, missing now", shown(value))),
                }
            });
            known.or_else(|| {
                let (key, value) = after.iter().find(|(key, _)| !before.contains_key(*key))?;
                Some(format!("{place}/{key}: not there before, {} now", shown(value)))
            })
        }
        (Value::Array(before), Value::Array(after)) => {
            let mut pairs = before.iter().zip(after).enumerate();
            pairs.find_map(|(at, (a, b))| first(&format!("{place}/{at}"), a, b)).or_else(|| {
                let (was, is) = (before.len(), after.len());
                (was != is).then(|| format!("{place}: {was} entries before, {is} now"))
            })
        }
        (before, after) if before == after => None,
        (before, after) => Some(format!("{place}: {} before, {} now", shown(before), shown(after))),
    }
}

fn shown(value: &Value) -> String {
    super::text::shortened(&value.to_string())
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn the_first_place_is_named() {
        let of = |a: &str, b: &str| difference(a.as_bytes(), b.as_bytes());
        let is = |a, b, expected: &str| assert_eq!(of(a, b).as_deref(), Some(expected));
        is(r#"{"a": {"b/c": 1}}"#, r#"{"a": {"b/c": 2}}"#, "/a/b~1c: 1 before, 2 now");
        is(r#"[1, 2]"#, r#"[1, 2, 3]"#, ": 2 entries before, 3 now");
        is(r#"{"a": 1}"#, r#"{"b": 1}"#, "/a: 1 before, missing now");
        is(r#"{"a": 1}"#, r#"{"a": 1, "b": "x"}"#, "/b: not there before, \"x\" now");
        assert_eq!(of(r#"{"a": 1}"#, r#"{ "a": 1 }"#), None);
        assert_eq!(of("1", "2"), None);
        assert_eq!(of("x", r#"{"a": 1}"#), None);
    }
}
