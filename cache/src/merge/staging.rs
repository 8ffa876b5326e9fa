//! Gathering what is new, checked, and making it ours as a whole. See the head of [`super`].

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};

use camino::Utf8PathBuf;
use rusqlite::TransactionBehavior;

use super::Merged;
use super::check::{check, check_text};
use crate::database::{JournalMark, PlanNode, RunNode, RunRow, insert_run_nodes};
use crate::digest::Digest;
use crate::error::{IoContext as _, Result, StoreError};
use crate::layout::{check_name, unique_sibling};
use crate::record::{Record, RecordId, journal};
use crate::sign::Signature;
use crate::store::Store;
use crate::tags::TagLine;

/// How many records one transaction inserts: others who write get their turn in between.
const BATCH: usize = 256;

/// What is to be taken from one source.
pub(crate) struct Staging<'s> {
    store: &'s Store,
    source: String,
    trusted: bool,
    /// Records that need not be written: here already, or met before.
    known: HashSet<Digest>,
    path: Utf8PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    signatures: Vec<(RecordId, Signature)>,
    runs: Vec<(RunRow, Vec<RunNode>)>,
    plans: Vec<Vec<PlanNode>>,
    tags: Vec<TagLine>,
    merged: Merged,
    published: bool,
}

/// The error for something that is wrong with a source.
pub(crate) fn refused(source: &str, why: impl Into<String>) -> StoreError {
    StoreError::Refused { source_name: source.to_owned(), why: why.into() }
}

impl<'s> Staging<'s> {
    /// Begins to gather. `trusted`: what comes counts as results without a signature.
    pub(crate) fn begin(store: &'s Store, source: &str, trusted: bool) -> Result<Self> {
        let place = store.layout.folder("records").join("import");
        store.writable("write", &place)?;
        // What is here untrusted is taken again if it is trusted now.
        let known = store.database.with(|connection| {
            let sql = "SELECT record FROM executions EXCEPT SELECT record FROM imports WHERE trusted < ?";
            connection.prepare(sql)?.query_map([trusted], |row| crate::database::digest(row, 0))?.collect()
        })?;
        let path = unique_sibling(&place);
        let file = BufWriter::with_capacity(1 << 20, File::create(&path).at("write", &path)?);
        Ok(Self {
            store,
            source: source.to_owned(),
            trusted,
            known,
            path,
            file,
            hasher: blake3::Hasher::new(),
            signatures: Vec::new(),
            runs: Vec::new(),
            plans: Vec::new(),
            tags: Vec::new(),
            merged: Merged::default(),
            published: false,
        })
    }

    /// Whether a record need not be shown to [`Staging::record`].
    pub(crate) fn knows(&self, id: &RecordId) -> bool {
        self.known.contains(&id.0)
    }

    /// Takes a record that is known already, for the count.
    pub(crate) fn count_known(&mut self) {
        self.merged.known += 1;
    }

    /// Leaves out a record, or a line, that a newer Sepia wrote.
    pub(crate) fn count_newer(&mut self) {
        self.merged.newer += 1;
    }

    /// How many were left out until now.
    pub(crate) fn newer(&self) -> u64 {
        self.merged.newer
    }

    /// Takes a record.
    pub(crate) fn record(&mut self, id: &RecordId, record: &Record) -> Result<()> {
        if !self.known.insert(id.0) {
            self.merged.known += 1;
            return Ok(());
        }
        let canonical = check(id, record).map_err(|why| refused(&self.source, why))?;
        let line = journal::line(id, &canonical);
        self.hasher.update(line.as_bytes());
        self.merged.records += 1;
        self.file.write_all(line.as_bytes()).at("write", &self.path)
    }

    /// Takes a signature; one that is not good is an attempt to deceive.
    pub(crate) fn signature(&mut self, record: RecordId, signature: Signature) -> Result<()> {
        if !signature.is_good(&record) {
            let why = format!("the signature of {} under record {} is not good", signature.signer, record.0.short());
            return Err(refused(&self.source, why));
        }
        self.signatures.push((record, signature));
        Ok(())
    }

    /// Takes what is known of a run.
    pub(crate) fn run(&mut self, row: RunRow, nodes: Vec<RunNode>) -> Result<()> {
        let wrong = |why: String| refused(&self.source, why);
        check_name("run id", &row.run).map_err(|error| wrong(error.to_string()))?;
        for text in nodes.iter().map(|node| &node.node).chain([&row.manifest]).chain(&row.outcome) {
            check_text(text).map_err(wrong)?;
        }
        if nodes.iter().any(|node| node.run != row.run) {
            return Err(wrong(format!("run {} has nodes of another run", row.run)));
        }
        self.runs.push((row, nodes));
        Ok(())
    }

    /// Takes a plan.
    pub(crate) fn plan(&mut self, nodes: Vec<PlanNode>) -> Result<()> {
        for node in &nodes {
            check_text(&node.node).map_err(|why| refused(&self.source, why))?;
        }
        self.plans.push(nodes);
        Ok(())
    }

    /// Takes what somebody said about a tag.
    pub(crate) fn tag(&mut self, line: TagLine) -> Result<()> {
        line.check().map_err(|why| refused(&self.source, why))?;
        self.tags.push(line);
        Ok(())
    }

    /// Makes it ours.
    pub(crate) fn publish(mut self) -> Result<Merged> {
        self.file.flush().at("write", &self.path)?;
        if self.merged.records > 0 {
            self.publish_records()?;
        }
        let known: HashSet<Digest> = self.store.database.with(|connection| {
            connection
                .prepare("SELECT record FROM executions")?
                .query_map([], |row| crate::database::digest(row, 0))?
                .collect()
        })?;
        let had: HashSet<(Digest, String)> = self.store.database.with(|connection| {
            connection
                .prepare("SELECT record, signer FROM signatures")?
                .query_map([], |row| Ok((crate::database::digest(row, 0)?, row.get(1)?)))?
                .collect()
        })?;
        let is_new = |(record, signature): &(RecordId, Signature)| {
            known.contains(&record.0) && !had.contains(&(record.0, signature.signer.to_string()))
        };
        let signatures: Vec<_> = std::mem::take(&mut self.signatures).into_iter().filter(is_new).collect();
        self.merged.signatures = signatures.len() as u64;
        self.store.add_signatures(&signatures)?;
        for plan in &self.plans {
            self.store.save_plan(plan)?;
        }
        for (row, nodes) in std::mem::take(&mut self.runs) {
            self.merged.runs += u64::from(self.store.take_run(row, &nodes)?);
        }
        self.merged.tags = self.store.take_tags(std::mem::take(&mut self.tags))?;
        Ok(self.merged)
    }

    fn publish_records(&mut self) -> Result<()> {
        let kind = if self.trusted { "trusted" } else { "import" };
        let name = format!("{kind}-{}", Digest::from_bytes(*self.hasher.finalize().as_bytes()).short());
        let place = self.store.layout.records(&name);
        self.file.get_ref().sync_all().at("sync", &self.path)?;
        // The name says what is in it, so one that is there already is the same one.
        std::fs::rename(&self.path, &place).at("move into place", &place)?;
        self.published = true;
        let folder = self.store.layout.folder("records");
        File::open(&folder).and_then(|folder| folder.sync_all()).at("sync", &folder)?;
        let mut lines = BufReader::with_capacity(1 << 20, File::open(&place).at("read", &place)?);
        let mut at = 0;
        loop {
            let from = at;
            let mut records = Vec::with_capacity(BATCH);
            let mut line = Vec::new();
            while records.len() < BATCH && lines.read_until(b'\n', &mut line).at("read", &place)? > 0 {
                at += line.len() as u64;
                let damaged = || refused(&self.source, "its records changed while they were being taken".to_owned());
                records.push(journal::parse_record(line.strip_suffix(b"\n").unwrap_or(&line)).ok_or_else(damaged)?);
                line.clear();
            }
            if records.is_empty() {
                return Ok(());
            }
            let mark = JournalMark { run: name.clone(), from, to: at };
            self.store.database.insert(&records, &[mark], |_| Ok(()))?;
        }
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        if !self.published {
            // What is left is of no use, and `gc` would remove it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Store {
    /// Keeps a run from elsewhere if it is new here, or if it has ended and was not known to. A run that had not ended
    /// counts as died, as it would after opening its store.
    fn take_run(&self, mut row: RunRow, nodes: &[RunNode]) -> Result<bool> {
        row.outcome.get_or_insert_with(|| "died".to_owned());
        if let Some(ours) = self.run_row(&row.run)? {
            let open = ours.outcome.as_deref().is_none_or(|outcome| outcome == "died") && ours.finished_at.is_none();
            if !open || row.finished_at.is_none() || self.run_is_alive(&row.run) {
                return Ok(false);
            }
        }
        self.start_run(&row)?;
        if !nodes.is_empty() {
            self.write_nodes_file(nodes)?;
            self.database.with(|connection| {
                let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                insert_run_nodes(&transaction, nodes)?;
                transaction.commit()
            })?;
        }
        Ok(true)
    }
}
