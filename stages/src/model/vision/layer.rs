//! A linear or convolutional layer whose weight is one matrix or two factors.

use burn::tensor::Tensor;

use super::{
    geometry::{Form, Geometry},
    norm::BatchNorm,
    pass::{Pass, Seen},
};
use crate::ops::{self, Conv};

/// Where a layer stands in its model: rules of methods are about this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The first layer, which sees the image.
    Stem,
    /// Any other layer of a block.
    Body,
    /// The 1x1 convolution beside a block.
    Shortcut,
    /// The output projection of an attention.
    AttentionOut,
    /// The last layer.
    Classifier,
}

/// A weight, dense or as two factors.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "some dozens in a model, in layers that are boxed")]
pub enum Weight {
    /// `[out, in]` or `[out, in * kh * kw]`.
    Dense(Tensor<2>),
    /// Two layers in its place.
    Factored(Factors),
}

/// Two factors in place of a weight, held as [`Geometry::factors`] says.
///
/// | form | `v`, applied first | `u` | matrix |
/// |---|---|---|---|
/// | linear, channel | `[r, n]` or `[r, i * kh * kw]` | `[m, r]` | `u v` |
/// | spatial | `[r, i * kh]` | `[o, r * kw]` | see [`Layer::matrix`] |
/// | decoupled | `[r * o, i]` | `[r * o, kh * kw]` | |
#[derive(Debug, Clone)]
pub struct Factors {
    /// What makes the output.
    pub u: Tensor<2>,
    /// What sees the input.
    pub v: Tensor<2>,
    /// How they stand for the weight.
    pub form: Form,
    /// Their rank.
    pub rank: usize,
    /// A BatchNorm between them (Cuttlefish's extra BN); of convolutions alone.
    pub norm: Option<BatchNorm>,
}

/// A linear or convolutional layer.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Its place in the model: `layer2.0.conv1`.
    pub path: String,
    /// Layers of one stack have equal or similar shapes; methods decide for a stack as a whole. `layer2`.
    pub stack: String,
    /// Where it stands.
    pub role: Role,
    /// Its sizes.
    pub geometry: Geometry,
    /// Its weight.
    pub weight: Weight,
    /// `[out]`.
    pub bias: Option<Tensor<1>>,
}

/// Why a layer cannot be factorised as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FactorError {
    /// A rank that no factors have.
    #[error("rank {rank} of `{path}` must be between 1 and {full}, the smaller side of its {rows}x{columns} matrix")]
    Rank {
        /// The layer.
        path: String,
        /// The rank asked for.
        rank: usize,
        /// The largest.
        full: usize,
        /// Rows of the matrix.
        rows: usize,
        /// Its columns.
        columns: usize,
    },
    /// A convolution in groups has no single matrix.
    #[error("`{path}` is a convolution in {groups} groups, which cannot be factorised")]
    Grouped {
        /// The layer.
        path: String,
        /// Its groups.
        groups: usize,
    },
    /// A form that linear layers do not have.
    #[error("`{path}` is a linear layer and has the channel form alone")]
    Linear {
        /// The layer.
        path: String,
    },
    /// Factors whose shapes do not fit the layer.
    #[error("factors {left:?} and {right:?} do not make the {matrix:?} matrix of `{path}`")]
    Shapes {
        /// The layer.
        path: String,
        /// Of the left factor.
        left: [usize; 2],
        /// Of the right factor.
        right: [usize; 2],
        /// Of the matrix.
        matrix: [usize; 2],
    },
}

impl Layer {
    /// Whether two factors stand in place of the weight.
    #[must_use]
    pub fn is_factored(&self) -> bool {
        matches!(self.weight, Weight::Factored(_))
    }

    /// The rank and form of its factors.
    #[must_use]
    pub fn factored(&self) -> Option<(Form, usize)> {
        match &self.weight {
            Weight::Dense(_) => None,
            Weight::Factored(factors) => Some((factors.form, factors.rank)),
        }
    }

    /// Whether it can be factorised so.
    ///
    /// # Errors
    /// A rank of 0 or above the smaller side, a convolution in groups, a linear layer in another form than its own.
    pub fn check(&self, form: Form, rank: usize) -> Result<(), FactorError> {
        let path = self.path.clone();
        match self.geometry {
            Geometry::Conv(Conv { groups, .. }) if groups != 1 => return Err(FactorError::Grouped { path, groups }),
            Geometry::Linear { .. } if form != Form::Channel => return Err(FactorError::Linear { path }),
            _ => {}
        }
        let [rows, columns] = self.geometry.matrix(form);
        let full = rows.min(columns);
        if rank == 0 || rank > full {
            return Err(FactorError::Rank { path, rank, full, rows, columns });
        }
        Ok(())
    }

    /// The weight `[out, in * kh * kw]`, multiplied out where it is factored. A BatchNorm between factors is left out.
    #[must_use]
    pub fn dense(&self) -> Tensor<2> {
        match &self.weight {
            Weight::Dense(weight) => weight.clone(),
            Weight::Factored(Factors { u, v, form, rank, .. }) => match (form, self.geometry) {
                (Form::Channel, _) | (_, Geometry::Linear { .. }) => ops::product(u.clone(), v.clone()),
                (Form::Spatial, Geometry::Conv(conv)) => {
                    let Conv { outputs, kernel: [_, kw], .. } = conv;
                    let right = u.clone().reshape([outputs, *rank, kw]).swap_dims(0, 1);
                    let product = ops::product(v.clone().transpose(), right.reshape([*rank, outputs * kw]));
                    from_spatial(product, conv)
                }
                (Form::Decoupled, Geometry::Conv(conv)) => {
                    let Conv { inputs, outputs, kernel: [kh, kw], .. } = conv;
                    let points = v.clone().reshape([*rank, outputs, inputs, 1]);
                    let depths = u.clone().reshape([*rank, outputs, 1, kh * kw]);
                    (points * depths).sum_dim(0).reshape([outputs, inputs * kh * kw])
                }
            },
        }
    }

    /// The weight as the matrix that a form splits: `[m, n]` of [`Geometry::matrix`]. Of the decoupled form, which splits
    /// a matrix for each filter, all of them one below the other: `[out * in, kh * kw]`.
    #[must_use]
    pub fn matrix(&self, form: Form) -> Tensor<2> {
        let dense = self.dense();
        match (form, self.geometry) {
            (Form::Channel, _) | (_, Geometry::Linear { .. }) => dense,
            (Form::Spatial, Geometry::Conv(conv)) => to_spatial(dense, conv),
            (Form::Decoupled, Geometry::Conv(conv)) => {
                dense.reshape([conv.outputs * conv.inputs, conv.kernel[0] * conv.kernel[1]])
            }
        }
    }

    /// Sets the weight from the matrix of a form, see [`matrix`](Self::matrix). The layer is dense afterwards.
    pub fn set_matrix(&mut self, form: Form, matrix: Tensor<2>) {
        let dense = match (form, self.geometry) {
            (Form::Channel, _) | (_, Geometry::Linear { .. }) => matrix,
            (Form::Spatial, Geometry::Conv(conv)) => from_spatial(matrix, conv),
            (Form::Decoupled, Geometry::Conv(conv)) => matrix.reshape([conv.outputs, conv.patch()]),
        };
        self.weight = Weight::Dense(dense);
    }

    /// Puts two factors in place of the weight: `left [m, r]` and `right [r, n]` of the matrix of the channel or spatial
    /// form, whose product is the new [`matrix`](Self::matrix).
    ///
    /// # Errors
    /// As [`check`](Self::check), or when shapes do not fit.
    pub fn factorize(
        &mut self,
        form: Form,
        left: Tensor<2>,
        right: Tensor<2>,
        norm: Option<BatchNorm>,
    ) -> Result<(), FactorError> {
        let [m, rank] = left.dims();
        self.check(form, rank)?;
        let matrix = self.geometry.matrix(form);
        if form == Form::Decoupled || right.dims() != [rank, matrix[1]] || m != matrix[0] {
            let path = self.path.clone();
            return Err(FactorError::Shapes { path, left: left.dims(), right: right.dims(), matrix });
        }
        let (u, v) = match (form, self.geometry) {
            (Form::Spatial, Geometry::Conv(conv)) => {
                let Conv { outputs, kernel: [_, kw], .. } = conv;
                let u = right.reshape([rank, outputs, kw]).swap_dims(0, 1).reshape([outputs, rank * kw]);
                (u, left.transpose())
            }
            _ => (left, right),
        };
        // Its name is the one that a stored model's has.
        let norm = norm.map(|norm| BatchNorm { path: format!("{}.bn", self.path), ..norm });
        self.weight = Weight::Factored(Factors { u, v, form, rank, norm });
        Ok(())
    }

    /// Puts `r` paths of a 1x1 and a depthwise convolution in place of the weight: `point [r * out, in]` and
    /// `depth [r * out, kh * kw]`.
    ///
    /// # Errors
    /// As [`check`](Self::check), or when shapes do not fit.
    pub fn decouple(&mut self, point: Tensor<2>, depth: Tensor<2>) -> Result<(), FactorError> {
        let [rows, inputs] = point.dims();
        let outputs = self.geometry.held_shape()[0];
        let rank = rows / outputs.max(1);
        self.check(Form::Decoupled, rank)?;
        let matrix = self.geometry.matrix(Form::Decoupled);
        if [inputs, depth.dims()[1]] != matrix || [rows, depth.dims()[0]] != [rank * outputs; 2] {
            let path = self.path.clone();
            return Err(FactorError::Shapes { path, left: point.dims(), right: depth.dims(), matrix });
        }
        self.weight = Weight::Factored(Factors { u: depth, v: point, form: Form::Decoupled, rank, norm: None });
        Ok(())
    }

    /// Multiplies factors back to one weight.
    pub fn multiply_out(&mut self) {
        self.weight = Weight::Dense(self.dense());
    }

    /// Values of weight or factors, bias, and the BatchNorm between factors.
    #[must_use]
    pub fn parameters(&self) -> usize {
        let weight = match &self.weight {
            Weight::Dense(_) => self.geometry.parameters(),
            Weight::Factored(factors) => {
                self.geometry.factored_parameters(factors.form, factors.rank)
                    + factors.norm.as_ref().map_or(0, |norm| 2 * norm.channels())
            }
        };
        weight + self.bias.as_ref().map_or(0, |bias| bias.dims()[0])
    }

    /// Multiplications for one image, as [`Geometry::macs`]: weights or factors alone.
    #[must_use]
    pub fn macs(&self, size: [usize; 2]) -> (u64, [usize; 2]) {
        let (dense, output) = self.geometry.macs(size);
        match self.factored() {
            None => (dense, output),
            Some((form, rank)) => (self.geometry.factored_macs(form, rank, size), output),
        }
    }

    /// What the layer makes of an input that a pass over `images` images has shown: `[images, units]`, the bias included.
    #[must_use]
    pub fn outputs(&self, seen: &Seen<'_>, images: usize) -> Tensor<2> {
        let mut pass = Pass::eval();
        let (values, y) = match *seen {
            Seen::Rows(x) => {
                let y = self.rows(x.clone(), &mut pass);
                (y.shape().num_elements(), y)
            }
            Seen::Maps(x, conv) => {
                let y = self.maps(x.clone(), conv, &mut pass);
                (y.shape().num_elements(), y.flatten(1, 3))
            }
        };
        y.reshape([images, values / images.max(1)])
    }

    /// `[rows, in]` to `[rows, out]`.
    pub(super) fn rows(&self, x: Tensor<2>, pass: &mut Pass<'_>) -> Tensor<2> {
        pass.see(&self.path, Seen::Rows(&x));
        let y = match &self.weight {
            Weight::Dense(weight) => ops::linear(x, weight.clone()),
            Weight::Factored(factors) => {
                let (u, v) = factors.prefix(pass.rank_of(&self.path));
                ops::linear(ops::linear(x, v), u)
            }
        };
        match &self.bias {
            Some(bias) => y + bias.clone().unsqueeze(),
            None => y,
        }
    }

    /// `[batch, in, h, w]` to `[batch, out, h', w']`.
    pub(super) fn maps(&self, x: Tensor<4>, conv: Conv, pass: &mut Pass<'_>) -> Tensor<4> {
        pass.see(&self.path, Seen::Maps(&x, conv));
        let y = match &self.weight {
            Weight::Dense(weight) => ops::conv2d(x, weight.clone(), &conv),
            Weight::Factored(factors) => {
                // A BatchNorm between has seen all components.
                let kept = pass.rank_of(&self.path).filter(|_| factors.norm.is_none());
                let rank = kept.map_or(factors.rank, |kept| kept.clamp(1, factors.rank));
                let (u, v) = factors.prefix(kept);
                let [Geometry::Conv(inner), Geometry::Conv(outer)] = self.geometry.factors(factors.form, rank) else {
                    unreachable!("the factors of a convolution are convolutions")
                };
                let mut between = ops::conv2d(x, v, &inner);
                if let Some(norm) = &factors.norm {
                    between = norm.maps(between, false, pass);
                }
                let y = ops::conv2d(between, u, &outer);
                match factors.form {
                    Form::Decoupled => {
                        let [batch, _, h, w] = y.dims();
                        let paths = y.reshape([batch, rank, conv.outputs, h, w]);
                        paths.sum_dim(1).reshape([batch, conv.outputs, h, w])
                    }
                    Form::Channel | Form::Spatial => y,
                }
            }
        };
        match &self.bias {
            Some(bias) => ops::add_bias(y, bias.clone()),
            None => y,
        }
    }
}

impl Factors {
    /// The first `kept` components; all for `None`. Components of a factor are its columns (`u`) and rows (`v`).
    #[must_use]
    pub fn prefix(&self, kept: Option<usize>) -> (Tensor<2>, Tensor<2>) {
        let (u, v) = (self.u.clone(), self.v.clone());
        let Some(kept) = kept.filter(|kept| *kept < self.rank) else { return (u, v) };
        let kept = kept.max(1);
        match self.form {
            // Columns of one component lie together: `r * kw` of the spatial form, 1 of the channel form.
            Form::Channel | Form::Spatial => {
                let [_, columns] = u.dims();
                (u.narrow(1, 0, kept * columns / self.rank), v.narrow(0, 0, kept))
            }
            Form::Decoupled => {
                let outputs = u.dims()[0] / self.rank;
                (u.narrow(0, 0, kept * outputs), v.narrow(0, 0, kept * outputs))
            }
        }
    }
}

/// `[o, i * kh * kw]` to `[i * kh, o * kw]`.
fn to_spatial(dense: Tensor<2>, conv: Conv) -> Tensor<2> {
    let Conv { inputs, outputs, kernel: [kh, kw], .. } = conv;
    dense.reshape([outputs, inputs, kh, kw]).permute([1, 2, 0, 3]).reshape([inputs * kh, outputs * kw])
}

/// And back.
fn from_spatial(matrix: Tensor<2>, conv: Conv) -> Tensor<2> {
    let Conv { inputs, outputs, kernel: [kh, kw], .. } = conv;
    matrix.reshape([inputs, kh, outputs, kw]).permute([2, 0, 1, 3]).reshape([outputs, inputs * kh * kw])
}
