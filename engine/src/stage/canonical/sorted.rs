//! Sorts the keys of JSON text without making a tree of it.

/// An entry of an object that is being read, as places in what has been written of it.
struct Entry {
    start: usize,
    /// The key between its quotation marks.
    key: (usize, usize),
    end: usize,
}

/// An object or a list that is being read.
struct Open {
    /// Where its content begins.
    start: usize,
    /// The first of its entries; `None` for a list.
    entries: Option<usize>,
}

/// Appends compact JSON text to `out` with the keys of every object sorted by their bytes. `None`, and rubbish in `out`,
/// where only a tree can say what the order is: a key with an escape in it, or one that stands there twice.
pub(super) fn write_sorted(out: &mut String, text: &str) -> Option<()> {
    let bytes = text.as_bytes();
    let (mut open, mut entries): (Vec<Open>, Vec<Entry>) = (Vec::new(), Vec::new());
    let mut scratch = String::new();
    // What lies between `copied` and `at` has been read and is still to be written.
    let (mut at, mut copied, mut expects_key) = (0, 0, false);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let end = at + 1 + string_length(&bytes[at + 1..])?;
                if expects_key {
                    let start = out.len() + (at - copied);
                    if bytes[at + 1..end].contains(&b'\\') {
                        return None;
                    }
                    entries.push(Entry { start, key: (start + 1, start + end - at), end: 0 });
                    expects_key = false;
                }
                at = end;
            }
            b'{' | b'[' => {
                let is_object = *byte == b'{';
                let start = out.len() + (at + 1 - copied);
                open.push(Open { start, entries: is_object.then_some(entries.len()) });
                expects_key = is_object;
            }
            b',' if open.last()?.entries.is_some() => {
                entries.last_mut()?.end = out.len() + (at - copied);
                expects_key = true;
            }
            b'}' | b']' => {
                out.push_str(&text[copied..at]);
                copied = at;
                expects_key = false;
                let closed = open.pop()?;
                if let Some(first) = closed.entries {
                    if let Some(last) = entries[first..].last_mut() {
                        last.end = out.len();
                    }
                    sort(out, closed.start, &mut entries[first..], &mut scratch)?;
                    entries.truncate(first);
                }
            }
            _ => {}
        }
        at += 1;
    }
    out.push_str(&text[copied..]);
    Some(())
}

/// The length of a string from behind its first quotation mark to before its last.
fn string_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Brings the entries of an object whose content begins at `start` and ends with `out` into order.
fn sort(out: &mut String, start: usize, entries: &mut [Entry], scratch: &mut String) -> Option<()> {
    let key = |entry: &Entry| &out[entry.key.0..entry.key.1];
    if entries.is_sorted_by(|a, b| key(a) < key(b)) {
        return Some(());
    }
    entries.sort_unstable_by(|a, b| key(a).cmp(key(b)));
    if entries.array_windows().any(|[a, b]| key(a) == key(b)) {
        return None;
    }
    scratch.clear();
    for entry in &*entries {
        if !scratch.is_empty() {
            scratch.push(',');
        }
        scratch.push_str(&out[entry.start..entry.end]);
    }
    out.truncate(start);
    out.push_str(scratch);
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sepia_cache::canonical_json;
    use serde_json::Value;

    use super::*;

    fn sorted(text: &str) -> Option<String> {
        let mut out = "before".to_owned();
        write_sorted(&mut out, text)?;
        Some(out.strip_prefix("before").unwrap().to_owned())
    }

    #[test]
    fn keys_come_in_order_at_every_depth() {
        assert_eq!(
            sorted(r#"{"b":[{"z":1,"a":"},{\"x\":1"},[]],"a":{"d":{},"c":null}}"#).unwrap(),
            r#"{"a":{"c":null,"d":{}},"b":[{"a":"},{\"x\":1","z":1},[]]}"#
        );
        assert_eq!(sorted("[1,\"b,a\",{}]").unwrap(), "[1,\"b,a\",{}]");
    }

    #[test]
    fn what_only_a_tree_can_order_is_left_to_one() {
        assert_eq!(sorted(r#"{"a\n":1}"#), None);
        assert_eq!(sorted(r#"{"b":1,"a":1,"b":2}"#), None);
        assert_eq!(sorted(r#"{"b":1,"b":2}"#), None);
    }

    /// Text with its keys in the order in which they stand in these lists.
    fn text() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            any::<f64>().prop_map(|x| Value::from(x).to_string()),
            ".*".prop_map(|x: String| Value::from(x).to_string())
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            let list =
                proptest::collection::vec(inner.clone(), 0..5).prop_map(|items| format!("[{}]", items.join(",")));
            let object = proptest::collection::vec((".*", inner), 0..6).prop_map(|entries| {
                let entries: Vec<String> =
                    entries.into_iter().map(|(key, inner)| format!("{}:{inner}", Value::from(key))).collect();
                format!("{{{}}}", entries.join(","))
            });
            prop_oneof![list, object]
        })
    }

    proptest! {
        #[test]
        fn it_is_the_canonical_form_of_the_tree(text in text()) {
            let tree: Value = serde_json::from_str(&text).unwrap();
            if let Some(sorted) = sorted(&text) {
                prop_assert_eq!(sorted, canonical_json(&tree));
            }
        }
    }
}
