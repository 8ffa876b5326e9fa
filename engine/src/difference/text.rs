//! Two files as text, line by line, or as bytes.

use std::io::{BufRead as _, BufReader};

use camino::Utf8Path;

/// How two files that are not equal differ.
pub(super) fn difference(before: &[u8], after: &[u8]) -> String {
    if let (Ok(before), Ok(after)) = (std::str::from_utf8(before), std::str::from_utf8(after)) {
        let (mut old, mut new) = (before.lines(), after.lines());
        for number in 1.. {
            match (old.next(), new.next()) {
                (Some(a), Some(b)) if a == b => {}
                (Some(a), Some(b)) => {
                    let (a, b) = from_the_difference(a, b);
                    return format!("line {number}: `{a}` before, `{b}` now");
                }
                (Some(line), None) => return format!("line {number}: `{}` before, missing now", shortened(line)),
                (None, Some(line)) => return format!("line {number}: not there before, `{}` now", shortened(line)),
                (None, None) => return "only the ends of lines differ".to_owned(),
            }
        }
    }
    let same = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    at_byte(same as u64, before.len() as u64, after.len() as u64)
}

/// The same for files that are too large for memory.
pub(super) fn first_byte(before: &Utf8Path, after: &Utf8Path) -> std::io::Result<String> {
    let size = |path: &Utf8Path| Ok::<u64, std::io::Error>(fs_err::metadata(path)?.len());
    let open = |path: &Utf8Path| Ok::<_, std::io::Error>(BufReader::with_capacity(1 << 20, fs_err::File::open(path)?));
    let (mut old, mut new) = (open(before)?, open(after)?);
    let mut same = 0;
    loop {
        let (a, b) = (old.fill_buf()?, new.fill_buf()?);
        let n = a.len().min(b.len());
        let equal = a.iter().zip(b).take_while(|(a, b)| a == b).count();
        same += equal as u64;
        if equal < n || n == 0 {
            return Ok(at_byte(same, size(before)?, size(after)?));
        }
        old.consume(n);
        new.consume(n);
    }
}

fn at_byte(same: u64, before: u64, after: u64) -> String {
    if before == after {
        format!("from byte {same} on, of {before}")
    } else {
        format!("from byte {same} on; {before} bytes before, {after} now")
    }
}

/// Both lines from shortly before their first difference on, if that is far from their beginning.
fn from_the_difference(a: &str, b: &str) -> (String, String) {
    let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    let skip = if same > 40 { same - 20 } else { 0 };
    let part = |line: &str| {
        let rest: String = line.chars().skip(skip).collect();
        format!("{}{}", if skip > 0 { "..." } else { "" }, shortened(&rest))
    };
    (part(a), part(b))
}

/// For one line of a terminal, with nothing in it that could do anything there.
pub(super) fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut short: String = text.chars().take(MOST).map(plain).collect();
    if text.chars().nth(MOST).is_some() {
        short.push_str("...");
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_bytes() {
        assert_eq!(difference(b"a\nb\n", b"a\nc\n"), "line 2: `b` before, `c` now");
        assert_eq!(difference(b"a\n", b"a\nb\n"), "line 2: not there before, `b` now");
        assert_eq!(difference(b"a\nb", b"a"), "line 2: `b` before, missing now");
        assert_eq!(difference(b"a\r\n", b"a\n"), "only the ends of lines differ");
        assert_eq!(difference(b"\xff\x00\x01", b"\xff\x00\x02"), "from byte 2 on, of 3");
        assert_eq!(difference(b"\xff\x00", b"\xff\x00\x02"), "from byte 2 on; 2 bytes before, 3 now");
        let long = "x".repeat(100);
        let found = difference(format!("{long}1").as_bytes(), format!("{long}2").as_bytes());
        assert_eq!(found, format!("line 1: `...{0}1` before, `...{0}2` now", "x".repeat(20)));
        assert_eq!(shortened("\u{1b}[31m"), "\u{fffd}[31m");
    }

    #[test]
    fn large_files_are_compared_without_being_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap();
        let (a, b) = (root.join("a"), root.join("b"));
        let mut bytes = vec![7u8; (2 << 20) + 3];
        std::fs::write(&a, &bytes).unwrap();
        bytes[(2 << 20) + 1] = 8;
        std::fs::write(&b, &bytes).unwrap();
        assert_eq!(first_byte(&a, &b).unwrap(), "from byte 2097153 on, of 2097155");
        std::fs::write(&b, &bytes[..1 << 20]).unwrap();
        assert_eq!(first_byte(&a, &b).unwrap(), "from byte 1048576 on; 2097155 bytes before, 1048576 now");
    }
}
