//! `sepia plot spectra`: the singular values that rank analyses left, each divided by the largest of its weight.

use std::collections::BTreeMap;

use camino::Utf8PathBuf;
use sepia_cache::{ObjectKind, Store};

use super::{args, exit::Failure};
use crate::{
    report::{
        plot::{Axis, Chart, Mark, Series, mean_curve},
        query::{Column, Frame},
    },
    wildcard,
};

/// The name that `plot` is given for this.
pub(super) const NAME: &str = "spectra";
/// The file of a rank analysis that holds them: tab-separated, with a header that names the columns.
const FILE: &str = "spectra.tsv";
/// Curves beyond these cannot be told apart.
const MOST: usize = 32;

/// By weight, the relative singular values in falling order.
type Spectra = BTreeMap<String, Vec<f64>>;

/// One curve for each weight of one analysis; of several, one for each group, a mean over its weights with a band.
pub(super) fn spectra(
    store: &Store,
    frame: &Frame<'_>,
    rows: &[usize],
    by: &[Column],
    args: &args::Plot,
) -> Result<Chart, Failure> {
    let mut found: BTreeMap<usize, Spectra> = BTreeMap::new();
    let mut absent = 0;
    for row in rows {
        for output in store.outputs(frame.rows[*row].execution)? {
            if output.object.kind != ObjectKind::Tree {
                continue;
            }
            match store.listing(&output.object) {
                Ok(listing) if listing.files.iter().any(|file| file.path == FILE) => {
                    let path = store.object_path(&output.object).join(FILE);
                    let mut spectra = read(&path)?;
                    spectra.retain(|weight, _| wildcard::fits(&args.weights, weight, ('*', '?')));
                    found.insert(*row, spectra);
                }
                Ok(_) => {}
                Err(_) => absent += 1,
            }
        }
    }
    let series = match found.iter().next() {
        Some((_, spectra)) if found.len() == 1 && by.is_empty() => of_weights(spectra)?,
        _ => of_groups(frame, &found, by)?,
    };
    if series.is_empty() {
        let failure = Failure::usage("plot::nothing", "no execution that fits has left singular values");
        return Err(if !found.is_empty() {
            failure.help(format!("no weight is called `{}`: `*` stands for any text", args.weights))
        } else if absent > 0 {
            failure.help("outputs are not in this store: `sepia pull` fetches them, or run the manifest once more")
        } else {
            failure.help("a stage of the kind `rank-analysis` does: `sepia help rank-analysis`")
        });
    }
    let one = found.len() == 1 && by.is_empty();
    Ok(Chart {
        title: if one {
            "singular values by weight".to_owned()
        } else {
            "singular values: mean over weights".to_owned()
        },
        x: Axis { title: "number, from the largest".to_owned(), log: args.log_x },
        y: Axis { title: "singular value / largest".to_owned(), log: true },
        series,
        categories: Vec::new(),
    })
}

fn of_weights(spectra: &Spectra) -> Result<Vec<Series>, Failure> {
    check(spectra.len(), "choose weights with `--weights '*q_proj*'`")?;
    let curve = |(colour, (weight, values)): (usize, (&String, &Vec<f64>))| {
        #[expect(clippy::cast_precision_loss, reason = "places on an axis")]
        let points = values.iter().enumerate().map(|(at, value)| ((at + 1) as f64, *value, 0.0)).collect();
        Series { label: weight.clone(), mark: Mark::Line, points, colour }
    };
    Ok(spectra.iter().enumerate().map(curve).collect())
}

fn of_groups(frame: &Frame<'_>, found: &BTreeMap<usize, Spectra>, by: &[Column]) -> Result<Vec<Series>, Failure> {
    let rows: Vec<usize> = found.keys().copied().collect();
    let groups = super::plot::grouped(frame, &rows, by);
    check(groups.len(), "put them together with `--by method`, or choose with `--where`")?;
    let mut series = Vec::new();
    for (label, members) in groups {
        let mut at: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for values in members.iter().filter_map(|row| found.get(row)).flat_map(Spectra::values) {
            (1..).zip(values).for_each(|(number, value)| at.entry(number).or_default().push(*value));
        }
        if !at.is_empty() {
            let (points, _) = mean_curve(&at);
            series.push(Series { label, mark: Mark::Line, points, colour: series.len() });
        }
    }
    Ok(series)
}

fn check(curves: usize, help: &str) -> Result<(), Failure> {
    if curves <= MOST {
        return Ok(());
    }
    Err(Failure::usage("plot::too-many", format!("{curves} curves cannot be told apart")).help(help))
}

fn read(path: &Utf8PathBuf) -> Result<Spectra, Failure> {
    let text = fs_err::read_to_string(path)?;
    parse(&text).ok_or_else(|| std::io::Error::other(format!("{path} does not hold singular values")).into())
}

fn parse(text: &str) -> Option<Spectra> {
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next()?.split('\t').collect();
    let column = |name: &str| header.iter().position(|one| *one == name);
    let (weight, relative) = (column("weight")?, column("relative")?);
    let mut spectra = Spectra::new();
    for line in lines {
        let cells: Vec<&str> = line.split('\t').collect();
        let value = cells.get(relative)?.parse().ok()?;
        spectra.entry((*cells.get(weight)?).to_owned()).or_default().push(value);
    }
    Some(spectra)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_name() {
        let text = "weight\tindex\tsingular_value\trelative\nq\t1\t4\t1\nq\t2\t2\t0.5\nk\t1\t1\t1\n";
        let expected = Spectra::from([("k".to_owned(), vec![1.0]), ("q".to_owned(), vec![1.0, 0.5])]);
        assert_eq!(parse(text), Some(expected));
        assert_eq!(parse("weight\tx\n"), None);
        assert_eq!(parse("weight\trelative\nq\tx\n"), None);
    }
}
