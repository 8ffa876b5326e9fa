//! Two-dimensional convolution.

use burn::tensor::{Tensor, module, ops::ConvOptions};
use serde::{Deserialize, Serialize};

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
    let Conv { inputs, outputs, kernel, stride, padding, groups } = *conv;
    let kernel = weight.reshape([outputs, inputs / groups.max(1), kernel[0], kernel[1]]);
    module::conv2d(x, kernel, None, ConvOptions::new(stride, padding, [1, 1], groups))
}
