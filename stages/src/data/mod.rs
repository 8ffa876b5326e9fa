//! Texts, tokenizers and token files; labelled images.

mod images;
mod text;
mod tokenizer;
mod tokens;
mod unigram;

pub use images::{
    Augmentation, ImageBatch, ImageFolder, ImageFormat, ImageMeta, ImageSplit, Part, epoch_order, read_images,
};
pub use text::{Text, split_at_tail};
pub use tokenizer::{TextTokenizer, TokenizerParams};
pub use tokens::{Split, TokenFolder, TokenMeta, TokenWriter};
pub use unigram::unigram_loss;
