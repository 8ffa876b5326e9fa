//! VGG for small images: 3x3 convolutions with BatchNorm, and one linear layer at the end.

use super::{
    build::{Builder, plain},
    config::{Architecture, VisionConfig},
    layer::Role,
    node::Node,
};
use crate::ops::Conv;

/// A VGG: convolutions `features.0`, `features.1`, ... in stacks between the poolings. What is left of the maps after
/// five poolings is averaged; images of 16 to 31 pixels are pooled four times.
pub(super) fn vgg(config: &VisionConfig, build: &Builder<'_>) -> Vec<Node> {
    let third = if config.model.name == Architecture::Vgg19 { 4 } else { 3 };
    let width = config.model.width();
    let stages = [(2, width), (2, 2 * width), (third, 4 * width), (third, 8 * width), (third, 8 * width)];
    let [height, across] = config.image_size;
    let poolings = height.min(across).ilog2() as usize;
    let mut nodes = Vec::new();
    let (mut inputs, mut index) = (config.channels, 0);
    for (stage, (convs, outputs)) in stages.into_iter().enumerate() {
        let stack = format!("stage{}", stage + 1);
        for _ in 0..convs {
            let role = if index == 0 { Role::Stem } else { Role::Body };
            let conv = Conv::same(inputs, outputs, 3, 1);
            nodes.push(build.conv(&format!("features.{index}.conv"), (&stack, role), conv, true));
            nodes.push(build.batch_norm(&format!("features.{index}.bn"), outputs));
            nodes.push(Node::Relu);
            (inputs, index) = (outputs, index + 1);
        }
        if stage < poolings {
            nodes.push(Node::MaxPool(2));
        }
    }
    nodes.push(Node::GlobalPool);
    nodes.push(build.linear("classifier", ("head", Role::Classifier), [inputs, config.classes], plain(inputs)));
    nodes
}
