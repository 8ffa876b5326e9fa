//! LLaMA models of which some matrices are two factors, `W = U V`.
//!
//! `config.json` says which, by the path of the layer and its rank (`sepia_ranks`); `model.safetensors` then holds `PATH.u`
//! `[out, r]` and `PATH.v` `[r, in]` in place of `PATH.weight`. Only matrices of attention and MLP can be factored.

use std::collections::BTreeMap;

use burn::{
    module::Param,
    tensor::{Device, Tensor, TensorData},
};
use sepia_engine::stage::StageError;

use super::{
    adapter::{Adapter, AdapterOptions},
    config::LlamaConfig,
    llama::{Linear, Llama, Weight, weights},
};

/// Ranks by the path of the layer: `model.layers.0.self_attn.q_proj`.
pub type FactorRanks = BTreeMap<String, usize>;

impl Linear {
    /// Puts the product of `u` `[out, r]` and `v` `[r, in]` in place of the weight.
    pub fn set_factors(&mut self, u: Tensor<2>, v: Tensor<2>) {
        // The dense weight is gone: one zero stands in its place.
        self.weight = Param::from_tensor(Tensor::zeros([1, 1], (&u.device(), u.dtype())));
        let options = AdapterOptions { heads: 1, scale: 1.0, replaces: true, dropout: None };
        let (lora_a, lora_b) = (Param::from_tensor(v), Param::from_tensor(u));
        self.adapter = Some(Adapter { lora_a, lora_b, lora_scale: None, merged: None, options });
    }

    /// The rank of the factors in place of the weight.
    #[must_use]
    pub fn factor_rank(&self) -> Option<usize> {
        let adapter = self.adapter.as_ref().filter(|adapter| adapter.options.replaces)?;
        Some(adapter.lora_a.val().dims()[0])
    }
}

impl Llama {
    /// Which matrices are two factors.
    #[must_use]
    pub fn factor_ranks(&self) -> FactorRanks {
        let mut copy = self.clone();
        copy.targets_mut().into_iter().filter_map(|(path, linear)| Some((path, linear.factor_rank()?))).collect()
    }

    /// Values that are stored: those of factors in place of those of the matrices that they stand for.
    #[must_use]
    pub fn stored_parameters(&self) -> usize {
        shapes(self.config(), &self.factor_ranks()).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }
}

/// Every stored value by its name in the file. Branches beside a weight are not part of a plain model.
pub(super) fn stored(model: &Llama) -> Vec<(String, Weight)> {
    let ranks = model.factor_ranks();
    let name = |name: String| match name.rsplit_once(".adapter.") {
        Some((path, "lora_a")) => Some(format!("{path}.v")),
        Some((path, "lora_b")) => Some(format!("{path}.u")),
        Some(_) => None,
        None => Some(name).filter(|name| !name.strip_suffix(".weight").is_some_and(|path| ranks.contains_key(path))),
    };
    weights(model).into_iter().filter_map(|(old, weight)| Some((name(old)?, weight))).collect()
}

/// The names and shapes of everything that is stored.
pub(super) fn shapes(config: &LlamaConfig, ranks: &FactorRanks) -> Vec<(String, Vec<usize>)> {
    let of = |(name, shape): (String, Vec<usize>)| {
        let path = name.strip_suffix(".weight").unwrap_or(&name);
        match (ranks.get(path), &shape[..]) {
            (Some(&rank), [out, inputs]) => {
                vec![(format!("{path}.u"), vec![*out, rank]), (format!("{path}.v"), vec![rank, *inputs])]
            }
            _ => vec![(name, shape)],
        }
    };
    config.weight_shapes().into_iter().flat_map(of).collect()
}

/// The model of stored values that were checked as a whole: building it cannot fail half-way.
///
/// # Errors
/// When a rank is that of a layer which cannot be factored.
pub(super) fn build(
    config: LlamaConfig,
    ranks: &FactorRanks,
    mut weights: BTreeMap<String, TensorData>,
    device: &Device,
) -> Result<Llama, StageError> {
    // Every name that is asked for is in the map, but for those of factored weights: both follow `shapes`, which a test
    // holds together.
    let mut model = Llama::build(config, device, |name, shape| {
        let shape = if ranks.contains_key(name.strip_suffix(".weight").unwrap_or(name)) { &[1, 1] } else { shape };
        weights.remove(name).unwrap_or_else(|| TensorData::zeros::<f32, _>(shape.to_vec()))
    });
    let mut left = ranks.clone();
    for (path, linear) in model.targets_mut() {
        if left.remove(&path).is_some()
            && let (Some(u), Some(v)) = (weights.remove(&format!("{path}.u")), weights.remove(&format!("{path}.v")))
        {
            linear.set_factors(Tensor::from_data(u, device), Tensor::from_data(v, device));
        }
    }
    match left.first_key_value() {
        Some((path, _)) => Err(StageError::new(format!("`{path}` is not a layer of this model that has factors"))),
        None => Ok(model),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Int;
    use camino::Utf8PathBuf;

    use super::{super::hf, *};
    use crate::{
        linalg::factor::{Kept, spectral_factors},
        testing::test_device,
    };

    #[test]
    fn a_factored_model_survives_the_round_trip_and_computes_the_product() {
        let device = test_device();
        let config = LlamaConfig { d_model: 16, d_ff: 24, n_layer: 2, n_head: 2, vocab_size: 11, seq_len: 8 };
        let seed = |name: &str| sepia_engine::stage::derive_seed(1, name, 0);
        let dense = Llama::new(config, seed, &device);
        let logits = |model: &Llama| {
            let tokens = Tensor::<2, Int>::from_data(TensorData::new(vec![1, 5, 2, 9], [1, 4]), &device);
            model.forward(tokens, &model.rope(8, &device))
        };
        let mut model = dense.clone();
        for (path, linear) in model.targets_mut() {
            if path.ends_with("up_proj") || path.ends_with("0.self_attn.q_proj") {
                let (u, v) = spectral_factors(&linear.weight.val(), 16, Kept::Values).unwrap();
                linear.set_factors(u, v);
            }
        }
        assert!((logits(&model) - logits(&dense)).abs().max().into_scalar::<f32>() < 1e-4);
        assert_eq!(model.factor_ranks().len(), 3);
        let more = 16 * (16 + 16) - 16 * 16 + 2 * (16 * (24 + 16) - 24 * 16);
        assert_eq!(model.stored_parameters(), config.parameters() + more);

        let temp = tempfile::tempdir().unwrap();
        let folder = Utf8PathBuf::from_path_buf(temp.path().join("model")).unwrap();
        hf::save(&model, &folder, None).unwrap();
        let read = hf::load(&folder, &device).unwrap();
        assert_eq!(read.factor_ranks(), model.factor_ranks());
        assert_eq!(logits(&read).into_data(), logits(&model).into_data());
        let file = fs_err::read(folder.join("model.safetensors")).unwrap();
        hf::save(&read, &folder, None).unwrap();
        assert_eq!(fs_err::read(folder.join("model.safetensors")).unwrap(), file);

        let path = folder.join("config.json");
        let text = fs_err::read_to_string(&path).unwrap();
        fs_err::write(&path, text.replace("layers.0.mlp.up_proj", "layers.9.mlp.up_proj")).unwrap();
        assert!(hf::load(&folder, &device).is_err());
    }
}
