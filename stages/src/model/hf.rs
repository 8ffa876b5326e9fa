//! Models as folders that the `transformers` library reads: `config.json`, `model.safetensors`, `tokenizer.json`.

use std::{borrow::Cow, collections::BTreeMap};

use burn::tensor::{DType, Device, TensorData};
use camino::{Utf8Component, Utf8Path, Utf8PathBuf};
use safetensors::{Dtype, SafeTensorError, SafeTensors, View};
use sepia_engine::stage::StageError;
use serde::{Deserialize, Serialize};

use super::{
    config::{INIT_STD, LlamaConfig, RMS_NORM_EPS, ROPE_THETA},
    factored::{self, FactorRanks},
    llama::{Llama, Weight},
};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
/// Which file holds which weight, where there are several.
const INDEX: &str = "model.safetensors.index.json";

/// `config.json` as it is written.
#[derive(Serialize)]
struct Written<'a> {
    architectures: [&'a str; 1],
    model_type: &'a str,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    hidden_act: &'a str,
    max_position_embeddings: usize,
    initializer_range: f64,
    rms_norm_eps: f64,
    rope_theta: f64,
    tie_word_embeddings: bool,
    attention_bias: bool,
    mlp_bias: bool,
    bos_token_id: Option<u32>,
    eos_token_id: Option<u32>,
    torch_dtype: &'a str,
    #[serde(skip_serializing_if = "FactorRanks::is_empty")]
    sepia_ranks: FactorRanks,
}

/// What is read of a `config.json`; other fields are left alone.
#[derive(Deserialize)]
struct Read {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    #[serde(default = "silu")]
    hidden_act: String,
    #[serde(default = "default_positions")]
    max_position_embeddings: usize,
    #[serde(default = "default_eps")]
    rms_norm_eps: f64,
    #[serde(default = "default_theta")]
    rope_theta: f64,
    rope_scaling: Option<serde_json::Value>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    sepia_ranks: FactorRanks,
}

fn silu() -> String {
    "silu".to_owned()
}

fn default_positions() -> usize {
    2048
}

fn default_eps() -> f64 {
    RMS_NORM_EPS
}

fn default_theta() -> f64 {
    ROPE_THETA
}

/// Writes a model folder, weights in bf16 if they are held in it and in f32 otherwise. `tokenizer` is copied beside them.
///
/// # Errors
/// When a file cannot be written.
pub fn save(model: &Llama, folder: &Utf8Path, tokenizer: Option<&Utf8Path>) -> Result<(), StageError> {
    fs_err::create_dir_all(folder)?;
    let config = model.config();
    let written = Written {
        architectures: ["LlamaForCausalLM"],
        model_type: "llama",
        vocab_size: config.vocab_size,
        hidden_size: config.d_model,
        intermediate_size: config.d_ff,
        num_hidden_layers: config.n_layer,
        num_attention_heads: config.n_head,
        num_key_value_heads: config.n_head,
        head_dim: config.head_dim(),
        hidden_act: "silu",
        max_position_embeddings: config.seq_len,
        initializer_range: INIT_STD,
        rms_norm_eps: RMS_NORM_EPS,
        rope_theta: ROPE_THETA,
        tie_word_embeddings: false,
        attention_bias: false,
        mlp_bias: false,
        bos_token_id: None,
        eos_token_id: None,
        torch_dtype: if model.held() == DType::BF16 { "bfloat16" } else { "float32" },
        sepia_ranks: model.factor_ranks(),
    };
    let text = serde_json::to_string_pretty(&written).map_err(std::io::Error::other)?;
    fs_err::write(folder.join(CONFIG), text + "\n")?;
    write_views(&folder.join(WEIGHTS), factored::stored(model))?;
    if let Some(tokenizer) = tokenizer {
        fs_err::copy(tokenizer, folder.join("tokenizer.json"))?;
    }
    Ok(())
}

/// Reads the sizes of a stored model.
///
/// # Errors
/// When `config.json` is missing or describes a model that this one cannot be.
pub fn load_config(folder: &Utf8Path) -> Result<LlamaConfig, StageError> {
    read_config(folder).map(|(config, _)| config)
}

/// Whether a folder holds a LLaMA, and not a classifier.
#[must_use]
pub fn is_llama(folder: &Utf8Path) -> bool {
    let text = fs_err::read_to_string(folder.join(CONFIG)).unwrap_or_default();
    let config = serde_json::from_str::<serde_json::Value>(&text).unwrap_or_default();
    config.get("model_type").and_then(serde_json::Value::as_str) == Some("llama")
}

/// The sizes, and which matrices are factored.
fn read_config(folder: &Utf8Path) -> Result<(LlamaConfig, FactorRanks), StageError> {
    let path = folder.join(CONFIG);
    let read: Read =
        serde_json::from_str(&fs_err::read_to_string(&path)?).map_err(|error| StageError::unreadable(&path, error))?;
    let config = LlamaConfig {
        d_model: read.hidden_size,
        d_ff: read.intermediate_size,
        n_layer: read.num_hidden_layers,
        n_head: read.num_attention_heads,
        vocab_size: read.vocab_size,
        seq_len: read.max_position_embeddings,
    };
    let unsupported = if read.model_type != "llama" {
        Some(format!("model_type is `{}`, not `llama`", read.model_type))
    } else if read.num_key_value_heads.is_some_and(|heads| heads != read.num_attention_heads) {
        Some("grouped key-value heads are not supported".to_owned())
    } else if config.n_head == 0
        || !config.d_model.is_multiple_of(config.n_head)
        || !config.head_dim().is_multiple_of(2)
    {
        Some(format!("hidden_size {} and {} heads do not fit", config.d_model, config.n_head))
    } else if read.head_dim.is_some_and(|width| width != config.head_dim()) {
        Some("a head_dim other than hidden_size / num_attention_heads is not supported".to_owned())
    } else if read.hidden_act != "silu" {
        Some(format!("hidden_act is `{}`, not `silu`", read.hidden_act))
    } else if read.tie_word_embeddings || read.attention_bias || read.mlp_bias {
        Some("tied embeddings and biases are not supported".to_owned())
    } else if read.rope_theta != ROPE_THETA || read.rope_scaling.is_some_and(|scaling| !scaling.is_null()) {
        Some(format!("rotary positions other than base {ROPE_THETA} without scaling are not supported"))
    } else if (read.rms_norm_eps - RMS_NORM_EPS).abs() > 1e-12 {
        Some(format!("rms_norm_eps is {}, not {RMS_NORM_EPS}", read.rms_norm_eps))
    } else {
        None
    };
    match unsupported {
        Some(why) => Err(StageError::unreadable(&path, why)),
        None => Ok((config, read.sepia_ranks)),
    }
}

/// Reads a stored model into f32: one `model.safetensors`, or several files and their index.
///
/// # Errors
/// When a file is missing or damaged, or a weight is missing, has another shape or an unknown dtype.
pub fn load(folder: &Utf8Path, device: &Device) -> Result<Llama, StageError> {
    let (config, ranks) = read_config(folder)?;
    let (whole, index) = (folder.join(WEIGHTS), folder.join(INDEX));
    if whole.exists() || !index.exists() {
        return load_file(config, &ranks, &whole, device);
    }
    let read: Index = serde_json::from_str(&fs_err::read_to_string(&index)?)
        .map_err(|error| StageError::unreadable(&index, error))?;
    // One file at a time is in memory.
    let mut names: BTreeMap<&str, Vec<(String, Vec<usize>)>> = BTreeMap::new();
    for (name, shape) in factored::shapes(&config, &ranks) {
        let Some(file) = read.weight_map.get(&name) else {
            return Err(StageError::unreadable(&index, format!("there is no `{name}`")));
        };
        let inside = Utf8Path::new(file).components().all(|part| matches!(part, Utf8Component::Normal(_)));
        if !inside {
            return Err(StageError::unreadable(&index, format!("`{file}` leads outside the model's folder")));
        }
        names.entry(file).or_default().push((name, shape));
    }
    let mut weights = BTreeMap::new();
    for (file, names) in names {
        read_file(&folder.join(file), names, &mut weights)?;
    }
    factored::build(config, &ranks, weights, device)
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Reads weights of a model with these sizes from a safetensors file.
///
/// # Errors
/// When the file is missing or damaged, or a weight is missing, has another shape or an unknown dtype.
pub fn load_weights(config: LlamaConfig, path: &Utf8PathBuf, device: &Device) -> Result<Llama, StageError> {
    load_file(config, &FactorRanks::new(), path, device)
}

fn load_file(
    config: LlamaConfig,
    ranks: &FactorRanks,
    path: &Utf8PathBuf,
    device: &Device,
) -> Result<Llama, StageError> {
    let mut weights = BTreeMap::new();
    read_file(path, factored::shapes(&config, ranks), &mut weights)?;
    factored::build(config, ranks, weights, device)
}

/// Adds the named weights of a safetensors file.
fn read_file(
    path: &Utf8PathBuf,
    names: Vec<(String, Vec<usize>)>,
    weights: &mut BTreeMap<String, TensorData>,
) -> Result<(), StageError> {
    let bytes = fs_err::read(path)?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| StageError::unreadable(path, error))?;
    for (name, shape) in names {
        let data = read_weight(&file, &name, &shape).map_err(|why| StageError::unreadable(path, why))?;
        weights.insert(name, data);
    }
    Ok(())
}

pub(super) fn read_weight(file: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<TensorData, String> {
    let view = file.tensor(name).map_err(|_| format!("there is no `{name}`"))?;
    if view.shape() != shape {
        return Err(format!("`{name}` has shape {:?} instead of {shape:?}", view.shape()));
    }
    let dtype = match view.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        other => return Err(format!("`{name}` is stored as {other:?}; f32, f16 and bf16 can be read")),
    };
    let data = TensorData::try_from_bytes_vec(view.data().to_vec(), shape.to_vec(), dtype);
    let data = data.map_err(|error| format!("`{name}`: {error}"))?;
    Ok(if dtype == DType::F32 { data } else { data.convert::<f32>() })
}

struct Stored(TensorData);

impl View for Stored {
    fn dtype(&self) -> Dtype {
        match self.0.dtype() {
            DType::F64 => Dtype::F64,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            DType::U8 => Dtype::U8,
            _ => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        self.0.shape().as_slice()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.0.as_bytes())
    }

    fn data_len(&self) -> usize {
        self.0.as_bytes().len()
    }
}

/// It comes to the host when it is written, one at a time.
impl View for Weight {
    fn dtype(&self) -> Dtype {
        if self.tensor.dtype() == DType::BF16 { Dtype::BF16 } else { Dtype::F32 }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let data = self.tensor.clone().into_data();
        let data = if data.dtype() == DType::BF16 { data } else { data.convert::<f32>() };
        Cow::Owned(data.as_bytes().to_vec())
    }

    fn data_len(&self) -> usize {
        let width = if self.tensor.dtype() == DType::BF16 { 2 } else { 4 };
        width * self.shape.iter().product::<usize>()
    }
}

/// Writes tensors of f32, f64, f16, bf16 or u8 as a safetensors file. The same tensors give the same bytes.
///
/// # Errors
/// When the file cannot be written.
pub fn write_tensors(path: &Utf8Path, tensors: Vec<(String, TensorData)>) -> Result<(), StageError> {
    write_views(path, tensors.into_iter().map(|(name, data)| (name, Stored(data))).collect())
}

/// The file is never in memory as a whole.
fn write_views(path: &Utf8Path, views: Vec<(String, impl View)>) -> Result<(), StageError> {
    // One entry, as `transformers` wants it; more would be written in the order of a hash map.
    let about = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize_to_file(views, Some(about), path.as_std_path()).map_err(|error| {
        let kind = match &error {
            SafeTensorError::IoError(error) => error.kind(),
            _ => std::io::ErrorKind::Other,
        };
        StageError::from(std::io::Error::new(kind, format!("{path}: {error}")))
    })
}

#[cfg(test)]
mod tests {
    use super::{super::llama::named_weights, *};
    use crate::testing::test_device;

    fn model() -> Llama {
        let config = LlamaConfig { d_model: 16, d_ff: 24, n_layer: 2, n_head: 2, vocab_size: 11, seq_len: 8 };
        Llama::new(config, |name| sepia_engine::stage::derive_seed(1, name, 0), &test_device())
    }

    fn folder() -> (tempfile::TempDir, Utf8PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(temp.path().join("model")).unwrap();
        (temp, path)
    }

    #[test]
    fn a_model_survives_the_round_trip_to_the_byte() {
        let (_temp, folder) = folder();
        save(&model(), &folder, None).unwrap();
        let first = fs_err::read(folder.join(WEIGHTS)).unwrap();
        let read = load(&folder, &test_device()).unwrap();
        assert_eq!(named_weights(&read), named_weights(&model()));
        save(&read, &folder, None).unwrap();
        assert_eq!(fs_err::read(folder.join(WEIGHTS)).unwrap(), first);
    }

    #[test]
    fn a_model_in_bf16_is_stored_so_and_read_without_loss() {
        let (_temp, folder) = folder();
        let narrow = model().held_in(DType::BF16);
        save(&narrow, &folder, None).unwrap();
        let config: serde_json::Value =
            serde_json::from_str(&fs_err::read_to_string(folder.join(CONFIG)).unwrap()).unwrap();
        assert_eq!(config["torch_dtype"], "bfloat16");
        let first = fs_err::read(folder.join(WEIGHTS)).unwrap();
        let file = SafeTensors::deserialize(&first).unwrap();
        assert!(file.iter().all(|(_, view)| view.dtype() == Dtype::BF16));
        assert_eq!(file.iter().map(|(_, view)| view.data().len()).sum::<usize>(), 2 * model().config().parameters());
        let read = load(&folder, &test_device()).unwrap();
        assert_eq!(named_weights(&read), named_weights(&narrow.held_in(DType::F32)));
        save(&read.held_in(DType::BF16), &folder, None).unwrap();
        assert_eq!(fs_err::read(folder.join(WEIGHTS)).unwrap(), first);
    }

    #[test]
    fn a_model_in_several_files_is_read_through_its_index() {
        let (_temp, folder) = folder();
        save(&model(), &folder, None).unwrap();
        fs_err::remove_file(folder.join(WEIGHTS)).unwrap();
        let mut all = named_weights(&model());
        let second = all.split_off(5);
        let mut map = serde_json::Map::new();
        for (file, part) in [("model-00001-of-00002.safetensors", all), ("model-00002-of-00002.safetensors", second)] {
            map.extend(part.iter().map(|(name, _)| (name.clone(), file.into())));
            write_tensors(&folder.join(file), part).unwrap();
        }
        let write = |map: &serde_json::Map<String, serde_json::Value>| {
            let index = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map });
            fs_err::write(folder.join(INDEX), index.to_string()).unwrap();
        };
        write(&map);
        let read = load(&folder, &test_device()).unwrap();
        assert_eq!(named_weights(&read), named_weights(&model()));

        map.insert("lm_head.weight".to_owned(), "../elsewhere.safetensors".into());
        write(&map);
        let error = load(&folder, &test_device()).unwrap_err().to_string();
        assert!(error.ends_with("`../elsewhere.safetensors` leads outside the model's folder"), "{error}");
        map.remove("lm_head.weight");
        write(&map);
        let error = load(&folder, &test_device()).unwrap_err().to_string();
        assert!(error.ends_with("there is no `lm_head.weight`"), "{error}");
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let (_temp, folder) = folder();
        save(&model(), &folder, None).unwrap();
        let path = folder.join(CONFIG);
        let text = fs_err::read_to_string(&path).unwrap();
        fs_err::write(&path, text.replace("\"llama\"", "\"gpt2\"")).unwrap();
        let error = load(&folder, &test_device()).unwrap_err().to_string();
        assert!(error.ends_with("model_type is `gpt2`, not `llama`"), "{error}");
        fs_err::write(&path, text.replace("\"intermediate_size\": 24", "\"intermediate_size\": 32")).unwrap();
        let error = load(&folder, &test_device()).unwrap_err().to_string();
        let expected = "`model.layers.0.mlp.gate_proj.weight` has shape [24, 16] instead of [32, 16]";
        assert!(error.ends_with(expected), "{error}");
    }
}
