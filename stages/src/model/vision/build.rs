//! Makes the parts of a model with their initial weights.

use burn::tensor::{Device, Tensor, TensorData};

use super::{
    geometry::Geometry,
    layer::{Layer, Role, Weight},
    node::Node,
    norm::{BatchNorm, LayerNorm},
};
use crate::ops::Conv;

/// Draws the initial values of a parameter: its name, their number and standard deviation.
pub(super) type Draw<'a> = dyn Fn(&str, usize, f64) -> Vec<f32> + 'a;

/// What builders of models use.
pub(super) struct Builder<'a> {
    pub(super) draw: &'a Draw<'a>,
    pub(super) device: &'a Device,
}

/// Standard deviation of weights in front of a ReLU (He et al.).
pub(super) fn he(fan_in: usize) -> f64 {
    (2.0 / fan_in.max(1) as f64).sqrt()
}

/// That of torch's linear layers, whose weights are uniform.
pub(super) fn plain(fan_in: usize) -> f64 {
    (3.0 * fan_in.max(1) as f64).sqrt().recip()
}

impl Builder<'_> {
    pub(super) fn matrix(&self, name: &str, shape: [usize; 2], std: f64) -> Tensor<2> {
        let values = (self.draw)(name, shape[0] * shape[1], std);
        Tensor::from_data(TensorData::new(values, shape), self.device)
    }

    fn layer(&self, path: &str, (stack, role): (&str, Role), geometry: Geometry, (std, bias): (f64, bool)) -> Node {
        let weight = self.matrix(&format!("{path}.weight"), geometry.held_shape(), std);
        let outputs = geometry.held_shape()[0];
        Node::Layer(Box::new(Layer {
            path: path.to_owned(),
            stack: stack.to_owned(),
            role,
            geometry,
            weight: Weight::Dense(weight),
            bias: bias.then(|| Tensor::zeros([outputs], self.device)),
        }))
    }

    /// A convolution in front of a ReLU.
    pub(super) fn conv(&self, path: &str, place: (&str, Role), conv: Conv, bias: bool) -> Node {
        self.layer(path, place, Geometry::Conv(conv), (he(conv.patch()), bias))
    }

    /// A linear layer with bias.
    pub(super) fn linear(&self, path: &str, place: (&str, Role), [inputs, outputs]: [usize; 2], std: f64) -> Node {
        self.layer(path, place, Geometry::Linear { inputs, outputs }, (std, true))
    }

    /// A convolution with a bias and a standard deviation of its own.
    pub(super) fn patches(&self, path: &str, place: (&str, Role), conv: Conv, std: f64) -> Node {
        self.layer(path, place, Geometry::Conv(conv), (std, true))
    }

    pub(super) fn batch_norm(&self, path: &str, channels: usize) -> Node {
        Node::BatchNorm(Box::new(BatchNorm::new(path, channels, self.device)))
    }

    pub(super) fn layer_norm(&self, path: &str, width: usize) -> Node {
        Node::LayerNorm(Box::new(LayerNorm::new(path, width, self.device)))
    }
}
