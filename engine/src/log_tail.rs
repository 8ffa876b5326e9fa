//! The last lines of a log, as people can be shown them. What a program prints may be anything.

use std::io::{Read as _, Seek as _, SeekFrom};

use camino::Utf8Path;

/// How far from the end one looks for lines.
const BYTES: u64 = 16 * 1024;

/// Longer lines are cut.
const WIDTH: usize = 400;

/// The last lines of a file that may be huge; none if it cannot be read.
pub(crate) fn log_tail(path: &Utf8Path, lines: usize) -> Vec<String> {
    let mut bytes = Vec::new();
    let read = fs_err::File::open(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        file.take(BYTES).read_to_end(&mut bytes)
    });
    if read.is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| harmless(line)).collect()
}

/// What a terminal would have shown of a line, which can no longer move a cursor, colour what follows or run backwards.
fn harmless(line: &str) -> String {
    // A progress bar writes its line again and again.
    let last = line.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default();
    let bare = anstream::adapter::strip_str(last).to_string();
    let mut shown: String = bare.chars().take(WIDTH).map(|c| if is_harmful(c) { '\u{fffd}' } else { c }).collect();
    let more = bare.chars().skip(WIDTH).count();
    if more > 0 {
        shown.push_str(&format!("... ({more} more characters)"));
    }
    shown
}

fn is_harmful(c: char) -> bool {
    c != '\t' && c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail_of(bytes: &[u8], lines: usize) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(folder.path()).unwrap().join("log");
        fs_err::write(&path, bytes).unwrap();
        log_tail(&path, lines)
    }

    #[test]
    fn rubbish_is_shown_without_harm() {
        assert_eq!(tail_of(b"one\ntwo\r\nthree", 2), ["two", "three"]);
        assert_eq!(tail_of(b" 1 %\r 50 %\r100 %\n", 9), ["100 %"]);
        assert_eq!(tail_of(b"\x1b[31mred\x1b[0m \xff\x00 \xe2\x80\xaeback", 9), ["red \u{fffd} \u{fffd}back"]);
        assert_eq!(tail_of(b"a\tb", 9), ["a\tb"]);
        assert!(tail_of(b"", 9).is_empty());
        assert!(log_tail(Utf8Path::new("/nowhere"), 9).is_empty());
    }

    #[test]
    fn of_an_endless_line_the_end_is_looked_at_and_its_beginning_shown() {
        let shown = tail_of("é".repeat(1_000_000).as_bytes(), 3);
        assert_eq!(shown, [format!("{}... (7792 more characters)", "é".repeat(WIDTH))]);
    }
}
