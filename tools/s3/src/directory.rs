//! Objects as files, `<directory>/<bucket>/<key>`: they survive the server, and other programs can read them.
//!
//! A file is written beside its place and renamed, so that no half of one is ever seen. Nothing is synced: a power cut may lose
//! what was put. Symbolic links are not followed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::store::{Object, StoreError};

/// Files under this name, beside the buckets, are on their way.
const ON_THE_WAY: &str = ".on-the-way";

/// What was found: by bucket and key.
type Found = BTreeMap<String, BTreeMap<String, Object>>;

/// A directory that holds buckets.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    /// Makes the directory if it is missing, and reads all that is in it.
    pub fn open(root: &Path) -> Result<(Directory, Found), StoreError> {
        let directory = Directory { root: root.to_owned() };
        fs::create_dir_all(root).map_err(failed(root))?;
        let mut found = Found::new();
        for (name, path) in entries(root)? {
            if path.is_dir() {
                let mut objects = BTreeMap::new();
                read(&path, "", &mut objects)?;
                found.insert(name, objects);
            }
        }
        Ok((directory, found))
    }

    /// Makes a bucket.
    pub fn create_bucket(&self, bucket: &str) -> Result<(), StoreError> {
        let path = self.path(&[bucket])?;
        fs::create_dir_all(&path).map_err(failed(&path))
    }

    /// Writes an object. The caller sees to it that only one does so at a time.
    pub fn write(&self, bucket: &str, key: &str, body: &[u8]) -> Result<(), StoreError> {
        let (path, on_the_way) = (self.path(&[bucket, key])?, self.root.join(ON_THE_WAY));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed(parent))?;
        }
        fs::write(&on_the_way, body).map_err(failed(&on_the_way))?;
        fs::rename(&on_the_way, &path).map_err(failed(&path))
    }

    /// Removes an object; the directories that it leaves empty stay.
    pub fn remove(&self, bucket: &str, key: &str) -> Result<(), StoreError> {
        let path = self.path(&[bucket, key])?;
        fs::remove_file(&path).map_err(failed(&path))
    }

    fn path(&self, names: &[&str]) -> Result<PathBuf, StoreError> {
        let mut path = self.root.clone();
        for part in names.iter().flat_map(|name| name.split('/')) {
            if matches!(part, "" | "." | "..") || part.contains('\0') {
                return Err(StoreError::IllegalName(names.join("/")));
            }
            path.push(part);
        }
        Ok(path)
    }
}

fn read(directory: &Path, prefix: &str, objects: &mut BTreeMap<String, Object>) -> Result<(), StoreError> {
    for (name, path) in entries(directory)? {
        let metadata = fs::symlink_metadata(&path).map_err(failed(&path))?;
        let key = format!("{prefix}{name}");
        if metadata.is_dir() {
            read(&path, &format!("{key}/"), objects)?;
        } else if metadata.is_file() {
            let body = fs::read(&path).map_err(failed(&path))?;
            objects.insert(key, Object::new(body.into(), metadata.modified().unwrap_or(UNIX_EPOCH)));
        }
    }
    Ok(())
}

/// What has a name in UTF-8; nothing else can have been put.
fn entries(directory: &Path) -> Result<Vec<(String, PathBuf)>, StoreError> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed(directory))? {
        let entry = entry.map_err(failed(directory))?;
        if let Ok(name) = entry.file_name().into_string() {
            entries.push((name, entry.path()));
        }
    }
    Ok(entries)
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> StoreError + use<> {
    let path = path.display().to_string();
    move |source| StoreError::Io { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found_again_and_nothing_leaves_the_directory() {
        let root = tempfile::tempdir().expect("a directory");
        let (directory, found) = Directory::open(root.path()).expect("opened");
        assert!(found.is_empty());
        directory.create_bucket("b").expect("made");
        directory.write("b", "x/day=1/a.parquet", b"one").expect("written");
        directory.write("b", "gone", b"two").expect("written");
        directory.remove("b", "gone").expect("removed");
        for key in ["../../out", "a/../../out", "/out", "a//b", "a/"] {
            assert!(matches!(directory.write("b", key, b""), Err(StoreError::IllegalName(_))), "{key}");
        }
        let (_, found) = Directory::open(root.path()).expect("opened");
        let keys: Vec<(&str, &[u8])> =
            found["b"].iter().map(|(key, object)| (key.as_str(), &object.body[..])).collect();
        assert_eq!(keys, [("x/day=1/a.parquet", &b"one"[..])]);
    }
}
