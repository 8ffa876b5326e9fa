//! The graph of a run as a picture: layers from top to bottom, the cells of a sweep in one box where there are many.

use std::collections::{BTreeMap, BTreeSet};

use crate::report::{
    figures::{count, duration},
    plot::{Anchor, Ink, Item, Scene},
    run_view::{NodeView, RunView, State},
};

/// With more nodes than this, the cells of a sweep share a box.
const EACH: usize = 12;
/// More boxes than this tell nobody anything.
const MOST: usize = 60;

const WIDTH: f64 = 176.0;
const HEIGHT: f64 = 64.0;
const GAP_X: f64 = 16.0;
const GAP_Y: f64 = 40.0;
const EDGE: f64 = 8.0;

/// A box: one node, or all cells of a stage.
struct Stage<'r> {
    name: String,
    nodes: Vec<&'r NodeView>,
    needs: BTreeSet<usize>,
}

/// The picture, unless there are too many boxes or none.
pub(super) fn scene(view: &RunView) -> Option<Scene> {
    let stages = stages(view);
    if stages.is_empty() || stages.len() > MOST {
        return None;
    }
    let layers = layers(&stages);
    let widest = layers.iter().map(Vec::len).max().unwrap_or(1);
    #[expect(clippy::cast_precision_loss, reason = "a handful of boxes")]
    let across = |boxes: usize| boxes as f64 * (WIDTH + GAP_X) - GAP_X;
    let width = across(widest) + 2.0 * EDGE;
    #[expect(clippy::cast_precision_loss, reason = "a handful of layers")]
    let height = layers.len() as f64 * (HEIGHT + GAP_Y) - GAP_Y + 2.0 * EDGE;
    let mut at: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for (level, layer) in layers.iter().enumerate() {
        let left = (width - across(layer.len())) / 2.0;
        for (place, stage) in layer.iter().enumerate() {
            #[expect(clippy::cast_precision_loss, reason = "a handful of boxes")]
            at.insert(*stage, (left + place as f64 * (WIDTH + GAP_X), EDGE + level as f64 * (HEIGHT + GAP_Y)));
        }
    }
    let names: Vec<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
    let mut scene =
        Scene { width, height, description: format!("The graph of {}", names.join(", ")), items: Vec::new() };
    for (number, stage) in stages.iter().enumerate() {
        for needed in &stage.needs {
            let (Some(from), Some(to)) = (at.get(needed), at.get(&number)) else { continue };
            let points = vec![(from.0 + WIDTH / 2.0, from.1 + HEIGHT), (to.0 + WIDTH / 2.0, to.1)];
            scene.items.push(Item::Line { points, ink: Ink::Muted, width: 1.4, dashes: &[] });
        }
    }
    for (number, stage) in stages.iter().enumerate() {
        if let Some(place) = at.get(&number) {
            draw(&mut scene, stage, *place);
        }
    }
    Some(scene)
}

fn draw(scene: &mut Scene, stage: &Stage<'_>, (x, y): (f64, f64)) {
    let state = stage.nodes.iter().map(|node| node.state).min().unwrap_or_default();
    let kind = stage.nodes.first().map(|node| node.kind.as_str()).unwrap_or_default();
    let seconds: f64 =
        stage.nodes.iter().filter_map(|node| Some(node.record.as_ref()?.wall_seconds)).filter(|s| s.is_finite()).sum();
    let time = if seconds > 0.0 { format!(", {}", duration(seconds)) } else { String::new() };
    let states = if stage.nodes.len() == 1 {
        state.name().to_owned()
    } else {
        let mut counts: BTreeMap<State, usize> = BTreeMap::new();
        stage.nodes.iter().for_each(|node| *counts.entry(node.state).or_default() += 1);
        let counts: Vec<String> = counts.iter().map(|(state, count)| format!("{count} {}", state.name())).collect();
        counts.join(", ")
    };
    let name =
        if stage.nodes.len() == 1 { stage.name.clone() } else { format!("{} x {}", stage.name, stage.nodes.len()) };
    let title = format!("{} ({kind}), {}: {states}", stage.name, count(stage.nodes.len() as u64, "node"));
    let fill = match state {
        State::Running => Ink::Busy,
        State::Failed => Ink::Bad,
        State::Done => Ink::Good,
        State::Cached => Ink::Known,
        State::Skipped | State::Waiting => Ink::Idle,
    };
    scene.items.push(Item::Box { from: (x, y), size: (WIDTH, HEIGHT), fill, stroke: Ink::Muted, title });
    let lines = [
        (20.0, 13.0, true, Ink::Text, name),
        (37.0, 11.0, false, Ink::Muted, format!("{kind}{time}")),
        (54.0, 11.0, false, Ink::Text, states),
    ];
    for (down, size, bold, ink, text) in lines {
        // About 0.62 of the size a letter.
        let longest = (WIDTH - 12.0) / (size * if bold { 0.66 } else { 0.6 });
        let at = (x + WIDTH / 2.0, y + down);
        scene.items.push(Item::Text {
            at,
            size,
            anchor: Anchor::Middle,
            upright: false,
            bold,
            ink,
            text: cut(&text, longest),
        });
    }
}

fn cut(text: &str, longest: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "about 25")]
    let longest = longest as usize;
    if text.chars().count() <= longest {
        text.to_owned()
    } else {
        text.chars().take(longest - 1).chain(['…']).collect()
    }
}

fn stages(view: &RunView) -> Vec<Stage<'_>> {
    let together = view.nodes.len() > EACH;
    let mut stages: Vec<Stage<'_>> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    let mut of_node = Vec::with_capacity(view.nodes.len());
    for node in &view.nodes {
        let name = if together { node.node.split('[').next().unwrap_or_default() } else { &node.node };
        let place = *places.entry(name).or_insert_with(|| {
            stages.push(Stage { name: name.to_owned(), nodes: Vec::new(), needs: BTreeSet::new() });
            stages.len() - 1
        });
        stages[place].nodes.push(node);
        of_node.push(place);
    }
    for (node, place) in view.nodes.iter().zip(&of_node) {
        let needs: Vec<usize> = node.needs.iter().filter_map(|needed| of_node.get(*needed).copied()).collect();
        stages[*place].needs.extend(needs.into_iter().filter(|needed| needed != place));
    }
    stages
}

/// Each stage below all that it needs, beside its kin: in the order of the middle of what it needs.
fn layers(stages: &[Stage<'_>]) -> Vec<Vec<usize>> {
    let mut level = vec![0_usize; stages.len()];
    // As many rounds as the longest path; where stages need each other in a circle, it ends all the same.
    for _ in 0..stages.len() {
        let mut changed = false;
        for (number, stage) in stages.iter().enumerate() {
            let below = stage.needs.iter().map(|needed| level[*needed] + 1).max().unwrap_or(0).min(stages.len() - 1);
            if below > level[number] {
                level[number] = below;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    let mut layers: Vec<Vec<usize>> = Vec::new();
    let mut place = vec![0.0; stages.len()];
    for wanted in 0..=level.iter().copied().max().unwrap_or(0) {
        let mut layer: Vec<usize> = (0..stages.len()).filter(|number| level[*number] == wanted).collect();
        #[expect(clippy::cast_precision_loss, reason = "a handful of boxes")]
        let middle = |number: &usize, place: &[f64]| {
            let needs = &stages[*number].needs;
            needs.iter().map(|needed| place[*needed]).sum::<f64>() / needs.len().max(1) as f64
        };
        layer.sort_by(|a, b| middle(a, &place).total_cmp(&middle(b, &place)));
        #[expect(clippy::cast_precision_loss, reason = "a handful of boxes")]
        for (at, number) in layer.iter().enumerate() {
            place[*number] = at as f64 - layer.len() as f64 / 2.0;
        }
        if !layer.is_empty() {
            layers.push(layer);
        }
    }
    layers
}
