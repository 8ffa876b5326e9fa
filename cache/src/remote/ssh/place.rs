//! Where an ssh remote is: `ssh://[user@]host[:port]/path`, with options.

use std::time::Duration;

use crate::remote::address::Address;

/// How long a server may be silent.
const TIMEOUT: Duration = Duration::from_secs(60);

/// An address of an ssh remote, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// `[user@]host`, nothing that ssh or a shell could take for something else.
    pub(super) host: String,
    pub(super) port: Option<u16>,
    /// The folder there; relative to the user's home if it does not begin with `/`.
    pub(super) folder: String,
    /// How long the server may be silent.
    pub(super) timeout: Duration,
    sepia: Option<String>,
}

impl Place {
    /// Takes apart what follows `ssh://`.
    pub(super) fn parse(rest: &str) -> Result<Self, String> {
        let address = Address::parse(rest, &["sepia", "timeout"])?;
        let (user, host) = match address.authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, address.authority),
        };
        // `[::1]:22`, `host:22`, `host`
        let (host, port) = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            None => None,
            Some(text) => Some(text.parse::<u16>().map_err(|_| format!("`{text}` is no port"))?),
        };
        let plain = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':')
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:%".contains(c))
        };
        if !plain(host) || !user.is_none_or(plain) {
            return Err(format!("`{}` is no host; expected ssh://[user@]host[:port]/path", address.authority));
        }
        let folder = match address.path {
            "" | "/" => {
                return Err("say which folder there: ssh://host/path, or ssh://host/~/path below your home".into());
            }
            path => path.strip_prefix("/~/").unwrap_or(path),
        };
        if folder.is_empty() || folder.contains('\0') {
            return Err("say which folder there: ssh://host/~/path".to_owned());
        }
        Ok(Self {
            host: user.map_or_else(|| host.to_owned(), |user| format!("{user}@{host}")),
            port,
            folder: folder.to_owned(),
            timeout: address.timeout(TIMEOUT)?,
            sepia: address.option("sepia").map(str::to_owned),
        })
    }

    /// What starts Sepia there, quoted for a shell.
    pub(super) fn program(&self) -> String {
        let Some(path) = &self.sepia else { return "sepia".to_owned() };
        // The shell there knows where the home is.
        let (home, path) = match path.strip_prefix("~/") {
            Some(path) => ("~/", path),
            None => ("", path.as_str()),
        };
        format!("{home}'{}'", path.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_apart() {
        let place = Place::parse("me@host.example:2222/data/lab").unwrap();
        assert_eq!(
            (place.host.as_str(), place.port, place.folder.as_str()),
            ("me@host.example", Some(2222), "/data/lab")
        );
        assert_eq!((place.program().as_str(), place.timeout), ("sepia", TIMEOUT));
        let place = Place::parse("[::1]:22/~/lab?timeout=5&sepia=~/bin/sepia").unwrap();
        assert_eq!((place.host.as_str(), place.port, place.folder.as_str()), ("::1", Some(22), "lab"));
        assert_eq!((place.program().as_str(), place.timeout), ("~/'bin/sepia'", Duration::from_secs(5)));
        let evil = Place::parse("h/x?sepia=a'; rm -rf ~; '").unwrap();
        assert_eq!(evil.program(), r"'a'\''; rm -rf ~; '\'''");
    }

    #[test]
    fn what_ssh_would_take_for_an_option_is_no_host() {
        for text in [
            "-oProxyCommand=touch x/data",
            "me@-oProxyCommand=x/data",
            "-l@host/data",
            "host;ls/data",
            "h ost/data",
            "/data",
            "host:port/data",
            "host:99999/data",
            "host",
            "host/",
            "host/~/",
        ] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }
}
