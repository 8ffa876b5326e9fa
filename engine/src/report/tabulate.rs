//! Tables of results as text, CSV, Markdown and JSON.
//!
//! For people, figures have five digits and the best of a column is marked; for programs, they are complete.

use serde_json::{Map, Value, json};

use super::{
    figures::{duration, mean_and_deviation, number},
    query::{Cell, Direction, Statistics},
};

/// A table. Every row has as many entries as there are columns.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tabulation {
    /// What all rows have in common (their stage kind); may be empty.
    pub(crate) title: String,
    pub(crate) columns: Vec<TableColumn>,
    pub(crate) rows: Vec<Vec<Entry>>,
}

/// A column.
#[derive(Debug, Clone)]
pub(crate) struct TableColumn {
    pub(crate) name: String,
    /// Which values are good; the best is marked.
    pub(crate) direction: Option<Direction>,
    /// Every entry is a mean over several executions.
    pub(crate) means: bool,
}

/// An entry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Entry {
    Cell(Cell),
    /// A time in seconds.
    Seconds(f64),
    Mean(Option<Statistics>),
}

impl TableColumn {
    pub(crate) fn plain(name: impl Into<String>) -> Self {
        Self { name: name.into(), direction: None, means: false }
    }
}

impl Entry {
    /// For people. Long texts (lists, prompts) are cut.
    fn shown(&self) -> String {
        const LONGEST: usize = 48;
        match self {
            Self::Cell(Cell::Integer(value)) => value.to_string(),
            Self::Cell(Cell::Number(value)) => number(*value),
            Self::Cell(Cell::Prefix(text)) => text.chars().take(8).collect(),
            Self::Cell(cell) => {
                let text: String = cell.text().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
                if text.chars().count() <= LONGEST {
                    return text;
                }
                text.chars().take(LONGEST - 1).chain(['…']).collect()
            }
            Self::Seconds(seconds) => duration(*seconds),
            Self::Mean(None) => String::new(),
            Self::Mean(Some(statistics)) => mean_and_deviation(statistics.mean, statistics.deviation),
        }
    }

    fn value(&self) -> Option<f64> {
        match self {
            Self::Cell(cell) => cell.number(),
            Self::Seconds(seconds) => Some(*seconds),
            Self::Mean(statistics) => statistics.map(|statistics| statistics.mean),
        }
    }

    fn json(&self, best: bool) -> Value {
        match self {
            Self::Cell(Cell::Missing) | Self::Mean(None) => Value::Null,
            Self::Cell(Cell::Integer(value)) => {
                i64::try_from(*value).map_or_else(|_| json!(value.to_string()), |v| json!(v))
            }
            Self::Cell(Cell::Number(value)) => number_json(*value),
            Self::Cell(cell) => json!(cell.text()),
            Self::Seconds(seconds) => json!(seconds),
            Self::Mean(Some(Statistics { n, mean, deviation })) => json!({
                "mean": number_json(*mean), "standard_deviation": deviation.map(number_json), "n": n, "best": best,
            }),
        }
    }
}

/// JSON has no NaN and no infinities: text says them.
pub(crate) fn number_json(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { json!(value.to_string()) }
}

impl Tabulation {
    /// The rows whose entry in a column is the best, if some are not.
    fn best(&self, column: usize) -> Vec<usize> {
        let Some(direction) = self.columns[column].direction else { return Vec::new() };
        let values: Vec<(usize, f64)> = self
            .rows
            .iter()
            .enumerate()
            .filter_map(|(row, entries)| Some((row, entries[column].value()?)))
            .filter(|(_, value)| !value.is_nan())
            .collect();
        let best = values.iter().map(|(_, value)| *value).reduce(|a, b| match direction {
            Direction::Lower => a.min(b),
            Direction::Higher => a.max(b),
        });
        let found: Vec<usize> = values.iter().filter(|(_, value)| Some(*value) == best).map(|(row, _)| *row).collect();
        if found.len() == self.rows.len() { Vec::new() } else { found }
    }

    fn marked(&self, mark: impl Fn(String) -> String) -> Vec<Vec<String>> {
        let mut rows: Vec<Vec<String>> =
            self.rows.iter().map(|entries| entries.iter().map(Entry::shown).collect()).collect();
        let best: Vec<Vec<usize>> = (0..self.columns.len()).map(|column| self.best(column)).collect();
        for (column, best) in best.into_iter().enumerate() {
            for row in best {
                let entry = &mut rows[row][column];
                *entry = mark(std::mem::take(entry));
            }
        }
        rows
    }

    /// Rows of text for a terminal; the best of a column has a star.
    pub(crate) fn lines(&self) -> Vec<Vec<String>> {
        self.marked(|text| format!("{text}*"))
    }

    /// A Markdown table; the best of a column is bold.
    pub(crate) fn markdown(&self) -> String {
        let line = |cells: Vec<String>| {
            let cells: Vec<String> =
                cells.into_iter().map(|cell| cell.replace('\\', "\\\\").replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let mut out = if self.title.is_empty() { String::new() } else { format!("**{}**\n\n", self.title) };
        out.push_str(&line(self.columns.iter().map(|column| column.name.clone()).collect()));
        let numeric = |column: usize| {
            self.rows.iter().all(|row| matches!(row[column].shown().chars().next(), None | Some('0'..='9' | '-')))
        };
        let rules = (0..self.columns.len()).map(|column| if numeric(column) { "--:" } else { "---" });
        out.push_str(&format!("|{}|\n", rules.collect::<Vec<_>>().join("|")));
        for row in self.marked(|text| format!("**{text}**")) {
            out.push_str(&line(row));
        }
        out
    }

    /// Rows of JSON objects, one entry a column.
    pub(crate) fn json(&self) -> Vec<Value> {
        let best: Vec<Vec<usize>> = (0..self.columns.len()).map(|column| self.best(column)).collect();
        let row = |(number, entries): (usize, &Vec<Entry>)| {
            let entries = entries.iter().zip(&self.columns).zip(&best);
            let object: Map<String, Value> = entries
                .map(|((entry, column), best)| (column.name.clone(), entry.json(best.contains(&number))))
                .collect();
            Value::Object(object)
        };
        self.rows.iter().enumerate().map(row).collect()
    }
}

/// Several tables as one CSV: columns by name, all figures in full; a mean takes three columns.
pub(crate) fn csv(tables: &[Tabulation]) -> Result<String, csv::Error> {
    let mut header: Vec<String> = Vec::new();
    let titled = tables.iter().any(|table| !table.title.is_empty());
    if titled {
        header.push("kind".to_owned());
    }
    for column in tables.iter().flat_map(|table| &table.columns) {
        for name in csv_names(column) {
            if !header.contains(&name) {
                header.push(name);
            }
        }
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(&header)?;
    let place = |name: &String| header.iter().position(|one| one == name);
    for table in tables {
        for entries in &table.rows {
            let mut record = vec![String::new(); header.len()];
            if titled {
                record[0].clone_from(&table.title);
            }
            for (entry, column) in entries.iter().zip(&table.columns) {
                for (name, value) in csv_names(column).iter().zip(csv_values(entry)) {
                    if let Some(place) = place(name) {
                        record[place] = value;
                    }
                }
            }
            writer.write_record(&record)?;
        }
    }
    let bytes = writer.into_inner().map_err(|error| error.into_error())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn csv_names(column: &TableColumn) -> Vec<String> {
    let name = &column.name;
    if column.means {
        vec![format!("{name}_mean"), format!("{name}_sd"), format!("{name}_n")]
    } else {
        vec![name.clone()]
    }
}

fn csv_values(entry: &Entry) -> Vec<String> {
    match entry {
        Entry::Cell(cell) => vec![cell.text().into_owned()],
        Entry::Seconds(seconds) => vec![seconds.to_string()],
        Entry::Mean(None) => Vec::new(),
        Entry::Mean(Some(Statistics { n, mean, deviation })) => {
            vec![mean.to_string(), deviation.map(|deviation| deviation.to_string()).unwrap_or_default(), n.to_string()]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Tabulation {
        let means = |name: &str, direction| TableColumn { name: name.into(), direction, means: true };
        let mean = |mean, deviation, n| Entry::Mean(Some(Statistics { n, mean, deviation }));
        Tabulation {
            title: "evaluate".into(),
            columns: vec![TableColumn::plain("method"), means("val_loss", Some(Direction::Lower))],
            rows: vec![
                vec![Entry::Cell(Cell::Text("a|b".into())), mean(3.5, Some(0.0125), 3)],
                vec![Entry::Cell(Cell::Text("=x, \"y\"".into())), mean(3.25, None, 1)],
                vec![Entry::Cell(Cell::Missing), Entry::Mean(None)],
            ],
        }
    }

    #[test]
    fn the_best_is_marked_and_programs_get_all_digits() {
        assert_eq!(table().lines()[0], ["a|b", "3.500 ± 0.013"]);
        assert_eq!(table().lines()[1], ["=x, \"y\"", "3.25*"]);
        insta::assert_snapshot!(table().markdown(), @r#"
        **evaluate**

        | method | val_loss |
        |---|--:|
        | a\|b | 3.500 ± 0.013 |
        | =x, "y" | **3.25** |
        |  |  |
        "#);
        insta::assert_snapshot!(csv(&[table()]).unwrap(), @r#"
        kind,method,val_loss_mean,val_loss_sd,val_loss_n
        evaluate,a|b,3.5,0.0125,3
        evaluate,"=x, ""y""",3.25,,1
        evaluate,,,,
        "#);
        let json = table().json();
        assert_eq!(
            json[1]["val_loss"],
            serde_json::json!({ "mean": 3.25, "standard_deviation": null, "n": 1, "best": true })
        );
        assert_eq!(json[2]["val_loss"], Value::Null);
    }

    #[test]
    fn nothing_is_best_where_all_are_alike() {
        let mut same = table();
        same.rows.truncate(1);
        assert_eq!(same.lines()[0][1], "3.500 ± 0.013");
    }
}
