//! Two-dimensional convolution.

use burn::tensor::{Tensor, module, ops::ConvOptions};
use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::fused::{Fused, Host, Input, applies, apply, host, values};

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

/// Image by image: the patches under the kernel as columns `[in * kh * kw, h' * w']`, which stay in the cache, and one
/// matrix product. The backward pass makes the columns again, for they are larger than the image, and takes both
/// gradients from them.
#[derive(Debug)]
struct FusedConv(Conv);

/// Images of a batch whose part of the weight's gradient is added up by one thread. The number of parts depends on the
/// batch alone, and they are added in their order: any number of threads gives the same bits.
fn images_per_part(batch: usize) -> usize {
    batch.div_ceil(8).max(1)
}

impl Fused<2> for FusedConv {
    type Saved = [Host; 2];

    fn forward(&self, [x, weight]: [Host; 2]) -> (Host, Self::Saved) {
        let sizes = Sizes::new(self.0, &x);
        let Sizes { batch, image, patch, positions, .. } = sizes;
        let outputs = self.0.outputs;
        let mut y = vec![0.0f32; batch * outputs * positions];
        let w = MatRef::from_row_major_slice(values(&weight), outputs, patch);
        y.par_chunks_mut((outputs * positions).max(1)).zip(values(&x).par_chunks(image.max(1))).for_each_init(
            Vec::new,
            |columns, (y, x)| {
                let columns = sizes.columns(x, columns);
                let columns = MatRef::from_row_major_slice(columns, patch, positions);
                let y = MatMut::from_row_major_slice_mut(y, outputs, positions);
                matmul(y, Accum::Replace, w, columns, 1.0, Par::Seq);
            },
        );
        (host(y, [batch, outputs, sizes.output[0], sizes.output[1]]), [x, weight])
    }

    fn backward(&self, [x, weight]: Self::Saved, grad: Host, wanted: [bool; 2]) -> [Option<Host>; 2] {
        let sizes = Sizes::new(self.0, &x);
        let Sizes { batch, image, patch, positions, .. } = sizes;
        let outputs = self.0.outputs;
        let w = MatRef::from_row_major_slice(values(&weight), outputs, patch);
        let [for_x, for_weight] = wanted;
        let per_part = images_per_part(batch);
        let mut dx = vec![0.0f32; if for_x { batch * image } else { 0 }];
        let part = |dx: &mut [f32], x: &[f32], dy: &[f32]| {
            let (mut columns, mut products) = (Vec::new(), Vec::new());
            let mut dw = vec![0.0f32; if for_weight { outputs * patch } else { 0 }];
            let images = x.chunks_exact(image.max(1)).zip(dy.chunks_exact((outputs * positions).max(1)));
            for (index, (x, dy)) in images.enumerate() {
                let dy = MatRef::from_row_major_slice(dy, outputs, positions);
                if for_weight {
                    let columns = sizes.columns(x, &mut columns);
                    let columns = MatRef::from_row_major_slice(columns, patch, positions);
                    let dw = MatMut::from_row_major_slice_mut(&mut dw, outputs, patch);
                    matmul(dw, Accum::Add, dy, columns.transpose(), 1.0, Par::Seq);
                }
                if for_x {
                    products.resize(patch * positions, 0.0);
                    let product = MatMut::from_row_major_slice_mut(&mut products, patch, positions);
                    matmul(product, Accum::Replace, w.transpose(), dy, 1.0, Par::Seq);
                    sizes.add_columns(&products, &mut dx[index * image..(index + 1) * image]);
                }
            }
            dw
        };
        let (xs, dys) = (values(&x), values(&grad));
        let parts =
            xs.par_chunks((per_part * image).max(1)).zip(dys.par_chunks((per_part * outputs * positions).max(1)));
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
}

impl Sizes {
    fn new(conv: Conv, x: &Host) -> Self {
        let input: [usize; 4] = x.layout().shape().dims();
        let [batch, inputs, h, w] = input;
        let output = conv.output_size([h, w]);
        Self {
            conv,
            input,
            output,
            batch,
            image: inputs * h * w,
            patch: conv.patch(),
            positions: output[0] * output[1],
        }
    }

    /// Whether an image is its own columns.
    fn is_pointwise(&self) -> bool {
        let Conv { kernel, stride, padding, .. } = self.conv;
        kernel == [1; 2] && stride == [1; 2] && padding == [0; 2]
    }

    /// The patches of an image `[in, h, w]` as columns `[in * kh * kw, h' * w']`.
    fn columns<'a>(&self, x: &'a [f32], buffer: &'a mut Vec<f32>) -> &'a [f32] {
        if self.is_pointwise() {
            return x;
        }
        buffer.resize(self.patch * self.positions, 0.0);
        let width = self.output[1];
        self.each_row(|target, source| {
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

    /// Adds each value of columns to the place of the image that it came from.
    fn add_columns(&self, columns: &[f32], x: &mut [f32]) {
        self.each_row(|row, source| {
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

    /// Calls `each` with every row of `w'` values of the columns: where it begins there, and the run of the image's row
    /// that it takes.
    fn each_row(&self, mut each: impl FnMut(usize, Option<Run>)) {
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
                    for row in 0..rows {
                        let y = (row * sh + ky).checked_sub(ph).filter(|y| *y < h && start < end);
                        let from = |y: usize| (channel * h + y) * w + start * sw + kx - pw;
                        each(target, y.map(|y| Run { from: from(y), start, end }));
                        target += width;
                    }
                }
            }
        }
    }
}

/// Values of a row of columns that come from an image: those from `start` to `end`, the first of them from `from`.
struct Run {
    from: usize,
    start: usize,
    end: usize,
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::ops::fused::testing::{assert_same, random};

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
        ] {
            let conv = Conv { inputs: 3, outputs: 5, kernel, stride, padding, groups: 1 };
            let [h, w] = side;
            let batch = 11;
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
        let y = conv2d(Tensor::ones([1, 4, 3, 3], &Device::flex()), random([2, 18], 1), &conv);
        assert_eq!(y.dims(), [1, 2, 3, 3]);
    }
}
