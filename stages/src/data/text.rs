//! Reading texts as UTF-8 and splitting them.

use sepia_engine::stage::{InputFiles, StageError};

/// All files of a parameter, read as one text in the order of the parameter.
#[derive(Debug)]
pub struct Text {
    /// The files' contents, one after the other; a file that does not end with a newline is given one, so that the last
    /// word of a file and the first of the next stay apart.
    pub content: String,
    /// Number of files.
    pub files: usize,
}

impl Text {
    /// Reads the files.
    ///
    /// # Errors
    /// When there is no file or no text, or a file cannot be read or is not UTF-8 (with the byte where it stops being so).
    pub fn read(files: &InputFiles) -> Result<Self, StageError> {
        let mut content = String::new();
        for file in files.files() {
            let bytes = fs_err::read(&file.path)?;
            let text = std::str::from_utf8(&bytes).map_err(|error| {
                let at = error.valid_up_to();
                StageError::new(format!(
                    "{} is not UTF-8: byte {at} (0x{:02x}) does not belong there",
                    file.path, bytes[at]
                ))
                .help("convert it, for example with `iconv -f LATIN1 -t UTF-8`")
                .param("files")
            })?;
            content.push_str(text);
            if !text.is_empty() && !text.ends_with('\n') {
                content.push('\n');
            }
        }
        if content.is_empty() {
            let count = files.files().len();
            let message = match count {
                0 => "there is no file to read".to_owned(),
                1 => format!("{} is empty", files.files()[0].path),
                _ => format!("all {count} files are empty"),
            };
            return Err(StageError::new(message).param("files"));
        }
        Ok(Self { content, files: files.files().len() })
    }
}

/// Splits off the last `fraction` of the text, by bytes, at the next boundary between characters.
///
/// The tail, and not a random sample: windows of a running text overlap in topic, names and whole sentences, so a random
/// sample would be answered in part from its neighbours in the training split. With the tail, only the one boundary is
/// shared, and more text appended to the corpus never moves training text into validation within a file order.
#[must_use]
pub fn split_at_tail(text: &str, fraction: f64) -> (&str, &str) {
    let tail = (text.len() as f64 * fraction).round() as usize;
    let mut at = text.len().saturating_sub(tail);
    while !text.is_char_boundary(at) {
        at += 1;
    }
    text.split_at(at)
}

#[cfg(test)]
mod tests {
    use camino::Utf8PathBuf;
    use proptest::prelude::*;

    use super::*;

    fn file(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> Utf8PathBuf {
        let path = Utf8PathBuf::from_path_buf(folder.path().join(name)).unwrap();
        fs_err::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn files_are_joined_in_order_and_kept_apart() {
        let folder = tempfile::tempdir().unwrap();
        let files = InputFiles::of(vec![file(&folder, "b", b"one"), file(&folder, "a", b"two\n")]);
        assert_eq!(Text::read(&files).unwrap().content, "one\ntwo\n");
    }

    #[test]
    fn bytes_that_are_not_utf8_are_named_with_their_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(&folder, "latin1.txt", b"caf\xe9 noir");
        let error = Text::read(&InputFiles::of(vec![path.clone()])).unwrap_err();
        assert_eq!(error.to_string(), format!("{path} is not UTF-8: byte 3 (0xe9) does not belong there"));
    }

    #[test]
    fn an_empty_text_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(&folder, "empty.txt", b"");
        let error = Text::read(&InputFiles::of(vec![path.clone()])).unwrap_err();
        assert_eq!(error.to_string(), format!("{path} is empty"));
    }

    proptest! {
        #[test]
        fn a_split_loses_nothing_and_is_as_long_as_asked(text in "\\PC{0,200}", fraction in 0.0f64..1.0) {
            let (train, validation) = split_at_tail(&text, fraction);
            prop_assert_eq!(format!("{train}{validation}"), text.clone());
            let asked = (text.len() as f64 * fraction).round() as usize;
            prop_assert!(validation.len() <= asked && asked - validation.len() < 4);
        }
    }
}
