//! How large a store is, and what of.

use super::contents::{entries, size_of};
use crate::error::Result;
use crate::store::Store;

/// What one part of a store takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageOf {
    /// How many: objects, runs, keys, files, as the part has it.
    pub count: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// What a store takes, by kind of thing. Sizes are those of the files, not of the blocks they fill.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// File objects.
    pub files: UsageOf,
    /// Tree objects, with their listings.
    pub trees: UsageOf,
    /// Journals, one a run.
    pub records: UsageOf,
    /// Folders of runs, with their logs, and plans.
    pub runs: UsageOf,
    /// Folders of attempts, by run.
    pub attempts: UsageOf,
    /// Checkpoints, by key.
    pub checkpoints: UsageOf,
    /// Objects that were set aside.
    pub damaged: UsageOf,
    /// Files that were fetched from URLs, by digest.
    pub downloads: UsageOf,
    /// The database, with its write-ahead log.
    pub database: UsageOf,
    /// The rest: `cache/`, `locks/`.
    pub other: UsageOf,
}

impl Usage {
    /// All of it, in bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { files, trees, records, runs, attempts, checkpoints, damaged, downloads, database, other } = self;
        [files, trees, records, runs, attempts, checkpoints, damaged, downloads, database, other]
            .iter()
            .map(|part| part.bytes)
            .sum()
    }
}

impl Store {
    /// Measures the store: one `stat` a file.
    ///
    /// # Errors
    /// Those of reading folders.
    pub fn size(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        for entry in entries(self.root())? {
            let part = match entry.file_name() {
                "objects" | "trees" => continue,
                "records" => &mut usage.records,
                "runs" | "plans" => &mut usage.runs,
                "attempts" => &mut usage.attempts,
                "checkpoints" => &mut usage.checkpoints,
                "damaged" => &mut usage.damaged,
                "downloads" => &mut usage.downloads,
                name if name.starts_with("results.db") => &mut usage.database,
                _ => &mut usage.other,
            };
            if entry.path().is_dir() {
                for inside in entries(entry.path())? {
                    part.count += 1;
                    part.bytes += size_of(inside.path());
                }
            } else {
                part.count += 1;
                part.bytes += size_of(entry.path());
            }
        }
        for (name, part) in [("objects", &mut usage.files), ("trees", &mut usage.trees)] {
            for fan in entries(&self.layout.folder(name))? {
                for entry in entries(fan.path())? {
                    part.count += u64::from(!entry.file_name().ends_with(".json") || name == "objects");
                    part.bytes += size_of(entry.path());
                }
            }
        }
        Ok(usage)
    }
}
