//! `sepia-remote.json`: says that a place is a remote, which format it has, and its id.

use std::io;

use serde::{Deserialize, Serialize};

use super::{Remote, remote_error};
use crate::digest::Digest;
use crate::error::{Result, StoreError};

const NAME: &str = "sepia-remote.json";
const FORMAT: u32 = 1;
/// No marker is longer.
const LONGEST: u64 = 64 << 10;

#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    format: u32,
    id: Digest,
}

/// The id of the remote; `None` where there is no marker.
pub(super) fn read(remote: &dyn Remote) -> Result<Option<Digest>> {
    let failed = |error: io::Error| remote_error(remote.address(), format!("read {NAME}"), &error);
    match remote.size(NAME).map_err(failed)? {
        None => return Ok(None),
        Some(bytes) if bytes > LONGEST => return Err(not_ours(remote, format!("{NAME} has {bytes} bytes"))),
        Some(_) => {}
    }
    let mut text = Vec::new();
    remote.read(NAME, 0, &mut text).map_err(failed)?;
    let marker: serde_json::Result<serde_json::Value> = serde_json::from_slice(&text);
    let format = marker.as_ref().ok().and_then(|marker| marker["format"].as_u64());
    match format {
        Some(found) if found > u64::from(FORMAT) => {
            Err(not_ours(remote, format!("it has format {found}, this Sepia knows up to {FORMAT}; use a newer Sepia")))
        }
        Some(_) => match serde_json::from_slice::<Marker>(&text) {
            Ok(marker) => Ok(Some(marker.id)),
            Err(error) => Err(not_ours(remote, format!("{NAME} cannot be read: {error}"))),
        },
        None => Err(not_ours(remote, format!("{NAME} is not one of Sepia's"))),
    }
}

/// Makes the marker, or finds the one that another has made meanwhile.
pub(super) fn make(remote: &dyn Remote) -> Result<Digest> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| {
        remote_error(remote.address(), "be given an id".to_owned(), &io::Error::other(error.to_string()))
    })?;
    let marker = Marker { format: FORMAT, id: Digest::from_bytes(random) };
    let text = serde_json::to_vec(&marker).unwrap_or_default();
    remote.create(NAME, &text).map_err(|error| remote_error(remote.address(), format!("write {NAME}"), &error))?;
    read(remote)?.ok_or_else(|| not_ours(remote, format!("{NAME} was written and cannot be read")))
}

fn not_ours(remote: &dyn Remote, why: String) -> StoreError {
    StoreError::Refused { source_name: format!("the remote {}", remote.address()), why }
}
