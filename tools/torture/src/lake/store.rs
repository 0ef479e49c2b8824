//! Where the lake lands: a directory, or an S3 server in this process, which outlives the server that is killed.

use std::path::{Path, PathBuf};

use millstream_s3::{Chaos, Operation, Server, Settings};

use crate::failure::Failure;

/// The bucket.
const BUCKET: &str = "torture";
const PREFIX: &str = "lakes/one";
const OPERATIONS: [Operation; 5] =
    [Operation::Put, Operation::Get, Operation::Head, Operation::List, Operation::Delete];

/// A store.
#[derive(Debug)]
pub enum LakeStore {
    Directory(PathBuf),
    S3(Server),
}

impl LakeStore {
    /// A directory, not there yet.
    pub fn directory(path: PathBuf) -> Self {
        Self::Directory(path)
    }

    /// An S3 server that fails so many of a thousand requests.
    pub async fn s3(seed: u64, faults_per_mille: u16) -> Result<Self, Failure> {
        let settings = Settings { buckets: vec![BUCKET.into()], ..Settings::default() };
        let server = Server::start(settings).await;
        let server = server.map_err(|error| Failure::CannotBegin(format!("the S3 server does not start: {error}")))?;
        if faults_per_mille > 0 {
            server.faults().set_chaos(Some(Chaos::everywhere(seed, faults_per_mille)));
        }
        Ok(Self::S3(server))
    }

    /// As a lake's URL.
    pub fn url(&self) -> String {
        match self {
            Self::Directory(path) => format!("file://{}", path.display()),
            Self::S3(_) => format!("s3://{BUCKET}/{PREFIX}"),
        }
    }

    /// What the server has to be told in its environment.
    pub fn environment(&self) -> Vec<(String, String)> {
        match self {
            Self::Directory(_) => Vec::new(),
            Self::S3(server) => server.environment().map(|(name, value)| (name.to_owned(), value)).to_vec(),
        }
    }

    /// Requests, and those of them to which a fault happened.
    pub fn requests(&self) -> (u64, u64) {
        let Self::S3(server) = self else { return (0, 0) };
        OPERATIONS
            .iter()
            .map(|operation| server.faults().tally(*operation))
            .fold((0, 0), |(requests, faulty), tally| (requests + tally.requests, faulty + tally.faulty))
    }

    /// The names of all that is there, under the lake's URL, in order. Blocks.
    pub fn names(&self) -> Result<Vec<String>, Failure> {
        match self {
            Self::Directory(root) => {
                let mut names = Vec::new();
                walk(root, "", &mut names)
                    .map_err(|error| Failure::run(format!("{} cannot be listed: {error}", root.display())))?;
                names.sort();
                Ok(names)
            }
            Self::S3(server) => {
                let prefix = format!("{PREFIX}/");
                let names = server.store().list(BUCKET, &prefix).into_iter();
                Ok(names.filter_map(|key| key.strip_prefix(&prefix).map(str::to_owned)).collect())
            }
        }
    }

    /// The bytes of one of them. Blocks.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>, Failure> {
        let failed = |why: &dyn std::fmt::Display| Failure::run(format!("{name} was there and cannot be read: {why}"));
        match self {
            Self::Directory(root) => std::fs::read(root.join(name)).map_err(|error| failed(&error)),
            Self::S3(server) => {
                let object = server.store().get(BUCKET, &format!("{PREFIX}/{name}"));
                object.map(|object| object.body.to_vec()).ok_or_else(|| failed(&"it is gone"))
            }
        }
    }

    /// Deletes one of them behind the lake's back.
    pub fn forget(&self, name: &str) -> Result<(), Failure> {
        let failed = |why: &dyn std::fmt::Display| Failure::run(format!("{name} cannot be deleted: {why}"));
        match self {
            Self::Directory(root) => std::fs::remove_file(root.join(name)).map_err(|error| failed(&error)),
            Self::S3(server) => {
                let deleted = server.store().delete(BUCKET, &format!("{PREFIX}/{name}"));
                deleted.map(drop).map_err(|error| failed(&error))
            }
        }
    }
}

fn walk(root: &Path, below: &str, names: &mut Vec<String>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(root.join(below))? {
        let entry = entry?;
        let own = entry.file_name();
        let name = if below.is_empty() {
            own.to_string_lossy().into_owned()
        } else {
            format!("{below}/{}", own.to_string_lossy())
        };
        if entry.file_type()?.is_dir() {
            walk(root, &name, names)?;
        } else {
            names.push(name);
        }
    }
    Ok(())
}
