//! What a layer computes, apart from its numbers: sizes, strides, and what its factors look like.
//!
//! Every layer's weight is a matrix. That of a linear layer is `[out, in]`, that of a convolution `[out, in * kh * kw]`,
//! the row-major reshape of the kernel `[out, in, kh, kw]`.

use serde::{Deserialize, Serialize};

use crate::ops::Conv;

/// How a weight is split into two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// `[out, in * kh * kw] = U V`: r filters of the full kernel, then 1x1. The only form of a linear layer.
    Channel,
    /// `[in * kh, out * kw]`: r filters `kh x 1`, then `1 x kw`.
    Spatial,
    /// Network decoupling (TRP): r paths of a 1x1 convolution followed by a depthwise one, added up.
    Decoupled,
}

/// A layer's sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Geometry {
    /// `y = W x`.
    Linear {
        /// Inputs, n.
        inputs: usize,
        /// Outputs, m.
        outputs: usize,
    },
    /// A convolution without dilation.
    Conv(Conv),
}

impl Geometry {
    /// Rows and columns of the weight as the matrix that `form` splits. A decoupled layer splits one matrix
    /// `[in, kh * kw]` for each filter.
    #[must_use]
    pub fn matrix(&self, form: Form) -> [usize; 2] {
        match (*self, form) {
            (Self::Linear { inputs, outputs }, _) => [outputs, inputs],
            (Self::Conv(conv), Form::Channel) => [conv.outputs, conv.patch()],
            (Self::Conv(conv), Form::Spatial) => [conv.inputs * conv.kernel[0], conv.outputs * conv.kernel[1]],
            (Self::Conv(conv), Form::Decoupled) => [conv.inputs, conv.kernel[0] * conv.kernel[1]],
        }
    }

    /// The largest rank that a form can have.
    #[must_use]
    pub fn full_rank(&self, form: Form) -> usize {
        let [rows, columns] = self.matrix(form);
        rows.min(columns)
    }

    /// The two layers that stand in place of this one: first the one that sees the input (its weight is V), then the one
    /// that makes the output (U). Stride and padding are divided between them.
    #[must_use]
    pub fn factors(&self, form: Form, rank: usize) -> [Self; 2] {
        match *self {
            Self::Linear { inputs, outputs } => {
                [Self::Linear { inputs, outputs: rank }, Self::Linear { inputs: rank, outputs }]
            }
            Self::Conv(conv) => {
                let Conv { kernel: [kh, kw], stride: [sh, sw], padding: [ph, pw], .. } = conv;
                let point =
                    |inputs, outputs| Conv { kernel: [1; 2], stride: [1; 2], padding: [0; 2], inputs, outputs, ..conv };
                match form {
                    Form::Channel => [Conv { outputs: rank, ..conv }, point(rank, conv.outputs)],
                    Form::Spatial => [
                        Conv { outputs: rank, kernel: [kh, 1], stride: [sh, 1], padding: [ph, 0], ..conv },
                        Conv { inputs: rank, kernel: [1, kw], stride: [1, sw], padding: [0, pw], ..conv },
                    ],
                    Form::Decoupled => {
                        let wide = rank * conv.outputs;
                        [point(conv.inputs, wide), Conv { inputs: wide, outputs: wide, groups: wide, ..conv }]
                    }
                }
                .map(Self::Conv)
            }
        }
    }

    /// Shape of the weight as it is stored: `[out, in]`, or `[out, in / groups, kh, kw]`.
    #[must_use]
    pub fn stored_shape(&self) -> Vec<usize> {
        match *self {
            Self::Linear { inputs, outputs } => vec![outputs, inputs],
            Self::Conv(conv) => vec![conv.outputs, conv.inputs / conv.groups.max(1), conv.kernel[0], conv.kernel[1]],
        }
    }

    /// Shape of the weight as it is held: `[out, in]`, or `[out, in / groups * kh * kw]`.
    #[must_use]
    pub fn held_shape(&self) -> [usize; 2] {
        match *self {
            Self::Linear { inputs, outputs } => [outputs, inputs],
            Self::Conv(conv) => [conv.outputs, conv.patch()],
        }
    }

    /// Values of the weight.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.held_shape().iter().product()
    }

    /// Values of the two factors.
    #[must_use]
    pub fn factored_parameters(&self, form: Form, rank: usize) -> usize {
        self.factors(form, rank).iter().map(Self::parameters).sum()
    }

    /// Multiplications of one image whose maps are this high and wide (for a linear layer: `[rows, 1]` with the rows it
    /// is applied to), and the size of the output.
    #[must_use]
    pub fn macs(&self, size: [usize; 2]) -> (u64, [usize; 2]) {
        let output = match self {
            Self::Linear { .. } => size,
            Self::Conv(conv) => conv.output_size(size),
        };
        (self.parameters() as u64 * output[0] as u64 * output[1] as u64, output)
    }

    /// The same for the two factors.
    #[must_use]
    pub fn factored_macs(&self, form: Form, rank: usize, size: [usize; 2]) -> u64 {
        let [inner, outer] = self.factors(form, rank);
        let (first, between) = inner.macs(size);
        first + outer.macs(between).0
    }

    /// Kernel height and width of a convolution; `None` for a linear layer.
    #[must_use]
    pub fn kernel(&self) -> Option<[usize; 2]> {
        match self {
            Self::Linear { .. } => None,
            Self::Conv(conv) => Some(conv.kernel),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_keep_the_output_size_and_cost_what_the_papers_say() {
        let conv = Conv::same(8, 12, 3, 2);
        let geometry = Geometry::Conv(conv);
        assert_eq!(conv.output_size([28, 27]), [14, 14]);
        for form in [Form::Channel, Form::Spatial, Form::Decoupled] {
            let [inner, outer] = geometry.factors(form, 5);
            let (_, between) = inner.macs([28, 27]);
            assert_eq!(outer.macs(between).1, [14, 14], "{form:?}");
        }
        assert_eq!(geometry.factored_parameters(Form::Channel, 5), 5 * (8 * 9 + 12));
        assert_eq!(geometry.factored_parameters(Form::Spatial, 5), 5 * (8 * 3 + 12 * 3));
        assert_eq!(geometry.factored_parameters(Form::Decoupled, 5), 5 * (8 * 12 + 12 * 9));
        assert_eq!(geometry.full_rank(Form::Channel), 12);
        assert_eq!(geometry.full_rank(Form::Spatial), 24);
        assert_eq!(geometry.full_rank(Form::Decoupled), 8);
    }
}
