//! A bucket of an S3 store, through `object_store`.
//!
//! Nothing here needs conditional writes, and nothing begins a listing in the middle: some stores accept the one and
//! ignore it, some get the other wrong. Whether a store honours `If-None-Match` is found by [`super::probe`] and recorded.
//!
//! A request never waits for longer than the time-out (30 s, `?timeout=SECONDS`): bytes go and come in pieces, each a
//! request of its own, and what fails in passing is tried again within the same time. What is long is uploaded in parts;
//! which parts are there is written down, so that the next push goes on with them ([`upload`]).
//!
//! The asynchronous runtime stays in here.

mod credentials;
mod place;
mod upload;

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use camino::Utf8Path;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{
    ClientOptions, Error, ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, RetryConfig,
};
use tokio::runtime::Runtime;

use self::place::Place;
use self::upload::Uploads;
use super::{Listed, Remote, check_remote_name};

/// What one request brings or takes. Parts must have 5 MiB at least.
const PIECE: usize = 8 << 20;
/// How many pieces of one transfer are on their way at once.
const AHEAD: usize = 3;
const CONNECT: Duration = Duration::from_secs(10);

/// See the [module docs](self).
pub(crate) struct S3Remote {
    address: String,
    place: Place,
    store: Arc<AmazonS3>,
    runtime: Runtime,
    uploads: Uploads,
}

impl S3Remote {
    /// The remote of `s3://` and `rest`. What is known of uploads is kept in the folder `state`.
    pub(crate) fn new(rest: &str, state: &Utf8Path) -> Result<Self, String> {
        let place = Place::parse(rest)?;
        let options = ClientOptions::new()
            .with_timeout(place.timeout)
            .with_connect_timeout(CONNECT.min(place.timeout))
            .with_allow_http(true);
        let retry = RetryConfig { max_retries: 5, retry_timeout: place.timeout, ..RetryConfig::default() };
        let mut builder =
            AmazonS3Builder::from_env().with_bucket_name(&place.bucket).with_client_options(options).with_retry(retry);
        if let Some(endpoint) = &place.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = &place.region {
            builder = builder.with_region(region);
        }
        if let Some(keys) = credentials::of_user()? {
            builder = builder.with_access_key_id(keys.id).with_secret_access_key(keys.secret);
            if let Some(token) = keys.token {
                builder = builder.with_token(token);
            }
        }
        let store = builder.build().map_err(|error| error.to_string())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| format!("no thread can be started: {error}"))?;
        let address = format!("s3://{rest}");
        let uploads = Uploads::new(state, &address);
        Ok(Self { address, place, store: Arc::new(store), runtime, uploads })
    }

    fn path(&self, name: &str) -> io::Result<Path> {
        check_remote_name(name)?;
        let full = if self.place.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.place.prefix) };
        Path::parse(full).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))
    }

    fn wait<T>(&self, work: impl Future<Output = object_store::Result<T>>) -> io::Result<T> {
        self.runtime.block_on(work).map_err(|error| self.explain(&error))
    }

    /// The error in words that say what to do.
    fn explain(&self, error: &Error) -> io::Error {
        let mut whole = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(inner) = source {
            let text = inner.to_string();
            if !whole.contains(&text) {
                whole.push_str(": ");
                whole.push_str(&text);
            }
            source = inner.source();
        }
        let whole: String = whole.chars().map(|c| if c.is_control() { ' ' } else { c }).take(600).collect();
        let seconds = self.place.timeout.as_secs_f64();
        let (kind, text) = match error {
            Error::NotFound { .. } if whole.contains("NoSuchBucket") => (
                io::ErrorKind::NotConnected,
                format!("there is no bucket `{}`: make it first, Sepia makes none ({whole})", self.place.bucket),
            ),
            Error::NotFound { .. } => (io::ErrorKind::NotFound, whole),
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => (
                io::ErrorKind::PermissionDenied,
                format!(
                    "it does not let us in: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE ({whole})"
                ),
            ),
            _ if whole.contains("timed out") => (
                io::ErrorKind::TimedOut,
                format!(
                    "it did not answer within {seconds} s (`?timeout=SECONDS` after the address waits longer): {whole}"
                ),
            ),
            _ if whole.contains("507 Insufficient") => (io::ErrorKind::StorageFull, format!("it is full: {whole}")),
            _ => (io::ErrorKind::Other, whole),
        };
        io::Error::new(kind, text)
    }
}

impl Remote for S3Remote {
    fn address(&self) -> &str {
        &self.address
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        let path = self.path(folder)?;
        let found = self.wait(self.store.list(Some(&path)).try_collect::<Vec<_>>())?;
        let below = format!("{path}/");
        let listed = found.into_iter().filter_map(|meta| {
            let name = format!("{folder}/{}", meta.location.as_ref().strip_prefix(&below)?);
            // Others may keep things of theirs in the bucket.
            check_remote_name(&name).is_ok().then_some(Listed { name, bytes: meta.size })
        });
        Ok(listed.collect())
    }

    fn size(&self, name: &str) -> io::Result<Option<u64>> {
        match self.wait(self.store.head(&self.path(name)?)) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(&self, name: &str, from: u64, to: &mut dyn Write) -> io::Result<()> {
        let path = self.path(name)?;
        let size = self.wait(self.store.head(&path))?.size;
        let starts = (from..size).step_by(PIECE);
        let pieces = starts.map(|start| {
            let (store, path) = (Arc::clone(&self.store), path.clone());
            async move { store.get_range(&path, start..size.min(start + PIECE as u64)).await }
        });
        let mut pieces = std::pin::pin!(futures_util::stream::iter(pieces).buffered(AHEAD));
        while let Some(piece) = self.runtime.block_on(pieces.next()) {
            to.write_all(&piece.map_err(|error| self.explain(&error))?)?;
        }
        Ok(())
    }

    fn put(&self, name: &str, from: &mut dyn Read) -> io::Result<()> {
        let path = self.path(name)?;
        let mut first = Vec::new();
        (&mut *from).take(PIECE as u64).read_to_end(&mut first)?;
        if first.len() < PIECE {
            return self.wait(self.store.put(&path, PutPayload::from(first))).map(drop);
        }
        self.put_parts(name, &path, first, from)
    }

    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<bool> {
        let path = self.path(name)?;
        loop {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let put = self.store.put_opts(&path, PutPayload::from(bytes.to_vec()), options);
            match self.runtime.block_on(put) {
                Ok(_) => return Ok(true),
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
                Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {
                    // Looking first has a gap, but nothing depends on it.
                    if self.size(name)?.is_some() {
                        return Ok(false);
                    }
                    self.wait(self.store.put(&path, PutPayload::from(bytes.to_vec())))?;
                    return Ok(true);
                }
                Err(error) => return Err(self.explain(&error)),
            }
            // It may be our own, of which the answer was lost; or a clash of two, after which nothing is there.
            let mut there = Vec::new();
            match self.read(name, 0, &mut there) {
                Ok(()) => return Ok(there == bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match self.wait(self.store.delete(&self.path(name)?)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
