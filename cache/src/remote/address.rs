//! Addresses of remotes: `scheme://authority/path?name=value&...`.

use std::collections::BTreeMap;
use std::time::Duration;

/// An address, taken apart. What it holds is checked by whom it concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address<'u> {
    /// Between `://` and the first `/`.
    pub(super) authority: &'u str,
    /// From that `/` on, without the options; empty if there is none.
    pub(super) path: &'u str,
    options: BTreeMap<&'u str, &'u str>,
}

impl<'u> Address<'u> {
    /// Takes apart what follows `://`. Options other than `known` are refused.
    pub(super) fn parse(rest: &'u str, known: &[&str]) -> Result<Self, String> {
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = place.split_at(place.find('/').unwrap_or(place.len()));
        let mut options = BTreeMap::new();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let Some((name, value)) = option.split_once('=') else {
                return Err(format!("`{option}` after the `?` should be `name=value`"));
            };
            if !known.contains(&name) {
                return Err(format!("`{name}` after the `?` is not known; known are {}", known.join(", ")));
            }
            if value.is_empty() || options.insert(name, value).is_some() {
                return Err(format!("`{name}` after the `?` has no value, or two"));
            }
        }
        Ok(Self { authority, path, options })
    }

    /// The value of an option.
    pub(super) fn option(&self, name: &str) -> Option<&'u str> {
        self.options.get(name).copied()
    }

    /// The option `timeout`, in seconds.
    pub(super) fn timeout(&self, default: Duration) -> Result<Duration, String> {
        match self.option("timeout") {
            None => Ok(default),
            Some(text) => match text.parse::<f64>() {
                Ok(seconds) if (1.0..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
                _ => Err(format!("`timeout={text}` should be seconds, from 1 to 86400")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let known = &["timeout", "sepia"];
        let full = Address::parse("me@host:22/a/b?sepia=/opt/sepia&timeout=2.5", known).unwrap();
        assert_eq!((full.authority, full.path, full.option("sepia")), ("me@host:22", "/a/b", Some("/opt/sepia")));
        assert_eq!(full.timeout(Duration::ZERO), Ok(Duration::from_millis(2500)));
        let short = Address::parse("host", known).unwrap();
        assert_eq!((short.authority, short.path, short.option("sepia")), ("host", "", None));
        for (text, why) in [
            ("h/x?timeout", "`name=value`"),
            ("h/x?tiemout=1", "known are timeout, sepia"),
            ("h/x?timeout=1&timeout=2", "or two"),
            ("h/x?timeout=", "no value"),
        ] {
            let error = Address::parse(text, known).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        for text in ["x", "0.5", "-1", "nan", "1e9"] {
            let text = format!("h/x?timeout={text}");
            assert!(Address::parse(&text, known).unwrap().timeout(Duration::ZERO).is_err(), "{text}");
        }
    }
}
