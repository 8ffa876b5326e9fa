//! Models: one complete model per file, and how models are stored.

mod config;
mod hf;
mod llama;

pub use config::{LlamaConfig, ModelParams, Preset};
pub use hf::{load, load_config, load_weights, save, write_tensors};
pub use llama::{Llama, named_weights};
