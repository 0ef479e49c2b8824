//! Buckets of objects in memory, under one lock: that makes every put atomic. In a directory too, if there is one.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::Mutex;
use s3s::crypto::{Checksum, Md5};

use crate::directory::Directory;
use crate::listing::{self, Listing, Page};

/// One object. It never changes; a put replaces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its bytes.
    pub body: Bytes,
    /// The MD5 of its bytes in hexadecimal digits, as S3 has it for what is put in one piece.
    pub etag: String,
    /// When it was put; whole seconds, as HTTP says it.
    pub modified: SystemTime,
}

impl Object {
    pub(crate) fn new(body: Bytes, modified: SystemTime) -> Self {
        let etag = Md5::checksum(&body).iter().map(|byte| format!("{byte:02x}")).collect();
        let seconds = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { body, etag, modified: UNIX_EPOCH + Duration::from_secs(seconds) }
    }
}

/// Under which condition a put is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    None,
    /// Nothing is there: `If-None-Match: *`.
    Absent,
    /// What is there has this ETag: `If-Match`.
    Unchanged(String),
}

/// Why the store does not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such bucket.
    #[error("there is no bucket {0:?}: create it first")]
    NoSuchBucket(String),
    /// There is no such object.
    #[error("there is no object {0:?}")]
    NoSuchKey(String),
    /// The condition does not hold.
    #[error("the object {0:?} is there, or is another one than was asked for")]
    ConditionFailed(String),
    /// A name that cannot be a path: only with a directory.
    #[error("{0:?} cannot be a path below a directory: no part of it may be empty, \".\" or \"..\"")]
    IllegalName(String),
    /// The directory cannot be read or written.
    #[error("cannot use {path}: {source}")]
    Io {
        /// The file or directory.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// What is stored. Blocks for as long as a file takes to write, where there is a directory.
#[derive(Debug, Default)]
pub struct Store {
    buckets: Mutex<BTreeMap<String, Bucket>>,
    directory: Option<Directory>,
}

#[derive(Debug, Default)]
struct Bucket {
    objects: BTreeMap<String, Object>,
    /// Keys that lists do not show yet, and how many more of them do not.
    unlisted: HashMap<String, u32>,
}

impl Store {
    /// An empty store, or what is in the directory: it is made if it is missing.
    pub(crate) fn open(directory: Option<&Path>) -> Result<Store, StoreError> {
        let Some(directory) = directory else { return Ok(Store::default()) };
        let (directory, found) = Directory::open(directory)?;
        let buckets = found
            .into_iter()
            .map(|(name, objects)| (name, Bucket { objects, ..Bucket::default() }))
            .collect::<BTreeMap<_, _>>();
        Ok(Store { buckets: Mutex::new(buckets), directory: Some(directory) })
    }

    /// Makes a bucket; whether it is new.
    ///
    /// # Errors
    /// If there is a directory and it cannot be made in it.
    pub fn create_bucket(&self, bucket: &str) -> Result<bool, StoreError> {
        let mut buckets = self.buckets.lock();
        if buckets.contains_key(bucket) {
            return Ok(false);
        }
        if let Some(directory) = &self.directory {
            directory.create_bucket(bucket)?;
        }
        buckets.insert(bucket.to_owned(), Bucket::default());
        Ok(true)
    }

    /// Whether there is such a bucket.
    pub fn has_bucket(&self, bucket: &str) -> bool {
        self.buckets.lock().contains_key(bucket)
    }

    /// Stores an object if the condition holds, all in one step.
    ///
    /// # Errors
    /// No such bucket, the condition does not hold, or the directory fails: then nothing is stored.
    pub fn put(&self, bucket: &str, key: &str, body: Bytes, condition: &Condition) -> Result<Object, StoreError> {
        // Before the lock: hashing takes long.
        let object = Object::new(body, now());
        let mut buckets = self.buckets.lock();
        let of_bucket = buckets.get_mut(bucket).ok_or_else(|| StoreError::NoSuchBucket(bucket.to_owned()))?;
        let found = of_bucket.objects.get(key);
        match (condition, found) {
            (Condition::Absent, Some(_)) => return Err(StoreError::ConditionFailed(key.to_owned())),
            (Condition::Unchanged(_), None) => return Err(StoreError::NoSuchKey(key.to_owned())),
            (Condition::Unchanged(etag), Some(found)) if found.etag != *etag => {
                return Err(StoreError::ConditionFailed(key.to_owned()));
            }
            _ => {}
        }
        if let Some(directory) = &self.directory {
            directory.write(bucket, key, &object.body)?;
        }
        of_bucket.objects.insert(key.to_owned(), object.clone());
        Ok(object)
    }

    /// An object, if it is there.
    pub fn get(&self, bucket: &str, key: &str) -> Option<Object> {
        self.buckets.lock().get(bucket)?.objects.get(key).cloned()
    }

    /// Deletes an object; whether it was there.
    ///
    /// # Errors
    /// No such bucket, or the directory fails.
    pub fn delete(&self, bucket: &str, key: &str) -> Result<bool, StoreError> {
        let mut buckets = self.buckets.lock();
        let of_bucket = buckets.get_mut(bucket).ok_or_else(|| StoreError::NoSuchBucket(bucket.to_owned()))?;
        if !of_bucket.objects.contains_key(key) {
            return Ok(false);
        }
        if let Some(directory) = &self.directory {
            directory.remove(bucket, key)?;
        }
        of_bucket.unlisted.remove(key);
        Ok(of_bucket.objects.remove(key).is_some())
    }

    /// The keys of a bucket that begin so, in order, with what clients' lists do not show yet; none if there is no such bucket.
    pub fn list(&self, bucket: &str, prefix: &str) -> Vec<String> {
        let buckets = self.buckets.lock();
        let Some(of_bucket) = buckets.get(bucket) else { return Vec::new() };
        let behind = of_bucket.objects.range(prefix.to_owned()..).map(|(key, _)| key);
        behind.take_while(|key| key.starts_with(prefix)).cloned().collect()
    }

    /// The next so many pages of lists of that bucket do not show this key, which is about to be put; what was there before
    /// stays in sight.
    pub(crate) fn hide(&self, bucket: &str, key: &str, lists: u32) {
        let mut buckets = self.buckets.lock();
        if let Some(of_bucket) = buckets.get_mut(bucket).filter(|of_bucket| !of_bucket.objects.contains_key(key)) {
            of_bucket.unlisted.insert(key.to_owned(), lists);
        }
    }

    /// Looks at one page of a list.
    pub(crate) fn page<T>(
        &self,
        bucket: &str,
        listing: &Listing,
        look: impl FnOnce(Page<'_, Object>) -> T,
    ) -> Result<T, StoreError> {
        let mut buckets = self.buckets.lock();
        let of_bucket = buckets.get_mut(bucket).ok_or_else(|| StoreError::NoSuchBucket(bucket.to_owned()))?;
        of_bucket.unlisted.retain(|_, lists| *lists > 0);
        let unlisted = &of_bucket.unlisted;
        let seen = look(listing::page(&of_bucket.objects, listing, |key| !unlisted.contains_key(key)));
        of_bucket.unlisted.values_mut().for_each(|lists| *lists -= 1);
        Ok(seen)
    }
}

#[expect(clippy::disallowed_methods, reason = "the one door to the time: objects say when they were put")]
fn now() -> SystemTime {
    SystemTime::now()
}
