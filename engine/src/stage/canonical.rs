//! Typed values as JSON with their defaults filled in: two ways to write one meaning become equal here.

use std::{
    cell::RefCell,
    io,
    sync::{Arc, OnceLock},
};

use serde::{Serialize, ser::Error as _};
use serde_json::{
    Serializer, Value,
    ser::{CompactFormatter, Formatter},
};

/// Parameters or knobs in their canonical form.
///
/// They are written as text when a plan is made, and read back as a tree once somebody asks for it. A plan makes many
/// more nodes than it looks into: as a tree, the parameters of one training are a hundred allocations.
#[derive(Debug, Clone)]
pub struct Canonical(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    text: Box<str>,
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
            let text = std::str::from_utf8(buffer).map_err(serde_json::Error::custom)?.into();
            Ok(Self(Arc::new(Inner { text, tree: OnceLock::new() })))
        })
    }

    /// As a tree.
    #[must_use]
    #[expect(clippy::expect_used, reason = "serde_json wrote it, and no manifest is as deep as its reader goes")]
    pub fn tree(&self) -> &Arc<Value> {
        self.0.tree.get_or_init(|| Arc::new(serde_json::from_str(&self.0.text).expect("what serde_json wrote")))
    }

    /// Whether it may name files outside the store; if not, nobody needs to look.
    pub(crate) fn may_name_files(&self) -> bool {
        let named = |(at, mark): (usize, &str)| !self.0.text[at + mark.len()..].starts_with(']');
        self.0.text.match_indices(MARKED).any(named)
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
            prop_assert_eq!(&**canonical.tree(), &serde_json::to_value(&typed).unwrap());
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
