//! Where the lake lands: a directory, or an S3 server in this process, which outlives the server that is killed.

use std::path::{Path, PathBuf};

use millstream_s3::{Chaos, Operation, Server, Settings};

use crate::failure::Failure;

/// The bucket.
const BUCKET: &str = "torture";
const PREFIX: &str = "lakes/one";
const OPERATIONS: [Operation; 5] =
    [Operation::Put, Operation::Get, Operation::Head, Operation::List, Operation::Delete];

/// Faults at random.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    seed: u64,
    per_mille: u16,
}

/// What the lake does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    Little,
    All,
}

/// Requests, and those of them to which a fault happened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    pub requests: u64,
    pub faulty: u64,
    pub puts: u64,
    pub faulty_puts: u64,
}

/// A store.
#[derive(Debug)]
pub enum LakeStore {
    Directory(PathBuf),
    S3(Server, Faults),
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
        let store = Self::S3(server, Faults { seed, per_mille: faults_per_mille });
        store.faults_while(Reading::Little);
        Ok(store)
    }

    /// What fails from now on: while everything is read, only a quarter as many of the requests that read an object.
    /// There are thousands of them then, each of which would only be made again.
    pub fn faults_while(&self, reading: Reading) {
        let Self::S3(server, Faults { seed, per_mille }) = self else { return };
        let chaos = Chaos::everywhere(*seed, *per_mille);
        let chaos = match reading {
            Reading::Little => chaos,
            Reading::All => chaos.on(Operation::Get, per_mille / 4),
        };
        server.faults().set_chaos(Some(chaos));
    }

    /// As a lake's URL.
    pub fn url(&self) -> String {
        match self {
            Self::Directory(path) => format!("file://{}", path.display()),
            Self::S3(..) => format!("s3://{BUCKET}/{PREFIX}"),
        }
    }

    /// What the server has to be told in its environment.
    pub fn environment(&self) -> Vec<(String, String)> {
        match self {
            Self::Directory(_) => Vec::new(),
            Self::S3(server, _) => server.environment().map(|(name, value)| (name.to_owned(), value)).to_vec(),
        }
    }

    /// What was asked of it, and how much of that failed.
    pub fn asked(&self) -> Asked {
        let Self::S3(server, _) = self else { return Asked::default() };
        let tally = |operation| server.faults().tally(operation);
        let tallies = OPERATIONS.map(tally);
        Asked {
            requests: tallies.iter().map(|tally| tally.requests).sum(),
            faulty: tallies.iter().map(|tally| tally.faulty).sum(),
            puts: tally(Operation::Put).requests,
            faulty_puts: tally(Operation::Put).faulty,
        }
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
            Self::S3(server, _) => {
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
            Self::S3(server, _) => {
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
            Self::S3(server, _) => {
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
