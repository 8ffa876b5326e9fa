//! The model that a training begins with.

use burn::tensor::Device;
use sepia_engine::stage::{StageContext, StageError};

use super::TrainParams;
use crate::{
    data::TokenFolder,
    method::MethodParams,
    model::{self, Llama},
};

/// The model of the input `init`, or a new one.
pub(super) fn initial_model<M: MethodParams>(
    params: &TrainParams<M>,
    data: &TokenFolder,
    ctx: &StageContext<'_>,
    device: &Device,
) -> Result<Llama, StageError> {
    let vocab_size = data.meta.vocab_size;
    if let Some(folder) = ctx.input_opt("init") {
        if !params.model.is_empty() {
            let message = "the model's sizes come from the input `init`";
            return Err(StageError::new(message).param("model").help("leave `model` out"));
        }
        let model = model::load(&folder, device)?;
        if !model.factor_ranks().is_empty() {
            let message = "the model of `init` is factored, and training begins from whole matrices";
            return Err(StageError::new(message).help("connect the model as it was before `factorize`"));
        }
        if model.config().vocab_size < vocab_size {
            let known = model.config().vocab_size;
            let message = format!("the data has {vocab_size} token ids, but the model of `init` knows {known}");
            return Err(StageError::new(message).help("use the tokenizer that the model was trained with"));
        }
        return Ok(model);
    }
    let config = params.model.config(vocab_size, params.seq_len).ok_or_else(|| {
        StageError::new("the model's sizes are not complete")
            .param("model")
            .help("name a preset, { preset = \"9m\" }, or give d_model, n_layer and n_head")
    })?;
    if config.vocab_size < vocab_size {
        let message = format!("vocab_size {} is below that of the data, {vocab_size}", config.vocab_size);
        return Err(StageError::new(message).param("model.vocab_size").help("leave it out to take the data's"));
    }
    Ok(Llama::new(config, |name| ctx.rng_seed(&format!("init {name}"), 0), device))
}
