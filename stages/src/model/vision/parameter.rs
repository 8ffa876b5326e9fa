//! A model's values by name.

use burn::tensor::{Shape, Tensor, TensorData};

use super::{
    layer::{Layer, Weight},
    node::Node,
    norm::BatchNorm,
};

/// What a value is: rules about decay and trainability are about this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A dense weight.
    Weight,
    /// The factor that makes the output.
    U,
    /// The factor that sees the input.
    V,
    /// Bias of a layer or norm.
    Bias,
    /// Gain of a norm.
    Gain,
    /// A class token or position embedding.
    Embedding,
    /// Running statistics, which are not trained.
    Statistic,
}

/// A value that can be changed.
#[derive(Debug)]
pub enum Value<'a> {
    /// As it is held: `[out, in * kh * kw]`, or factors.
    Matrix(&'a mut Tensor<2>),
    /// A vector.
    Vector(&'a mut Tensor<1>),
}

/// One value of a model.
#[derive(Debug)]
pub struct Parameter<'a> {
    /// Its name: `layer1.0.conv1.weight`, `.u` and `.v` where it is factored.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its shape in files: four dimensions for a convolution.
    pub stored: Vec<usize>,
    /// Its value.
    pub value: Value<'a>,
}

impl Parameter<'_> {
    /// Whether training changes it by gradients.
    #[must_use]
    pub fn is_trained(&self) -> bool {
        self.kind != Kind::Statistic
    }

    /// Its values with the shape that they have in files.
    #[must_use]
    pub fn data(&self) -> TensorData {
        let data = match &self.value {
            Value::Matrix(tensor) => tensor.to_data(),
            Value::Vector(tensor) => tensor.to_data(),
        };
        reshaped(data, self.stored.clone())
    }
}

impl Value<'_> {
    /// Puts back a value that was taken as a flat one.
    pub fn set_flat(&mut self, flat: Tensor<1>) {
        match self {
            Value::Matrix(tensor) => {
                let shape = tensor.dims();
                **tensor = flat.reshape(shape);
            }
            Value::Vector(tensor) => **tensor = flat,
        }
    }

    /// The value as a flat one, shared until one of the two is changed.
    #[must_use]
    pub fn flat(&self) -> Tensor<1> {
        match self {
            Value::Matrix(tensor) => (**tensor).clone().reshape([-1]),
            Value::Vector(tensor) => (**tensor).clone(),
        }
    }
}

/// The same numbers in another shape of as many.
pub(super) fn reshaped(data: TensorData, shape: impl Into<Shape>) -> TensorData {
    let dtype = data.dtype();
    TensorData::from_bytes(data.into_bytes(), shape, dtype)
}

/// Adds the values of parts, in the order in which an image passes them.
pub(super) fn collect<'a>(nodes: &'a mut [Node], found: &mut Vec<Parameter<'a>>) {
    for node in nodes {
        match node {
            Node::Layer(layer) => of_layer(layer, found),
            Node::BatchNorm(norm) => of_batch_norm(norm, found),
            Node::LayerNorm(norm) => {
                push(found, format!("{}.weight", norm.path), Kind::Gain, &mut norm.weight);
                push(found, format!("{}.bias", norm.path), Kind::Bias, &mut norm.bias);
            }
            Node::Embed(embed) => {
                let class = &mut embed.cls_token;
                let stored = vec![1, 1, class.dims()[1]];
                push_matrix(found, "cls_token".to_owned(), Kind::Embedding, stored, class);
                let positions = &mut embed.pos_embed;
                let [tokens, width] = positions.dims();
                push_matrix(found, "pos_embed".to_owned(), Kind::Embedding, vec![1, tokens, width], positions);
            }
            Node::Residual { body, shortcut } => {
                collect(body, found);
                collect(shortcut, found);
            }
            _ => {}
        }
    }
}

fn of_layer<'a>(layer: &'a mut Layer, found: &mut Vec<Parameter<'a>>) {
    let Layer { path, geometry, weight, bias, .. } = layer;
    match weight {
        Weight::Dense(weight) => {
            push_matrix(found, format!("{path}.weight"), Kind::Weight, geometry.stored_shape(), weight);
        }
        Weight::Factored(factors) => {
            let [inner, outer] = geometry.factors(factors.form, factors.rank);
            push_matrix(found, format!("{path}.v"), Kind::V, inner.stored_shape(), &mut factors.v);
            if let Some(norm) = &mut factors.norm {
                of_batch_norm(norm, found);
            }
            push_matrix(found, format!("{path}.u"), Kind::U, outer.stored_shape(), &mut factors.u);
        }
    }
    if let Some(bias) = bias {
        push(found, format!("{path}.bias"), Kind::Bias, bias);
    }
}

fn of_batch_norm<'a>(norm: &'a mut BatchNorm, found: &mut Vec<Parameter<'a>>) {
    let BatchNorm { path, weight, bias, running_mean, running_var } = norm;
    push(found, format!("{path}.weight"), Kind::Gain, weight);
    push(found, format!("{path}.bias"), Kind::Bias, bias);
    push(found, format!("{path}.running_mean"), Kind::Statistic, running_mean);
    push(found, format!("{path}.running_var"), Kind::Statistic, running_var);
}

fn push<'a>(found: &mut Vec<Parameter<'a>>, name: String, kind: Kind, value: &'a mut Tensor<1>) {
    let stored = value.dims().to_vec();
    found.push(Parameter { name, kind, stored, value: Value::Vector(value) });
}

fn push_matrix<'a>(
    found: &mut Vec<Parameter<'a>>,
    name: String,
    kind: Kind,
    stored: Vec<usize>,
    value: &'a mut Tensor<2>,
) {
    found.push(Parameter { name, kind, stored, value: Value::Matrix(value) });
}
