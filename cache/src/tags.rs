//! Names that people give to runs: `tags.jsonl`, to which lines are added and nothing else. The last line about a name
//! counts.

use std::collections::BTreeMap;
use std::io;

use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use crate::error::{Result, StoreError};
use crate::layout::{append_lines, check_name};
use crate::store::Store;

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    tag: String,
    /// `None`: the name was taken away.
    run: Option<String>,
}

impl Store {
    /// The tags, each with its run.
    ///
    /// # Errors
    /// Those of reading.
    pub fn tags(&self) -> Result<BTreeMap<String, String>> {
        let path = self.tags_path();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(e) => return Err(StoreError::io("read", &path, e)),
        };
        let mut tags = BTreeMap::new();
        // A line that a killed process left torn says nothing.
        for Line { tag, run } in text.lines().filter_map(|line| serde_json::from_str(line).ok()) {
            match run {
                Some(run) => drop(tags.insert(tag, run)),
                None => drop(tags.remove(&tag)),
            }
        }
        Ok(tags)
    }

    /// Gives a run a name, which another run loses if it has it; without a run, takes the name away.
    ///
    /// # Errors
    /// [`StoreError::BadName`], [`StoreError::NotFound`] for a name to take away that there is not, and those of writing.
    pub fn set_tag(&self, tag: &str, run: Option<&str>) -> Result<()> {
        let path = self.tags_path();
        self.writable("write", &path)?;
        check_name("tag", tag)?;
        if tag == "latest" {
            return Err(StoreError::BadName { what: "tag", text: tag.to_owned() });
        }
        if run.is_none() && !self.tags()?.contains_key(tag) {
            return Err(StoreError::NotFound { what: "tag", text: tag.to_owned(), path });
        }
        // Texts always serialise.
        let line = Line { tag: tag.to_owned(), run: run.map(ToOwned::to_owned) };
        append_lines(&path, serde_json::to_string(&line).unwrap_or_default() + "\n")
    }

    fn tags_path(&self) -> Utf8PathBuf {
        self.root().join("tags.jsonl")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{RunCounts, RunRow};
    use crate::test_support::Fixture;

    fn run(f: &Fixture, run: &str, started_at: i64) {
        let row = RunRow {
            run: run.into(),
            plan: None,
            manifest: "m.toml".into(),
            command: "sepia run m.toml".into(),
            started_at,
            finished_at: Some(started_at),
            outcome: Some("done".into()),
            counts: RunCounts::default(),
            details: serde_json::Value::Null,
        };
        f.store.start_run(&row).unwrap();
    }

    #[test]
    fn the_last_word_counts_and_a_run_is_found_by_its_tag() {
        let f = Fixture::new();
        assert!(f.store.tags().unwrap().is_empty());
        run(&f, "abc1", 1);
        run(&f, "abd2", 2);
        f.store.set_tag("paper", Some("abc1")).unwrap();
        f.store.set_tag("ab", Some("abd2")).unwrap();
        let found = |text: &str| f.again().find_run(text).unwrap().run;
        assert_eq!(found("paper"), "abc1");
        // A tag goes before the beginning of an id, a whole id before a tag.
        assert_eq!(found("ab"), "abd2");
        f.store.set_tag("abc1", Some("abd2")).unwrap();
        assert_eq!(found("abc1"), "abc1");
        f.store.set_tag("paper", Some("abd2")).unwrap();
        assert_eq!(found("paper"), "abd2");
        f.store.set_tag("paper", None).unwrap();
        assert!(f.store.find_run("paper").is_err());
        assert_eq!(f.store.tags().unwrap().len(), 2);
        assert!(matches!(f.store.set_tag("paper", None), Err(StoreError::NotFound { what: "tag", .. })));
        for bad in ["latest", "", "../x", "a b", "-x"] {
            assert!(matches!(f.store.set_tag(bad, Some("abc1")), Err(StoreError::BadName { .. })), "{bad}");
        }
    }

    #[test]
    fn a_torn_line_spoils_nothing() {
        let f = Fixture::new();
        f.store.set_tag("a", Some("r1")).unwrap();
        let path = f.store.root().join("tags.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}{{\"tag\":\"b\",\"ru")).unwrap();
        f.store.set_tag("c", Some("r2")).unwrap();
        assert_eq!(f.store.tags().unwrap().into_keys().collect::<Vec<_>>(), ["a", "c"]);
    }
}
