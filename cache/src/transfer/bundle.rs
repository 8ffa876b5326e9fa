//! Bundles: what one push says of records, signatures, runs, plans and tags, one a line.
//!
//! ```text
//! {"id":"<64 hex>","record":{...}}                 as in a journal
//! {"signed":"<record>","signature":["ed25519:...","<128 hex>"]}
//! {"run":{...},"nodes":[{...}]}
//! {"plan":[["node","key or empty"]]}
//! {"tag":"paper","run":"<run>","replaces":["<64 hex>"]}
//! ```
//!
//! The name says the digest and the size of the text, so nothing else is ever taken for it.
//!
//! What a newer Sepia has to say besides stands in lines of its own, that begin with none of the words above. An older one
//! leaves them out, says so, and reads the bundle again at the next pull: by then it may be up to date.

use std::collections::BTreeSet;
use std::io;

use camino::Utf8PathBuf;
use serde::Deserialize;
use serde_json::json;

use super::fetch::Limited;
use super::work::again;
use crate::database::{PlanNode, RunNode, RunRow};
use crate::digest::Digest;
use crate::error::{IoContext as _, Result};
use crate::layout::write_atomically;
use crate::merge::{Staging, check_length, refused};
use crate::record::{RecordId, journal};
use crate::remote::OpenRemote;
use crate::sign::Signature;
use crate::store::Store;
use crate::tags::TagLine;

/// A bundle is not made longer than this, and never unpacked to more.
const LONGEST: u64 = 256 << 20;
/// The longest that is read: one record may be longer than a bundle should be.
const LONGEST_READ: u64 = 1 << 30;
pub(super) const FOLDER: &str = "records";

/// A line of a bundle.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Signed { signed: RecordId, signature: Signature },
    Run { run: Box<RunRow>, nodes: Vec<RunNode> },
    Plan { plan: Vec<(String, String)> },
    Tag(TagLine),
}

/// The first words of the lines above: a line that has one of them and cannot be read is damaged.
const WORDS: [&str; 5] = ["id", "signed", "run", "plan", "tag"];

/// Whether a line says something that only a newer Sepia knows.
fn is_newer(line: &[u8]) -> bool {
    let entries: Option<serde_json::Map<_, _>> = serde_json::from_slice(line).ok();
    entries.is_some_and(|entries| !entries.is_empty() && !WORDS.iter().any(|word| entries.contains_key(*word)))
}

/// What a bundle holds, in words that are the same in every bundle: to know what need not be pushed again.
pub(super) type Marks = BTreeSet<String>;

pub(super) fn record_mark(id: &RecordId) -> String {
    id.to_string()
}

pub(super) fn run_mark(row: &RunRow) -> String {
    format!("run {} {}", row.run, row.finished_at.is_some())
}

pub(super) fn signature_mark(record: &RecordId, signature: &Signature) -> String {
    format!("signed {record} {}", signature.signer)
}

pub(super) fn tag_mark(line: &TagLine) -> String {
    format!("tag {}", line.id())
}

/// A bundle that is being written.
#[derive(Default)]
pub(super) struct Writing {
    text: Vec<u8>,
}

impl Writing {
    pub(super) fn record(&mut self, id: &RecordId, canonical: &str) {
        self.text.extend_from_slice(journal::line(id, canonical).as_bytes());
    }

    pub(super) fn signature(&mut self, record: &RecordId, signature: &Signature) {
        self.value(&json!({ "signed": record, "signature": signature }));
    }

    pub(super) fn run(&mut self, row: &RunRow, nodes: &[RunNode]) {
        self.value(&json!({ "run": row, "nodes": nodes }));
    }

    pub(super) fn plan(&mut self, nodes: &[PlanNode]) {
        let pairs = nodes.iter().map(|node| (&node.node, node.key.map(|key| key.to_string()).unwrap_or_default()));
        self.value(&json!({ "plan": pairs.collect::<Vec<_>>() }));
    }

    pub(super) fn tag(&mut self, line: &TagLine) {
        self.value(&json!(line));
    }

    fn value(&mut self, value: &serde_json::Value) {
        self.text.extend_from_slice(value.to_string().as_bytes());
        self.text.push(b'\n');
    }

    pub(super) fn is_full(&self) -> bool {
        self.text.len() as u64 > LONGEST
    }

    /// Puts it on the remote, if it holds anything.
    pub(super) fn put(self, to: &OpenRemote) -> Result<()> {
        if self.text.is_empty() {
            return Ok(());
        }
        let name = format!("{FOLDER}/{}-{}.jsonl.zst", Digest::of_bytes(&self.text), self.text.len());
        let put = zstd::bulk::compress(&self.text, 3)
            .and_then(|packed| again(|| to.remote.put(&name, &mut packed.as_slice())));
        to.at(|| format!("take {name}"), put)
    }
}

/// The bundles on a remote, sorted; what has another name is none.
pub(super) fn list(from: &OpenRemote) -> Result<Vec<String>> {
    let listed = from.at(|| "list its records".to_owned(), again(|| from.remote.list(FOLDER)))?;
    let names = listed.into_iter().map(|listed| listed.name);
    let mut names: Vec<String> = names.filter(|name| parse_name(name).is_some()).collect();
    names.sort_unstable();
    Ok(names)
}

/// The digest and the size of the text that a name promises.
fn parse_name(name: &str) -> Option<(Digest, u64)> {
    let (digest, bytes) = name.strip_prefix("records/")?.strip_suffix(".jsonl.zst")?.split_once('-')?;
    Some((digest.parse().ok()?, bytes.parse().ok()?))
}

/// Fetches a bundle's text and checks it.
fn fetch(from: &OpenRemote, name: &str) -> Result<Vec<u8>> {
    let wrong = |why: String| refused(&format!("{name} on the remote {}", from.remote.address()), why);
    let Some((digest, bytes)) = parse_name(name) else { return Err(wrong("it is no name of a bundle".to_owned())) };
    if bytes > LONGEST_READ {
        return Err(wrong(format!("it says that it has {bytes} bytes")));
    }
    let read = again(|| {
        // What is compressed is never much longer than what it was made of.
        let mut packed = Limited { bytes: Vec::new(), limit: bytes + (bytes >> 3) + (1 << 16) };
        from.remote.read(name, 0, &mut packed)?;
        Ok(packed.bytes)
    });
    let packed = match read {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(wrong(error.to_string())),
        other => from.at(|| format!("give {name}"), other)?,
    };
    let capacity = usize::try_from(bytes).unwrap_or(usize::MAX);
    let text =
        zstd::bulk::decompress(&packed, capacity).map_err(|error| wrong(format!("it cannot be unpacked: {error}")))?;
    if text.len() != capacity || Digest::of_bytes(&text) != digest {
        return Err(wrong("its text is not what its name says".to_owned()));
    }
    Ok(text)
}

impl Store {
    /// What the remote's bundles hold. Those that are not known yet are fetched.
    pub(super) fn remote_marks(&self, remote: &OpenRemote) -> Result<Marks> {
        let names = list(remote)?;
        let mut marks = Marks::new();
        for name in names {
            let path = self.marks_path(remote, &name);
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(_) => {
                    let text = marks_of(&fetch(remote, &name)?);
                    self.write_marks(&path, &text)?;
                    text
                }
            };
            marks.extend(text.lines().map(str::to_owned));
        }
        Ok(marks)
    }

    /// Takes what the bundles of a remote have that is not here; each bundle once, but those with lines that only a newer
    /// Sepia can read.
    pub(super) fn take_bundles(&self, remote: &OpenRemote, staging: &mut Staging<'_>) -> Result<Vec<Utf8PathBuf>> {
        let trust = if remote.config.trust { "trusted" } else { "taken" };
        let mut done = Vec::new();
        for name in list(remote)? {
            let marks = self.marks_path(remote, &name);
            let taken = Utf8PathBuf::from(format!("{marks}.{trust}"));
            if taken.exists() {
                continue;
            }
            let text = fetch(remote, &name)?;
            let newer = staging.newer();
            take(&text, staging, &format!("{name} on the remote {}", remote.remote.address()))?;
            if staging.newer() > newer {
                continue;
            }
            if !marks.exists() {
                self.write_marks(&marks, &marks_of(&text))?;
            }
            done.push(taken);
        }
        Ok(done)
    }

    fn marks_path(&self, remote: &OpenRemote, name: &str) -> Utf8PathBuf {
        let file = name.rsplit('/').next().unwrap_or(name);
        self.cache_dir().join("remotes").join(remote.config.id.short()).join(file)
    }

    fn write_marks(&self, path: &Utf8PathBuf, text: &str) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).at("make", folder)?;
        }
        write_atomically(path, text.as_bytes())
    }
}

/// The marks of a bundle's lines; of lines that cannot be read, none.
fn marks_of(text: &[u8]) -> String {
    let mut marks = String::new();
    for line in text.split(|byte| *byte == b'\n') {
        let mark = match journal::parse(line) {
            journal::Parsed::Record(id, _) => Some(record_mark(&id)),
            _ => match serde_json::from_slice(line) {
                Ok(Line::Signed { signed, signature }) => Some(signature_mark(&signed, &signature)),
                Ok(Line::Run { run, .. }) => Some(run_mark(&run)),
                Ok(Line::Tag(line)) => Some(tag_mark(&line)),
                Ok(Line::Plan { .. }) | Err(_) => None,
            },
        };
        if let Some(mark) = mark {
            marks.push_str(&mark);
            marks.push('\n');
        }
    }
    marks
}

/// Shows every line to the staging, which refuses what is not right.
pub(super) fn take(text: &[u8], staging: &mut Staging<'_>, name: &str) -> Result<()> {
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match journal::parse(line) {
            journal::Parsed::Record(id, record) => staging.record(&id, &record)?,
            journal::Parsed::Newer => staging.count_newer(),
            journal::Parsed::Unreadable => {
                check_length(line.len()).map_err(|why| refused(name, why))?;
                match serde_json::from_slice(line) {
                    Ok(Line::Signed { signed, signature }) => staging.signature(signed, signature)?,
                    Ok(Line::Run { run, nodes }) => staging.run(*run, nodes)?,
                    Ok(Line::Plan { plan }) => {
                        let node = |(node, key): (String, String)| PlanNode { node, key: key.parse().ok() };
                        staging.plan(plan.into_iter().map(node).collect())?;
                    }
                    Ok(Line::Tag(line)) => staging.tag(line)?,
                    Err(_) if is_newer(line) => staging.count_newer(),
                    Err(_) => return Err(refused(name, "a line is neither a record nor anything else that is known")),
                }
            }
        }
    }
    Ok(())
}

/// Writes down that bundles were taken.
pub(super) fn mark_taken(taken: &[Utf8PathBuf]) -> Result<()> {
    taken.iter().try_for_each(|path| write_atomically(path, b""))
}
