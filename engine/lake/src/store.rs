//! The place where a lake lands: opens it by URL, probes it, puts into it, reads back.
//!
//! `file:///dir` is a local directory, made if it is missing, with every file and its directory synced before a put is
//! answered. `s3://bucket/prefix` is an S3-compatible bucket; credentials, region, endpoint and path style come from the
//! server's environment (`AWS_…`, among them `AWS_ENDPOINT_URL` and `AWS_ALLOW_HTTP`), never from a lake's configuration.
//! `gs://bucket/prefix` and `az://container/prefix` likewise (`GOOGLE_…`, `AZURE_…`).
//!
//! A process killed in the middle of a local put may leave a file whose name ends in `#` and a number behind; it was never
//! visible under its own name, and readers of `*.parquet` do not see it.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use millstream_protocol::frame::control::LakeDelivery;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientConfigKey, Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig};
use parquet::file::metadata::{FooterTail, ParquetMetaData, ParquetMetaDataReader};
use url::Url;

use crate::LakeError;
use crate::file::{ErrorLine, line_reader};
use crate::judge::{Found, PutAnswer, Verdict, judge, needs_reading};
use crate::manifest::Entry;
use crate::owner::{OWNER_NAME, Owner};

const SCHEMES: &str = "file:///directory, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix";
const PARQUET_TAIL_BYTES: u64 = 8;
/// A footer that says it is larger is not one of ours: 4,000 columns in 4,000 row groups stay below.
const PARQUET_FOOTER_BYTES_MAX: u64 = 256 << 20;
const PROBE_TIME: Duration = Duration::from_secs(20);

/// By what an object is recognised as our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// Its Parquet footer carries these entries: the intent. Its bytes may differ, as library versions do.
    Footer(Vec<(String, String)>),
    /// It has the same lines, however they are compressed.
    Lines,
    /// It has the same records, whatever it says of why they are there.
    Errors,
    /// It names this owner.
    Owner(Owner),
    /// It is the manifest entry of the same round.
    Entry(Entry),
}

/// An opened store.
#[derive(Debug, Clone)]
pub struct Store {
    url: String,
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    local: Option<PathBuf>,
    delivery: LakeDelivery,
}

/// Who keeps a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// `s3://`: S3 and what is compatible.
    S3,
    /// `gs://`: Google Cloud Storage.
    Google,
    /// `az://`: Azure Blob Storage.
    Azure,
}

/// Where a lake's URL points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A local directory.
    Directory(PathBuf),
    /// A bucket (or container) of that service, and the path in it.
    Bucket(Service, String, Path),
}

impl Location {
    /// Reads a URL. Asks nothing of the place.
    pub fn parse(url: &str) -> Result<Location, LakeError> {
        let illegal = |reason: String| LakeError::IllegalUrl { url: url.to_owned(), reason };
        let parsed = Url::parse(url).map_err(|error| illegal(format!("it is not a URL ({error}): use {SCHEMES}")))?;
        match parsed.scheme() {
            "file" => parsed.to_file_path().map(Location::Directory).map_err(|()| {
                illegal("it names a host: write file:///directory, with three slashes and the whole path".into())
            }),
            scheme @ ("s3" | "gs" | "az") => {
                let service = match scheme {
                    "s3" => Service::S3,
                    "gs" => Service::Google,
                    _ => Service::Azure,
                };
                let bucket = parsed.host_str().filter(|host| !host.is_empty());
                let bucket =
                    bucket.ok_or_else(|| illegal(format!("it names no bucket: write {scheme}://bucket/prefix")))?;
                if !parsed.username().is_empty() || parsed.password().is_some() || parsed.query().is_some() {
                    return Err(illegal(
                        "credentials and options come from the server's environment, not from the URL".into(),
                    ));
                }
                let prefix = Path::from_url_path(parsed.path()).map_err(|error| illegal(error.to_string()))?;
                Ok(Location::Bucket(service, bucket.to_owned(), prefix))
            }
            other => Err(illegal(format!("the scheme {other:?} is not known: use {SCHEMES}"))),
        }
    }
}

impl Store {
    /// Opens the store of that URL. Makes a local directory (blocking); asks a remote store nothing yet.
    pub fn open(url: &str, delivery: LakeDelivery) -> Result<Store, LakeError> {
        match Location::parse(url)? {
            Location::Directory(directory) => Self::open_local(url, directory, delivery),
            Location::Bucket(service, bucket, prefix) => {
                let objects = open_bucket(service, &bucket)
                    .map_err(|error| LakeError::IllegalUrl { url: url.to_owned(), reason: error.to_string() })?;
                Ok(Store { url: url.to_owned(), objects, prefix, local: None, delivery })
            }
        }
    }

    fn open_local(url: &str, directory: PathBuf, delivery: LakeDelivery) -> Result<Store, LakeError> {
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
        Ok(Store { url: url.to_owned(), objects: Arc::new(objects), prefix: Path::default(), local, delivery })
    }

    /// A store over any `ObjectStore`: for tests of stores that fail.
    #[doc(hidden)]
    pub fn over(objects: Arc<dyn ObjectStore>, delivery: LakeDelivery) -> Store {
        Store { url: "test://".into(), objects, prefix: Path::default(), local: None, delivery }
    }

    /// Names are legal as they are: what is not allowed in a path was escaped where directories are made.
    fn path(&self, name: &str) -> Path {
        let whole = if self.prefix.as_ref().is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) };
        Path::parse(&whole).unwrap_or_else(|_| name.split('/').fold(self.prefix.clone(), |path, part| path.join(part)))
    }

    /// An object's whole name, for people.
    pub fn object(&self, name: &str) -> String {
        format!("{}/{name}", self.url.trim_end_matches('/'))
    }

    /// Makes the place this lake's.
    pub async fn claim(&self, owner: &Owner) -> Verdict {
        let verdict = self.put(OWNER_NAME, owner.encode().into(), &Proof::Owner(owner.clone())).await;
        if matches!(verdict, Verdict::Created | Verdict::Ours) {
            self.sweep([OWNER_NAME]).await;
        }
        verdict
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
        let put = || self.objects.put_opts(path, PutPayload::from_static(b"probe"), self.put_options());
        put().await.map_err(|error| match error {
            Error::NotFound { .. } if self.local.is_none() => {
                let reason = format!("the bucket is not there: make it, or correct the URL ({})", text(&error));
                LakeError::Unwritable { url: self.url.clone(), reason }
            }
            error => self.refused("put a probe", &error),
        })?;
        match put().await {
            Ok(_) if self.delivery == LakeDelivery::AtLeastOnce => Ok(()),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(()),
            Err(error) => Err(self.refused("put a probe again", &error)),
            Ok(_) => Err(LakeError::Unwritable {
                url: self.url.clone(),
                reason: "the store overwrites an object that was to be created only: it cannot keep two writers apart, so \
                         nothing can be landed there exactly once. Use another store, or ask for `at-least-once` by name"
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
        let answer = match self.objects.put_opts(&path, PutPayload::from_bytes(body.clone()), self.put_options()).await
        {
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
            Proof::Lines => self.find_lines(path, body).await,
            Proof::Errors => self.find_errors(path, body).await,
            Proof::Owner(owner) => self.find_what(path, |object| owner.is_in(object)).await,
            Proof::Entry(entry) => self.find_what(path, |object| entry.is_in(object)).await,
        };
        found.unwrap_or_else(|error| match error {
            Error::NotFound { .. } => Found::Nothing,
            error => Found::Unreadable(text(&error)),
        })
    }

    /// Whether an object with that proof is there already, without a body to compare it with: only a footer tells.
    pub async fn find_landed(&self, name: &str, proof: &Proof) -> Found {
        match proof {
            Proof::Footer(_) => self.find(&self.path(name), &Bytes::new(), proof).await,
            _ => Found::NotAsked,
        }
    }

    async fn whole(&self, path: &Path, body: &Bytes) -> object_store::Result<Result<Bytes, Found>> {
        let size = self.objects.head(path).await?.size;
        if size > 2 * body.len() as u64 + (1 << 20) {
            return Ok(Err(Found::Different(format!("it has {size} bytes, this lake's has {}", body.len()))));
        }
        let bytes = self.objects.get(path).await?.bytes().await?;
        let cut = bytes.len() as u64 != size;
        Ok(if cut { Err(Found::Unreadable("it was cut short".into())) } else { Ok(bytes) })
    }

    async fn find_lines(&self, path: &Path, body: &Bytes) -> object_store::Result<Found> {
        let theirs = match self.whole(path, body).await? {
            Ok(theirs) => theirs,
            Err(found) => return Ok(found),
        };
        if theirs == *body {
            return Ok(Found::Same);
        }
        let (name, body) = (path.to_string(), body.clone());
        let compared = tokio::task::spawn_blocking(move || same_text(&name, &theirs, &body)).await;
        Ok(match compared {
            Ok(Ok(true)) => Found::Same,
            Ok(Ok(false)) => Found::Different("it has other lines".into()),
            Ok(Err(error)) => Found::Different(format!("it does not decompress: {error}")),
            Err(error) => Found::Unreadable(error.to_string()),
        })
    }

    async fn find_errors(&self, path: &Path, body: &Bytes) -> object_store::Result<Found> {
        let theirs = match self.whole(path, body).await? {
            Ok(theirs) => theirs,
            Err(found) => return Ok(found),
        };
        let lines = |bytes: &[u8]| -> Result<Vec<ErrorLine>, serde_json::Error> {
            let lines = serde_json::Deserializer::from_slice(bytes).into_iter::<ErrorLine>();
            lines.map(|line| line.map(|line| ErrorLine { reason: String::new(), ..line })).collect()
        };
        Ok(match (lines(&theirs), lines(body)) {
            (Ok(theirs), Ok(ours)) if theirs == ours => Found::Same,
            (Ok(_), Ok(_)) => Found::Different("it has other records".into()),
            (Err(error), _) | (_, Err(error)) => Found::Different(format!("it does not decode: {error}")),
        })
    }

    async fn find_what(&self, path: &Path, is_in: impl Fn(&[u8]) -> Result<(), String>) -> object_store::Result<Found> {
        let object = self.objects.get(path).await?.bytes().await?;
        Ok(is_in(&object).map_or_else(Found::Different, |()| Found::Same))
    }

    /// An object's bytes.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, LakeError> {
        let got = async { self.objects.get(&self.path(name)).await?.bytes().await };
        match got.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.unavailable(&format!("read {name}"), &error)),
        }
    }

    /// The bytes `range` of an object.
    pub async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, LakeError> {
        let got = self.objects.get_range(&self.path(name), range).await;
        got.map_err(|error| self.unavailable(&format!("read {name}"), &error))
    }

    /// Deletes an object; one that is not there counts as deleted.
    pub async fn delete(&self, name: &str) -> Result<(), LakeError> {
        match self.objects.delete(&self.path(name)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.unavailable(&format!("delete {name}"), &error)),
        }
    }

    /// All objects below a directory (empty: all of the lake's), by name, with their sizes.
    pub async fn list(&self, directory: &str) -> Result<Vec<(String, u64)>, LakeError> {
        let under = if directory.is_empty() { self.prefix.clone() } else { self.path(directory) };
        let skip = if self.prefix.as_ref().is_empty() { 0 } else { self.prefix.as_ref().len() + 1 };
        let listed = self
            .objects
            .list(Some(&under))
            .map_ok(|object| (object.location.as_ref().get(skip..).unwrap_or_default().to_owned(), object.size));
        let listed: Result<Vec<(String, u64)>, Error> = listed.try_collect().await;
        let mut listed = listed.map_err(|error| self.unavailable("list what is there", &error))?;
        listed.sort();
        Ok(listed)
    }

    fn unavailable(&self, act: &str, error: &Error) -> LakeError {
        LakeError::Unavailable { url: self.url.clone(), reason: format!("cannot {act}: {}", text(error)) }
    }

    fn put_options(&self) -> PutOptions {
        PutOptions::from(match self.delivery {
            LakeDelivery::ExactlyOnce => PutMode::Create,
            LakeDelivery::AtLeastOnce => PutMode::Overwrite,
        })
    }

    async fn find_footer(&self, path: &Path, entries: &[(String, String)]) -> object_store::Result<Found> {
        let different = |what: &str| Ok(Found::Different(what.to_owned()));
        let size = self.objects.head(path).await?.size;
        let metadata = match self.footer(path, size).await? {
            Ok(metadata) => metadata,
            Err(why) => return Ok(Found::Different(why)),
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

    /// A Parquet file's footer, or why it has none.
    async fn footer(&self, path: &Path, size: u64) -> object_store::Result<Result<ParquetMetaData, String>> {
        if size < PARQUET_TAIL_BYTES {
            return Ok(Err("it is no Parquet file".into()));
        }
        let tail = self.objects.get_range(path, size - PARQUET_TAIL_BYTES..size).await?;
        let length = <&[u8; PARQUET_TAIL_BYTES as usize]>::try_from(&tail[..])
            .ok()
            .and_then(|tail| FooterTail::try_new(tail).ok())
            .map(|tail| tail.metadata_length() as u64);
        let Some(length) = length.filter(|length| *length <= (size - PARQUET_TAIL_BYTES).min(PARQUET_FOOTER_BYTES_MAX))
        else {
            return Ok(Err("it is no Parquet file".into()));
        };
        let end = size - PARQUET_TAIL_BYTES;
        let footer = self.objects.get_range(path, end - length..end).await?;
        let metadata = ParquetMetaDataReader::decode_metadata(&footer);
        Ok(metadata.map_err(|error| format!("its Parquet footer does not decode: {error}")))
    }

    /// A Parquet file's metadata, or why it has none.
    pub async fn parquet_metadata(&self, name: &str, size: u64) -> Result<Result<ParquetMetaData, String>, LakeError> {
        let metadata = self.footer(&self.path(name), size).await;
        metadata.map_err(|error| self.unavailable(&format!("read {name}"), &error))
    }

    /// The lake's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// An object's size in bytes.
    pub async fn size(&self, name: &str) -> Result<u64, LakeError> {
        let head = self.objects.head(&self.path(name)).await;
        head.map(|head| head.size).map_err(|error| self.unavailable(&format!("look at {name}"), &error))
    }

    /// Creates an object, and says what the store answered.
    ///
    /// # Errors
    /// `IllegalLake` for a refusal that will last.
    pub async fn create(&self, name: &str, body: Bytes) -> Result<PutAnswer, LakeError> {
        match self.objects.put_opts(&self.path(name), PutPayload::from_bytes(body), PutMode::Create.into()).await {
            Ok(_) => Ok(PutAnswer::Created),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(PutAnswer::Exists),
            Err(error) => match self.refused("put an object", &error) {
                lasting @ LakeError::Unwritable { .. } => Err(lasting),
                _ => Ok(PutAnswer::Failed(text(&error))),
            },
        }
    }

    /// Removes what puts of these objects left beside them when their process ended: on a local disk an object is written under its
    /// name with `#` and a number behind, and linked to its own name when it is whole. Only for who has the right to put them.
    /// What cannot be removed stays, and does no harm.
    pub async fn sweep(&self, names: impl IntoIterator<Item = &str>) {
        let Some(root) = &self.local else { return };
        let mut directories: HashMap<PathBuf, HashSet<OsString>> = HashMap::new();
        for file in names.into_iter().map(|name| root.join(name)) {
            if let (Some(directory), Some(name)) = (file.parent(), file.file_name()) {
                directories.entry(directory.to_owned()).or_default().insert(name.to_owned());
            }
        }
        let sweep = move || directories.iter().for_each(|(directory, names)| sweep_directory(directory, names));
        let sweeping = tokio::task::spawn_blocking(sweep);
        let _ = sweeping.await;
    }

    async fn sync_directory(&self, name: &str) -> std::io::Result<()> {
        let Some(root) = &self.local else { return Ok(()) };
        let file = root.join(name);
        let directory = file.parent().unwrap_or(root).to_owned();
        let synced = tokio::task::spawn_blocking(move || std::fs::File::open(directory)?.sync_all()).await;
        synced.unwrap_or_else(|error| Err(std::io::Error::other(error)))
    }
}

fn sweep_directory(directory: &std::path::Path, names: &HashSet<OsString>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let found = entry.file_name();
        let Some((name, number)) = found.to_str().and_then(|found| found.rsplit_once('#')) else { continue };
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        if is_number && names.contains(OsStr::new(name)) {
            let removed = std::fs::remove_file(entry.path());
            tracing::info!(file = %entry.path().display(), ?removed, "a put that was broken off left a file");
        }
    }
}

fn open_bucket(service: Service, bucket: &str) -> object_store::Result<Arc<dyn ObjectStore>> {
    // Our own retries are visible and never give up; these only smooth over a hiccup.
    let retry = RetryConfig { max_retries: 2, retry_timeout: Duration::from_secs(15), ..RetryConfig::default() };
    let client = [(ClientConfigKey::ConnectTimeout, "5 seconds"), (ClientConfigKey::Timeout, "300 seconds")];
    Ok(match service {
        Service::S3 => {
            let builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
            let set =
                |builder: AmazonS3Builder, (key, value)| builder.with_config(AmazonS3ConfigKey::Client(key), value);
            Arc::new(client.into_iter().fold(builder, set).build()?)
        }
        Service::Google => {
            let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).with_retry(retry);
            let set = |builder: GoogleCloudStorageBuilder, (key, value)| {
                builder.with_config(GoogleConfigKey::Client(key), value)
            };
            Arc::new(client.into_iter().fold(builder, set).build()?)
        }
        Service::Azure => {
            let builder = MicrosoftAzureBuilder::from_env().with_container_name(bucket).with_retry(retry);
            let set =
                |builder: MicrosoftAzureBuilder, (key, value)| builder.with_config(AzureConfigKey::Client(key), value);
            Arc::new(client.into_iter().fold(builder, set).build()?)
        }
    })
}

/// Whether two files of that name have the same text. Blocks.
fn same_text(name: &str, a: &[u8], b: &[u8]) -> std::io::Result<bool> {
    let (mut a, mut b) = (BufReader::new(line_reader(name, a)?), BufReader::new(line_reader(name, b)?));
    loop {
        let (some_a, some_b) = (a.fill_buf()?, b.fill_buf()?);
        let length = some_a.len().min(some_b.len());
        if length == 0 {
            return Ok(some_a.is_empty() && some_b.is_empty());
        }
        if some_a[..length] != some_b[..length] {
            return Ok(false);
        }
        a.consume(length);
        b.consume(length);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sweep_removes_what_broken_off_puts_of_these_objects_left_and_nothing_else() {
        let directory = tempfile::tempdir().expect("a directory");
        let url = format!("file://{}", directory.path().display());
        let store = Store::open(&url, LakeDelivery::ExactlyOnce).expect("a store");
        std::fs::create_dir(directory.path().join("k=1")).expect("a directory");
        let left = ["a.parquet#1", "k=1/a.parquet#12"];
        let stays = ["k=1/a.parquet", "k=1/a.parquet#", "k=1/a.parquet#1x", "k=1/a.parquet.gz#1", "k=1/c.parquet#1"];
        for name in left.iter().chain(&stays) {
            std::fs::write(directory.path().join(name), "x").expect("a file");
        }
        store.sweep(["a.parquet", "k=1/a.parquet", "k=1/b.parquet", "nowhere/a.parquet"]).await;
        for name in left {
            assert!(!directory.path().join(name).exists(), "{name}");
        }
        for name in stays {
            assert!(directory.path().join(name).exists(), "{name}");
        }
    }
}
