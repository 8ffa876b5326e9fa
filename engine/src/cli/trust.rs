//! Whom this project trusts (`trusted_keys` in `sepia.toml`, beside the store), and the user's own key.

use camino::{Utf8Path, Utf8PathBuf};
use sepia_cache::{PublicKey, SigningKey, Store, Trust};
use serde::Deserialize;

use super::exit::Failure;

/// The project's file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProjectFile {
    #[serde(default)]
    trusted_keys: Vec<String>,
}

/// Where the project's file is.
pub(super) fn project_file(store: &Utf8Path) -> Utf8PathBuf {
    let store = camino::absolute_utf8(store).unwrap_or_else(|_| store.to_owned());
    store.parent().unwrap_or(Utf8Path::new(".")).join("sepia.toml")
}

/// Whom the project of a store trusts.
pub(super) fn of_store(store: &Utf8Path) -> Result<Trust, Failure> {
    let path = project_file(store);
    let text = match fs_err::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Trust::default()),
        Err(error) => return Err(error.into()),
    };
    let bad = |why: String| Failure::usage("project::invalid", format!("{path}: {why}"));
    let file: ProjectFile = toml::from_str(&text)
        .map_err(|error| bad(error.to_string()).help("`trusted_keys = [\"ed25519:... name\"]` is all it may hold"))?;
    let mut trust = Trust::default();
    for line in &file.trusted_keys {
        // A name may follow the key.
        let key = line.split_whitespace().next().unwrap_or_default();
        trust.keys.insert(key.parse::<PublicKey>().map_err(|error| bad(error.to_string()))?);
    }
    Ok(trust)
}

/// Where the user's key is: `SEPIA_KEY`, else in the user's configuration.
pub(super) fn key_path() -> Result<Utf8PathBuf, Failure> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty()).map(Utf8PathBuf::from);
    variable("SEPIA_KEY")
        .or_else(|| variable("XDG_CONFIG_HOME").map(|config| config.join("sepia/key")))
        .or_else(|| variable("HOME").map(|home| home.join(".config/sepia/key")))
        .ok_or_else(|| Failure::usage("key::no-home", "neither SEPIA_KEY nor HOME says where your key is"))
}

/// The user's key, if there is one.
pub(super) fn own_key() -> Result<Option<SigningKey>, Failure> {
    match key_path() {
        Ok(path) if path.is_file() => Ok(Some(SigningKey::load(&path)?)),
        _ => Ok(None),
    }
}

/// Signs what runs on this store made, if the user has a key.
pub(super) fn sign(store: &Store) -> Result<(), Failure> {
    if let Some(key) = own_key()? {
        store.sign_own(&key)?;
    }
    Ok(())
}
