//! Models: one complete model per file, and how models are stored.

mod adapter;
mod config;
mod factored;
mod held;
mod hf;
mod llama;
pub mod vision;

pub use adapter::{Adapter, AdapterOptions, Dropout, DropoutClock, Merged};
pub use config::{LlamaConfig, ModelParams, Preset};
pub use factored::FactorRanks;
pub use hf::{is_llama, load, load_config, load_weights, save, write_tensors};
pub use llama::{Block, Linear, Llama, See, named_weights};
