//! Series into a scene: axes with titles, a light grid, lines with bands, dots with bars, a legend below.

use super::{
    axis::{Range, label},
    scene::{Anchor, Ink, Item, Scene, dashes},
};

/// What is drawn.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
    /// Texts at places of the x axis instead of numbers: 0, 1, 2 ...
    pub(crate) categories: Vec<String>,
}

/// One of the two axes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Axis {
    /// With the unit.
    pub(crate) title: String,
    pub(crate) log: bool,
}

/// Points of one colour.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    /// In the legend; none if empty.
    pub(crate) label: String,
    pub(crate) mark: Mark,
    /// x, y, and half the height of the band or bar around it.
    pub(crate) points: Vec<(f64, f64, f64)>,
    /// Which colour.
    pub(crate) colour: usize,
}

/// How points are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// A line with a band.
    Line,
    /// Dots with bars.
    Dots,
    /// A thin line from step to step without a band: a front.
    Steps,
}

const LEFT: f64 = 76.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 56.0;
const LEGEND_LINE: f64 = 22.0;

impl Chart {
    /// The picture of it, of this width and a height for the plot itself; a legend comes below.
    pub(crate) fn scene(&self, width: f64, height: f64) -> Scene {
        let legend = self.legend(width);
        let lines = legend.iter().map(|(_, line, _)| line + 1).max().unwrap_or(0);
        #[expect(clippy::cast_precision_loss, reason = "lines of a legend")]
        let total = height + lines as f64 * LEGEND_LINE + if lines > 0 { 6.0 } else { 0.0 };
        let mut scene = Scene { width, height: total, description: self.description(), items: Vec::new() };
        let (x, y) = self.ranges();
        let place = |at: (f64, f64)| {
            let along = |range: &Range, value: f64| range.place(value).clamp(-0.5, 1.5);
            (
                LEFT + along(&x, at.0) * (width - LEFT - RIGHT),
                height - BOTTOM - along(&y, at.1) * (height - TOP - BOTTOM),
            )
        };
        self.draw_axes(&mut scene, (&x, &y), height, &place);
        for series in &self.series {
            draw(&mut scene, series, (&x, &y), &place);
        }
        self.draw_legend(&mut scene, &legend, height);
        scene
    }

    fn description(&self) -> String {
        let names: Vec<&str> =
            self.series.iter().map(|one| one.label.as_str()).filter(|label| !label.is_empty()).collect();
        let names = if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) };
        format!("{} against {}{names}", self.y.title, self.x.title)
    }

    fn ranges(&self) -> (Range, Range) {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x = if self.categories.is_empty() {
            Range::of(points().map(|(x, _, _)| *x), self.x.log)
        } else {
            #[expect(clippy::cast_precision_loss, reason = "a handful of categories")]
            let last = self.categories.len() as f64;
            Range { low: -0.6, high: last - 0.4, log: false }
        };
        let ends = points().flat_map(|(_, y, half)| [*y - half, *y + half]);
        // A bar that reaches below zero does not widen a logarithmic axis.
        let y = if self.y.log { Range::of(points().map(|(_, y, _)| *y), true) } else { Range::of(ends, false) };
        (x, y)
    }

    fn draw_axes(
        &self,
        scene: &mut Scene,
        (x, y): (&Range, &Range),
        height: f64,
        place: &dyn Fn((f64, f64)) -> (f64, f64),
    ) {
        let width = scene.width;
        let text = |at, anchor, size, ink, text: String| Item::Text {
            at,
            size,
            anchor,
            upright: false,
            bold: false,
            ink,
            text,
        };
        let items = &mut scene.items;
        for tick in y.ticks(6) {
            let (_, at) = place((x.low, tick));
            items.push(Item::Line {
                points: vec![(LEFT, at), (width - RIGHT, at)],
                ink: Ink::Grid,
                width: 1.0,
                dashes: &[],
            });
            items.push(text((LEFT - 8.0, at + 4.0), Anchor::End, 12.0, Ink::Muted, label(tick)));
        }
        let bottom = height - BOTTOM;
        if self.categories.is_empty() {
            let about = if width < 500.0 { 4 } else { 7 };
            for tick in x.ticks(about) {
                let (at, _) = place((tick, y.low));
                items.push(Item::Line {
                    points: vec![(at, TOP), (at, bottom)],
                    ink: Ink::Grid,
                    width: 1.0,
                    dashes: &[],
                });
                items.push(text((at, bottom + 18.0), Anchor::Middle, 12.0, Ink::Muted, label(tick)));
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a handful of categories")]
        let wide = (width - LEFT - RIGHT) / self.categories.len().max(1) as f64;
        for (number, category) in self.categories.iter().enumerate() {
            #[expect(clippy::cast_precision_loss, reason = "a handful of categories")]
            let (at, _) = place((number as f64, y.low));
            // About seven pixels a letter.
            let category = cut(category, (wide / 7.0).max(4.0));
            items.push(text((at, bottom + 18.0), Anchor::Middle, 12.0, Ink::Muted, category));
        }
        items.push(Item::Line {
            points: vec![(LEFT, TOP), (LEFT, bottom), (width - RIGHT, bottom)],
            ink: Ink::Muted,
            width: 1.0,
            dashes: &[],
        });
        items.push(text(
            ((LEFT + width - RIGHT) / 2.0, bottom + 40.0),
            Anchor::Middle,
            13.0,
            Ink::Text,
            self.x.title.clone(),
        ));
        items.push(Item::Text {
            at: (18.0, (TOP + bottom) / 2.0),
            size: 13.0,
            anchor: Anchor::Middle,
            upright: true,
            bold: false,
            ink: Ink::Text,
            text: self.y.title.clone(),
        });
        let title = cut(&self.title, (width - LEFT) / 8.0);
        items.push(Item::Text {
            at: (LEFT, 24.0),
            size: 15.0,
            anchor: Anchor::Start,
            upright: false,
            bold: true,
            ink: Ink::Text,
            text: title,
        });
    }

    /// For each series that has a label: its number, line and place in that line.
    fn legend(&self, width: f64) -> Vec<(usize, usize, f64)> {
        let labelled: Vec<(usize, &Series)> =
            self.series.iter().enumerate().filter(|(_, series)| !series.label.is_empty()).collect();
        if labelled.len() < 2 && self.series.len() < 2 {
            return Vec::new();
        }
        let (mut line, mut at) = (0, LEFT);
        let mut places = Vec::new();
        for (number, series) in labelled {
            #[expect(clippy::cast_precision_loss, reason = "length of a label")]
            let needs = 34.0 + cut(&series.label, letters(width)).chars().count() as f64 * 7.4;
            if at > LEFT && at + needs > width - RIGHT {
                line += 1;
                at = LEFT;
            }
            places.push((number, line, at));
            at += needs + 12.0;
        }
        places
    }

    fn draw_legend(&self, scene: &mut Scene, legend: &[(usize, usize, f64)], height: f64) {
        for (number, line, at) in legend {
            let Some(series) = self.series.get(*number) else { continue };
            #[expect(clippy::cast_precision_loss, reason = "lines of a legend")]
            let y = height + *line as f64 * LEGEND_LINE + 8.0;
            let ink = Ink::Series(series.colour);
            scene.items.push(match series.mark {
                Mark::Dots => Item::Dot { at: (at + 10.0, y), radius: 5.0, ink, title: String::new() },
                Mark::Steps => Item::Line {
                    points: vec![(*at, y), (at + 22.0, y)],
                    ink: Ink::Muted,
                    width: 1.2,
                    dashes: &[4.0, 3.0],
                },
                Mark::Line => Item::Line {
                    points: vec![(*at, y), (at + 22.0, y)],
                    ink,
                    width: 3.0,
                    dashes: dashes(series.colour),
                },
            });
            scene.items.push(Item::Text {
                at: (at + 29.0, y + 4.0),
                size: 12.0,
                anchor: Anchor::Start,
                upright: false,
                bold: false,
                ink: Ink::Text,
                text: cut(&series.label, letters(scene.width)),
            });
        }
    }
}

fn draw(scene: &mut Scene, series: &Series, (x, y): (&Range, &Range), place: &dyn Fn((f64, f64)) -> (f64, f64)) {
    let ink = Ink::Series(series.colour);
    let shown = |value: f64, range: &Range| value.is_finite() && (!range.log || value > 0.0);
    // What is not a number breaks a line: a gap says so.
    let stretches = series.points.split(|(at, value, _)| !shown(*at, x) || !shown(*value, y));
    for stretch in stretches.filter(|stretch| !stretch.is_empty()) {
        match series.mark {
            Mark::Line => {
                if stretch.iter().any(|(_, _, half)| *half > 0.0) {
                    let low = |value: f64, half: f64| if y.log { (value - half).max(y.low) } else { value - half };
                    let over = stretch.iter().map(|(at, value, half)| place((*at, value + half)));
                    let under = stretch.iter().rev().map(|(at, value, half)| place((*at, low(*value, *half))));
                    scene.items.push(Item::Area { points: over.chain(under).collect(), ink, opacity: 0.18 });
                }
                let points: Vec<_> = stretch.iter().map(|(at, value, _)| place((*at, *value))).collect();
                match points.as_slice() {
                    [one] => scene.items.push(Item::Dot { at: *one, radius: 3.0, ink, title: series.label.clone() }),
                    _ => scene.items.push(Item::Line { points, ink, width: 2.0, dashes: dashes(series.colour) }),
                }
            }
            Mark::Dots => {
                for (at, value, half) in stretch {
                    let low = if y.log { (value - half).max(y.low) } else { value - half };
                    if *half > 0.0 {
                        let points = vec![place((*at, low)), place((*at, value + half))];
                        scene.items.push(Item::Line { points, ink, width: 1.5, dashes: &[] });
                    }
                    let title = format!("{}: {} at {}", series.label, label(*value), label(*at));
                    scene.items.push(Item::Dot { at: place((*at, *value)), radius: 5.0, ink, title });
                }
            }
            Mark::Steps => {
                let mut points: Vec<(f64, f64)> = Vec::new();
                for (at, value, _) in stretch {
                    let (to_x, to_y) = place((*at, *value));
                    if let Some((_, from_y)) = points.last().copied() {
                        points.push((to_x, from_y));
                    }
                    points.push((to_x, to_y));
                }
                scene.items.push(Item::Line { points, ink: Ink::Muted, width: 1.2, dashes: &[4.0, 3.0] });
            }
        }
    }
}

/// How many letters of a label fit into a line of a legend.
fn letters(width: f64) -> f64 {
    ((width - LEFT - RIGHT - 34.0) / 7.4).clamp(8.0, 40.0)
}

/// A text of at most this many letters.
fn cut(text: &str, longest: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "lengths of labels")]
    let longest = longest.max(2.0) as usize;
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if clean.chars().count() <= longest { clean } else { clean.chars().take(longest - 1).chain(['…']).collect() }
}
