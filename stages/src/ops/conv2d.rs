//! Two-dimensional convolution.

use burn::tensor::{Tensor, module, ops::ConvOptions};
use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    fused::{Fused, Host, Input, applies, apply, host, values},
    kernel::simd,
};

/// Sizes of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conv {
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Down and to the right.
    pub stride: [usize; 2],
    /// Zeros on each side, vertically and horizontally.
    pub padding: [usize; 2],
    /// Groups of channels that do not see each other; 1 but for the depthwise half of a decoupled layer.
    pub groups: usize,
}

impl Conv {
    /// A square kernel whose output is as large as its input divided by `stride`.
    #[must_use]
    pub fn same(inputs: usize, outputs: usize, kernel: usize, stride: usize) -> Self {
        let padding = [kernel / 2; 2];
        Self { inputs, outputs, kernel: [kernel; 2], stride: [stride; 2], padding, groups: 1 }
    }

    /// Height and width of the output for an input of this height and width.
    #[must_use]
    pub fn output_size(&self, size: [usize; 2]) -> [usize; 2] {
        [0, 1].map(|axis| {
            (size[axis] + 2 * self.padding[axis]).saturating_sub(self.kernel[axis]) / self.stride[axis].max(1) + 1
        })
    }

    /// Values of the kernel that one output channel sees: `in / groups * kh * kw`.
    #[must_use]
    pub fn patch(&self) -> usize {
        self.inputs / self.groups.max(1) * self.kernel[0] * self.kernel[1]
    }
}

/// Maps `[batch, in, h, w]` and a weight `[out, in / groups * kh * kw]` to `[batch, out, h', w']`.
#[must_use]
pub fn conv2d(x: Tensor<4>, weight: Tensor<2>, conv: &Conv) -> Tensor<4> {
    if conv.groups == 1
        && applies(&x)
        && applies(&weight)
        && let (Some(x), Some(weight)) = (Input::of(x.clone()), Input::of(weight.clone()))
    {
        return apply(FusedConv(*conv), [x, weight]);
    }
    plain(x, weight, conv)
}

fn plain(x: Tensor<4>, weight: Tensor<2>, conv: &Conv) -> Tensor<4> {
    let Conv { inputs, outputs, kernel, stride, padding, groups } = *conv;
    let kernel = weight.reshape([outputs, inputs / groups.max(1), kernel[0], kernel[1]]);
    module::conv2d(x, kernel, None, ConvOptions::new(stride, padding, [1, 1], groups))
}

/// Some images at a time: the patches under the kernel as columns `[in * kh * kw, images * h' * w']`, which stay in the
/// cache, and one matrix product. The backward pass makes the columns again, for they are larger than the images, and takes
/// both gradients from them.
#[derive(Debug)]
struct FusedConv(Conv);

/// Images of a batch whose part of the weight's gradient is added up by one thread. The number of parts depends on the
/// batch alone, and they are added in their order: any number of threads gives the same bits.
fn images_per_part(batch: usize) -> usize {
    batch.div_ceil(8).max(1)
}

/// Columns from which on a matrix product is efficient: small maps are taken together until they have as many.
const COLUMNS: usize = 128;

impl Fused<2> for FusedConv {
    type Saved = [Host; 2];

    fn forward(&self, [x, weight]: [Host; 2]) -> (Host, Self::Saved) {
        let sizes = Sizes::new(self.0, &x);
        let Sizes { batch, image, patch, positions, together, .. } = sizes;
        let outputs = self.0.outputs;
        let map = outputs * positions;
        let mut y = vec![0.0f32; batch * map];
        let w = MatRef::from_row_major_slice(values(&weight), outputs, patch);
        y.par_chunks_mut((together * map).max(1)).zip(values(&x).par_chunks((together * image).max(1))).for_each_init(
            <[Vec<f32>; 2]>::default,
            |[columns, product], (y, x)| {
                let images = x.len() / image.max(1);
                let lead = images * positions;
                let columns = MatRef::from_row_major_slice(sizes.columns(x, images, columns), patch, lead);
                if images == 1 {
                    let y = MatMut::from_row_major_slice_mut(y, outputs, lead);
                    matmul(y, Accum::Replace, w, columns, 1.0, Par::Seq);
                } else {
                    product.resize(outputs * lead, 0.0);
                    let side_by_side = MatMut::from_row_major_slice_mut(product, outputs, lead);
                    matmul(side_by_side, Accum::Replace, w, columns, 1.0, Par::Seq);
                    turn(product, y, [outputs, images], positions);
                }
            },
        );
        (host(y, [batch, outputs, sizes.output[0], sizes.output[1]]), [x, weight])
    }

    fn backward(&self, [x, weight]: Self::Saved, grad: Host, wanted: [bool; 2]) -> [Option<Host>; 2] {
        let sizes = Sizes::new(self.0, &x);
        let Sizes { batch, image, patch, positions, together, .. } = sizes;
        let outputs = self.0.outputs;
        let map = outputs * positions;
        let w = MatRef::from_row_major_slice(values(&weight), outputs, patch);
        let [for_x, for_weight] = wanted;
        let per_part = images_per_part(batch);
        let mut dx = vec![0.0f32; if for_x { batch * image } else { 0 }];
        let part = |dx: &mut [f32], x: &[f32], dy: &[f32]| {
            let [mut columns, mut products, mut turned] = <[Vec<f32>; 3]>::default();
            let mut dw = vec![0.0f32; if for_weight { outputs * patch } else { 0 }];
            let groups = x.chunks((together * image).max(1)).zip(dy.chunks((together * map).max(1)));
            let mut done = 0;
            for (x, dy) in groups {
                let images = x.len() / image.max(1);
                let lead = images * positions;
                let dy = if images == 1 {
                    dy
                } else {
                    turned.resize(outputs * lead, 0.0);
                    turn(dy, &mut turned, [images, outputs], positions);
                    &turned
                };
                let dy = MatRef::from_row_major_slice(dy, outputs, lead);
                if for_weight {
                    let columns = MatRef::from_row_major_slice(sizes.columns(x, images, &mut columns), patch, lead);
                    let dw = MatMut::from_row_major_slice_mut(&mut dw, outputs, patch);
                    matmul(dw, Accum::Add, dy, columns.transpose(), 1.0, Par::Seq);
                }
                if for_x {
                    products.resize(patch * lead, 0.0);
                    let product = MatMut::from_row_major_slice_mut(&mut products, patch, lead);
                    matmul(product, Accum::Replace, w.transpose(), dy, 1.0, Par::Seq);
                    sizes.add_columns(&mut products, images, &mut dx[done..done + x.len()]);
                }
                done += x.len();
            }
            dw
        };
        let (xs, dys) = (values(&x), values(&grad));
        let parts = xs.par_chunks((per_part * image).max(1)).zip(dys.par_chunks((per_part * map).max(1)));
        let parts: Vec<Vec<f32>> = if for_x {
            dx.par_chunks_mut((per_part * image).max(1)).zip(parts).map(|(dx, (x, dy))| part(dx, x, dy)).collect()
        } else {
            parts.map(|(x, dy)| part(&mut [], x, dy)).collect()
        };
        let dw = parts.into_iter().reduce(|mut sum, part| {
            sum.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
            sum
        });
        let [_, _, h, across] = sizes.input;
        [
            for_x.then(|| host(dx, [batch, self.0.inputs, h, across])),
            dw.filter(|_| for_weight).map(|dw| host(dw, [outputs, patch])),
        ]
    }
}

/// `[a, b, run]` to `[b, a, run]`.
fn turn(from: &[f32], to: &mut [f32], [a, b]: [usize; 2], run: usize) {
    for (i, rows) in from.chunks_exact((b * run).max(1)).enumerate() {
        for (j, values) in rows.chunks_exact(run.max(1)).enumerate() {
            let at = (j * a + i) * run;
            to[at..at + run].copy_from_slice(values);
        }
    }
}

/// Sizes of one convolution of one batch.
#[derive(Clone, Copy)]
struct Sizes {
    conv: Conv,
    input: [usize; 4],
    output: [usize; 2],
    batch: usize,
    /// Values of an image.
    image: usize,
    /// Rows of the columns: `in * kh * kw`.
    patch: usize,
    /// Positions of the kernel: `h' * w'`.
    positions: usize,
    /// Images whose columns stand side by side.
    together: usize,
}

impl Sizes {
    fn new(conv: Conv, x: &Host) -> Self {
        let input: [usize; 4] = x.layout().shape().dims();
        let [batch, inputs, h, w] = input;
        let output = conv.output_size([h, w]);
        let positions = output[0] * output[1];
        Self {
            conv,
            input,
            output,
            batch,
            image: inputs * h * w,
            patch: conv.patch(),
            positions,
            together: COLUMNS.div_ceil(positions.max(1)).min(images_per_part(batch)),
        }
    }

    /// Whether an image is its own columns.
    fn is_pointwise(&self) -> bool {
        let Conv { kernel, stride, padding, .. } = self.conv;
        kernel == [1; 2] && stride == [1; 2] && padding == [0; 2]
    }

    /// The patches of images `[images, in, h, w]` as columns `[in * kh * kw, images * h' * w']`.
    fn columns<'a>(&self, x: &'a [f32], images: usize, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        if self.is_pointwise() && images == 1 {
            return x;
        }
        buffer.resize(self.patch * images * self.positions, 0.0);
        if self.keeps_size() {
            self.each_shift(images, |column, map, shift| {
                shift.copy(&x[map..map + self.positions], &mut buffer[column..column + self.positions]);
            });
            return buffer;
        }
        let width = self.output[1];
        self.each_row(images, |target, source| {
            let target = &mut buffer[target..target + width];
            match source {
                None => target.fill(0.0),
                Some(Run { from, start, end }) => {
                    target[..start].fill(0.0);
                    target[end..].fill(0.0);
                    let stride = self.conv.stride[1];
                    if stride == 1 {
                        target[start..end].copy_from_slice(&x[from..from + end - start]);
                    } else {
                        let values = x[from..].iter().step_by(stride);
                        target[start..end].iter_mut().zip(values).for_each(|(target, value)| *target = *value);
                    }
                }
            }
        });
        buffer
    }

    /// Adds each value of columns to the place of the images that it came from. The columns are of no use afterwards.
    fn add_columns(&self, columns: &mut [f32], images: usize, x: &mut [f32]) {
        if self.keeps_size() {
            simd(
                #[inline(always)]
                || {
                    self.each_shift(images, |column, map, shift| {
                        let values = &mut columns[column..column + self.positions];
                        shift.add_back(values, &mut x[map..map + self.positions]);
                    });
                },
            );
            return;
        }
        self.each_row(images, |row, source| {
            let Some(Run { from, start, end }) = source else { return };
            let values = &columns[row + start..row + end];
            let add = |(target, value): (&mut f32, &f32)| *target += value;
            // Neighbours as a slice: several at a time.
            match self.conv.stride[1] {
                1 => x[from..from + end - start].iter_mut().zip(values).for_each(add),
                stride => x[from..].iter_mut().step_by(stride).zip(values).for_each(add),
            }
        });
    }

    /// Whether maps go in and come out of one size, with the kernel at every place: a row of the columns is then a whole
    /// map, shifted.
    fn keeps_size(&self) -> bool {
        let [_, _, h, w] = self.input;
        self.conv.stride == [1; 2] && self.output == [h, w]
    }

    /// Calls `each` with the part of every row of the columns that comes from one map: where it begins there, where the map
    /// begins, and how it is shifted.
    #[inline(always)]
    fn each_shift(&self, images: usize, mut each: impl FnMut(usize, usize, Shift)) {
        let Conv { kernel: [kh, kw], padding: [ph, pw], inputs, .. } = self.conv;
        let [_, _, h, w] = self.input;
        let mut column = 0;
        for channel in 0..inputs {
            for ky in 0..kh {
                for kx in 0..kw {
                    let shift = Shift::new([h, w], [ky, kx], [ph, pw]);
                    for image in 0..images {
                        each(column, (image * inputs + channel) * self.positions, shift);
                        column += self.positions;
                    }
                }
            }
        }
    }

    /// Calls `each` with every row of `w'` values of the columns: where it begins there, and the run of an image's row
    /// that it takes.
    fn each_row(&self, images: usize, mut each: impl FnMut(usize, Option<Run>)) {
        let Conv { kernel: [kh, kw], stride: [sh, sw], padding: [ph, pw], inputs, .. } = self.conv;
        let [_, _, h, w] = self.input;
        let [rows, width] = self.output;
        let mut target = 0;
        for channel in 0..inputs {
            for ky in 0..kh {
                for kx in 0..kw {
                    // Columns x' with 0 <= x' sw + kx - pw < w.
                    let start = pw.saturating_sub(kx).div_ceil(sw).min(width);
                    let end = (w + pw).saturating_sub(kx).div_ceil(sw).clamp(start, width);
                    for image in 0..images {
                        let map = (image * inputs + channel) * h;
                        for row in 0..rows {
                            let y = (row * sh + ky).checked_sub(ph).filter(|y| *y < h && start < end);
                            let from = |y: usize| (map + y) * w + start * sw + kx - pw;
                            each(target, y.map(|y| Run { from: from(y), start, end }));
                            target += width;
                        }
                    }
                }
            }
        }
    }
}

/// A map seen from another place: its value at `(y, x)` is the original's at `(y + ky - ph, x + kx - pw)`, or 0 outside.
#[derive(Clone, Copy)]
struct Shift {
    width: usize,
    /// Where the run of values that come from the original begins and ends, wrapped ones included.
    start: usize,
    end: usize,
    /// Where that run begins in the original.
    from: usize,
    /// Values at the left and at the right of every row that come from outside: a run that is shifted sideways has
    /// values of the next row there.
    left: usize,
    right: usize,
}

impl Shift {
    fn new([h, w]: [usize; 2], [ky, kx]: [usize; 2], [ph, pw]: [usize; 2]) -> Self {
        let (up, left) = (ph.saturating_sub(ky), pw.saturating_sub(kx).min(w));
        let (down, right) = (ky.saturating_sub(ph), kx.saturating_sub(pw).min(w));
        let start = up.min(h) * w + left;
        let end = (h.saturating_sub(down) * w).saturating_sub(right).max(start).min(h * w);
        let start = start.min(end);
        Self { width: w, start, end, from: down * w + right, left, right }
    }

    fn copy(self, map: &[f32], shifted: &mut [f32]) {
        let Self { start, end, from, .. } = self;
        shifted[..start].fill(0.0);
        shifted[end..].fill(0.0);
        if start < end {
            shifted[start..end].copy_from_slice(&map[from..from + end - start]);
            self.clear_sides(shifted);
        }
    }

    /// The transpose of [`copy`](Self::copy): adds the values to where they came from.
    #[inline(always)]
    fn add_back(self, shifted: &mut [f32], map: &mut [f32]) {
        let Self { start, end, from, .. } = self;
        if start < end {
            self.clear_sides(shifted);
            let values = &shifted[start..end];
            map[from..from + values.len()].iter_mut().zip(values).for_each(|(target, value)| *target += value);
        }
    }

    #[inline(always)]
    fn clear_sides(self, shifted: &mut [f32]) {
        if self.left + self.right > 0 {
            for row in shifted.chunks_exact_mut(self.width) {
                row[..self.left].fill(0.0);
                row[self.width - self.right..].fill(0.0);
            }
        }
    }
}

/// Values of a row of columns that come from an image's row: those from `start` to `end`, the first of them from `from`.
struct Run {
    from: usize,
    start: usize,
    end: usize,
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::{
        ops::fused::testing::{assert_same, random},
        testing::test_device,
    };

    #[test]
    fn both_forms_agree() {
        for (kernel, stride, padding, side) in [
            ([3, 3], [1, 1], [1, 1], [6, 7]),
            ([3, 3], [2, 2], [1, 1], [7, 6]),
            ([1, 1], [1, 1], [0, 0], [4, 5]),
            ([1, 1], [2, 2], [0, 0], [5, 6]),
            ([5, 5], [1, 1], [0, 0], [9, 8]),
            ([3, 1], [2, 1], [1, 0], [7, 5]),
            ([1, 3], [1, 2], [0, 1], [5, 7]),
            ([4, 4], [4, 4], [0, 0], [8, 12]),
            ([3, 3], [1, 1], [2, 3], [2, 1]),
            // Maps that keep their size, down to those that the kernel reaches over.
            ([5, 5], [1, 1], [2, 2], [6, 7]),
            ([5, 3], [1, 1], [2, 1], [1, 1]),
            ([5, 5], [1, 1], [2, 2], [2, 2]),
            ([3, 1], [1, 1], [1, 0], [4, 5]),
            ([1, 3], [1, 1], [0, 1], [4, 5]),
            ([3, 3], [1, 1], [1, 1], [9, 8]),
        ] {
            let conv = Conv { inputs: 3, outputs: 5, kernel, stride, padding, groups: 1 };
            let [h, w] = side;
            // One image at a time, and several, the last of them fewer.
            for batch in [5, 45] {
                let inputs = [random([batch, 3 * h * w], 1), random([5, conv.patch()], 2)];
                let maps = |x: Tensor<2>| x.reshape([batch, 3, h, w]);
                let flat = |y: Tensor<4>| {
                    assert_eq!(y.dims()[2..], conv.output_size(side));
                    let [batch, channels, h, w] = y.dims();
                    y.reshape([batch, channels * h * w])
                };
                assert_same(
                    inputs,
                    |[x, weight]| flat(conv2d(maps(x), weight, &conv)),
                    |[x, weight]| flat(plain(maps(x), weight, &conv)),
                );
            }
        }
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        let conv = Conv::same(4, 6, 3, 1);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let x = random([13, 4 * 30], 1).reshape([13, 4, 5, 6]).autodiff().require_grad();
                let weight = random([6, 36], 2).autodiff().require_grad();
                let y = conv2d(x.clone(), weight.clone(), &conv);
                let mut tape = (y.clone() * y).sum().backward();
                let for_x = x.grad_remove(&mut tape).unwrap();
                (for_x.into_data(), weight.grad_remove(&mut tape).unwrap().into_data())
            })
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn a_convolution_in_groups_is_left_to_burn() {
        let conv = Conv { groups: 2, ..Conv::same(4, 2, 3, 1) };
        let y = conv2d(Tensor::ones([1, 4, 3, 3], &test_device()), random([2, 18], 1), &conv);
        assert_eq!(y.dims(), [1, 2, 3, 3]);
    }
}
