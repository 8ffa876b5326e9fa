//! A vision transformer in DeiT's form: class token, learned positions, LayerNorm in front of each half block.

use super::{
    build::Builder,
    config::VisionConfig,
    layer::Role,
    node::{Embed, Node},
};
use crate::ops::Conv;

/// Standard deviation of every initial matrix.
const STD: f64 = 0.02;

/// A vision transformer with an MLP four times as wide. Parameters have timm's names.
pub(super) fn vit(config: &VisionConfig, build: &Builder<'_>) -> Vec<Node> {
    let [patch, d_model, n_layer, n_head] = config.model.transformer(config.image_size);
    let [rows, columns] = config.image_size.map(|length| length / patch);
    let patches = Conv { stride: [patch; 2], padding: [0; 2], ..Conv::same(config.channels, d_model, patch, 1) };
    let embed = Embed {
        cls_token: build.matrix("cls_token", [1, d_model], STD),
        pos_embed: build.matrix("pos_embed", [rows * columns + 1, d_model], STD),
    };
    let mut nodes =
        vec![build.patches("patch_embed.proj", ("stem", Role::Stem), patches, STD), Node::Embed(Box::new(embed))];
    for index in 0..n_layer {
        let at = |part: &str| format!("blocks.{index}.{part}");
        let linear = |part: &str, role: Role, shape: [usize; 2]| {
            build.linear(&at(part), (part.rsplit('.').next().unwrap_or(part), role), shape, STD)
        };
        let attention = vec![
            build.layer_norm(&at("norm1"), d_model),
            linear("attn.qkv", Role::Body, [d_model, 3 * d_model]),
            Node::Attend { n_head },
            linear("attn.proj", Role::AttentionOut, [d_model, d_model]),
        ];
        let mlp = vec![
            build.layer_norm(&at("norm2"), d_model),
            linear("mlp.fc1", Role::Body, [d_model, 4 * d_model]),
            Node::Gelu,
            linear("mlp.fc2", Role::Body, [4 * d_model, d_model]),
        ];
        nodes.push(Node::Residual { body: attention, shortcut: Vec::new() });
        nodes.push(Node::Residual { body: mlp, shortcut: Vec::new() });
    }
    nodes.push(build.layer_norm("norm", d_model));
    nodes.push(Node::ClassToken);
    nodes.push(build.linear("head", ("head", Role::Classifier), [d_model, config.classes], STD));
    nodes
}
