//! Where an S3 remote is: `s3://bucket/prefix`, with options.

use std::time::Duration;

use crate::remote::address::Address;
use crate::remote::check_remote_name;

/// How long a request may take, with what is tried again.
const TIMEOUT: Duration = Duration::from_secs(30);

/// An address of an S3 remote, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) bucket: String,
    /// Without slashes at its ends; may be empty.
    pub(super) prefix: String,
    pub(super) endpoint: Option<String>,
    pub(super) region: Option<String>,
    pub(super) timeout: Duration,
}

impl Place {
    /// Takes apart what follows `s3://`.
    pub(super) fn parse(rest: &str) -> Result<Self, String> {
        let address = Address::parse(rest, &["endpoint", "region", "timeout"])?;
        let bucket = address.authority;
        if bucket.is_empty() || !bucket.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            return Err(format!("`{bucket}` is no bucket; expected s3://bucket/prefix"));
        }
        let prefix = address.path.trim_matches('/');
        if !prefix.is_empty() && check_remote_name(prefix).is_err() {
            return Err(format!("the prefix `{prefix}` may hold letters, digits, `-`, `_`, `.` and `/` only"));
        }
        let endpoint = address.option("endpoint");
        if let Some(endpoint) = endpoint
            && !endpoint.starts_with("http://")
            && !endpoint.starts_with("https://")
        {
            return Err(format!("`endpoint={endpoint}` should begin with https:// or http://"));
        }
        Ok(Self {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: endpoint.map(str::to_owned),
            region: address.option("region").map(str::to_owned),
            timeout: address.timeout(TIMEOUT)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_apart() {
        let place = Place::parse("lab/our/results?endpoint=http://127.0.0.1:9000&region=eu-1&timeout=5").unwrap();
        assert_eq!((place.bucket.as_str(), place.prefix.as_str()), ("lab", "our/results"));
        assert_eq!(place.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
        assert_eq!((place.region.as_deref(), place.timeout), (Some("eu-1"), Duration::from_secs(5)));
        assert_eq!(Place::parse("lab").unwrap().prefix, "");
        assert_eq!(Place::parse("lab/").unwrap().timeout, TIMEOUT);
        for text in ["", "/x", "a b/x", "lab/a//b", "lab/../x", "lab?endpoint=127.0.0.1", "lab?key=1"] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }
}
