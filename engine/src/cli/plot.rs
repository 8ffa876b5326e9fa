//! `sepia plot`.

use camino::Utf8Path;
use sepia_cache::Store;

use super::{
    args::{self, Global},
    exit::{Exit, Failure},
    output, project, question, spectra,
};
use crate::report::{
    plot::{Axis, Chart, Mark, Palette, Scene, Series, curves, front, png, svg, unit},
    query::{Column, Frame, Group, Statistics, direction, groups},
};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 480.0;

pub(super) fn plot(global: &Global, args: &args::Plot) -> Result<Exit, Failure> {
    let store = project::existing_store(global, None)?;
    let mut frame = Frame::load(&store)?;
    let run = args.run.as_deref().map(|run| store.find_run(run)).transpose()?;
    let (mut rows, _) = question::chosen(&mut frame, args.condition.as_deref(), args.stage.as_deref())?;
    if let Some(run) = &run {
        rows.retain(|row| *frame.rows[*row].run == *run.run);
    }
    let by = match &args.by {
        Some(list) => question::columns(&mut frame, "--by", list)?,
        None => Vec::new(),
    };
    if args.metric == spectra::NAME {
        return finish(&spectra::spectra(&store, &frame, &rows, &by, args)?, spectra::NAME, args);
    }
    let metric = question::metric(&mut frame, &args.metric)?;
    rows.retain(|row| frame.ends_of(*row).contains_key(metric.as_str()));
    let chart = if args.against.is_none() && rows.iter().any(|row| frame.ends_of(*row)[metric.as_str()].points > 1) {
        over_steps(&store, &frame, &rows, &metric, &by, args)?
    } else {
        against(&mut frame, &rows, &metric, &by, args)?
    };
    if chart.series.iter().all(|series| series.points.is_empty()) {
        return Err(Failure::usage("plot::nothing", format!("no execution that fits has measured `{metric}`"))
            .help(format!("`sepia results --columns node,{metric}` lists what there is")));
    }
    finish(&chart, &metric, args)
}

fn finish(chart: &Chart, metric: &str, args: &args::Plot) -> Result<Exit, Failure> {
    let scene = chart.scene(WIDTH, HEIGHT);
    let name = metric.replace(|c: char| !c.is_alphanumeric() && c != '_', "-");
    let path = args.output.clone().unwrap_or_else(|| format!("{name}.svg").into());
    write(&path, &scene)?;
    output::note(&format!("{:>12} {path}", "Wrote"));
    Ok(Exit::Fine)
}

fn write(path: &Utf8Path, scene: &Scene) -> Result<(), Failure> {
    let bytes = match path.extension() {
        Some("svg") => svg(scene, Palette::Light).into_bytes(),
        Some("png") => png(scene, 2.0).map_err(std::io::Error::other)?,
        _ => {
            return Err(Failure::usage("plot::format", format!("what {path} should be is not clear from its name"))
                .help("end it with .svg or .png"));
        }
    };
    Ok(fs_err::write(path, bytes)?)
}

/// What a group is called: its values, or its node.
fn label(frame: &Frame<'_>, group: &Group, by: &[Column]) -> String {
    let values = by.iter().zip(&group.values).map(|(column, value)| {
        let text = value.text();
        if text.is_empty() {
            format!("no {}", column.name())
        } else if by.len() == 1 && value.number().is_none() {
            text.into_owned()
        } else {
            format!("{} {text}", column.name())
        }
    });
    let label = values.collect::<Vec<_>>().join(", ");
    match group.rows.first() {
        Some(row) if label.is_empty() => frame.rows[*row].node.to_string(),
        _ => label,
    }
}

/// Executions that belong together, with what they are called; without `by`, those of one node.
pub(super) fn grouped(frame: &Frame<'_>, rows: &[usize], by: &[Column]) -> Vec<(String, Vec<usize>)> {
    let node = [Column::Field(crate::report::query::Field::Node)];
    let found = groups(frame, rows, if by.is_empty() { &node[..] } else { by });
    found.into_iter().map(|group| (label(frame, &group, by), group.rows)).collect()
}

/// Curves over steps, with bands where a group has several executions.
fn over_steps(
    store: &Store,
    frame: &Frame<'_>,
    rows: &[usize],
    metric: &str,
    by: &[Column],
    args: &args::Plot,
) -> Result<Chart, Failure> {
    let executions = |rows: &[usize]| rows.iter().map(|row| frame.rows[*row].execution).collect();
    let named: Vec<(String, Vec<i64>)> =
        grouped(frame, rows, by).into_iter().map(|(label, rows)| (label, executions(&rows))).collect();
    const MOST: usize = 32;
    if named.len() > MOST {
        return Err(Failure::usage("plot::too-many", format!("{} curves cannot be told apart", named.len()))
            .help("put them together with `--by method`, or choose with `--where`"));
    }
    let curves = curves(store, metric, &named)?;
    let bands = named.iter().any(|(_, executions)| executions.len() > 1);
    let x = if curves.averaged > 1 { format!("step (means of {})", curves.averaged) } else { "step".to_owned() };
    Ok(Chart {
        title: if bands { format!("{metric}: mean and standard deviation") } else { metric.to_owned() },
        x: Axis { title: x, log: args.log_x },
        y: Axis { title: unit(metric), log: args.log_y },
        series: curves.series,
        categories: Vec::new(),
    })
}

/// Figures of whole executions against something else: by default against the number of parameters, where it was measured.
fn against(
    frame: &mut Frame<'_>,
    rows: &[usize],
    metric: &str,
    by: &[Column],
    args: &args::Plot,
) -> Result<Chart, Failure> {
    let y = question::columns(frame, "METRIC", &format!("metrics.{metric}"))?.remove(0);
    let measured = rows.iter().any(|row| frame.ends_of(*row).contains_key("parameters"));
    let x = match &args.against {
        Some(name) => Some(question::columns(frame, "--against", name)?.remove(0)),
        None if measured => Some(question::columns(frame, "--against", "metrics.parameters")?.remove(0)),
        None => None,
    };
    let mut keys: Vec<Column> = by.to_vec();
    let Some(x) = x else { return Ok(categories(frame, rows, metric, &y, by, args)) };
    keys.push(x.clone());
    let mut series: Vec<Series> = Vec::new();
    let mut all = Vec::new();
    for group in groups(frame, rows, &keys) {
        let place = group.values.last().and_then(super::super::report::query::Cell::number);
        let values = group.rows.iter().filter_map(|row| frame.cell(*row, &y).number());
        let (Some(place), Some(found)) = (place, Statistics::of(values)) else { continue };
        let named = Group { values: group.values[..by.len()].to_vec(), ..group };
        let label = if by.is_empty() { String::new() } else { label(frame, &named, by) };
        all.push((place, found.mean));
        let point = (place, found.mean, found.deviation.unwrap_or(0.0));
        match series.iter_mut().find(|one| one.label == label) {
            Some(known) => known.points.push(point),
            None => series.push(Series { label, mark: Mark::Dots, points: vec![point], colour: series.len() }),
        }
    }
    if series.is_empty() {
        return Err(Failure::usage(
            "plot::no-numbers",
            format!("`{}` is not a number in any execution that fits", x.name()),
        )
        .help("put texts into --by instead"));
    }
    // The front says something only where less of x is better, as with parameters, bytes and seconds.
    let cost = x.name() == "parameters" || x.name().ends_with("_bytes") || x.name().ends_with("seconds");
    if let (true, Some(direction)) = (cost, direction(metric)) {
        let points = front(&all, direction).into_iter().map(|(x, y)| (x, y, 0.0)).collect();
        series.insert(0, Series { label: "Pareto front".to_owned(), mark: Mark::Steps, points, colour: 7 });
    }
    Ok(Chart {
        title: format!("{metric} against {}", x.name()),
        x: Axis { title: unit(&x.name()), log: args.log_x },
        y: Axis { title: unit(metric), log: args.log_y },
        series,
        categories: Vec::new(),
    })
}

/// Figures side by side, where there is nothing to put them against.
fn categories(frame: &Frame<'_>, rows: &[usize], metric: &str, y: &Column, by: &[Column], args: &args::Plot) -> Chart {
    let node = [Column::Field(crate::report::query::Field::Stage)];
    let by = if by.is_empty() { &node[..] } else { by };
    let (mut names, mut points) = (Vec::new(), Vec::new());
    for group in groups(frame, rows, by) {
        let values = group.rows.iter().filter_map(|row| frame.cell(*row, y).number());
        let Some(found) = Statistics::of(values) else { continue };
        #[expect(clippy::cast_precision_loss, reason = "places of categories")]
        points.push((names.len() as f64, found.mean, found.deviation.unwrap_or(0.0)));
        names.push(label(frame, &group, by));
    }
    Chart {
        title: metric.to_owned(),
        x: Axis { title: by.iter().map(Column::name).collect::<Vec<_>>().join(", "), log: false },
        y: Axis { title: unit(metric), log: args.log_y },
        series: vec![Series { label: String::new(), mark: Mark::Dots, points, colour: 0 }],
        categories: names,
    }
}
