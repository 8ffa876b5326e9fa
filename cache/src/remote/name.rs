//! Names on a remote.

use std::io;

/// Refuses names that are not plain paths below the remote's root. The far side of a connection may say anything.
pub(crate) fn check_remote_name(name: &str) -> io::Result<()> {
    let part_is_plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    if name.len() <= 512 && name.split('/').all(part_is_plain) {
        Ok(())
    } else {
        let shown: String = name.escape_debug().take(80).collect();
        Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{shown}` is no name on a remote")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_root() {
        for name in ["objects/ab/cd", "sepia-remote.json", "records/a-1.jsonl.zst"] {
            assert!(check_remote_name(name).is_ok(), "{name}");
        }
        for name in ["", "/", "/etc/passwd", "a//b", "a/../b", "..", ".x", "a/.x", "a b", "a\0", "a\n", "é", "a/"] {
            assert!(check_remote_name(name).is_err(), "{name:?}");
        }
    }
}
