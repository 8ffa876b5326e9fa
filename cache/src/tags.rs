//! Names that people give to runs: `tags.jsonl`, to which lines are added and nothing else.
//!
//! Each line says of which others it takes the place. So lines are a set, and tags travel and merge as records do, by union:
//! in any order and as often as one likes. What counts of a name are the lines that no other one has replaced. If two people
//! gave one name to different runs without knowing of each other, both count: the name is of no use until somebody decides
//! (`sepia tag RUN NAME`), and that replaces both everywhere. Taking the later of them, or always ours, would have needed no
//! such question; but clocks of different machines do not say who knew of whom, and a paper's results must not become
//! another run's because somebody pulled.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Result, StoreError};
use crate::layout::{append_lines, check_name};
use crate::store::Store;

const DOMAIN: &str = "sepia 2026 tag v1";
/// No line replaces more others: so many decided at once without knowing of each other.
const MOST: usize = 1000;

/// One thing that was said about a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TagLine {
    pub(crate) tag: String,
    /// `None`: the name was taken away.
    pub(crate) run: Option<String>,
    /// The lines of which it takes the place, by their ids. Lines that have none, from before tags travelled, replace what
    /// comes before them in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaces: Option<BTreeSet<Digest>>,
}

impl TagLine {
    pub(crate) fn id(&self) -> Digest {
        Digest::derive(DOMAIN, self.text().as_bytes())
    }

    fn text(&self) -> String {
        // Texts always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Refuses names that are none.
    pub(crate) fn check(&self) -> Result<(), String> {
        check_name("tag", &self.tag).map_err(|error| error.to_string())?;
        self.run.as_deref().map_or(Ok(()), |run| check_name("run id", run)).map_err(|error| error.to_string())?;
        if self.tag == "latest" || self.replaces.as_ref().is_none_or(|replaces| replaces.len() > MOST) {
            return Err(format!("`{}` is not given in a way that Sepia gives a tag", self.tag));
        }
        Ok(())
    }
}

/// The lines that no other one has replaced, by name.
fn heads(lines: &[TagLine]) -> BTreeMap<&str, BTreeMap<Digest, Option<&str>>> {
    // Whoever speaks of one name says nothing of another.
    let replaced: BTreeSet<(&str, &Digest)> =
        lines.iter().flat_map(|line| line.replaces.iter().flatten().map(|id| (line.tag.as_str(), id))).collect();
    let mut heads: BTreeMap<&str, BTreeMap<Digest, Option<&str>>> = BTreeMap::new();
    for line in lines {
        let id = line.id();
        if !replaced.contains(&(line.tag.as_str(), &id)) {
            heads.entry(&line.tag).or_default().insert(id, line.run.as_deref());
        }
    }
    heads
}

/// The lines of a file of tags; one that a killed process left torn says nothing.
pub(crate) fn read_lines(path: &Utf8Path) -> Result<Vec<TagLine>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(StoreError::io("read", path, e)),
    };
    let mut lines: Vec<TagLine> = Vec::new();
    for mut line in text.lines().filter_map(|line| serde_json::from_str::<TagLine>(line).ok()) {
        if line.replaces.is_none() {
            let of_name: Vec<TagLine> = lines.iter().filter(|before| before.tag == line.tag).cloned().collect();
            line.replaces = Some(heads(&of_name).into_values().flatten().map(|(id, _)| id).collect());
        }
        lines.push(line);
    }
    Ok(lines)
}

/// Where a store's tags are.
pub(crate) fn file_in(root: &Utf8Path) -> Utf8PathBuf {
    root.join("tags.jsonl")
}

impl Store {
    /// The tags, each with its run; with several where people gave it to several without knowing of each other.
    ///
    /// # Errors
    /// Those of reading.
    pub fn tags(&self) -> Result<BTreeMap<String, BTreeSet<String>>> {
        let mut tags: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (tag, heads) in heads(&self.tag_lines()?) {
            // Who took it away did not know of those who gave it meanwhile.
            let runs: BTreeSet<String> = heads.into_values().flatten().map(str::to_owned).collect();
            if !runs.is_empty() {
                tags.insert(tag.to_owned(), runs);
            }
        }
        Ok(tags)
    }

    /// Gives a run a name, which another run loses if it has it; without a run, takes the name away.
    ///
    /// # Errors
    /// [`StoreError::BadName`], [`StoreError::NotFound`] for a name to take away that there is not, and those of writing.
    pub fn set_tag(&self, tag: &str, run: Option<&str>) -> Result<()> {
        let path = file_in(self.root());
        self.writable("write", &path)?;
        check_name("tag", tag)?;
        if tag == "latest" {
            return Err(StoreError::BadName { what: "tag", text: tag.to_owned() });
        }
        let lines = self.tag_lines()?;
        let before = heads(&lines).remove(tag).unwrap_or_default();
        if run.is_none() && before.values().all(Option::is_none) {
            return Err(StoreError::NotFound { what: "tag", text: tag.to_owned(), path });
        }
        if before.len() == 1 && before.values().all(|before| *before == run) {
            return Ok(());
        }
        let replaces = Some(before.into_keys().take(MOST).collect());
        let line = TagLine { tag: tag.to_owned(), run: run.map(ToOwned::to_owned), replaces };
        append_lines(&path, line.text() + "\n")
    }

    pub(crate) fn tag_lines(&self) -> Result<Vec<TagLine>> {
        read_lines(&file_in(self.root()))
    }

    /// Adds lines from elsewhere that are not here, and says how many names they concern.
    pub(crate) fn take_tags(&self, lines: Vec<TagLine>) -> Result<u64> {
        let mut known: BTreeSet<Digest> = self.tag_lines()?.iter().map(TagLine::id).collect();
        let new: Vec<TagLine> = lines.into_iter().filter(|line| known.insert(line.id())).collect();
        if new.is_empty() {
            return Ok(0);
        }
        let names: BTreeSet<&String> = new.iter().map(|line| &line.tag).collect();
        append_lines(&file_in(self.root()), new.iter().map(|line| line.text() + "\n").collect())?;
        Ok(names.len() as u64)
    }

    /// What was said about names that one of these runs has or had; of every name, without runs.
    pub(crate) fn tags_about(&self, runs: Option<&BTreeSet<String>>) -> Result<Vec<TagLine>> {
        let mut lines = self.tag_lines()?;
        if let Some(runs) = runs {
            let of_them = lines.iter().filter(|line| line.run.as_ref().is_some_and(|run| runs.contains(run)));
            let names: BTreeSet<String> = of_them.map(|line| line.tag.clone()).collect();
            lines.retain(|line| names.contains(&line.tag));
        }
        Ok(lines)
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
    fn what_was_decided_before_tags_travelled_counts_as_it_did() {
        let f = Fixture::new();
        let lines =
            [("a", "\"r1\""), ("a", "\"r2\""), ("b", "\"r1\""), ("b", "null"), ("a", "\"r1\""), ("c", "\"r3\"")];
        let text: String = lines.iter().map(|(tag, run)| format!("{{\"tag\":\"{tag}\",\"run\":{run}}}\n")).collect();
        std::fs::write(file_in(f.store.root()), text).unwrap();
        let tags =
            || f.store.tags().unwrap().into_iter().map(|(tag, runs)| (tag, Vec::from_iter(runs))).collect::<Vec<_>>();
        let expected = |a: &str| [("a".to_owned(), vec![a.to_owned()]), ("c".to_owned(), vec!["r3".to_owned()])];
        assert_eq!(tags(), expected("r1"));
        f.store.set_tag("a", Some("r4")).unwrap();
        assert_eq!(tags(), expected("r4"));
    }

    #[test]
    fn a_name_that_two_gave_is_nobodys_until_somebody_decides() {
        let (ours, theirs) = (Fixture::new(), Fixture::new());
        for f in [&ours, &theirs] {
            run(f, "r1", 1);
            run(f, "r2", 2);
        }
        ours.store.set_tag("paper", Some("r1")).unwrap();
        theirs.store.set_tag("paper", Some("r2")).unwrap();
        theirs.store.set_tag("gone", Some("r2")).unwrap();
        theirs.store.set_tag("gone", None).unwrap();
        let merge =
            |into: &Fixture, from: &Fixture| into.store.merge(from.store.root(), false, |_, _| ()).unwrap().tags;
        assert_eq!((merge(&ours, &theirs), merge(&ours, &theirs)), (2, 0));
        assert_eq!(merge(&theirs, &ours), 1);
        assert_eq!(ours.store.tags().unwrap(), theirs.store.tags().unwrap());
        let error = ours.store.find_run("paper").unwrap_err();
        assert_eq!(
            error.to_string(),
            "`paper` was given to several runs (r1, r2); `sepia tag RUN paper` decides which one it names"
        );
        ours.store.set_tag("paper", Some("r2")).unwrap();
        assert_eq!(ours.store.find_run("paper").unwrap().run, "r2");
        assert_eq!(merge(&theirs, &ours), 1);
        assert_eq!(theirs.store.find_run("paper").unwrap().run, "r2");
        // Who takes it away did not know that another gave it anew.
        theirs.store.set_tag("paper", None).unwrap();
        ours.store.set_tag("paper", Some("r1")).unwrap();
        merge(&ours, &theirs);
        assert_eq!(ours.store.find_run("paper").unwrap().run, "r1");
    }

    #[test]
    fn a_torn_line_spoils_nothing() {
        let f = Fixture::new();
        f.store.set_tag("a", Some("r1")).unwrap();
        let path = file_in(f.store.root());
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}{{\"tag\":\"b\",\"ru")).unwrap();
        f.store.set_tag("c", Some("r2")).unwrap();
        assert_eq!(f.store.tags().unwrap().into_keys().collect::<Vec<_>>(), ["a", "c"]);
    }
}
