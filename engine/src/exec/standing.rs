//! What a run leaves behind that had nothing left to do: how the next one knows, without making the plan again, that
//! nothing has changed.
//!
//! A plan is a function of what [`Basis`] lists: the texts, the words of the command line, the program, the machine's GPUs,
//! and of the files that parameters name. The keys and outputs of its nodes are a function of the plan, of the content of
//! those files and of what the store has for each key. So where all of these are what they were, the run would come to the
//! same end: everything is cached. [`Standing::holds`] checks just that: every text and file by its digest, every key by
//! looking it up as a run does. The slightest difference, or a doubt, and the manifest is planned as ever; nothing is
//! ever run, or not run, because of what stands here alone. It lies in the store's `cache/`, where all can be lost
//! without loss.
//!
//! Planning 5,000 stages and making their keys takes a tenth of a second; checking that nothing changed a tenth of that.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io::Write as _,
    os::unix::fs::MetadataExt as _,
};

use camino::{Utf8Path, Utf8PathBuf};
use sepia_cache::{Digest, FileDigests, Store};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    keys::{KeyError, NodeOutputs},
    lookup::Lookup,
    slots,
};
use crate::{
    graph::NodeId,
    key::StageKey,
    plan::{Plan, content_of, external_files},
    stage::Written,
};

/// How many are kept in a store; another manifest or command line that falls on the same number takes the place.
const KEPT: u8 = 64;
/// How many names an event lists of many cached nodes.
pub(super) const LISTED: usize = 20;

const SEAL: &str = "sepia standing seal v1";

/// What a plan is made from, beside the files that its parameters name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basis {
    /// The words of the command line.
    asked: String,
    /// The manifest's folder, absolute.
    folder: Utf8PathBuf,
    /// Which program: what plans, and with it the stage kinds, come from.
    program: String,
    /// The GPUs of this machine: `auto` depends on them.
    devices: Vec<String>,
    /// The manifest and what it extends, with their digests.
    texts: Vec<(Utf8PathBuf, Digest)>,
}

impl Basis {
    /// The basis of a plan that was just made. `asked` tells apart whatever else shapes it.
    #[must_use]
    pub fn new(asked: String, folder: Utf8PathBuf, texts: Vec<(Utf8PathBuf, Digest)>) -> Self {
        Self { asked, folder, program: program(), devices: slots::devices_mark(), texts }
    }

    fn still_holds(&self, asked: &str, folder: &Utf8Path) -> bool {
        let same = |(path, digest): &(Utf8PathBuf, Digest)| {
            fs_err::read(path).is_ok_and(|bytes| Digest::of_bytes(&bytes) == *digest)
        };
        self.asked == asked
            && self.folder == folder
            && self.program == program()
            && self.devices == slots::devices_mark()
            && self.texts.iter().all(same)
    }
}

/// The running program, by what changes when it is built anew.
fn program() -> String {
    let stat = std::env::current_exe().and_then(fs_err::metadata);
    stat.map(|stat| format!("{} {} {} {}", stat.ino(), stat.size(), stat.mtime(), stat.mtime_nsec()))
        .unwrap_or_default()
}

/// Where a plan stood when everything of it was in the store.
#[derive(Debug, Serialize, Deserialize)]
pub struct Standing {
    basis: Basis,
    /// The files that parameters name, as written, with their content as it goes into keys.
    files: Vec<(Vec<Written>, Value)>,
    kinds: Vec<String>,
    /// Name and number of the kind of each node, in the plan's order.
    nodes: Vec<(String, usize)>,
    /// Their keys, one after another.
    keys: String,
    /// The names that an event lists.
    listed: Vec<String>,
    /// The listing of nodes and keys in the store.
    plan: Digest,
    /// Of all keys and of the outputs that the store has for them.
    seal: Digest,
}

impl Standing {
    /// What stands in `cache` for this question, if what it was made from is unchanged.
    #[must_use]
    pub fn read(cache: &Utf8Path, asked: &str, folder: &Utf8Path) -> Option<Self> {
        let bytes = fs_err::read(place(cache, asked)).ok()?;
        let (digest, text) = bytes.split_at_checked(64)?;
        let whole = Digest::of_bytes(text).to_string().as_bytes() == digest;
        let standing: Self = serde_json::from_slice(text).ok().filter(|_| whole)?;
        standing.basis.still_holds(asked, folder).then_some(standing)
    }

    /// Of a plan whose chosen nodes all have outputs. `None` where the plan has something to say each time.
    pub(super) fn of(
        plan: &Plan,
        listing: Digest,
        basis: Basis,
        digests: &FileDigests,
        of: impl Fn(NodeId) -> Option<(StageKey, NodeOutputs)>,
    ) -> Result<Option<Self>, KeyError> {
        if !plan.warnings.is_empty() {
            return Ok(None);
        }
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        let mut named: BTreeMap<Vec<Written>, Value> = BTreeMap::new();
        let (mut nodes, mut keys, mut seal) = (Vec::new(), String::new(), Seal::default());
        let mut chosen = Vec::new();
        for (id, (key, outputs)) in plan.graph.order().iter().filter_map(|id| Some((*id, of(*id)?))) {
            let node = plan.node(id);
            let next = kinds.len();
            chosen.push(id);
            nodes.push((node.name.clone(), *kinds.entry(node.entry.kind).or_insert(next)));
            keys.push_str(&key.to_string());
            seal.add(&key, &outputs);
            let files = if node.reads_files { external_files(node.params.tree()) } else { Vec::new() };
            for file in files {
                if let Entry::Vacant(place) = named.entry(file.written) {
                    let digest = |path: &Utf8Path| Ok::<_, KeyError>(digests.digest(path)?);
                    let content = content_of(place.key(), &plan.folder, digest)?;
                    place.insert(content);
                }
            }
        }
        let mut by_number: Vec<(usize, String)> = kinds.into_iter().map(|(kind, at)| (at, kind.to_owned())).collect();
        by_number.sort_unstable();
        // As a run lists them: in the order of the manifest.
        chosen.sort_unstable();
        Ok(Some(Self {
            basis,
            files: named.into_iter().collect(),
            kinds: by_number.into_iter().map(|(_, kind)| kind).collect(),
            nodes,
            keys,
            listed: chosen.iter().take(LISTED).map(|id| plan.node(*id).name.clone()).collect(),
            plan: listing,
            seal: seal.finish(),
        }))
    }

    /// Writes it down. That it cannot be written is no harm.
    pub(super) fn write(&self, cache: &Utf8Path) -> std::io::Result<()> {
        let text = serde_json::to_vec(self)?;
        let mut file = tempfile::NamedTempFile::new_in(cache)?;
        file.write_all(Digest::of_bytes(&text).to_string().as_bytes())?;
        file.write_all(&text)?;
        file.persist(place(cache, &self.basis.asked)).map_err(|error| error.error)?;
        Ok(())
    }

    /// Whether everything is still as it was: the files outside the store, and what the store has for each key.
    ///
    /// # Errors
    /// Those of the database.
    pub fn holds(&self, lookup: &Lookup) -> Result<bool, KeyError> {
        let store: &Store = lookup.store();
        let digests = store.file_digests();
        for (written, content) in &self.files {
            let now = content_of(written, &self.basis.folder, |path| Ok::<_, KeyError>(digests.digest(path)?));
            // What cannot be read is for the plan to report.
            if now.ok().as_ref() != Some(content) {
                return Ok(false);
            }
        }
        let plan = self.plan.to_string();
        if !store.query(|database| database.prepare_cached("SELECT 1 FROM plans WHERE plan = ?1")?.exists([&plan]))? {
            return Ok(false);
        }
        let mut seal = Seal::default();
        for at in (0..self.keys.len()).step_by(64) {
            let Some(Ok(key)) = self.keys.get(at..at + 64).map(str::parse::<Digest>) else { return Ok(false) };
            let Some(outputs) = lookup.find(&StageKey(key))? else { return Ok(false) };
            seal.add(&StageKey(key), &outputs);
        }
        digests.save()?;
        Ok(seal.finish() == self.seal)
    }

    /// Name and kind of each node, in the plan's order.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.nodes.iter().map(|(name, kind)| (name.as_str(), self.kinds.get(*kind).map_or("", String::as_str)))
    }

    /// The digest of the manifest's text.
    #[must_use]
    pub fn manifest_digest(&self) -> Option<Digest> {
        self.basis.texts.first().map(|(_, digest)| *digest)
    }

    pub(super) fn listed(&self) -> &[String] {
        &self.listed
    }

    pub(super) fn plan(&self) -> Digest {
        self.plan
    }
}

fn place(cache: &Utf8Path, asked: &str) -> Utf8PathBuf {
    let number = blake3::hash(asked.as_bytes()).as_bytes()[0] % KEPT;
    cache.join(format!("standing-{number}"))
}

/// A digest over keys and outputs.
#[derive(Default)]
struct Seal(Vec<u8>);

impl Seal {
    fn add(&mut self, key: &StageKey, outputs: &NodeOutputs) {
        let _ = write!(self.0, "{key} {}", outputs.len());
        for (port, object) in outputs {
            let (kind, digest) = (object.kind.as_str(), object.digest);
            let _ = write!(self.0, " {} {port} {kind} {digest} {} {}", port.len(), object.bytes, object.files);
        }
    }

    fn finish(&self) -> Digest {
        Digest::derive(SEAL, &self.0)
    }
}
