//! Names into columns: what an execution is, its parameters, its metrics.

use super::QueryError;
use crate::diagnostic::nearest;

/// Something that a table can show, sort, group and filter by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Column {
    /// What is known of every execution.
    Field(Field),
    /// A parameter, its own or that of a stage it builds on.
    Param(String),
    /// A metric's figure of the whole execution (else its last value), or its lowest or highest value.
    Metric(String, End),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Last,
    Lowest,
    Highest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Field {
    /// Node's name with the cell of its sweep.
    Node,
    /// Without it.
    Stage,
    Kind,
    Run,
    Seed,
    Outcome,
    Key,
    Record,
    Started,
    Seconds,
    CpuSeconds,
    PeakMemory,
    /// Whether it was made here, and who vouches for it if not.
    Trust,
}

const FIELDS: [(&str, Field); 13] = [
    ("node", Field::Node),
    ("stage", Field::Stage),
    ("kind", Field::Kind),
    ("run", Field::Run),
    ("seed", Field::Seed),
    ("outcome", Field::Outcome),
    ("key", Field::Key),
    ("record", Field::Record),
    ("started", Field::Started),
    ("seconds", Field::Seconds),
    ("cpu_seconds", Field::CpuSeconds),
    ("peak_memory_bytes", Field::PeakMemory),
    ("trust", Field::Trust),
];

impl Column {
    /// The name that stands above it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Field(field) => FIELDS.iter().find(|(_, one)| one == field).map_or("", |(name, _)| name).to_owned(),
            Self::Param(name) => name.clone(),
            Self::Metric(name, End::Last) => name.clone(),
            Self::Metric(name, End::Lowest) => format!("{name}.lowest"),
            Self::Metric(name, End::Highest) => format!("{name}.highest"),
        }
    }
}

/// The names that there are.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Sorted.
    pub(crate) params: Vec<String>,
    /// Sorted.
    pub(crate) metrics: Vec<String>,
}

impl Names {
    /// The column that a name means. `place` is where it stands in its text.
    ///
    /// A field comes before a parameter, a parameter before a metric; `params.` and `metrics.` say which. Of a dotted
    /// parameter its end is enough, if no other ends so; `method` also means `method.name`.
    pub(crate) fn resolve(&self, name: &str, place: &std::ops::Range<usize>) -> Result<Column, QueryError> {
        let field = FIELDS.iter().find(|(field, _)| *field == name);
        if let Some((_, field)) = field {
            return Ok(Column::Field(*field));
        }
        if let Some(rest) = name.strip_prefix("params.")
            && let Some(found) = self.param(rest, place)?
        {
            return Ok(found);
        }
        if let Some(found) = name.strip_prefix("metrics.").and_then(|rest| self.metric(rest)) {
            return Ok(found);
        }
        let has = |names: &[String]| names.binary_search_by(|one| one.as_str().cmp(name)).is_ok();
        if has(&self.params) {
            return Ok(Column::Param(name.to_owned()));
        }
        if let Some(found) = self.metric(name) {
            return Ok(found);
        }
        if let Some(found) = self.param(name, place)? {
            return Ok(found);
        }
        let all = || {
            let fields = FIELDS.iter().map(|(name, _)| *name);
            let ends = self.params.iter().filter_map(|name| {
                let (start, end) = name.rsplit_once('.')?;
                Some(if end == "name" { start } else { end })
            });
            fields
                .chain(self.params.iter().map(String::as_str))
                .chain(self.metrics.iter().map(String::as_str))
                .chain(ends)
        };
        let error = QueryError::new(
            "results::unknown-name",
            place.clone(),
            format!("no execution has a parameter, metric or field `{name}`"),
        );
        Err(match nearest(name, all()) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => {
                let part = name.to_lowercase();
                let mut like: Vec<&str> = all().filter(|one| one.to_lowercase().contains(&part)).collect();
                like.sort_unstable();
                like.dedup();
                like.truncate(6);
                if like.is_empty() {
                    error.help(format!("names are {}", self.some()))
                } else {
                    error.help(format!("there is `{}`", like.join("`, `")))
                }
            }
        })
    }

    fn metric(&self, name: &str) -> Option<Column> {
        let has = |name: &str| self.metrics.binary_search_by(|one| one.as_str().cmp(name)).is_ok();
        if has(name) {
            return Some(Column::Metric(name.to_owned(), End::Last));
        }
        let (base, end) = name.rsplit_once('.')?;
        let end = match end {
            "last" => End::Last,
            "lowest" | "min" => End::Lowest,
            "highest" | "max" => End::Highest,
            _ => return None,
        };
        has(base).then(|| Column::Metric(base.to_owned(), end))
    }

    fn param(&self, name: &str, place: &std::ops::Range<usize>) -> Result<Option<Column>, QueryError> {
        let named = format!("{name}.name");
        let exact = self.params.iter().find(|one| **one == name || **one == named);
        if let Some(exact) = exact {
            return Ok(Some(Column::Param(exact.clone())));
        }
        let ending = format!(".{name}");
        let fits: Vec<&String> = self.params.iter().filter(|one| one.ends_with(&ending)).collect();
        match fits.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(Column::Param((*one).clone()))),
            several => {
                let several: Vec<&str> = several.iter().map(|one| one.as_str()).collect();
                Err(QueryError::new(
                    "results::ambiguous-name",
                    place.clone(),
                    format!("`{name}` could be several parameters"),
                )
                .help(format!("write one of `{}`", several.join("`, `"))))
            }
        }
    }

    /// A few of all names, for a message.
    fn some(&self) -> String {
        let mut names: Vec<&str> = FIELDS.iter().take(5).map(|(name, _)| *name).collect();
        names.extend(self.params.iter().take(8).map(String::as_str));
        names.extend(self.metrics.iter().take(8).map(String::as_str));
        format!("`{}`, ...", names.join("`, `"))
    }
}

/// Which values of a metric are good, as far as its name says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Lower,
    Higher,
}

/// Known from the name, as people name metrics; `None` if a metric is not about good or bad.
pub(crate) fn direction(metric: &str) -> Option<Direction> {
    let name = metric.to_lowercase();
    let words: Vec<&str> = name.split(['_', '.', '/', '-']).collect();
    let has = |wanted: &[&str]| words.iter().any(|word| wanted.contains(word));
    if has(&["accuracy", "acc", "f1", "bleu", "auc", "score", "precision", "recall"]) || name.ends_with("_per_second") {
        Some(Direction::Higher)
    } else if has(&["loss", "perplexity", "ppl", "error", "nll", "bpb", "bpc"]) || name.starts_with("bits_per_") {
        Some(Direction::Lower)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Names {
            params: own(&["lr", "method.name", "method.rank", "model.d_model", "model.n_head", "other.d_model"]),
            metrics: own(&["loss", "lr", "val_loss"]),
        }
    }

    fn resolved(name: &str) -> String {
        match names().resolve(name, &(0..name.len())) {
            Ok(column) => format!("{column:?}"),
            Err(error) => format!("{}; {}", error.message, error.help.unwrap_or_default()),
        }
    }

    #[test]
    fn short_names_are_enough_where_they_are_clear() {
        assert_eq!(resolved("seed"), "Field(Seed)");
        assert_eq!(resolved("lr"), r#"Param("lr")"#);
        assert_eq!(resolved("metrics.lr"), r#"Metric("lr", Last)"#);
        assert_eq!(resolved("method"), r#"Param("method.name")"#);
        assert_eq!(resolved("rank"), r#"Param("method.rank")"#);
        assert_eq!(resolved("params.rank"), r#"Param("method.rank")"#);
        assert_eq!(resolved("val_loss.lowest"), r#"Metric("val_loss", Lowest)"#);
        assert_eq!(resolved("loss.max"), r#"Metric("loss", Highest)"#);
        let several = "`d_model` could be several parameters; write one of `model.d_model`, `other.d_model`";
        assert_eq!(resolved("d_model"), several);
    }

    #[test]
    fn unknown_names_are_told_the_nearest() {
        let text = |name| format!("no execution has a parameter, metric or field `{name}`; ");
        assert_eq!(resolved("val_los"), text("val_los") + "did you mean `val_loss`?");
        assert_eq!(resolved("ranc"), text("ranc") + "did you mean `rank`?");
        assert_eq!(
            resolved("del"),
            text("del") + "there is `d_model`, `model.d_model`, `model.n_head`, `other.d_model`"
        );
        assert!(resolved("wholly different").contains("names are `node`, `stage`"), "{}", resolved("wholly different"));
    }

    #[test]
    fn what_is_good_is_known_from_the_name() {
        use Direction::{Higher, Lower};
        let cases = [
            ("val_loss", Some(Lower)),
            ("perplexity", Some(Lower)),
            ("bits_per_byte", Some(Lower)),
            ("test.accuracy", Some(Higher)),
            ("tokens_per_second", Some(Higher)),
            ("parameters", None),
            ("lossless", None),
        ];
        for (name, expected) in cases {
            assert_eq!(direction(name), expected, "{name}");
        }
    }
}
