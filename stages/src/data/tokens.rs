//! The token folder that `text-dataset` writes and every training stage reads.
//!
//! `train.bin` and `validation.bin` (and `test.bin`, where a test split was asked for) hold the token ids one after the
//! other, little endian, without a header: u16 where the vocabulary has at most 65,536 entries, u32 above. `meta.json`
//! says which, and what belongs to all; `tokenizer.json` turns them back into text.

use camino::{Utf8Path, Utf8PathBuf};
use sepia_engine::stage::StageError;
use serde::{Deserialize, Serialize};

/// The layout described above; a folder with another number is refused.
const FORMAT: u32 = 1;

/// `meta.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenMeta {
    /// Version of the folder's layout.
    pub format: u32,
    /// Number of token ids: every id is below it.
    pub vocab_size: usize,
    /// Bytes per token id: 2 or 4.
    pub bytes_per_token: usize,
    /// Tokens in `train.bin`.
    pub train_tokens: usize,
    /// Tokens in `validation.bin`.
    pub validation_tokens: usize,
    /// Bytes of text behind `train.bin`, so that a loss per token can be given per byte.
    pub train_bytes: usize,
    /// Bytes of text behind `validation.bin`.
    pub validation_bytes: usize,
    /// Tokens in `test.bin`; 0 where there is none.
    #[serde(default)]
    pub test_tokens: usize,
    /// Bytes of text behind `test.bin`.
    #[serde(default)]
    pub test_bytes: usize,
}

/// One split, as packed as it is on disk.
#[derive(Debug, Clone)]
pub enum Split {
    /// For vocabularies up to 65,536.
    U16(Vec<u16>),
    /// For larger ones.
    U32(Vec<u32>),
}

impl Split {
    /// A split of these tokens, for tests and for data that is made on the spot.
    #[must_use]
    pub fn from_tokens(tokens: Vec<u32>) -> Self {
        Self::U32(tokens)
    }

    /// Number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Split::U16(tokens) => tokens.len(),
            Split::U32(tokens) => tokens.len(),
        }
    }

    /// Whether there is no token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All tokens in order.
    pub fn iter(&self) -> Box<dyn Iterator<Item = u32> + '_> {
        match self {
            Split::U16(tokens) => Box::new(tokens.iter().map(|&token| u32::from(token))),
            Split::U32(tokens) => Box::new(tokens.iter().copied()),
        }
    }

    /// Appends `len` tokens from `start` on to `out`. The range must lie inside the split.
    pub fn window(&self, start: usize, len: usize, out: &mut Vec<i32>) {
        match self {
            Split::U16(tokens) => out.extend(tokens[start..start + len].iter().map(|&token| i32::from(token))),
            Split::U32(tokens) => out.extend(tokens[start..start + len].iter().map(|&token| token as i32)),
        }
    }

    fn read(path: &Utf8PathBuf, meta: &TokenMeta, expected: usize) -> Result<Self, StageError> {
        let bytes = fs_err::read(path)?;
        if bytes.len() != expected * meta.bytes_per_token {
            let why = format!("{} bytes instead of {}", bytes.len(), expected * meta.bytes_per_token);
            return Err(StageError::unreadable(path, why));
        }
        let split = if meta.bytes_per_token == 2 {
            Self::U16(bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect())
        } else {
            Self::U32(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
        };
        if let Some(token) = split.iter().find(|&token| token as usize >= meta.vocab_size) {
            let why = format!("token {token} is outside the vocabulary of {}", meta.vocab_size);
            return Err(StageError::unreadable(path, why));
        }
        Ok(split)
    }
}

/// A token folder, opened.
#[derive(Debug)]
pub struct TokenFolder {
    folder: Utf8PathBuf,
    /// What `meta.json` says.
    pub meta: TokenMeta,
}

impl TokenFolder {
    /// Reads the folder's `meta.json`.
    ///
    /// # Errors
    /// When it is missing, damaged, or of another format.
    pub fn open(folder: &Utf8Path) -> Result<Self, StageError> {
        let path = folder.join("meta.json");
        let text = fs_err::read_to_string(&path)?;
        let meta: TokenMeta = serde_json::from_str(&text).map_err(|error| StageError::unreadable(&path, error))?;
        if meta.format != FORMAT || !matches!(meta.bytes_per_token, 2 | 4) {
            let why = format!("format {} is not known to this binary, which reads {FORMAT}", meta.format);
            return Err(StageError::unreadable(&path, why));
        }
        Ok(Self { folder: folder.to_owned(), meta })
    }

    /// The training split.
    ///
    /// # Errors
    /// When the file is missing or does not fit `meta.json`.
    pub fn train(&self) -> Result<Split, StageError> {
        Split::read(&self.train_file(), &self.meta, self.meta.train_tokens)
    }

    /// The file of the training split.
    #[must_use]
    pub fn train_file(&self) -> Utf8PathBuf {
        self.folder.join("train.bin")
    }

    /// The validation split.
    ///
    /// # Errors
    /// When the file is missing or does not fit `meta.json`.
    pub fn validation(&self) -> Result<Split, StageError> {
        Split::read(&self.folder.join("validation.bin"), &self.meta, self.meta.validation_tokens)
    }

    /// The test split, which neither training nor the choice of its settings should have seen.
    ///
    /// # Errors
    /// When the data has none, or the file is missing or does not fit `meta.json`.
    pub fn test(&self) -> Result<Split, StageError> {
        if self.meta.test_tokens == 0 {
            return Err(StageError::new("the data has no test split").help("give its text-dataset a `test` above 0"));
        }
        Split::read(&self.folder.join("test.bin"), &self.meta, self.meta.test_tokens)
    }

    /// The tokenizer that belongs to the tokens.
    #[must_use]
    pub fn tokenizer(&self) -> Utf8PathBuf {
        self.folder.join("tokenizer.json")
    }
}

/// Writes a token folder.
#[derive(Debug)]
pub struct TokenWriter<'a> {
    /// Where; created if missing.
    pub folder: &'a Utf8Path,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Tokens and bytes of text of the training split.
    pub train: (&'a [u32], usize),
    /// Tokens and bytes of text of the validation split.
    pub validation: (&'a [u32], usize),
    /// Content of `tokenizer.json`.
    pub tokenizer: &'a str,
}

impl TokenWriter<'_> {
    /// Writes all files and returns what `meta.json` says.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self) -> Result<TokenMeta, StageError> {
        self.write_with_test((&[], 0))
    }

    /// [`write`](Self::write) with a test split: its tokens, and the bytes of text behind them.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_with_test(&self, test: (&[u32], usize)) -> Result<TokenMeta, StageError> {
        let bytes_per_token = if self.vocab_size <= 1 << 16 { 2 } else { 4 };
        let meta = TokenMeta {
            format: FORMAT,
            vocab_size: self.vocab_size,
            bytes_per_token,
            train_tokens: self.train.0.len(),
            validation_tokens: self.validation.0.len(),
            train_bytes: self.train.1,
            validation_bytes: self.validation.1,
            test_tokens: test.0.len(),
            test_bytes: test.1,
        };
        fs_err::create_dir_all(self.folder)?;
        fs_err::write(self.folder.join("train.bin"), pack(self.train.0, bytes_per_token))?;
        fs_err::write(self.folder.join("validation.bin"), pack(self.validation.0, bytes_per_token))?;
        if !test.0.is_empty() {
            fs_err::write(self.folder.join("test.bin"), pack(test.0, bytes_per_token))?;
        }
        fs_err::write(self.folder.join("tokenizer.json"), self.tokenizer)?;
        let text = serde_json::to_string_pretty(&meta).map_err(std::io::Error::other)?;
        fs_err::write(self.folder.join("meta.json"), text + "\n")?;
        Ok(meta)
    }
}

fn pack(tokens: &[u32], bytes_per_token: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(tokens.len() * bytes_per_token);
    for token in tokens {
        bytes.extend_from_slice(&token.to_le_bytes()[..bytes_per_token]);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tokens_survive_the_disk(vocab_size in prop_oneof![Just(300usize), Just(65_536), Just(70_000)],
                                   seeds in proptest::collection::vec(any::<u32>(), 2..50)) {
            let temp = tempfile::tempdir().unwrap();
            let folder = Utf8PathBuf::from_path_buf(temp.path().join("data")).unwrap();
            let tokens: Vec<u32> = seeds.iter().map(|seed| seed % vocab_size as u32).collect();
            let (train, validation) = tokens.split_at(tokens.len() / 2);
            let writer = TokenWriter {
                folder: &folder, vocab_size, train: (train, 11), validation: (validation, 7), tokenizer: "{}",
            };
            let meta = writer.write_with_test((validation, 7)).unwrap();
            let read = TokenFolder::open(&folder).unwrap();
            prop_assert_eq!(&read.meta, &meta);
            prop_assert_eq!(read.test().unwrap().iter().collect::<Vec<_>>(), validation);
            prop_assert_eq!(read.train().unwrap().iter().collect::<Vec<_>>(), train);
            prop_assert_eq!(read.validation().unwrap().iter().collect::<Vec<_>>(), validation);
        }
    }

    #[test]
    fn a_cut_file_and_a_token_outside_the_vocabulary_are_noticed() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Utf8PathBuf::from_path_buf(temp.path().join("data")).unwrap();
        let writer = TokenWriter {
            folder: &folder,
            vocab_size: 4,
            train: (&[1, 2, 3], 3),
            validation: (&[9], 1),
            tokenizer: "{}",
        };
        writer.write().unwrap();
        let read = TokenFolder::open(&folder).unwrap();
        let error = read.validation().unwrap_err().to_string();
        assert!(error.ends_with("token 9 is outside the vocabulary of 4"), "{error}");
        fs_err::write(folder.join("train.bin"), [1, 0, 2]).unwrap();
        let error = read.train().unwrap_err().to_string();
        assert!(error.ends_with("3 bytes instead of 6"), "{error}");
    }
}
