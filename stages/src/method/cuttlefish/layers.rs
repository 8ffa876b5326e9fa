//! Which layers Cuttlefish factorises: from the first stack on that gets faster.

use serde::{Deserialize, Serialize};

use crate::{
    factor::{form_of, is_body, is_grouped},
    model::vision::{Form, Layer, VisionModel},
};

/// What the layers of one stack cost, dense and with factors, in any one unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StackCost {
    /// The stack, in the order of the model.
    pub stack: String,
    /// As it is.
    pub dense: f64,
    /// With factors in place of its weights.
    pub factored: f64,
}

impl StackCost {
    /// How many times faster the factors are.
    #[must_use]
    pub fn speedup(&self) -> f64 {
        if self.factored > 0.0 { self.dense / self.factored } else { 0.0 }
    }
}

/// Whether Cuttlefish factorises such a layer at all: not the first, the last, shortcuts and attention outputs.
#[must_use]
pub fn is_candidate(layer: &Layer) -> bool {
    is_body(layer) && !is_grouped(layer)
}

/// The rank at which candidates are compared: a part of min(m, n), at least 1.
#[must_use]
pub fn compared_rank(layer: &Layer, ratio: f64) -> usize {
    let full = layer.geometry.full_rank(form_of(layer, Form::Channel));
    ((full as f64 * ratio) as usize).clamp(1, full)
}

/// Adds up the costs of candidates by stack, in the order of the model. `cost` gives a layer's, dense and factored.
///
/// # Errors
/// What `cost` returns.
pub fn costs<E>(
    model: &VisionModel,
    mut cost: impl FnMut(&Layer) -> Result<(f64, f64), E>,
) -> Result<Vec<StackCost>, E> {
    let mut found: Vec<StackCost> = Vec::new();
    for layer in model.layers().into_iter().filter(|layer| is_candidate(layer)) {
        let (dense, factored) = cost(layer)?;
        match found.iter_mut().find(|stack| stack.stack == layer.stack) {
            Some(stack) => {
                stack.dense += dense;
                stack.factored += factored;
            }
            None => found.push(StackCost { stack: layer.stack.clone(), dense, factored }),
        }
    }
    Ok(found)
}

/// Costs without a measurement: the multiplications of one output position, at a part of the full rank.
#[must_use]
pub fn proxy_costs(model: &VisionModel, ratio: f64) -> Vec<StackCost> {
    let cost = |layer: &Layer| {
        let factored = layer.geometry.factored_parameters(Form::Channel, compared_rank(layer, ratio));
        Ok::<_, std::convert::Infallible>((layer.geometry.parameters() as f64, factored as f64))
    };
    costs(model, cost).unwrap_or_else(|never| match never {})
}

/// The candidates from the first stack on that is at least `v` times faster with factors (K-hat), in the order of the
/// model; none when no stack is.
#[must_use]
pub fn eligible(model: &VisionModel, costs: &[StackCost], v: f64) -> Vec<String> {
    let Some(first) = costs.iter().position(|cost| cost.speedup() >= v) else { return Vec::new() };
    let stacks: Vec<&str> = costs[first..].iter().map(|cost| cost.stack.as_str()).collect();
    let layers = model.layers();
    let chosen = layers.iter().filter(|layer| is_candidate(layer) && stacks.contains(&layer.stack.as_str()));
    chosen.map(|layer| layer.path.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::vision::{Architecture, VisionParams},
        testing::classifier,
    };

    fn resnet() -> VisionModel {
        classifier(VisionParams { width: Some(8), ..VisionParams::of(Architecture::Resnet18) }, 32)
    }

    fn cost(stack: &str, dense: f64, factored: f64) -> StackCost {
        StackCost { stack: stack.to_owned(), dense, factored }
    }

    #[test]
    fn all_stacks_after_the_first_fast_one_are_factorised() {
        let model = resnet();
        let costs =
            [cost("layer1", 1.0, 1.0), cost("layer2", 3.0, 2.0), cost("layer3", 1.0, 1.0), cost("layer4", 1.0, 0.1)];
        let found = eligible(&model, &costs, 1.5);
        // As in the paper's ResNet-18: the twelve 3x3 convolutions of stages 2 to 4; shortcuts stay dense.
        assert_eq!(found.len(), 12);
        assert_eq!((found[0].as_str(), found[11].as_str()), ("layer2.0.conv1", "layer4.1.conv2"));
        assert!(found.iter().all(|path| !path.contains("downsample") && !path.contains("shortcut")));
        assert_eq!(eligible(&model, &costs, 20.0), Vec::<String>::new());
    }

    #[test]
    fn the_proxy_depends_on_shapes_alone() {
        let found = proxy_costs(&resnet(), 0.25);
        assert_eq!(
            found.iter().map(|cost| cost.stack.as_str()).collect::<Vec<_>>(),
            ["layer1", "layer2", "layer3", "layer4"]
        );
        // Four 3x3 convolutions of 8 channels at rank 2: 576 against 2 * (72 + 8) each.
        assert_eq!(found[0], cost("layer1", 4.0 * 576.0, 4.0 * 160.0));
    }
}
