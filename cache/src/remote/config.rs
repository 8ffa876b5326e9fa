//! The remotes of a store: `remotes.json`.

use std::collections::BTreeMap;
use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use super::{OpenRemote, Probe, connect, marker, probe, remote_error};
use crate::digest::Digest;
use crate::error::{Result, StoreError};
use crate::layout::{check_name, write_atomically};
use crate::store::Store;

/// One remote, as it was added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteConfig {
    /// Its name on this store.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// Its own id.
    pub id: Digest,
    /// Whether what comes from it counts as a result without a signature.
    pub trust: bool,
    /// Whether it is to hold bytes of its own, though it could share them with the store.
    #[serde(default)]
    pub copy: bool,
    /// What it was seen to do.
    pub probe: Probe,
}

/// What is wished of a remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemoteOptions {
    /// What comes from it counts as a result without a signature.
    pub trust: bool,
    /// It is to hold bytes of its own, though it could share them with the store.
    pub copy: bool,
}

impl Store {
    /// The remotes of this store, sorted by name.
    ///
    /// # Errors
    /// Those of reading `remotes.json`.
    pub fn remotes(&self) -> Result<Vec<RemoteConfig>> {
        Ok(self.read_remotes()?.into_values().collect())
    }

    /// Adds a remote, or takes the place of the one of this name: connects, finds out what it really does, and makes it
    /// a remote if it is none yet.
    ///
    /// # Errors
    /// [`StoreError::Remote`], [`StoreError::Refused`], [`StoreError::BadName`], and those of writing.
    pub fn add_remote(&self, name: &str, url: &str, options: RemoteOptions) -> Result<RemoteConfig> {
        check_name("name of a remote", name)?;
        self.writable("write", &self.remotes_path())?;
        // Later commands may run in another folder.
        let url = if url.contains("://") {
            url.to_owned()
        } else {
            camino::absolute_utf8(url).map_err(|e| StoreError::io("find", url.into(), e))?.into_string()
        };
        let remote = connect(&url, &self.uploads_dir(), None)?;
        let id = match marker::read(remote.as_ref())? {
            Some(id) => id,
            None => marker::make(remote.as_ref())?,
        };
        let unique =
            Digest::of_bytes(format!("{id} {} {:?}", std::process::id(), std::time::Instant::now()).as_bytes());
        let probe = probe::probe(remote.as_ref(), &unique, &self.cache_dir())
            .map_err(|error| remote_error(remote.address(), "hold what is written to it".to_owned(), &error))?;
        let RemoteOptions { trust, copy } = options;
        let config = RemoteConfig { name: name.to_owned(), url, id, trust, copy, probe };
        let mut remotes = self.read_remotes()?;
        remotes.insert(name.to_owned(), config.clone());
        self.write_remotes(&remotes)?;
        Ok(config)
    }

    /// Forgets a remote. What is on it stays.
    ///
    /// # Errors
    /// [`StoreError::NoRemote`], and those of writing.
    pub fn remove_remote(&self, name: &str) -> Result<()> {
        self.writable("write", &self.remotes_path())?;
        let mut remotes = self.read_remotes()?;
        if remotes.remove(name).is_none() {
            return Err(no_remote(name, &remotes));
        }
        self.write_remotes(&remotes)
    }

    /// Connects to a remote; to the only one, if no name is given.
    ///
    /// # Errors
    /// [`StoreError::NoRemote`], [`StoreError::Remote`], and [`StoreError::Refused`] if it is not the one that was added.
    pub fn open_remote(&self, name: Option<&str>) -> Result<OpenRemote> {
        let remotes = self.read_remotes()?;
        let config = match name {
            Some(name) => remotes.get(name),
            None if remotes.len() == 1 => remotes.values().next(),
            None => None,
        };
        let config = config.ok_or_else(|| no_remote(name.unwrap_or_default(), &remotes))?.clone();
        let remote = connect(&config.url, &self.uploads_dir(), config.probe.way)?;
        match marker::read(remote.as_ref())? {
            Some(id) if id == config.id => Ok(OpenRemote { remote, config }),
            found => {
                let why = match found {
                    Some(_) => "another remote is there now",
                    None => "there is no remote there any more (is it mounted?)",
                };
                let why = format!("{why}; `sepia remote add {} {}` adds it anew", config.name, config.url);
                Err(StoreError::Refused { source_name: format!("the remote {}", config.url), why })
            }
        }
    }

    /// What is known of uploads that are not complete.
    fn uploads_dir(&self) -> Utf8PathBuf {
        self.cache_dir().join("uploads")
    }

    fn remotes_path(&self) -> Utf8PathBuf {
        self.root().join("remotes.json")
    }

    fn read_remotes(&self) -> Result<BTreeMap<String, RemoteConfig>> {
        let path = self.remotes_path();
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(e) => return Err(StoreError::io("read", &path, e)),
        };
        serde_json::from_slice(&text).map_err(|e| StoreError::io("read", &path, e.into()))
    }

    fn write_remotes(&self, remotes: &BTreeMap<String, RemoteConfig>) -> Result<()> {
        // Maps of texts always serialise.
        write_atomically(&self.remotes_path(), &serde_json::to_vec_pretty(remotes).unwrap_or_default())
    }
}

/// The remote in a folder that no store has added; `make`: make it one.
pub(crate) fn folder_remote(folder: &Utf8Path, make: bool, trust: bool) -> Result<OpenRemote> {
    let url = camino::absolute_utf8(folder).map_err(|e| StoreError::io("find", folder, e))?.into_string();
    // A folder has nothing to remember.
    let remote = connect(&url, folder, None)?;
    let id = match marker::read(remote.as_ref())? {
        Some(id) => id,
        None if make => marker::make(remote.as_ref())?,
        None => {
            let why = "there are no records in it".to_owned();
            return Err(StoreError::Refused { source_name: url, why });
        }
    };
    // What a folder does need not be tried out.
    let probe = Probe {
        create_exclusive: true,
        lists_after_write: true,
        replaces: true,
        ranged_reads: true,
        large_bytes: 0,
        links: None,
        way: None,
    };
    Ok(OpenRemote { remote, config: RemoteConfig { name: "parcel".to_owned(), url, id, trust, copy: true, probe } })
}

fn no_remote(name: &str, remotes: &BTreeMap<String, RemoteConfig>) -> StoreError {
    StoreError::NoRemote { name: name.to_owned(), known: remotes.keys().cloned().collect() }
}
