//! Texts, tokenizers and token files.

mod text;
mod tokenizer;
mod tokens;
mod unigram;

pub use text::{Text, split_at_tail};
pub use tokenizer::{TextTokenizer, TokenizerParams};
pub use tokens::{Split, TokenFolder, TokenMeta, TokenWriter};
pub use unigram::unigram_loss;
