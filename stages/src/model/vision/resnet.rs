//! ResNets for small images: a 3x3 stem without pooling.
//!
//! ResNet-18 and -50 keep the four stages of the ImageNet models and 1x1 convolutions as shortcuts; ResNet-20 and -32 are
//! those of the CIFAR experiments of He et al., with three stages and shortcuts without parameters (option A).

use super::{
    build::{Builder, plain},
    config::{Architecture, VisionConfig},
    layer::Role,
    node::Node,
};
use crate::ops::Conv;

/// How the blocks of a model look.
struct Shape {
    blocks: &'static [usize],
    bottleneck: bool,
    shortcut_convs: bool,
}

/// A ResNet. Parameters have torchvision's names.
pub(super) fn resnet(config: &VisionConfig, build: &Builder<'_>) -> Vec<Node> {
    let shape = match config.model.name {
        Architecture::Resnet20 => Shape { blocks: &[3; 3], bottleneck: false, shortcut_convs: false },
        Architecture::Resnet32 => Shape { blocks: &[5; 3], bottleneck: false, shortcut_convs: false },
        Architecture::Resnet50 => Shape { blocks: &[3, 4, 6, 3], bottleneck: true, shortcut_convs: true },
        _ => Shape { blocks: &[2; 4], bottleneck: false, shortcut_convs: true },
    };
    let width = config.model.width();
    let mut nodes = vec![
        build.conv("conv1", ("stem", Role::Stem), Conv::same(config.channels, width, 3, 1), false),
        build.batch_norm("bn1", width),
        Node::Relu,
    ];
    let mut inputs = width;
    for (stage, blocks) in shape.blocks.iter().enumerate() {
        let planes = width << stage;
        for index in 0..*blocks {
            let stride = if stage > 0 && index == 0 { 2 } else { 1 };
            let stack = format!("layer{}", stage + 1);
            let block = Block { path: format!("{stack}.{index}"), stack, inputs, planes, stride };
            inputs = block.add(&shape, build, &mut nodes);
        }
    }
    nodes.push(Node::GlobalPool);
    nodes.push(build.linear("fc", ("head", Role::Classifier), [inputs, config.classes], plain(inputs)));
    nodes
}

struct Block {
    path: String,
    stack: String,
    inputs: usize,
    planes: usize,
    stride: usize,
}

impl Block {
    /// Adds the block and returns its output channels.
    fn add(&self, shape: &Shape, build: &Builder<'_>, nodes: &mut Vec<Node>) -> usize {
        let Self { path, stack, inputs, planes, stride } = self;
        let outputs = if shape.bottleneck { 4 * planes } else { *planes };
        let place = (stack.as_str(), Role::Body);
        let convs = if shape.bottleneck {
            let middle = Conv::same(*planes, *planes, 3, *stride);
            vec![Conv::same(*inputs, *planes, 1, 1), middle, Conv::same(*planes, outputs, 1, 1)]
        } else {
            vec![Conv::same(*inputs, *planes, 3, *stride), Conv::same(*planes, *planes, 3, 1)]
        };
        let mut body = Vec::new();
        for (index, conv) in convs.iter().enumerate() {
            if index > 0 {
                body.push(Node::Relu);
            }
            body.push(build.conv(&format!("{path}.conv{}", index + 1), place, *conv, false));
            body.push(build.batch_norm(&format!("{path}.bn{}", index + 1), conv.outputs));
        }
        let shortcut = if *inputs == outputs && *stride == 1 {
            Vec::new()
        } else if shape.shortcut_convs {
            let conv = Conv::same(*inputs, outputs, 1, *stride);
            vec![
                build.conv(&format!("{path}.downsample.0"), (stack, Role::Shortcut), conv, false),
                build.batch_norm(&format!("{path}.downsample.1"), outputs),
            ]
        } else {
            vec![Node::Subsample { channels: outputs }]
        };
        nodes.push(Node::Residual { body, shortcut });
        nodes.push(Node::Relu);
        outputs
    }
}
