//! Which model: its name and sizes.

use schemars::JsonSchema;
use sepia_engine::stage::Check;
use serde::{Deserialize, Serialize};

/// An architecture by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Architecture {
    /// Linear layers with ReLU between them.
    Mlp,
    /// LeNet-5 with ReLU and maximum pooling: 6 and 16 convolutions 5x5, then 120, 84 and the classes.
    Lenet,
    /// ResNet-18 for small images: a 3x3 stem, four stages of two blocks, 64 channels at first.
    #[serde(rename = "resnet-18")]
    Resnet18,
    /// The ResNet-20 of the CIFAR experiments: three stages of three blocks, 16 channels at first.
    #[serde(rename = "resnet-20")]
    Resnet20,
    /// The same with five blocks a stage.
    #[serde(rename = "resnet-32")]
    Resnet32,
    /// ResNet-50 for small images, of bottleneck blocks.
    #[serde(rename = "resnet-50")]
    Resnet50,
    /// VGG-16 for small images: BatchNorm, and one linear layer at the end.
    #[serde(rename = "vgg-16")]
    Vgg16,
    /// VGG-19 in the same form.
    #[serde(rename = "vgg-19")]
    Vgg19,
    /// A vision transformer; DeiT-tiny by its defaults.
    Vit,
}

/// The model to train.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VisionParams {
    /// `mlp`, `lenet`, `resnet-18`, `resnet-20`, `resnet-32`, `resnet-50`, `vgg-16`, `vgg-19` or `vit`.
    pub name: Architecture,
    /// Channels of the first stage of a ResNet or VGG, from which all others follow: 64, or 16 for resnet-20 and
    /// resnet-32, when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    /// Widths of an MLP's hidden layers; 256 and 256 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<Vec<usize>>,
    /// Side of a vision transformer's patches in pixels; 16 for images of at least 96 pixels, else 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch_size: Option<usize>,
    /// Width of a vision transformer; 192 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub d_model: Option<usize>,
    /// Its blocks; 12 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_layer: Option<usize>,
    /// Its heads; 3 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_head: Option<usize>,
}

/// All sizes of one model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VisionConfig {
    /// The architecture and its sizes, as a manifest says them.
    pub model: VisionParams,
    /// Channels of an image.
    pub channels: usize,
    /// Its height and width in pixels.
    pub image_size: [usize; 2],
    /// Number of classes.
    pub classes: usize,
}

impl VisionParams {
    /// An architecture with its usual sizes.
    #[must_use]
    pub fn of(name: Architecture) -> Self {
        Self { name, width: None, hidden: None, patch_size: None, d_model: None, n_layer: None, n_head: None }
    }

    /// Channels of the first stage.
    #[must_use]
    pub fn width(&self) -> usize {
        let usual = if matches!(self.name, Architecture::Resnet20 | Architecture::Resnet32) { 16 } else { 64 };
        self.width.unwrap_or(usual)
    }

    /// Widths of an MLP's hidden layers.
    #[must_use]
    pub fn hidden(&self) -> Vec<usize> {
        self.hidden.clone().unwrap_or_else(|| vec![256, 256])
    }

    /// Patch side, width, blocks and heads of a vision transformer for images of this size.
    #[must_use]
    pub fn transformer(&self, image_size: [usize; 2]) -> [usize; 4] {
        let usual = if image_size[0].min(image_size[1]) >= 96 { 16 } else { 4 };
        [
            self.patch_size.unwrap_or(usual),
            self.d_model.unwrap_or(192),
            self.n_layer.unwrap_or(12),
            self.n_head.unwrap_or(3),
        ]
    }

    /// Reports what cannot work, before anything runs. `prefix` is the parameter's own name.
    pub fn check(&self, prefix: &str, check: &mut Check<'_>) {
        for (name, given) in self.given() {
            let at = format!("{prefix}.{name}");
            if !self.fields().contains(&name) {
                let fields: Vec<String> = self.fields().iter().map(|field| format!("`{field}`")).collect();
                let help = if fields.is_empty() {
                    "its sizes are fixed".to_owned()
                } else {
                    format!("its sizes are given by {}", fields.join(", "))
                };
                check.problem(at, format!("this model has no `{name}`"), help);
            } else if given == 0 {
                check.problem(at, format!("`{name}` must be at least 1"), "");
            }
        }
        let size = ["height", "width"].map(|side| check.fact("data", side).map(|length| length as usize));
        if let [Some(height), Some(width)] = size
            && let Err((field, message)) = self.fits([height, width])
        {
            check.problem(format!("{prefix}.{field}"), message, "");
        }
    }

    /// Whether the model can take images of this height and width.
    ///
    /// # Errors
    /// The field that is wrong, and why.
    pub fn fits(&self, image_size: [usize; 2]) -> Result<(), (&'static str, String)> {
        let [height, width] = image_size;
        let too_small = |least: usize| {
            (height.min(width) < least)
                .then(|| ("name", format!("images of {height}x{width} pixels are too small: it needs {least}x{least}")))
        };
        match self.name {
            Architecture::Mlp => Ok(()),
            Architecture::Lenet => too_small(12).map_or(Ok(()), Err),
            Architecture::Vgg16 | Architecture::Vgg19 => too_small(16).map_or(Ok(()), Err),
            Architecture::Resnet18 | Architecture::Resnet20 | Architecture::Resnet32 | Architecture::Resnet50 => {
                too_small(4).map_or(Ok(()), Err)
            }
            Architecture::Vit => {
                let [patch, d_model, _, n_head] = self.transformer(image_size);
                if patch == 0 || n_head == 0 || d_model == 0 {
                    return Ok(()); // reported already
                }
                if height % patch != 0 || width % patch != 0 {
                    let message = format!("images of {height}x{width} pixels cannot be cut into patches of {patch}");
                    return Err(("patch_size", message));
                }
                if d_model % n_head != 0 {
                    return Err(("n_head", format!("d_model {d_model} cannot be divided among {n_head} heads")));
                }
                Ok(())
            }
        }
    }

    fn fields(&self) -> &'static [&'static str] {
        match self.name {
            Architecture::Mlp => &["hidden"],
            Architecture::Lenet => &[],
            Architecture::Vit => &["patch_size", "d_model", "n_layer", "n_head"],
            _ => &["width"],
        }
    }

    fn given(&self) -> Vec<(&'static str, usize)> {
        let hidden = self.hidden.as_ref().map(|widths| widths.iter().copied().min().unwrap_or(1));
        let all = [
            ("width", self.width),
            ("hidden", hidden),
            ("patch_size", self.patch_size),
            ("d_model", self.d_model),
            ("n_layer", self.n_layer),
            ("n_head", self.n_head),
        ];
        all.into_iter().filter_map(|(name, given)| given.map(|given| (name, given))).collect()
    }
}
