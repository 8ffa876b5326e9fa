//! Random crops and flips, derived from a seed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::random::Rng;

/// What happens to training images. Nothing by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Augmentation {
    /// Images are framed by so many pixels of the mean colour, and cut out again at a random place. 4 is usual for CIFAR.
    pub crop_padding: usize,
    /// Half of the images are mirrored left to right.
    pub flip: bool,
}

impl Augmentation {
    /// Draws for one image: how far it moves down and to the right, and whether it is mirrored.
    pub(super) fn draw(&self, rng: &mut Rng) -> (isize, isize, bool) {
        let shift = |rng: &mut Rng| {
            let padding = self.crop_padding as isize;
            rng.below(2 * self.crop_padding as u64 + 1) as isize - padding
        };
        (shift(rng), shift(rng), rng.below(2) == 1 && self.flip)
    }
}

/// Copies one normalised channel `[h, w]`, moved and mirrored; where nothing is, 0, the mean.
pub(super) fn place(
    source: &[u8],
    target: &mut [f32],
    [height, width]: [usize; 2],
    (down, right, mirrored): (isize, isize, bool),
    table: &[f32; 256],
) {
    for row in 0..height {
        let from_row = row as isize - down;
        let target = &mut target[row * width..(row + 1) * width];
        if from_row < 0 || from_row >= height as isize {
            target.fill(0.0);
            continue;
        }
        let source = &source[from_row as usize * width..(from_row as usize + 1) * width];
        for (column, value) in target.iter_mut().enumerate() {
            let column = if mirrored { width - 1 - column } else { column };
            let from = column as isize - right;
            let inside = from >= 0 && from < width as isize;
            *value = if inside { table[usize::from(source[from as usize])] } else { 0.0 };
        }
    }
}
