//! Text to token ids.
//!
//! Three kinds: one token per byte; byte-level BPE trained on the training split; any `tokenizer.json`. All end as a
//! `tokenizer.json`, so that models made from the tokens can be used elsewhere.
//!
//! BPE training gives the same file every time. Pair counts are sums, ties go to the pair with the smaller ids, and
//! neither depends on the order in which threads finish; a test trains with one thread and with several.

use rayon::prelude::*;
use schemars::JsonSchema;
use sepia_engine::stage::{InputFile, StageError};
use serde::{Deserialize, Serialize};
use tokenizers::{
    Tokenizer,
    models::{
        TrainerWrapper,
        bpe::{BPE, BpeTrainer},
    },
    pre_tokenizers::byte_level::ByteLevel,
};

/// How text becomes tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TokenizerParams {
    /// One token per byte, 256 in all.
    Byte {},
    /// Byte-level BPE, trained on the training split alone.
    Bpe {
        /// Number of tokens, the 256 bytes included. A short text may give fewer.
        #[serde(default = "default_vocab_size")]
        vocab_size: usize,
    },
    /// A `tokenizer.json` of the Hugging Face form.
    File {
        /// The file.
        path: InputFile,
    },
}

fn default_vocab_size() -> usize {
    1024
}

impl Default for TokenizerParams {
    fn default() -> Self {
        Self::Byte {}
    }
}

/// Text is handed to the tokenizer in pieces of about this many bytes.
const PIECE: usize = 1 << 16;

/// A tokenizer, ready to use.
#[derive(Debug)]
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    /// Whether text may be cut before a newline without changing its tokens.
    cuttable: bool,
    byte: bool,
}

impl TextTokenizer {
    /// Makes the tokenizer; `train` is the training split.
    ///
    /// # Errors
    /// When the file cannot be read as a tokenizer.
    pub fn make(params: &TokenizerParams, train: &str) -> Result<Self, StageError> {
        match params {
            TokenizerParams::Byte {} => Self::byte(),
            TokenizerParams::Bpe { vocab_size } => Self::bpe(*vocab_size, train),
            TokenizerParams::File { path } => {
                let path = path.path();
                let tokenizer = Tokenizer::from_file(&path).map_err(|error| StageError::unreadable(&path, error))?;
                Ok(Self { tokenizer, cuttable: false, byte: false })
            }
        }
    }

    /// Token id = byte value, which is why the vocabulary is spelt out here.
    fn byte() -> Result<Self, StageError> {
        let vocab = byte_characters().map(|(byte, character)| (character.to_string(), u32::from(byte)));
        let model = BPE::builder().vocab_and_merges(vocab, Vec::new()).build().map_err(failed)?;
        Ok(Self { tokenizer: byte_level(model), cuttable: true, byte: true })
    }

    fn bpe(vocab_size: usize, train: &str) -> Result<Self, StageError> {
        let mut tokenizer = byte_level(BPE::default());
        let trainer = BpeTrainer::builder()
            .vocab_size(vocab_size)
            .min_frequency(2)
            .show_progress(false)
            .initial_alphabet(byte_characters().map(|(_, character)| character).into_iter().collect())
            .build();
        let mut trainer = TrainerWrapper::from(trainer);
        tokenizer.train(&mut trainer, pieces(train).into_iter()).map_err(failed)?;
        Ok(Self { tokenizer, cuttable: true, byte: false })
    }

    /// One above the largest id.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        let largest = self.tokenizer.get_vocab(true).values().copied().max();
        largest.map_or(0, |id| id as usize + 1)
    }

    /// The ids of a text, without any token that stands for no text.
    ///
    /// # Errors
    /// When the tokenizer refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, StageError> {
        if self.byte {
            return Ok(text.bytes().map(u32::from).collect());
        }
        let pieces = if self.cuttable { pieces(text) } else { vec![text] };
        let encoded: Result<Vec<Vec<u32>>, StageError> = pieces
            .into_par_iter()
            .map(|piece| Ok(self.tokenizer.encode_fast(piece, false).map_err(failed)?.get_ids().to_vec()))
            .collect();
        Ok(encoded?.concat())
    }

    /// The text of these ids.
    ///
    /// # Errors
    /// When the tokenizer refuses them.
    pub fn decode(&self, ids: &[u32]) -> Result<String, StageError> {
        self.tokenizer.decode(ids, false).map_err(failed)
    }

    /// The content of `tokenizer.json`.
    ///
    /// # Errors
    /// When the tokenizer cannot be written as JSON.
    pub fn to_json(&self) -> Result<String, StageError> {
        self.tokenizer.to_string(true).map(|text| text + "\n").map_err(failed)
    }
}

fn byte_level(model: BPE) -> Tokenizer {
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, false, true)));
    tokenizer.with_decoder(Some(ByteLevel::new(false, false, true)));
    tokenizer
}

fn failed(error: impl std::fmt::Display) -> StageError {
    StageError::new(format!("the tokenizer failed: {error}"))
}

/// The character that stands for each byte in a byte-level vocabulary (the convention of GPT-2): printable Latin-1 as
/// itself, the others from 256 upwards in their order.
fn byte_characters() -> [(u8, char); 256] {
    let mut table = [(0u8, '\0'); 256];
    let mut next = 256u32;
    for byte in 0..=255u8 {
        let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let code = if printable { u32::from(byte) } else { next };
        next += u32::from(!printable);
        table[usize::from(byte)] = (byte, char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
    }
    table
}

/// Cuts a text before newlines that follow something other than white space. The byte-level pre-tokenizer always ends
/// a piece there, so tokens, and pair counts in training, are those of the uncut text.
fn pieces(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut start = 0;
    for (at, pair) in bytes.windows(2).enumerate() {
        let cut = at + 1;
        // The byte before must be ASCII: a multi-byte character could be white space, too.
        let after_text = pair[0].is_ascii_graphic();
        if cut - start >= PIECE && pair[1] == b'\n' && after_text {
            found.push(&text[start..cut]);
            start = cut;
        }
    }
    if start < text.len() {
        found.push(&text[start..]);
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> String {
        let line = "It is a truth universally acknowledged, that a single man's café — 42% —\n\n  must be in want; ";
        (0..4000).map(|i| format!("{line}{}\n", i % 97)).collect()
    }

    #[test]
    fn training_gives_the_same_file_whatever_the_threads() {
        let text = sample();
        let train = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| TextTokenizer::bpe(400, &text).unwrap().to_json().unwrap())
        };
        let first = train(1);
        for threads in [1, 2, 3, 8] {
            assert!(train(threads) == first, "{threads} threads gave another tokenizer");
        }
    }

    #[test]
    fn cutting_changes_no_token() {
        let text = sample();
        let mut tokenizer = TextTokenizer::bpe(400, &text).unwrap();
        assert!(pieces(&text).len() > 3);
        let cut = tokenizer.encode(&text).unwrap();
        tokenizer.cuttable = false;
        assert!(tokenizer.encode(&text).unwrap() == cut);
    }

    #[test]
    fn a_byte_token_is_the_byte() {
        let tokenizer = TextTokenizer::make(&TokenizerParams::Byte {}, "").unwrap();
        assert_eq!(tokenizer.vocab_size(), 256);
        assert_eq!(tokenizer.encode("aé\n").unwrap(), [97, 0xc3, 0xa9, 10]);
        // The shortcut agrees with the tokenizer that is written out.
        let written = tokenizer.tokenizer.encode_fast("aé\n", false).unwrap();
        assert_eq!(written.get_ids(), [97, 0xc3, 0xa9, 10]);
    }

    #[test]
    fn a_short_text_gives_a_smaller_vocabulary() {
        let tokenizer = TextTokenizer::bpe(1024, "aaaa aaaa").unwrap();
        assert!((256..300).contains(&tokenizer.vocab_size()), "{}", tokenizer.vocab_size());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn text_survives_the_round_trip(text in "(\\PC|\\n| ){1,60}") {
            let tokenizer = TextTokenizer::bpe(300, &sample()).unwrap();
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
    }
}
