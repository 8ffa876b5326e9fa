//! The parts that a model is made of, in the order in which an image passes them.

use burn::tensor::{Tensor, activation};

use super::{
    geometry::Geometry,
    layer::Layer,
    norm::{BatchNorm, LayerNorm},
    pass::Pass,
};
use crate::ops;

/// One part.
#[derive(Debug, Clone)]
pub(super) enum Node {
    /// A linear layer or a convolution.
    Layer(Box<Layer>),
    BatchNorm(Box<BatchNorm>),
    LayerNorm(Box<LayerNorm>),
    Relu,
    Gelu,
    /// Maxima of squares of this size, which do not overlap.
    MaxPool(usize),
    /// The mean of each map.
    GlobalPool,
    /// Maps to one row an image.
    Flatten,
    /// Every second row and column, with zeros for the new channels: ResNet's shortcut without parameters (option A).
    Subsample {
        channels: usize,
    },
    /// Maps to tokens, with the class token in front and positions added.
    Embed(Box<Embed>),
    /// Between two linear layers: softmax attention of `[.., 3 * d_model]` in heads.
    Attend {
        n_head: usize,
    },
    /// The first token of each image.
    ClassToken,
    /// `body(x) + shortcut(x)`; an empty shortcut is the identity.
    Residual {
        body: Vec<Node>,
        shortcut: Vec<Node>,
    },
}

/// What a vision transformer adds to its patches.
#[derive(Debug, Clone)]
pub(super) struct Embed {
    /// `[1, d_model]`.
    pub(super) cls_token: Tensor<2>,
    /// `[tokens + 1, d_model]`.
    pub(super) pos_embed: Tensor<2>,
}

/// What flows from part to part.
#[derive(Debug, Clone)]
pub(super) enum Flow {
    /// `[batch, channels, h, w]`.
    Maps(Tensor<4>),
    /// `[batch * tokens, width]`.
    Rows { x: Tensor<2>, tokens: usize },
}

/// Sizes of what flows, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// Channels or width.
    pub(super) channels: usize,
    /// Height and width, or tokens and 1.
    pub(super) at: [usize; 2],
}

/// Parts one after the other.
pub(super) fn forward(nodes: &[Node], mut flow: Flow, pass: &mut Pass<'_>) -> Flow {
    let mut rest = nodes.iter();
    while let Some(node) = rest.next() {
        // In the same pass over the values.
        let relu = node.takes_relu() && matches!(rest.as_slice().first(), Some(Node::Relu));
        if relu {
            rest.next();
        }
        flow = node.forward(flow, relu, pass);
        if relu || node.ends_block() {
            pass.keep(|| flow.clone().into_rows());
        }
    }
    flow
}

impl Flow {
    fn maps(self, apply: impl FnOnce(Tensor<4>) -> Tensor<4>) -> Self {
        match self {
            Self::Maps(x) => Self::Maps(apply(x)),
            Self::Rows { .. } => self,
        }
    }

    fn rows(self, apply: impl FnOnce(Tensor<2>) -> Tensor<2>) -> Self {
        match self {
            Self::Rows { x, tokens } => Self::Rows { x: apply(x), tokens },
            Self::Maps(_) => self,
        }
    }

    /// One row an image, as the last part leaves it.
    pub(super) fn into_rows(self) -> Tensor<2> {
        match self {
            Self::Rows { x, .. } => x,
            Self::Maps(x) => x.flatten(1, 3),
        }
    }

    fn relu(self) -> Self {
        self.maps(ops::relu).rows(ops::relu)
    }

    fn add(self, other: Self, relu: bool) -> Self {
        match (self, other) {
            (Self::Maps(x), Self::Maps(y)) if relu => Self::Maps(ops::add_relu(x, y)),
            (Self::Maps(x), Self::Maps(y)) => Self::Maps(x + y),
            (Self::Rows { x, tokens }, Self::Rows { x: y, .. }) => {
                let sum = Self::Rows { x: x + y, tokens };
                if relu { sum.relu() } else { sum }
            }
            (flow, _) => flow,
        }
    }
}

impl Node {
    /// Whether it does a ReLU behind it itself.
    fn takes_relu(&self) -> bool {
        matches!(self, Self::BatchNorm(_) | Self::Residual { .. })
    }

    /// Whether what comes out of it is a block's output. A transformer's block is an attention and the MLP behind it.
    fn ends_block(&self) -> bool {
        match self {
            Self::Relu => true,
            Self::Residual { body, .. } => !body.iter().any(|part| matches!(part, Self::Attend { .. })),
            _ => false,
        }
    }

    /// With a ReLU behind it, which only parts that [take it](Self::takes_relu) are asked for.
    fn forward(&self, flow: Flow, relu: bool, pass: &mut Pass<'_>) -> Flow {
        match self {
            Self::Layer(layer) => match layer.geometry {
                Geometry::Linear { .. } => flow.rows(|x| layer.rows(x, pass)),
                Geometry::Conv(conv) => flow.maps(|x| layer.maps(x, conv, pass)),
            },
            Self::BatchNorm(norm) => flow.maps(|x| norm.maps(x, relu, pass)),
            Self::LayerNorm(norm) => flow.rows(|x| norm.rows(x)),
            Self::Relu => flow.relu(),
            Self::Gelu => flow.rows(activation::gelu),
            Self::MaxPool(size) => flow.maps(|x| ops::max_pool(x, *size)),
            Self::GlobalPool => match flow {
                Flow::Maps(x) => {
                    let [batch, channels, h, w] = x.dims();
                    let x = x.reshape([batch * channels, h * w]).mean_dim(1).reshape([batch, channels]);
                    Flow::Rows { x, tokens: 1 }
                }
                rows @ Flow::Rows { .. } => rows,
            },
            Self::Flatten => Flow::Rows { x: flow.into_rows(), tokens: 1 },
            Self::Subsample { channels } => flow.maps(|x| subsample(x, *channels)),
            Self::Embed(embed) => match flow {
                Flow::Maps(x) => embed.forward(x),
                rows @ Flow::Rows { .. } => rows,
            },
            Self::Attend { n_head } => match flow {
                Flow::Rows { x, tokens } => Flow::Rows { x: attend(x, tokens, *n_head), tokens },
                maps @ Flow::Maps(_) => maps,
            },
            Self::ClassToken => match flow {
                Flow::Rows { x, tokens } => {
                    let [rows, width] = x.dims();
                    let x = x.reshape([rows / tokens, tokens, width]).narrow(1, 0, 1);
                    Flow::Rows { x: x.reshape([rows / tokens, width]), tokens: 1 }
                }
                maps @ Flow::Maps(_) => maps,
            },
            Self::Residual { body, shortcut } => {
                let beside = pass.within(|pass| forward(shortcut, flow.clone(), pass));
                pass.within(|pass| forward(body, flow, pass)).add(beside, relu)
            }
        }
    }

    /// Multiplications of one image, those of attention's two products included, and the size of what comes out. `dense`
    /// counts factored layers as if they were not.
    pub(super) fn macs(&self, size: Size, dense: bool) -> (u64, Size) {
        let one = |channels| Size { channels, at: [1, 1] };
        match self {
            Self::Layer(layer) => {
                let (macs, at) = if dense { layer.geometry.macs(size.at) } else { layer.macs(size.at) };
                (macs, Size { channels: layer.geometry.held_shape()[0], at })
            }
            Self::BatchNorm(_) | Self::LayerNorm(_) | Self::Relu | Self::Gelu => (0, size),
            Self::MaxPool(by) => (0, Size { at: size.at.map(|length| length / by), ..size }),
            Self::GlobalPool | Self::ClassToken => (0, one(size.channels)),
            Self::Flatten => (0, one(size.channels * size.at[0] * size.at[1])),
            Self::Subsample { channels } => {
                (0, Size { channels: *channels, at: size.at.map(|length| length.div_ceil(2)) })
            }
            Self::Embed(_) => (0, Size { at: [size.at[0] * size.at[1] + 1, 1], ..size }),
            Self::Attend { .. } => {
                let (tokens, width) = (size.at[0] as u64, size.channels / 3);
                (2 * tokens * tokens * width as u64, Size { channels: width, ..size })
            }
            Self::Residual { body, shortcut } => {
                let (beside, _) = macs(shortcut, size, dense);
                let (within, out) = macs(body, size, dense);
                (within + beside, out)
            }
        }
    }
}

/// Multiplications of parts one after the other.
pub(super) fn macs(nodes: &[Node], mut size: Size, dense: bool) -> (u64, Size) {
    let mut total = 0;
    for node in nodes {
        let (macs, next) = node.macs(size, dense);
        total += macs;
        size = next;
    }
    (total, size)
}

/// `[batch, c, h, w]` to `[batch, channels, h / 2, w / 2]`, the new channels half before and half behind.
fn subsample(x: Tensor<4>, channels: usize) -> Tensor<4> {
    let [batch, old, _, _] = x.dims();
    let x = x.slice(burn::tensor::s![.., .., ..;2, ..;2]);
    let [_, _, h, w] = x.dims();
    let before = (channels - old) / 2;
    let zeros = |count| Tensor::<4>::zeros([batch, count, h, w], &x.device());
    Tensor::cat(vec![zeros(before), x.clone(), zeros(channels - old - before)], 1)
}

impl Embed {
    fn forward(&self, x: Tensor<4>) -> Flow {
        let [batch, width, h, w] = x.dims();
        let tokens = h * w + 1;
        let patches = x.reshape([batch, width, h * w]).swap_dims(1, 2); // [batch, patches, d_model]
        let class = self.cls_token.clone().reshape([1, 1, width]).repeat_dim(0, batch);
        let x = Tensor::cat(vec![class, patches], 1) + self.pos_embed.clone().reshape([1, tokens, width]);
        Flow::Rows { x: x.reshape([batch * tokens, width]), tokens }
    }
}

/// Queries, keys and values `[batch * tokens, 3 * d_model]` to `[batch * tokens, d_model]`.
fn attend(x: Tensor<2>, tokens: usize, n_head: usize) -> Tensor<2> {
    let [rows, triple] = x.dims();
    let (batch, width) = (rows / tokens, triple / 3);
    let head_dim = width / n_head;
    let part = |index: usize| -> Tensor<4> {
        let part = x.clone().narrow(1, index * width, width);
        part.reshape([batch, tokens, n_head, head_dim]).swap_dims(1, 2) // [batch, head, tokens, head_dim]
    };
    let scores = ops::product(part(0).mul_scalar((head_dim as f64).powf(-0.5)), part(1).swap_dims(2, 3));
    let mixed = ops::product(activation::softmax(scores, 3), part(2));
    mixed.swap_dims(1, 2).reshape([rows, width])
}
