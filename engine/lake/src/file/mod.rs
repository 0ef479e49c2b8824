//! Files under construction: rows go in as they are read, a finished spool comes out.
//!
//! Nothing is decided here about where a file ends. Given the same rows and the same schema the same file comes out;
//! that is what makes a redo after a crash safe. A file that is not given its schema gathers its first rows, learns from
//! them, and settles it then ([`parquet`]).

mod errors;
mod lines;
mod parquet;
mod raw;
mod spool;

use std::path::PathBuf;
use std::sync::Arc;

use millstream_protocol::frame::control::{LakeColumns, LakeCompression, LakeFormat};
use millstream_protocol::{Epoch, Incarnation, LakeId, Offset, PartitionId, Timestamp};
use parking_lot::Mutex;

pub(crate) use errors::{ErrorFile, ErrorLine};
pub(crate) use lines::{LinesFile, line_reader};
pub(crate) use parquet::ParquetFile;
pub(crate) use raw::RawFile;
pub use spool::Spool;

use crate::json::{Json, NotJson, Parser, TokenKind};
use crate::schema::{LakeSchema, Schema};
use crate::state::Intent;

/// What all files of one partition have in common.
#[derive(Debug)]
pub(crate) struct FileContext {
    pub lake: LakeId,
    pub lake_name: String,
    pub stream: String,
    pub partition: PartitionId,
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    pub format: LakeFormat,
    pub compression: LakeCompression,
    pub columns: LakeColumns,
    pub spool_dir: PathBuf,
    /// The lake's schema, of all its partitions.
    pub schema: Arc<Mutex<LakeSchema>>,
}

impl FileContext {
    /// Whether records land as they are, JSON or not.
    pub fn is_raw(&self) -> bool {
        self.format == LakeFormat::Parquet && self.columns == LakeColumns::Raw
    }

    /// What data files' names end in.
    pub fn extension(&self) -> &'static str {
        extension(self.format, self.compression)
    }

    /// Begins a data file. Without a schema it finds its own.
    pub fn open(&self, schema: Option<&Schema>) -> Result<Encoder, BuildError> {
        Ok(match self.format {
            LakeFormat::Ndjson => Encoder::Lines(LinesFile::create(&self.spool_dir, self.compression)?),
            LakeFormat::Parquet if self.is_raw() => Encoder::Raw(Box::new(RawFile::create(self)?)),
            LakeFormat::Parquet => Encoder::Parquet(Box::new(match schema {
                Some(schema) => ParquetFile::with_schema(self, schema)?,
                None => ParquetFile::gathering(self),
            })),
        })
    }

    /// What is written into the footer of an intent's file, and proves later that it is this intent's.
    pub fn proof_entries(&self, intent: &Intent) -> Vec<(String, String)> {
        let entries = [
            ("lake", self.lake_name.clone()),
            ("lake_id", self.lake.to_string()),
            ("stream", self.stream.clone()),
            ("partition", self.partition.to_string()),
            ("incarnation", self.incarnation.to_string()),
            ("epoch", intent.epoch.to_string()),
            ("directory", intent.directory.clone()),
            ("first", intent.first.to_string()),
            ("last", intent.last.to_string()),
            ("rows", intent.rows.to_string()),
        ];
        entries.into_iter().map(|(key, value)| (format!("millstream.{key}"), value)).collect()
    }
}

/// What the names of a lake's data files end in.
pub(crate) fn extension(format: LakeFormat, compression: LakeCompression) -> &'static str {
    match (format, compression) {
        (LakeFormat::Parquet, _) => "parquet",
        (LakeFormat::Ndjson, LakeCompression::Zstd) => "ndjson.zst",
        (LakeFormat::Ndjson, LakeCompression::Gzip) => "ndjson.gz",
        (LakeFormat::Ndjson, _) => "ndjson",
    }
}

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    /// The spool could not be written.
    #[error("cannot write the spool {}: {source}", path.display())]
    Spool {
        /// The spool directory.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The encoder failed.
    #[error("cannot encode: {0}")]
    Encode(String),
}

impl BuildError {
    fn encode(error: impl std::fmt::Display) -> BuildError {
        BuildError::Encode(error.to_string())
    }

    fn spool(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> BuildError + use<> {
        let path = path.to_owned();
        move |source| BuildError::Spool { path, source }
    }
}

/// One record on its way into a file.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    pub offset: Offset,
    pub timestamp: Timestamp,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Vec<(&'a str, Option<&'a [u8]>)>,
}

/// What became of a row.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It is in the file.
    Taken,
    /// It has something new: it belongs into the next file.
    Drifts,
    /// It does not fit a declared schema, and why.
    Misfit(String),
}

/// A data file under construction.
pub(crate) enum Encoder {
    Parquet(Box<ParquetFile>),
    Raw(Box<RawFile>),
    Lines(LinesFile),
}

impl Encoder {
    /// Takes a row; `json` is its value, parsed, for all but raw files.
    pub fn push(&mut self, row: &Row<'_>, json: Option<&Json<'_>>) -> Result<Pushed, BuildError> {
        match (self, json) {
            (Encoder::Parquet(file), Some(json)) => file.push(row, json),
            (Encoder::Parquet(_), None) => Err(BuildError::Encode("a row of columns without its JSON".into())),
            (Encoder::Raw(file), _) => file.push(row).map(|()| Pushed::Taken),
            (Encoder::Lines(file), _) => file.push(row.value.unwrap_or_default()).map(|()| Pushed::Taken),
        }
    }

    /// About how large the file is by now, in bytes as written.
    pub fn written(&self) -> u64 {
        match self {
            Encoder::Parquet(file) => file.written(),
            Encoder::Raw(file) => file.written(),
            Encoder::Lines(file) => file.written(),
        }
    }

    /// About how much memory it holds, in bytes.
    pub fn memory(&self) -> usize {
        match self {
            Encoder::Parquet(file) => file.memory(),
            Encoder::Raw(file) => file.memory(),
            Encoder::Lines(file) => file.memory(),
        }
    }

    /// Gives back what memory it can: closes its row group.
    pub fn shrink(&mut self) -> Result<(), BuildError> {
        match self {
            Encoder::Parquet(file) => file.shrink(),
            Encoder::Raw(file) => file.shrink(),
            Encoder::Lines(_) => Ok(()),
        }
    }

    /// Completes the file. `entries` go into a Parquet footer. Returns the schema that the file came to have, too.
    pub fn finish(self, entries: &[(String, String)]) -> Result<(Spool, Option<Schema>), BuildError> {
        match self {
            Encoder::Parquet(file) => file.finish(entries).map(|(spool, schema)| (spool, Some(schema))),
            Encoder::Raw(file) => file.finish(entries).map(|spool| (spool, None)),
            Encoder::Lines(file) => file.finish().map(|spool| (spool, None)),
        }
    }
}

/// Why a value is not a row.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotARow {
    /// There is none.
    #[error("the record has no value")]
    NoValue,
    /// It is not JSON.
    #[error(transparent)]
    NotJson(NotJson),
    /// It is JSON of another kind.
    #[error("not a JSON object but {0}")]
    NotAnObject(&'static str),
}

/// Parses a value that is to be a JSON object.
pub(crate) fn object<'a>(parser: &'a mut Parser, value: Option<&'a [u8]>) -> Result<Json<'a>, NotARow> {
    let json = parser.parse(value.ok_or(NotARow::NoValue)?).map_err(NotARow::NotJson)?;
    let other = match json.root().kind {
        TokenKind::Object => return Ok(json),
        TokenKind::Array => "an array",
        TokenKind::Plain | TokenKind::Escaped => "a string",
        TokenKind::Integer | TokenKind::Float => "a number",
        TokenKind::Bool => "a bool",
        TokenKind::Null => "null",
    };
    Err(NotARow::NotAnObject(other))
}
