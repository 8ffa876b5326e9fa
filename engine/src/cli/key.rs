//! `sepia key`.

use sepia_cache::{PublicKey, SigningKey, StoreError};

use super::{
    args::{self, Global, KeyCommand},
    exit::{Exit, Failure},
    output, project, trust,
};
use crate::report::figures::count;

pub(super) fn key(global: &Global, args: &args::Key) -> Result<Exit, Failure> {
    match &args.what {
        KeyCommand::New => {
            let path = trust::key_path()?;
            if path.exists() {
                return Err(Failure::usage("key::exists", format!("there is a key at {path} already"))
                    .help("`sepia key show` prints its public half; move the file away to make another"));
            }
            let key = SigningKey::generate()?;
            key.save(&path)?;
            output::data(&format!("{}\n", key.public()));
            output::note(&format!("your secret key is {path}; give others the line above, for their `trusted_keys`"));
        }
        KeyCommand::Show => {
            let key = trust::own_key()?
                .ok_or_else(|| Failure::usage("key::none", "you have no key").help("`sepia key new` makes one"))?;
            output::data(&format!("{}\n", key.public()));
        }
        KeyCommand::Trust { key, name } => trust_key(global, key, name.as_deref())?,
        KeyCommand::Sign => {
            let key = trust::own_key()?
                .ok_or_else(|| Failure::usage("key::none", "you have no key").help("`sepia key new` makes one"))?;
            let signed = project::existing_store(global, None)?.sign_own(&key)?;
            output::data(&format!("{} signed\n", count(signed as u64, "record")));
        }
    }
    Ok(Exit::Fine)
}

fn trust_key(global: &Global, key: &str, name: Option<&str>) -> Result<(), Failure> {
    let key: PublicKey =
        key.parse().map_err(|error: StoreError| Failure::usage("key::not-a-key", error.to_string()))?;
    let store = project::store_path(global, None)?;
    let path = trust::project_file(&store);
    if trust::of_store(&store)?.keys.contains(&key) {
        output::note(&format!("{path} has it already"));
        return Ok(());
    }
    let text = if path.exists() { fs_err::read_to_string(&path)? } else { String::new() };
    let mut file: toml::Table =
        toml::from_str(&text).map_err(|error| Failure::usage("project::invalid", format!("{path}: {error}")))?;
    let line = name.map_or_else(|| key.to_string(), |name| format!("{key} {name}"));
    let keys = file.entry("trusted_keys").or_insert_with(|| toml::Value::Array(Vec::new()));
    if let toml::Value::Array(keys) = keys {
        keys.push(toml::Value::String(line));
    }
    fs_err::write(&path, file.to_string())?;
    output::note(&format!("added to {path}: keep that file in git, so that the project trusts it everywhere"));
    Ok(())
}
