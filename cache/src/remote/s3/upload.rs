//! Uploads in parts, and which parts are there: `cache/uploads/<digest of address and name>.json`.
//!
//! A part counts as there if its bytes are what they were: the digest is written down with it. So a push that goes on
//! sends only what is missing, and if what is pushed has become something else (another compression), its parts are
//! sent anew, each under its own number. Parts that nobody comes back for are the bucket's to clean up (a lifecycle rule).

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use object_store::PutPayload;
use object_store::multipart::{MultipartStore as _, PartId};
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::{AHEAD, PIECE, S3Remote};
use crate::digest::Digest;
use crate::layout::write_atomically;

/// Where the states of uploads are.
pub(super) struct Uploads {
    folder: Utf8PathBuf,
    address: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    upload: String,
    parts: Vec<Sent>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Sent {
    digest: Digest,
    id: String,
}

impl Uploads {
    pub(super) fn new(folder: &Utf8Path, address: &str) -> Self {
        Self { folder: folder.to_owned(), address: address.to_owned() }
    }

    fn path(&self, name: &str) -> Utf8PathBuf {
        self.folder.join(format!("{}.json", Digest::of_bytes(format!("{}\n{name}", self.address).as_bytes())))
    }

    fn read(&self, name: &str) -> Option<State> {
        serde_json::from_slice(&std::fs::read(self.path(name)).ok()?).ok()
    }

    /// Where it cannot be written, the next push begins anew: no reason to fail.
    fn write(&self, name: &str, state: &State) {
        let written = std::fs::create_dir_all(&self.folder).is_ok()
            && write_atomically(&self.path(name), &serde_json::to_vec(state).unwrap_or_default()).is_ok();
        if !written {
            tracing::debug!(name, "which parts were sent is not kept");
        }
    }

    fn forget(&self, name: &str) {
        let _ = std::fs::remove_file(self.path(name));
    }
}

impl S3Remote {
    /// Uploads `first` and the rest of `from` in parts, but for those that are there.
    pub(super) fn put_parts(&self, name: &str, path: &Path, first: Vec<u8>, from: &mut dyn Read) -> io::Result<()> {
        let mut state = match self.uploads.read(name) {
            Some(state) => state,
            None => {
                let state = State { upload: self.wait(self.store.create_multipart(path))?, parts: Vec::new() };
                self.uploads.write(name, &state);
                state
            }
        };
        let error = match self.send_parts(name, path, first, from, &mut state) {
            Ok(()) => {
                self.uploads.forget(name);
                return Ok(());
            }
            Err(error) => error,
        };
        match error.kind() {
            // The store has forgotten the upload: from the beginning, as after a connection that was cut off.
            io::ErrorKind::NotFound => {
                self.uploads.forget(name);
                Err(io::Error::new(io::ErrorKind::Interrupted, error.to_string()))
            }
            // It is damaged here: nothing of it is good for anything.
            io::ErrorKind::InvalidData => {
                self.uploads.forget(name);
                let _ = self.wait(self.store.abort_multipart(path, &state.upload));
                Err(error)
            }
            _ => Err(error),
        }
    }

    fn send_parts(
        &self,
        name: &str,
        path: &Path,
        first: Vec<u8>,
        from: &mut dyn Read,
        state: &mut State,
    ) -> io::Result<()> {
        let mut on_the_way = VecDeque::new();
        let (mut piece, mut number) = (first, 0);
        loop {
            let last = piece.len() < PIECE;
            if !piece.is_empty() {
                let digest = Digest::of_bytes(&piece);
                if state.parts.get(number).is_none_or(|sent| sent.digest != digest) {
                    let (store, path, upload) = (Arc::clone(&self.store), path.clone(), state.upload.clone());
                    let body = PutPayload::from(std::mem::take(&mut piece));
                    let sending = self.runtime.spawn(async move { store.put_part(&path, &upload, number, body).await });
                    on_the_way.push_back((number, digest, sending));
                }
                number += 1;
            }
            while on_the_way.len() > if last { 0 } else { AHEAD - 1 } {
                let Some((number, digest, sending)) = on_the_way.pop_front() else { break };
                let PartId { content_id: id } = self.wait(async { sending.await? })?;
                let sent = Sent { digest, id };
                match state.parts.get_mut(number) {
                    Some(old) => *old = sent,
                    // One after the other, so that none is missing before it.
                    None => state.parts.push(sent),
                }
                self.uploads.write(name, state);
            }
            if last {
                break;
            }
            piece = Vec::with_capacity(PIECE);
            (&mut *from).take(PIECE as u64).read_to_end(&mut piece)?;
        }
        let parts = state.parts.iter().take(number).map(|sent| PartId { content_id: sent.id.clone() });
        self.wait(self.store.complete_multipart(path, &state.upload, parts.collect())).map(drop)
    }
}
