//! The place where a lake lands: opens it by URL, probes it, puts into it, reads back.
//!
//! `file:///dir` is a local directory, made if it is missing, with every file and its directory synced before a put is
//! answered. `s3://bucket/prefix` is an S3-compatible bucket; credentials, region and endpoint come from the server's
//! environment (`AWS_…`, among them `AWS_ENDPOINT_URL` and `AWS_ALLOW_HTTP`), never from a lake's configuration.
//!
//! A process killed in the middle of a local put may leave a file whose name ends in `#` and a number behind; it was never
//! visible under its own name, and readers of `*.parquet` do not see it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientConfigKey, Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig};
use parquet::file::metadata::{FooterTail, ParquetMetaDataReader};
use url::Url;

use crate::LakeError;
use crate::judge::{Found, PutAnswer, Verdict, judge, needs_reading};
use crate::owner::{OWNER_NAME, Owner};

const PARQUET_TAIL_BYTES: u64 = 8;
/// A footer that says it is larger is not one of ours: 4,000 columns in 4,000 row groups stay below.
const PARQUET_FOOTER_BYTES_MAX: u64 = 256 << 20;
const PROBE_TIME: Duration = Duration::from_secs(20);

/// By what an object is recognised as our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// Its Parquet footer carries these entries: the intent. Its bytes may differ, as library versions do.
    Footer(Vec<(String, String)>),
    /// It has exactly the bytes that are put.
    Bytes,
    /// It names this owner.
    Owner(Owner),
}

/// An opened store.
#[derive(Debug, Clone)]
pub struct Store {
    url: String,
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    local: Option<PathBuf>,
}

/// Where a lake's URL points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A local directory.
    Directory(PathBuf),
    /// A bucket, and the path in it.
    Bucket(String, Path),
}

impl Location {
    /// Reads a URL. Asks nothing of the place.
    pub fn parse(url: &str) -> Result<Location, LakeError> {
        let illegal = |reason: String| LakeError::IllegalUrl { url: url.to_owned(), reason };
        let parsed = Url::parse(url).map_err(|error| {
            illegal(format!("it is not a URL ({error}): use file:///directory or s3://bucket/prefix"))
        })?;
        match parsed.scheme() {
            "file" => parsed.to_file_path().map(Location::Directory).map_err(|()| {
                illegal("it names a host: write file:///directory, with three slashes and the whole path".into())
            }),
            "s3" => {
                let bucket = parsed.host_str().filter(|host| !host.is_empty());
                let bucket = bucket.ok_or_else(|| illegal("it names no bucket: write s3://bucket/prefix".into()))?;
                if !parsed.username().is_empty() || parsed.password().is_some() || parsed.query().is_some() {
                    return Err(illegal(
                        "credentials and options come from the server's environment, not from the URL".into(),
                    ));
                }
                let prefix = Path::from_url_path(parsed.path()).map_err(|error| illegal(error.to_string()))?;
                Ok(Location::Bucket(bucket.to_owned(), prefix))
            }
            other => {
                Err(illegal(format!("the scheme {other:?} is not known: use file:///directory or s3://bucket/prefix")))
            }
        }
    }
}

impl Store {
    /// Opens the store of that URL. Makes a local directory (blocking); asks a remote store nothing yet.
    pub fn open(url: &str) -> Result<Store, LakeError> {
        match Location::parse(url)? {
            Location::Directory(directory) => Self::open_local(url, directory),
            Location::Bucket(bucket, prefix) => {
                // Our own retries are visible and never give up; these only smooth over a hiccup.
                let retry =
                    RetryConfig { max_retries: 2, retry_timeout: Duration::from_secs(15), ..RetryConfig::default() };
                let client = AmazonS3ConfigKey::Client;
                let objects = AmazonS3Builder::from_env()
                    .with_bucket_name(bucket)
                    .with_retry(retry)
                    .with_config(client(ClientConfigKey::ConnectTimeout), "5 seconds")
                    .with_config(client(ClientConfigKey::Timeout), "300 seconds")
                    .build()
                    .map_err(|error| LakeError::IllegalUrl { url: url.to_owned(), reason: error.to_string() })?;
                Ok(Store { url: url.to_owned(), objects: Arc::new(objects), prefix, local: None })
            }
        }
    }

    fn open_local(url: &str, directory: PathBuf) -> Result<Store, LakeError> {
        let unwritable = |reason: String| LakeError::Unwritable { url: url.to_owned(), reason };
        if directory.exists() && !directory.is_dir() {
            return Err(unwritable(format!("{} is a file: name a directory", directory.display())));
        }
        std::fs::create_dir_all(&directory)
            .map_err(|error| unwritable(format!("cannot create the directory {}: {error}", directory.display())))?;
        let objects = LocalFileSystem::new_with_prefix(&directory)
            .map_err(|error| unwritable(error.to_string()))?
            .with_fsync(true);
        let local = Some(directory);
        Ok(Store { url: url.to_owned(), objects: Arc::new(objects), prefix: Path::default(), local })
    }

    /// A store over any `ObjectStore`: for tests of stores that fail.
    #[doc(hidden)]
    pub fn over(objects: Arc<dyn ObjectStore>) -> Store {
        Store { url: "test://".into(), objects, prefix: Path::default(), local: None }
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// An object's whole name, for people.
    pub fn object(&self, name: &str) -> String {
        format!("{}/{name}", self.url.trim_end_matches('/'))
    }

    /// Makes the place this lake's.
    pub async fn claim(&self, owner: &Owner) -> Verdict {
        self.put(OWNER_NAME, owner.encode().into(), &Proof::Owner(owner.clone())).await
    }

    /// Finds out whether a new lake can be written here: that nobody's is here yet, and, with an object that is put, put
    /// again in vain, and deleted, that the store keeps two writers apart.
    pub async fn probe(&self, unique: &str) -> Result<(), LakeError> {
        let path = self.path(&format!("_millstream-probe-{unique}"));
        let probing = async {
            match self.objects.head(&self.path(OWNER_NAME)).await {
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(self.refused("look for an owner", &error)),
                Ok(_) => {
                    let reason = "another lake lands there, or did once: give each lake a directory of its own".into();
                    return Err(LakeError::Unwritable { url: self.url.clone(), reason });
                }
            }
            let outcome = self.probe_at(&path).await;
            // Left behind where the store broke off; it says by its name what it is.
            let deleted = self.objects.delete(&path).await;
            outcome.and(deleted.map_err(|error| self.refused("delete the probe", &error)))
        };
        let late = || LakeError::Unavailable {
            url: self.url.clone(),
            reason: format!("it did not answer within {} s", PROBE_TIME.as_secs()),
        };
        tokio::time::timeout(PROBE_TIME, probing).await.map_err(|_| late())?
    }

    async fn probe_at(&self, path: &Path) -> Result<(), LakeError> {
        let put = || self.objects.put_opts(path, PutPayload::from_static(b"probe"), create_only());
        put().await.map_err(|error| self.refused("put a probe", &error))?;
        match put().await {
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(()),
            Err(error) => Err(self.refused("put a probe again", &error)),
            Ok(_) => Err(LakeError::Unwritable {
                url: self.url.clone(),
                reason: "the store overwrites an object that was to be created only: it cannot keep two writers apart"
                    .into(),
            }),
        }
    }

    /// A probe's failure: whether it lies in the place or in the moment.
    fn refused(&self, act: &str, error: &Error) -> LakeError {
        let url = self.url.clone();
        let reason = format!("cannot {act}: {}", text(error));
        let lasting = self.local.is_some()
            || matches!(
                error,
                Error::PermissionDenied { .. }
                    | Error::Unauthenticated { .. }
                    | Error::NotFound { .. }
                    | Error::NotSupported { .. }
                    | Error::NotImplemented { .. }
            );
        if lasting { LakeError::Unwritable { url, reason } } else { LakeError::Unavailable { url, reason } }
    }

    /// Puts an object that must not exist yet, and judges what came of it.
    pub async fn put(&self, name: &str, body: Bytes, proof: &Proof) -> Verdict {
        let path = self.path(name);
        let answer = match self.objects.put_opts(&path, PutPayload::from_bytes(body.clone()), create_only()).await {
            Ok(_) => PutAnswer::Created,
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => PutAnswer::Exists,
            Err(error) => PutAnswer::Failed(text(&error)),
        };
        let found = if needs_reading(&answer) { self.find(&path, &body, proof).await } else { Found::NotAsked };
        match judge(answer, found) {
            // Whoever made it may have been killed before its directory was synced.
            Verdict::Ours => match self.sync_directory(name).await {
                Ok(()) => Verdict::Ours,
                Err(error) => Verdict::Retry(format!("cannot sync the directory: {error}")),
            },
            verdict => verdict,
        }
    }

    async fn find(&self, path: &Path, body: &Bytes, proof: &Proof) -> Found {
        let found = match proof {
            Proof::Footer(entries) => self.find_footer(path, entries).await,
            Proof::Bytes => self.find_bytes(path, body).await,
            Proof::Owner(owner) => self.find_owner(path, owner).await,
        };
        found.unwrap_or_else(|error| match error {
            Error::NotFound { .. } => Found::Nothing,
            error => Found::Unreadable(text(&error)),
        })
    }

    async fn find_bytes(&self, path: &Path, body: &Bytes) -> object_store::Result<Found> {
        let size = self.objects.head(path).await?.size;
        if size != body.len() as u64 {
            return Ok(Found::Different(format!("it has {size} bytes, this lake's has {}", body.len())));
        }
        let mut stream = self.objects.get(path).await?.into_stream();
        let mut at = 0;
        while let Some(part) = stream.try_next().await? {
            if body.get(at..at + part.len()) != Some(&part[..]) {
                return Ok(Found::Different("it has the same length and other bytes".into()));
            }
            at += part.len();
        }
        Ok(if at == body.len() { Found::Same } else { Found::Unreadable("it was cut short".into()) })
    }

    async fn find_owner(&self, path: &Path, owner: &Owner) -> object_store::Result<Found> {
        let object = self.objects.get(path).await?.bytes().await?;
        Ok(owner.is_in(&object).map_or_else(Found::Different, |()| Found::Same))
    }

    async fn find_footer(&self, path: &Path, entries: &[(String, String)]) -> object_store::Result<Found> {
        let different = |what: &str| Ok(Found::Different(what.to_owned()));
        let size = self.objects.head(path).await?.size;
        if size < PARQUET_TAIL_BYTES {
            return different("it is no Parquet file");
        }
        let tail = self.objects.get_range(path, size - PARQUET_TAIL_BYTES..size).await?;
        let length = <&[u8; PARQUET_TAIL_BYTES as usize]>::try_from(&tail[..])
            .ok()
            .and_then(|tail| FooterTail::try_new(tail).ok())
            .map(|tail| tail.metadata_length() as u64);
        let Some(length) = length.filter(|length| *length <= (size - PARQUET_TAIL_BYTES).min(PARQUET_FOOTER_BYTES_MAX))
        else {
            return different("it is no Parquet file");
        };
        let end = size - PARQUET_TAIL_BYTES;
        let footer = self.objects.get_range(path, end - length..end).await?;
        let Ok(metadata) = ParquetMetaDataReader::decode_metadata(&footer) else {
            return different("its Parquet footer does not decode");
        };
        let theirs = metadata.file_metadata().key_value_metadata();
        let value_of = |key: &str| theirs?.iter().find(|entry| entry.key == key)?.value.clone();
        for (key, ours) in entries {
            match value_of(key) {
                Some(value) if value == *ours => {}
                Some(value) => return different(&format!("its {key} is {value}, this lake's is {ours}")),
                None => return different(&format!("it has no {key}")),
            }
        }
        Ok(Found::Same)
    }

    async fn sync_directory(&self, name: &str) -> std::io::Result<()> {
        let Some(root) = &self.local else { return Ok(()) };
        let file = root.join(name);
        let directory = file.parent().unwrap_or(root).to_owned();
        let synced = tokio::task::spawn_blocking(move || std::fs::File::open(directory)?.sync_all()).await;
        synced.unwrap_or_else(|error| Err(std::io::Error::other(error)))
    }
}

fn create_only() -> PutOptions {
    PutOptions::from(PutMode::Create)
}

/// An error with its causes: the store's own text often says only that something failed.
fn text(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
