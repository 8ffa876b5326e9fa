//! `text-dataset`: text files to packed tokens.

use schemars::JsonSchema;
use sepia_engine::stage::{Check, Dtype, Estimate, InputFiles, NoKnobs, Port, Stage, StageContext, StageError};
use serde::{Deserialize, Serialize};

use super::TOKENS;
use crate::{
    data::{Text, TextTokenizer, TokenWriter, TokenizerParams, split_at_tail},
    train::estimate::{TOKENIZER_ENTRY, token_bytes},
};

/// Turns UTF-8 text into tokens, split into a training, a validation and, if asked for, a test part.
///
/// The validation split is the tail of the text, and the test split the tail behind it: a random sample would lie between
/// pieces of training text that share its topic, names and sentences, and would look easier than new text is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TextDatasetParams {
    /// Text files, or folders of them, read in this order (within a folder by name).
    pub files: InputFiles,
    /// `{ kind = "byte" }`, `{ kind = "bpe", vocab_size = 1024 }` (trained on the training split alone), or
    /// `{ kind = "file", path = "tokenizer.json" }`.
    #[serde(default)]
    pub tokenizer: TokenizerParams,
    /// Part of the text, by bytes, that is kept for validation: its end.
    #[serde(default = "default_validation")]
    pub validation: f64,
    /// Part of the text, by bytes, that is kept for a last evaluation, on data that chose nothing: its end, behind the
    /// validation split. 0 for no test split.
    #[serde(default)]
    pub test: f64,
}

fn default_validation() -> f64 {
    0.1
}

/// Size of `meta.json`, at most.
const META_BYTES: u64 = 512;

/// The stage kind.
#[derive(Debug)]
pub struct TextDataset;

impl Stage for TextDataset {
    const KIND: &'static str = "text-dataset";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[];
    const OUTPUTS: &'static [Port] =
        &[Port::new("data", TOKENS, "packed token ids of the splits, with the tokenizer that made them")];
    const SEEDED: bool = false;
    const ON_DEVICE: bool = false;

    type Params = TextDatasetParams;
    type Knobs = NoKnobs;

    fn check(params: &Self::Params, check: &mut Check<'_>) {
        let TextDatasetParams { validation, test, .. } = *params;
        let fits = validation > 0.0 && test >= 0.0 && validation + test < 1.0;
        if validation > 0.0 && validation < 1.0 && !fits {
            let message = format!("`test` is {test}, but must be at least 0 and leave text beside `validation`");
            check.problem("test", message, "0.05 keeps a twentieth of the text");
        } else if !fits {
            let message = format!("`validation` is {validation}, but must be above 0 and below 1");
            check.problem("validation", message, "0.1 keeps a tenth of the text");
        }
        // A token stands for at least one byte, so bytes bound tokens; for the byte tokenizer they are the count.
        let sizes = check.file_sizes(&params.files);
        let bytes: u64 = sizes.iter().map(|(_, size)| size).sum();
        if bytes == 0 && !sizes.is_empty() {
            let message = format!("there is no text: {} of 0 bytes", if sizes.len() == 1 { "a file" } else { "files" });
            check.problem("files", message, "name a file or folder with UTF-8 text");
        }
        if fits && bytes > 0 {
            let [validation_bytes, test_bytes] = [validation, test].map(|part| (bytes as f64 * part).round());
            check.state("data", "train_tokens_max", bytes as f64 - validation_bytes - test_bytes);
            check.state("data", "test_tokens_max", test_bytes);
            check.state("data", "validation_tokens_max", validation_bytes);
            if validation_bytes < 2.0 {
                let message = format!("{validation} of {bytes} bytes leaves no validation split");
                check.problem("validation", message, "raise it, or add text");
            }
        }
        match params.tokenizer {
            TokenizerParams::Byte {} => check.state("data", "vocab_size", 256.0),
            TokenizerParams::Bpe { vocab_size } => {
                if vocab_size < 257 {
                    let message = format!("a byte-level BPE of {vocab_size} tokens has no room for merges");
                    check.problem("tokenizer.vocab_size", message, "257 or more, or tokenizer = { kind = \"byte\" }");
                }
                check.state("data", "vocab_size", vocab_size as f64);
            }
            TokenizerParams::File { .. } => {}
        }
    }

    /// A token stands for at least one byte: with a byte-level BPE this is an upper bound, with bytes it is exact.
    fn estimate(params: &Self::Params, check: &Check<'_>, _: Dtype) -> Estimate {
        let bytes: u64 = check.file_sizes(&params.files).iter().map(|(_, size)| size).sum();
        let vocab_size = match params.tokenizer {
            TokenizerParams::Byte {} => Some(256.0),
            TokenizerParams::Bpe { vocab_size } => Some(vocab_size as f64),
            TokenizerParams::File { .. } => None,
        };
        let tokenizer = vocab_size.map_or(0, |size| size as u64 * TOKENIZER_ENTRY);
        Estimate {
            // The text, and its tokens as they come from the tokenizer.
            data_bytes: (bytes > 0).then_some(5 * bytes),
            output_bytes: (bytes > 0).then(|| bytes * token_bytes(vocab_size) + tokenizer + META_BYTES),
            ..Estimate::default()
        }
    }

    fn run(params: &Self::Params, _: &Self::Knobs, ctx: &mut StageContext<'_>) -> Result<(), StageError> {
        crate::device::with_threads(ctx.threads(), || tokenize(params, ctx))
    }
}

fn tokenize(params: &TextDatasetParams, ctx: &mut StageContext<'_>) -> Result<(), StageError> {
    let text = Text::read(&params.files)?;
    let (kept, test) = split_at_tail(&text.content, params.test);
    // Parts are parts of the whole text.
    let (train, validation) = split_at_tail(kept, params.validation / (1.0 - params.test));
    let tokenizer = TextTokenizer::make(&params.tokenizer, train)?;
    ctx.stop_if_asked()?;
    let (train_tokens, validation_tokens) = (tokenizer.encode(train)?, tokenizer.encode(validation)?);
    let test_tokens = tokenizer.encode(test)?;
    for (name, param, part, tokens) in [
        ("training", "validation", params.validation, &train_tokens),
        ("validation", "validation", params.validation, &validation_tokens),
        ("test", "test", params.test, &test_tokens),
    ] {
        // A token is predicted from those before it: two are the least that can be trained or evaluated on.
        if tokens.len() < 2 && (name != "test" || part > 0.0) {
            let (count, bytes) = (tokens.len(), text.content.len());
            let message = format!("the {name} split has {count} tokens ({param} = {part} of {bytes} bytes)");
            return Err(StageError::new(message).param(param).help(format!("change `{param}`, or add text")));
        }
    }
    let writer = TokenWriter {
        folder: &ctx.output("data")?,
        vocab_size: tokenizer.vocab_size(),
        train: (&train_tokens, train.len()),
        validation: (&validation_tokens, validation.len()),
        tokenizer: &tokenizer.to_json()?,
    };
    let meta = writer.write_with_test((&test_tokens, test.len()))?;
    ctx.note(&format!("{} files, {} bytes of text", text.files, text.content.len()));
    ctx.result("vocab_size", meta.vocab_size as f64)?;
    ctx.result("train_tokens", meta.train_tokens as f64)?;
    ctx.result("validation_tokens", meta.validation_tokens as f64)?;
    if meta.test_tokens > 0 {
        ctx.result("test_tokens", meta.test_tokens as f64)?;
    }
    ctx.result("bytes_per_token", meta.train_bytes as f64 / meta.train_tokens as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::TokenFolder,
        testing::{Bench, Recorder},
    };

    fn run(
        bench: &Bench,
        name: &str,
        text: &str,
        validation: f64,
        tokenizer: TokenizerParams,
    ) -> Result<TokenFolder, StageError> {
        let path = bench.path("text.txt");
        fs_err::write(&path, text).unwrap();
        let params = TextDatasetParams { files: InputFiles::of(vec![path]), tokenizer, validation, test: 0.0 };
        let job = bench.job(name, &[], &["data"]);
        let output = job.outputs["data"].clone();
        Bench::run::<TextDataset>(&params, job, &mut Recorder::default())?;
        TokenFolder::open(&output)
    }

    #[test]
    fn two_runs_write_the_same_bytes() {
        let bench = Bench::new();
        let text = "the cat sat on the mat and the rat sat on the hat\n".repeat(50);
        let bpe = TokenizerParams::Bpe { vocab_size: 280 };
        run(&bench, "one", &text, 0.1, bpe.clone()).unwrap();
        run(&bench, "two", &text, 0.1, bpe).unwrap();
        for file in ["train.bin", "validation.bin", "meta.json", "tokenizer.json"] {
            let read = |name: &str| fs_err::read(bench.path(&format!("{name}/data/{file}"))).unwrap();
            assert!(read("one") == read("two"), "{file}");
        }
    }

    #[test]
    fn counts_and_bytes_add_up() {
        let bench = Bench::new();
        let data = run(&bench, "bytes", &"abcdefghij".repeat(10), 0.2, TokenizerParams::Byte {}).unwrap();
        // 100 bytes and the newline that the file lacked.
        assert_eq!((data.meta.train_bytes, data.meta.validation_bytes), (81, 20));
        assert_eq!((data.meta.train_tokens, data.meta.validation_tokens), (81, 20));
        assert_eq!(data.train().unwrap().iter().next(), Some(u32::from(b'a')));
    }

    #[test]
    fn the_three_splits_follow_each_other_and_lose_nothing() {
        let bench = Bench::new();
        let path = bench.path("text.txt");
        fs_err::write(&path, "0123456789".repeat(10)).unwrap();
        let tokenizer = TokenizerParams::Byte {};
        let params = TextDatasetParams { files: InputFiles::of(vec![path]), tokenizer, validation: 0.2, test: 0.1 };
        let job = bench.job("three", &[], &["data"]);
        let output = job.outputs["data"].clone();
        Bench::run::<TextDataset>(&params, job, &mut Recorder::default()).unwrap();
        let data = TokenFolder::open(&output).unwrap();
        let splits = [data.train().unwrap(), data.validation().unwrap(), data.test().unwrap()];
        assert_eq!(splits.each_ref().map(crate::data::Split::len), [71, 20, 10]);
        let all: Vec<u8> = splits.iter().flat_map(|split| split.iter()).map(|token| token as u8).collect();
        assert_eq!(all, fs_err::read(bench.path("text.txt")).unwrap().into_iter().chain(*b"\n").collect::<Vec<u8>>());
    }

    #[test]
    fn a_split_without_tokens_is_refused() {
        let error = run(&Bench::new(), "tiny", "abcdefg\n", 0.05, TokenizerParams::Byte {}).unwrap_err();
        assert_eq!(error.to_string(), "the validation split has 0 tokens (validation = 0.05 of 8 bytes)");
    }

    #[test]
    fn what_is_known_beforehand_is_stated() {
        let bench = Bench::new();
        let path = bench.path("text.txt");
        fs_err::write(&path, "x".repeat(1000)).unwrap();
        let params = |validation, tokenizer| TextDatasetParams {
            files: InputFiles::of(vec![path.clone()]),
            tokenizer,
            validation,
            test: 0.0,
        };
        let inputs = std::collections::BTreeMap::new();
        let check = |params: &TextDatasetParams| {
            let mut check = Check::new(&inputs, camino::Utf8Path::new("/"));
            TextDataset::check(params, &mut check);
            check.finish()
        };
        let (facts, problems) = check(&params(0.1, TokenizerParams::Byte {}));
        assert_eq!(problems, []);
        let facts = &facts["data"];
        assert_eq!(
            [facts["vocab_size"], facts["train_tokens_max"], facts["validation_tokens_max"]],
            [256.0, 900.0, 100.0]
        );
        let (_, problems) = check(&params(1.5, TokenizerParams::Bpe { vocab_size: 100 }));
        let messages: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
        assert_eq!(
            messages,
            [
                "`validation` is 1.5, but must be above 0 and below 1",
                "a byte-level BPE of 100 tokens has no room for merges"
            ]
        );
    }
}
