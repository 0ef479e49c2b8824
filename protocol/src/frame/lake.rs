//! Lakes on the control stream: where a stream lands, how far it is, what an audit found.
//!
//! Conventions as in [`control`](super::control): rkyv archives of flat types, meaning checked by who acts on them.
#![allow(missing_docs, reason = "rkyv derives undocumented resolver types; every item written here is documented")]

use rkyv::{Archive, Deserialize, Serialize};

/// A file that would close at its age with fewer bytes than this waits for more, up to [`LakeConfig::max_age_ms`].
pub const SMALL_FILE_BYTES: u64 = 8 << 20;

/// What a lake's files are.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum LakeFormat {
    /// Columns.
    #[default]
    Parquet,
    /// The records as they are, a line each.
    Ndjson,
}

/// How a lake's files are compressed.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum LakeCompression {
    /// Not at all.
    None,
    /// Zstandard. Parquet and NDJSON (`.ndjson.zst`).
    #[default]
    Zstd,
    /// Snappy. Parquet only.
    Snappy,
    /// LZ4 (`LZ4_RAW`). Parquet only.
    Lz4,
    /// gzip. NDJSON only (`.ndjson.gz`).
    Gzip,
}

impl LakeFormat {
    /// How files of this format may be compressed.
    pub fn compressions(self) -> &'static [LakeCompression] {
        match self {
            LakeFormat::Parquet => {
                &[LakeCompression::Zstd, LakeCompression::Snappy, LakeCompression::Lz4, LakeCompression::None]
            }
            LakeFormat::Ndjson => &[LakeCompression::Zstd, LakeCompression::Gzip, LakeCompression::None],
        }
    }

    /// Its name, as it is written: `parquet`, `ndjson`.
    pub fn name(self) -> &'static str {
        match self {
            LakeFormat::Parquet => "parquet",
            LakeFormat::Ndjson => "ndjson",
        }
    }
}

impl LakeCompression {
    /// Its name, as it is written: `none`, `zstd`, `snappy`, `lz4`, `gzip`.
    pub fn name(self) -> &'static str {
        match self {
            LakeCompression::None => "none",
            LakeCompression::Zstd => "zstd",
            LakeCompression::Snappy => "snappy",
            LakeCompression::Lz4 => "lz4",
            LakeCompression::Gzip => "gzip",
        }
    }
}

/// Where a Parquet file's columns come from.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
pub enum LakeColumns {
    /// From the records: JSON objects.
    #[default]
    Inferred,
    /// The record itself, whatever it is: key, headers, value.
    Raw,
    /// From this schema file's text (JSON); records that do not fit go to the error prefix.
    Declared(String),
}

/// What a lake promises.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum LakeDelivery {
    /// Each record once. Needs a store with create-only PUT.
    #[default]
    ExactlyOnce,
    /// Each record at least once: for a store that cannot keep two writers apart.
    AtLeastOnce,
}

/// A lake: where a stream lands, and how.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct LakeConfig {
    /// Its name.
    pub name: String,
    /// The stream's name.
    pub stream: String,
    /// `file:///dir`, `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`. Credentials come from the
    /// server's environment, never from here.
    pub url: String,
    /// What the files are.
    pub format: LakeFormat,
    /// How they are compressed.
    pub compression: LakeCompression,
    /// Where their columns come from.
    pub columns: LakeColumns,
    /// The directory of a record, as a template: `carrier={carrier}/date={ts:%Y-%m-%d}`. Empty: no directories.
    pub layout: String,
    /// What is promised.
    pub delivery: LakeDelivery,
    /// A file is closed at this size, in bytes as written.
    pub roll_bytes: u64,
    /// A file is closed at so many rows.
    pub roll_rows: u64,
    /// A file is closed when its oldest record has waited this long, in milliseconds, if it has [`SMALL_FILE_BYTES`].
    pub roll_age_ms: u64,
    /// A file is closed when its oldest record has waited this long, in milliseconds, however small it is.
    pub max_age_ms: u64,
    /// So many files are open at once, in all partitions together; beyond that those that were not written to for longest are
    /// closed. A partition that has less than its equal share may open more even so.
    pub open_files: u32,
}

impl LakeConfig {
    /// A lake with everything else as by default: Parquet, zstd, columns from the records, no directories, files of 128 MiB,
    /// of 20 million rows or 5 minutes old, small ones an hour.
    pub fn new(name: impl Into<String>, stream: impl Into<String>, url: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            stream: stream.into(),
            url: url.into(),
            format: LakeFormat::default(),
            compression: LakeCompression::default(),
            columns: LakeColumns::default(),
            layout: String::new(),
            delivery: LakeDelivery::default(),
            roll_bytes: 128 << 20,
            roll_rows: 20_000_000,
            roll_age_ms: 5 * 60_000,
            max_age_ms: 60 * 60_000,
            open_files: 256,
        }
    }
}

/// How far a lake is in one partition.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct LakePartition {
    /// The partition.
    pub partition: u32,
    /// All records below this offset are in files.
    pub landed_end: u64,
    /// All records below this offset have been read; what of them is not in files is in files that are open.
    pub read_end: u64,
    /// The partition's high watermark.
    pub high_watermark: u64,
}

/// What a lake has done and what holds it up.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct LakeStatus {
    /// The lake.
    pub config: LakeConfig,
    /// How far it is, by partition.
    pub partitions: Vec<LakePartition>,
    /// Files put since it was added.
    pub files: u64,
    /// Rows in those files.
    pub rows: u64,
    /// Bytes of those files.
    pub bytes: u64,
    /// Records that went to the error prefix and have not landed since.
    pub rejected: u64,
    /// Offsets that the log no longer had when their turn came.
    pub lost: u64,
    /// Records read and not landed: they are in open files.
    pub open_rows: u64,
    /// Files that are open.
    pub open_files: u32,
    /// Age of the oldest record that has not landed, in milliseconds; 0 if all have.
    pub oldest_waiting_ms: u64,
    /// When the newest landed record was appended, Unix ms; 0 if none has landed since the server's start.
    pub newest_landed_ms: i64,
    /// Why it does not go on; empty while it does.
    pub error: String,
    /// What went wrong last, even if the lake went on since; empty if nothing did since the server's start.
    pub last_error: String,
    /// When that was, Unix ms.
    pub last_error_ms: i64,
}

/// What a lake that does not exist yet would do with the newest records of its stream.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct LakePreview {
    /// How many records were looked at.
    pub records: u64,
    /// The columns, in order.
    pub columns: Vec<LakeColumn>,
    /// Some of the paths that files would have, under the lake's URL.
    pub paths: Vec<String>,
    /// How many different directories there were among the records.
    pub directories: u64,
    /// How many records would go to the error prefix.
    pub rejected: u64,
    /// Why the first of those would.
    pub reason: String,
}

/// A column of a lake.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct LakeColumn {
    /// Its name.
    pub name: String,
    /// Its type, as in a schema file: `int64`, `list<string>`.
    pub kind: String,
    /// Its field id.
    pub id: u32,
}

/// What an audit found.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct LakeAudit {
    /// Whether everything that the lake says has landed is there, each offset once, and nothing else.
    pub complete: bool,
    /// Files that the manifest lists and that are there.
    pub files: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Records in the error prefix.
    pub rejected: u64,
    /// Offsets that were lost before they could land.
    pub lost: u64,
    /// Records read from the log and compared by offset.
    pub compared: u64,
    /// How many findings there are.
    pub findings: u64,
    /// The first of them, in words; at most [`LAKE_FINDINGS_MAX`](crate::limits::LAKE_FINDINGS_MAX).
    pub named: Vec<String>,
}

/// What became of the records in the error prefix.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub struct LakeRetry {
    /// Records that landed now.
    pub landed: u64,
    /// Records that still do not fit.
    pub rejected: u64,
}
