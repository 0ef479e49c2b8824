//! The manifest: what has landed, one small object a round, under `_millstream/manifest/<partition:05>/<entry:020>.json`.
//!
//! An entry is put, create-only, after its round is durable as an intent and *before* its files. So two writers with the same
//! past (a copied data directory, a restored backup) meet at the entry's name before either has put a file, and the
//! second one stops. Entries of a partition follow each other without a gap, and a round begins when the one before is
//! complete: **all files of an entry that has a successor are there; those of the newest one may be on their way.**
//!
//! A reader finds in it which files there are, which offsets and how many rows each has, and the columns with their field ids. An
//! entry that names an error file as `retried` holds its records; that file is gone.

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use millstream_protocol::PartitionId;
use serde::{Deserialize, Serialize};

use crate::file::FileContext;
use crate::judge::Verdict;
use crate::layout::INTERNAL;
use crate::schema::{Columns, raw_schema, type_name};
use crate::state::{LakeState, Round};
use crate::store::{Proof, Store};

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// 1.
    pub format: u32,
    pub lake: String,
    pub lake_id: u64,
    pub stream: String,
    pub partition: u32,
    pub incarnation: String,
    /// Its number: 0, 1, 2, …
    pub entry: u64,
    /// Which start of which server wrote it, for people.
    pub writer: String,
    /// Where the lake begins in the partition.
    pub start: u64,
    /// Everything below was in files before this entry.
    pub floor: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retried: Option<String>,
    pub files: Vec<EntryFile>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schemas: Vec<EntrySchema>,
}

/// A file of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EntryFile {
    /// Under the lake's URL.
    pub path: String,
    /// Whether it is an error file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub errors: bool,
    pub first: u64,
    pub last: u64,
    pub rows: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u64,
    /// As it was when the entry was written: a redo by another version of a library may come to another size.
    pub bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<u32>,
}

/// The columns of some of the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EntrySchema {
    pub version: u32,
    pub columns: Vec<EntryColumn>,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EntryColumn {
    pub name: String,
    pub r#type: String,
    pub id: u32,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Entry {
    /// The entry of a round; `bytes` are the sizes of its files, in order.
    pub fn new(context: &FileContext, writer: &str, state: &LakeState, round: &Round, bytes: &[u64]) -> Entry {
        let files = round.intents.iter().zip(bytes).map(|(intent, bytes)| EntryFile {
            path: intent.name.clone(),
            errors: intent.is_errors(),
            first: intent.first.0,
            last: intent.last.0,
            rows: intent.rows,
            lost: intent.lost,
            bytes: *bytes,
            schema: (intent.schema != 0).then_some(intent.schema),
        });
        let mut schemas: Vec<EntrySchema> = round
            .schemas
            .iter()
            .map(|schema| EntrySchema { version: schema.version, columns: columns(&Columns::new(schema).written) })
            .collect();
        if context.is_raw() {
            schemas.push(EntrySchema { version: 0, columns: columns(&raw_schema()) });
        }
        Entry {
            format: 1,
            lake: context.lake_name.clone(),
            lake_id: context.lake.0,
            stream: context.stream.clone(),
            partition: context.partition.0,
            incarnation: context.incarnation.to_string(),
            entry: state.entry,
            writer: writer.to_owned(),
            start: state.start.0,
            floor: state.landed.floor.0,
            retried: round.retried.clone(),
            files: files.collect(),
            schemas,
        }
    }

    /// The object's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = serde_json::to_vec(self).expect("strings and numbers always serialise");
        out.push(b'\n');
        out
    }

    /// Reads an object's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Entry, String> {
        let entry: Entry = serde_json::from_slice(bytes).map_err(|error| format!("it does not decode: {error}"))?;
        if entry.format == 1 { Ok(entry) } else { Err(format!("it has the format {}, known is 1", entry.format)) }
    }

    /// Whether the object that is there is of the same round: of the same plan, whoever wrote it, and whatever the sizes of
    /// files that were built again.
    pub fn is_in(&self, object: &[u8]) -> Result<(), String> {
        let theirs = Entry::decode(object)?;
        let plan = |entry: &Entry| {
            let files: Vec<_> = entry.files.iter().map(|f| (f.path.clone(), f.first, f.last, f.rows, f.lost)).collect();
            (entry.lake_id, entry.stream.clone(), entry.incarnation.clone(), entry.retried.clone(), files)
        };
        if plan(self) == plan(&theirs) {
            return Ok(());
        }
        Err(format!(
            "another server lands this lake, with a copy of this one's data directory, or this one's was set back to an \
             earlier state: entry {} was written by {}, this is {}",
            theirs.entry, theirs.writer, self.writer
        ))
    }
}

/// The columns of a file.
pub(crate) fn columns(schema: &arrow_schema::Schema) -> Vec<EntryColumn> {
    let column = |field: &arrow_schema::FieldRef| EntryColumn {
        name: field.name().clone(),
        r#type: type_name(field.data_type()),
        id: crate::schema::field_id(field),
    };
    schema.fields().iter().map(column).collect()
}

/// The directory of a partition's entries.
pub(crate) fn directory(partition: PartitionId) -> String {
    format!("{INTERNAL}/manifest/{:05}", partition.0)
}

/// An entry's name.
pub(crate) fn name(partition: PartitionId, entry: u64) -> String {
    format!("{}/{entry:020}.json", directory(partition))
}

/// Where it is written down what lands: before a round's files are put, and after. The manifest does it before; a table format's
/// commit, which makes files visible only then, would do it after.
pub(crate) trait Ledger: Send + Sync {
    /// Claims the round: from here on nobody else's can take its place.
    fn claim<'a>(&'a self, store: &'a Store, entry: &'a Entry) -> BoxFuture<'a, Verdict>;

    /// All files of the round are there. Idempotent.
    fn publish<'a>(&'a self, _store: &'a Store, _entry: &'a Entry) -> BoxFuture<'a, Verdict> {
        ready(Verdict::Created).boxed()
    }
}

/// The manifest as a ledger.
#[derive(Debug)]
pub(crate) struct Manifest;

impl Ledger for Manifest {
    fn claim<'a>(&'a self, store: &'a Store, entry: &'a Entry) -> BoxFuture<'a, Verdict> {
        let name = name(PartitionId(entry.partition), entry.entry);
        async move { store.put(&name, entry.encode().into(), &Proof::Entry(entry.clone())).await }.boxed()
    }
}
