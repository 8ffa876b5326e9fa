//! Classifiers as folders: `config.json` and `model.safetensors`.
//!
//! `config.json` says which layers are factored, in which form, with which rank, and whether a BatchNorm lies between, so
//! that a factorised model is deployed as it is.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor};
use camino::Utf8Path;
use safetensors::SafeTensors;
use sepia_engine::stage::StageError;
use serde::{Deserialize, Serialize};

use super::{
    config::VisionConfig,
    geometry::Form,
    layer::{Factors, Weight},
    model::VisionModel,
    norm::BatchNorm,
    parameter::{Value, reshaped},
};
use crate::model::hf::{read_weight, write_tensors};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const MODEL_TYPE: &str = "sepia-vision";

/// `config.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    model_type: String,
    #[serde(flatten)]
    config: VisionConfig,
    /// By the layer's path; absent where every layer is dense.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    factored: BTreeMap<String, StoredFactors>,
    parameters: usize,
    macs: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredFactors {
    form: Form,
    rank: usize,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    batch_norm: bool,
}

/// Writes a model folder.
///
/// # Errors
/// When a file cannot be written.
pub fn save_vision(model: &VisionModel, folder: &Utf8Path) -> Result<(), StageError> {
    fs_err::create_dir_all(folder)?;
    let mut factored = BTreeMap::new();
    for layer in model.layers() {
        if let Weight::Factored(Factors { form, rank, norm, .. }) = &layer.weight {
            let stored = StoredFactors { form: *form, rank: *rank, batch_norm: norm.is_some() };
            factored.insert(layer.path.clone(), stored);
        }
    }
    let stored = Stored {
        model_type: MODEL_TYPE.to_owned(),
        config: model.config().clone(),
        factored,
        parameters: model.parameters(),
        macs: model.macs(),
    };
    let text = serde_json::to_string_pretty(&stored).map_err(std::io::Error::other)?;
    fs_err::write(folder.join(CONFIG), text + "\n")?;
    let values = model.named_values().into_iter().map(|(name, _, data)| (name, data));
    write_tensors(&folder.join(WEIGHTS), values.collect())
}

/// Reads what kind of classifier a folder holds.
///
/// # Errors
/// When `config.json` is missing, damaged or not a classifier's.
pub fn load_vision_config(folder: &Utf8Path) -> Result<VisionConfig, StageError> {
    read_config(folder).map(|stored| stored.config)
}

fn read_config(folder: &Utf8Path) -> Result<Stored, StageError> {
    let path = folder.join(CONFIG);
    let text = fs_err::read_to_string(&path)?;
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| StageError::unreadable(&path, error))?;
    let model_type = value["model_type"].as_str().unwrap_or("unknown");
    if model_type != MODEL_TYPE {
        return Err(StageError::unreadable(&path, format!("model_type is `{model_type}`, not `{MODEL_TYPE}`"))
            .help("connect a classifier of images, made by `train-classifier`"));
    }
    let stored: Stored = serde_json::from_value(value).map_err(|error| StageError::unreadable(&path, error))?;
    match stored.config.model.fits(stored.config.image_size) {
        Ok(()) => Ok(stored),
        Err((_, why)) => Err(StageError::unreadable(&path, why)),
    }
}

/// Reads a stored model.
///
/// # Errors
/// When a file is missing or damaged, a layer cannot be factored as the file says, or a weight is missing, has another
/// shape or an unknown dtype.
pub fn load_vision(folder: &Utf8Path, device: &Device) -> Result<VisionModel, StageError> {
    let stored = read_config(folder)?;
    let config_path = folder.join(CONFIG);
    let mut model = VisionModel::zeros(stored.config, device);
    for (path, found) in stored.factored {
        let layer = model.layer_mut(&path)?;
        let StoredFactors { form, rank, batch_norm } = found;
        layer.check(form, rank).map_err(|error| StageError::unreadable(&config_path, error))?;
        let [inner, outer] = layer.geometry.factors(form, rank);
        let norm = batch_norm.then(|| BatchNorm::new(format!("{path}.bn"), rank, device));
        let [u, v] = [outer, inner].map(|factor| Tensor::zeros(factor.held_shape(), device));
        layer.weight = Weight::Factored(Factors { u, v, form, rank, norm });
    }
    let path = folder.join(WEIGHTS);
    let bytes = fs_err::read(&path)?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| StageError::unreadable(&path, error))?;
    for parameter in model.parameters_mut() {
        let data =
            read_weight(&file, &parameter.name, &parameter.stored).map_err(|why| StageError::unreadable(&path, why))?;
        match parameter.value {
            Value::Matrix(tensor) => *tensor = Tensor::from_data(reshaped(data, tensor.dims()), device),
            Value::Vector(tensor) => *tensor = Tensor::from_data(data, device),
        }
    }
    Ok(model)
}
