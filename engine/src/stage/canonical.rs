//! Typed values as JSON with their defaults filled in: two ways to write one meaning become equal here.

mod sorted;

use std::{
    cell::RefCell,
    io,
    sync::{Arc, OnceLock},
};

use sepia_cache::canonical_json;
use serde::{Deserialize, Deserializer, Serialize, ser::Error as _};
use serde_json::{
    Serializer, Value,
    ser::{CompactFormatter, Formatter},
};
use sorted::write_sorted;

/// Parameters or knobs in their canonical form.
///
/// They are written as text when a plan is made, in the order of their type, and brought into the order of the keys, or read
/// back as a tree, once somebody asks. A plan makes many more nodes than it looks into: as a tree, the parameters of one
/// training are a hundred allocations. Two are equal if their canonical texts are; in a document they stand as the tree.
#[derive(Debug, Clone)]
pub struct Canonical(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    written: Box<str>,
    text: OnceLock<Box<str>>,
    tree: OnceLock<Arc<Value>>,
}

impl Canonical {
    /// The canonical form of a typed value.
    ///
    /// # Errors
    /// For what JSON cannot say, such as a map whose keys are no text.
    pub fn of(typed: &impl Serialize) -> serde_json::Result<Self> {
        thread_local! {
            /// One for all, so that none is moved while it grows.
            static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        BUFFER.with_borrow_mut(|buffer| {
            buffer.clear();
            typed.serialize(&mut Serializer::with_formatter(&mut *buffer, AsTree))?;
            let written = std::str::from_utf8(buffer).map_err(serde_json::Error::custom)?.into();
            Ok(Self(Arc::new(Inner { written, text: OnceLock::new(), tree: OnceLock::new() })))
        })
    }

    /// As [canonical text](canonical_json).
    #[must_use]
    pub fn text(&self) -> &str {
        self.0.text.get_or_init(|| {
            let mut text = String::with_capacity(self.0.written.len());
            match write_sorted(&mut text, &self.0.written) {
                Some(()) => text.into(),
                None => canonical_json(self.tree()).into(),
            }
        })
    }

    /// As a tree.
    #[must_use]
    #[expect(clippy::expect_used, reason = "serde_json wrote it, and no manifest is as deep as its reader goes")]
    pub fn tree(&self) -> &Arc<Value> {
        self.0.tree.get_or_init(|| Arc::new(serde_json::from_str(&self.0.written).expect("what serde_json wrote")))
    }

    /// Whether it may name files outside the store; if not, nobody needs to look.
    pub(crate) fn may_name_files(&self) -> bool {
        let named = |(at, mark): (usize, &str)| !self.0.written[at + mark.len()..].starts_with(']');
        self.0.written.match_indices(MARKED).any(named)
    }
}

impl From<Value> for Canonical {
    fn from(tree: Value) -> Self {
        let (written, tree) = (canonical_json(&tree).into(), OnceLock::from(Arc::new(tree)));
        Self(Arc::new(Inner { written, text: OnceLock::new(), tree }))
    }
}

impl PartialEq for Canonical {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Serialize for Canonical {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.tree().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Canonical {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::from)
    }
}

/// How [`MARK`](super::input_files::MARK) stands in a text. A quotation mark in a value has a backslash before it.
const MARKED: &str = "$input\":[";

/// Writes numbers as [`serde_json::to_value`] keeps them: one of 32 bits is as long as it is in 64 bits. Keys are made of
/// this, and must not change.
struct AsTree;

impl Formatter for AsTree {
    fn write_f32<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f32) -> io::Result<()> {
        CompactFormatter.write_f64(writer, f64::from(value))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Clone, Serialize)]
    struct Typed {
        zeta: f32,
        alpha: f64,
        many: Vec<i64>,
        map: BTreeMap<String, u64>,
        none: Option<bool>,
    }

    proptest! {
        /// Keys that were made before the text was are still found.
        #[test]
        fn the_tree_is_what_serde_makes_of_the_typed_value(
            zeta in any::<f32>(),
            alpha in any::<f64>(),
            many in proptest::collection::vec(any::<i64>(), 0..4),
            map in proptest::collection::btree_map(".*", any::<u64>(), 0..4),
            none in any::<Option<bool>>(),
        ) {
            let typed = Typed { zeta, alpha, many, map, none };
            let canonical = Canonical::of(&typed).unwrap();
            let tree = serde_json::to_value(&typed).unwrap();
            prop_assert_eq!(&**canonical.tree(), &tree);
            prop_assert_eq!(canonical.text(), canonical_json(&tree));
        }
    }

    #[test]
    fn a_value_as_deep_as_a_manifest_can_be_is_read_back() {
        let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
        assert_eq!(**Canonical::of(&deep).unwrap().tree(), deep);
    }

    #[test]
    fn files_are_seen_in_the_text() {
        let may_name = |value: Value| Canonical::of(&value).unwrap().may_name_files();
        assert!(may_name(json!({"a": [{ super::super::input_files::MARK: ["text.txt"] }]})));
        assert!(!may_name(json!({"a": { super::super::input_files::MARK: [] }})));
        assert!(!may_name(json!({"a": "\"$input\":[\"text.txt\"]"})));
    }
}
