//! One object to a remote.

use std::io::{self, BufReader, Read};

use super::copy;
use super::parts::{Part, Reader};
use super::work::{Count, again};
use super::{ZST, listing_name, object_name};
use crate::error::Result;
use crate::object::{ObjectKind, ObjectRef};
use crate::remote::OpenRemote;
use crate::store::Store;

/// A middling level: more would cost more time than a fast connection takes.
const LEVEL: i32 = 3;
/// How much of an object decides whether it is worth compressing.
const SAMPLE: u64 = 1 << 20;

impl Store {
    /// The files of an object, in the order in which they travel.
    pub(super) fn parts(&self, object: &ObjectRef) -> Result<Vec<Part>> {
        let path = self.object_path(object);
        Ok(match object.kind {
            ObjectKind::File => vec![Part { path, bytes: object.bytes, digest: object.digest }],
            ObjectKind::Tree => {
                let files = self.listing(object)?.files.into_iter();
                files.map(|file| Part { path: path.join(&file.path), bytes: file.bytes, digest: file.digest }).collect()
            }
        })
    }

    /// Writes an object to a remote that lacks it.
    pub(super) fn send(&self, to: &OpenRemote, object: &ObjectRef, count: Count<'_>) -> Result<()> {
        let remote = to.remote.as_ref();
        let parts = self.parts(object)?;
        let name = object_name(object);
        if let (ObjectKind::File, Some(how), [part]) = (object.kind, to.links(), parts.as_slice()) {
            let linked = remote.link_in(&part.path, &name, how, &|hidden| part.check(hidden, count));
            if to.at(|| format!("take {name}"), linked)? {
                return Ok(());
            }
        }
        let compress = remote.compresses() && worth_compressing(&parts).unwrap_or(false);
        // The listing of a folder first: by it a server checks what follows.
        if object.kind == ObjectKind::Tree {
            let listing = self.listing(object)?.canonical();
            let name = listing_name(&object.digest);
            to.at(|| format!("take {name}"), again(|| remote.put(&name, &mut listing.as_slice())))?;
        }
        let sent = again(|| {
            if !compress && remote.put_file(&name, &|to| copy::into_one(&parts, to, count))? {
                return Ok(());
            }
            let reader = Reader::new(&parts, count);
            if compress {
                let mut encoder =
                    zstd::stream::read::Encoder::with_buffer(BufReader::with_capacity(1 << 20, reader), LEVEL)?;
                remote.put(&format!("{name}{ZST}"), &mut encoder)
            } else {
                remote.put(&name, &mut { reader })
            }
        });
        to.at(|| format!("take {name}"), sent)?;
        Ok(())
    }
}

fn worth_compressing(parts: &[Part]) -> io::Result<bool> {
    let Some(largest) = parts.iter().max_by_key(|part| part.bytes) else { return Ok(false) };
    let mut sample = Vec::new();
    std::fs::File::open(&largest.path)?.take(SAMPLE).read_to_end(&mut sample)?;
    let packed = zstd::bulk::compress(&sample, 1)?;
    Ok(packed.len() * 20 < sample.len() * 19)
}
