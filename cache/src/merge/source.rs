//! Merging a database file, or another store.

use camino::Utf8Path;

use super::{Foreign, Merged, Staging};
use crate::database::{RunNode, parse_plan, read_run, read_run_node};
use crate::error::{Result, StoreError};
use crate::layout::{Layout, unique_sibling};
use crate::object::{ObjectRef, copy, hash_output, remove};
use crate::record::RecordId;
use crate::store::{OpenMode, Store};
use crate::tags::{TagLine, file_in, read_lines};

impl Store {
    /// Takes from `other` (a results database, or a store with one) the records, runs and signatures that are not here;
    /// from a store also tags, and the outputs of the good ones. `trusted`: they count as results without a signature.
    ///
    /// # Errors
    /// [`StoreError::Refused`], [`StoreError::NewerDatabase`] and [`StoreError::NewerFormat`], with nothing changed; those
    /// of reading and writing.
    pub fn merge(&self, other: &Utf8Path, trusted: bool, mut progress: impl FnMut(u64, u64)) -> Result<Merged> {
        if !other.is_dir() {
            return self.merge_database(&Foreign::open(self, other)?, Vec::new(), trusted, &mut progress);
        }
        let layout = Layout::new(other);
        if !layout.check()? {
            return Err(StoreError::NoStore { root: other.to_owned() });
        }
        let path = layout.database();
        let tags = read_lines(&file_in(other))?;
        let mut merged = if path.is_file() {
            self.merge_database(&Foreign::open(self, &path)?, tags, trusted, &mut progress)?
        } else {
            // Its records are read into memory: that store is not changed.
            let records = Store::open(other, OpenMode::ReadOnly)?;
            let mut staging = Staging::begin(self, other.as_str(), trusted)?;
            records.each_record(|id, record| staging.record(id, record))?;
            tags.into_iter().try_for_each(|line| staging.tag(line))?;
            staging.publish()?
        };
        self.copy_objects(&layout, &mut merged)?;
        Ok(merged)
    }

    fn merge_database(
        &self,
        foreign: &Foreign,
        tags: Vec<TagLine>,
        trusted: bool,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Merged> {
        let mut staging = Staging::begin(self, &foreign.name, trusted)?;
        let ids = foreign.ids()?;
        for (i, id) in ids.iter().enumerate() {
            if staging.knows(id) {
                staging.count_known();
            } else {
                match foreign.record(id)? {
                    Some(record) => staging.record(id, &record)?,
                    None => staging.count_newer(),
                }
            }
            if i % 256 == 0 {
                progress(i as u64, ids.len() as u64);
            }
        }
        read_rest(foreign, &mut staging)?;
        tags.into_iter().try_for_each(|line| staging.tag(line))?;
        progress(ids.len() as u64, ids.len() as u64);
        staging.publish()
    }

    fn each_record(&self, mut take: impl FnMut(&RecordId, &crate::Record) -> Result<()>) -> Result<()> {
        for row in self.executions()?.into_iter().rev() {
            if let Some(record) = self.record(&row.record)? {
                take(&row.record, &record)?;
            }
        }
        Ok(())
    }

    /// Copies what records name, is not here and is there.
    fn copy_objects(&self, from: &Layout, merged: &mut Merged) -> Result<()> {
        for object in self.referenced()? {
            let there = from.object(&object);
            if self.present(&object) || there.as_std_path().symlink_metadata().is_err() {
                continue;
            }
            if self.copy_object(&there, &object)? {
                merged.objects += 1;
                merged.object_bytes += object.bytes;
            } else {
                tracing::warn!(path = %there, "left out: it is not what its name says");
            }
        }
        self.sync_pending()
    }

    /// Copies one object and hashes the copy; `false` if it is not what it should be.
    fn copy_object(&self, there: &Utf8Path, object: &ObjectRef) -> Result<bool> {
        let staged = unique_sibling(&self.cache_dir().join("copy"));
        let copied = (|| {
            // Hashed first, so that no link is followed and nothing is copied that is not wanted.
            if !hash_output(there).is_ok_and(|hashed| hashed.object == *object) {
                return Ok(false);
            }
            copy(there, &staged)?;
            let hashed = hash_output(&staged)?;
            if hashed.object != *object {
                return Ok(false);
            }
            self.insert(&staged, &hashed)?;
            Ok(true)
        })();
        remove(&staged)?;
        copied
    }
}

/// Signatures, plans and runs.
fn read_rest(foreign: &Foreign, staging: &mut Staging<'_>) -> Result<()> {
    let connection = &foreign.connection;
    let wrong = |e: rusqlite::Error| foreign.wrong(&e);
    let mut statement = connection.prepare("SELECT DISTINCT record FROM signatures ORDER BY record").map_err(wrong)?;
    let mut rows = statement.query([]).map_err(wrong)?;
    while let Some(row) = rows.next().map_err(wrong)? {
        let record = RecordId(crate::database::digest(row, 0).map_err(wrong)?);
        for signature in crate::sign::read_signatures(connection, &record).map_err(wrong)? {
            staging.signature(record, signature)?;
        }
    }
    let mut statement = connection.prepare("SELECT plan, listing FROM plans ORDER BY plan").map_err(wrong)?;
    let mut rows = statement.query([]).map_err(wrong)?;
    while let Some(row) = rows.next().map_err(wrong)? {
        let plan = crate::database::digest(row, 0).map_err(wrong)?;
        let listing: String = row.get(1).map_err(wrong)?;
        let nodes = parse_plan(&listing, &plan);
        let nodes =
            nodes.ok_or_else(|| super::refused(&foreign.name, format!("plan {plan} is not what its name says")))?;
        staging.plan(nodes)?;
    }
    let mut statement = connection
        .prepare(
            "SELECT run, node, key, record, outcome, because, wall_seconds FROM run_nodes WHERE run = ? ORDER BY node",
        )
        .map_err(wrong)?;
    let sql = "SELECT run, plan, manifest, command, started_at, finished_at, outcome, nodes, cached, done, failed, skipped, \
               details FROM runs ORDER BY run";
    let mut runs = connection.prepare(sql).map_err(wrong)?;
    let mut rows = runs.query([]).map_err(wrong)?;
    while let Some(row) = rows.next().map_err(wrong)? {
        let run = read_run(row).map_err(wrong)?;
        let nodes: rusqlite::Result<Vec<RunNode>> =
            statement.query_map([&run.run], read_run_node).map_err(wrong)?.collect();
        staging.run(run, nodes.map_err(wrong)?)?;
    }
    Ok(())
}
