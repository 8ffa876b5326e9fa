//! MLP and LeNet-5.

use super::{
    build::{Builder, he, plain},
    config::VisionConfig,
    layer::Role,
    node::Node,
};
use crate::ops::Conv;

/// Linear layers with ReLU between them: `fc1`, `fc2`, ...
pub(super) fn mlp(config: &VisionConfig, build: &Builder<'_>) -> Vec<Node> {
    let hidden = config.model.hidden();
    let mut inputs = config.channels * config.image_size[0] * config.image_size[1];
    let mut nodes = vec![Node::Flatten];
    for (index, width) in hidden.iter().enumerate() {
        let role = if index == 0 { Role::Stem } else { Role::Body };
        nodes.push(build.linear(&format!("fc{}", index + 1), ("body", role), [inputs, *width], he(inputs)));
        nodes.push(Node::Relu);
        inputs = *width;
    }
    let path = format!("fc{}", hidden.len() + 1);
    nodes.push(build.linear(&path, ("head", Role::Classifier), [inputs, config.classes], plain(inputs)));
    nodes
}

/// LeNet-5 with ReLU and maximum pooling. Images below 32 pixels are padded by 2, as the 28 pixels of MNIST are.
pub(super) fn lenet(config: &VisionConfig, build: &Builder<'_>) -> Vec<Node> {
    let [height, width] = config.image_size;
    let padding = if height.min(width) < 32 { 2 } else { 0 };
    let first = Conv { padding: [padding; 2], ..Conv::same(config.channels, 6, 5, 1) };
    let second = Conv { padding: [0; 2], ..Conv::same(6, 16, 5, 1) };
    let halve = |size: [usize; 2]| size.map(|length| length / 2);
    let [h, w] = halve(second.output_size(halve(first.output_size(config.image_size))));
    let flat = 16 * h * w;
    let (conv, dense) = ("conv", "fc");
    vec![
        build.conv("conv1", (conv, Role::Stem), first, true),
        Node::Relu,
        Node::MaxPool(2),
        build.conv("conv2", (conv, Role::Body), second, true),
        Node::Relu,
        Node::MaxPool(2),
        Node::Flatten,
        build.linear("fc1", (dense, Role::Body), [flat, 120], he(flat)),
        Node::Relu,
        build.linear("fc2", (dense, Role::Body), [120, 84], he(120)),
        Node::Relu,
        build.linear("fc3", ("head", Role::Classifier), [84, config.classes], plain(84)),
    ]
}
