//! Push and pull: what one side lacks, at once on several threads, and nothing believed before it is hashed.
//!
//! # Push
//!
//! Objects first, then one bundle of records that names them: whoever sees a record can fetch its outputs. Each object is
//! hashed while it is read; one that is damaged here stops before it is visible there. What the remote has is found by
//! name and size.
//!
//! # Pull
//!
//! Bundles first: their records are checked and merged ([`crate::merge`]). Then the outputs that are wanted, each into
//! `cache/incoming/<digest>/`, where the next pull goes on if this one is interrupted at any byte. What a listing says
//! bounds how much is written, so nothing can unpack to more than its record says. Only a digest that fits moves it into
//! the store.

mod bundle;
mod copy;
mod fetch;
mod parts;
mod pull;
mod push;
mod send;
#[cfg(test)]
mod tests;
mod work;

use std::collections::BTreeSet;

pub use pull::Pulled;
pub use push::Pushed;
pub use work::Progress;

use crate::digest::Digest;
use crate::object::ObjectRef;
use crate::record::{Outcome, Record};

/// Which outputs go along with records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outputs {
    /// All.
    #[default]
    All,
    /// Those on ports named `model`.
    Models,
    /// None: figures and provenance only.
    None,
}

/// What to push or pull.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct What {
    /// Only what these runs used or made (ids).
    pub runs: BTreeSet<String>,
    /// Only what was made for these nodes: names, also without the `[...]` of a sweep.
    pub nodes: BTreeSet<String>,
    /// Which outputs.
    pub outputs: Outputs,
}

impl What {
    /// Whether a record is meant. `of_runs` holds the keys of the runs' plans.
    fn means(&self, record: &Record, of_runs: &BTreeSet<Digest>) -> bool {
        let by_run = self.runs.is_empty() || self.runs.contains(&record.run) || of_runs.contains(&record.key);
        let base = record.node.split('[').next().unwrap_or_default();
        let by_node = self.nodes.is_empty() || self.nodes.contains(&record.node) || self.nodes.contains(base);
        by_run && by_node
    }

    fn is_all(&self) -> bool {
        self.runs.is_empty() && self.nodes.is_empty()
    }

    /// The outputs of a record that are meant.
    fn outputs_of(&self, record: &Record) -> Vec<ObjectRef> {
        if record.outcome != Outcome::Done {
            return Vec::new();
        }
        let wanted = record.outputs.iter().filter(|output| match self.outputs {
            Outputs::All => true,
            Outputs::Models => output.port == "model",
            Outputs::None => false,
        });
        wanted.map(|output| output.object).collect()
    }
}

/// Where the bytes of an object are on a remote, without the ending that says how they are packed.
fn object_name(object: &ObjectRef) -> String {
    use crate::layout::Layout;
    let place = Layout::in_objects(&object.digest);
    match object.kind {
        crate::object::ObjectKind::File => format!("objects/{place}"),
        crate::object::ObjectKind::Tree => format!("trees/{place}.pack"),
    }
}

/// Where the listing of a tree is on a remote.
fn listing_name(digest: &Digest) -> String {
    format!("trees/{}.json", crate::layout::Layout::in_objects(digest))
}

/// The ending of what is compressed.
const ZST: &str = ".zst";
