//! Pictures of results: curves with bands over seeds, figures against figures with the front of the best.
//!
//! | module | what is in it |
//! |---|---|
//! | `scene` | lines, areas, dots and texts: what a picture is made of, whatever draws it |
//! | `svg`, `png` | what draws it |
//! | `axis` | ranges and round numbers along an axis |
//! | `chart` | series into a scene: axes, grid, legend |
//! | `series` | results into series |

mod axis;
mod chart;
mod png;
mod scene;
mod series;
mod svg;

pub(crate) use chart::{Axis, Chart, Mark, Series};
pub(crate) use png::png;
pub(crate) use scene::{Anchor, COLOURS, Ink, Item, Scene};
pub(crate) use series::{curves, front, mean_curve, unit};
pub(crate) use svg::{Palette, svg, variable};
