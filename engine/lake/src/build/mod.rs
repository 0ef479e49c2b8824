//! Builds what an intent says, from the log, into a spool: the file's rows, and the records that cannot be rows.
//!
//! Nothing is decided here. Given the same log and the same [`Job`], the same rows come out, in the order of their
//! offsets; that is what makes a redo after a crash safe.

mod decode;
mod errors;
mod ndjson;
mod parquet;
mod spool;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use millstream_log::LogError;
use millstream_protocol::frame::control::LakeFormat;
use millstream_protocol::{Incarnation, LakeId, Offset, PartitionId, Timestamp};

use crate::Source;
use crate::json::{NotJson, Parser, TokenKind};
use crate::plan;
use crate::schema::Schema;
use crate::state::Intent;
use crate::store::Proof;
use crate::walk::{Item, walk_chunk};
use errors::Rejects;
pub use spool::Spool;

/// All that a file depends on, beside the log.
#[derive(Debug, Clone)]
pub struct Job {
    /// The lake's number.
    pub lake: LakeId,
    /// The lake's name.
    pub lake_name: String,
    /// The stream's name.
    pub stream: String,
    /// The partition.
    pub partition: PartitionId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// What the file is.
    pub format: LakeFormat,
    /// What it holds.
    pub intent: Intent,
    /// Its columns.
    pub schema: Schema,
    /// Where it is built.
    pub spool_dir: PathBuf,
}

/// One object to be put.
#[derive(Debug)]
pub struct Part {
    /// Its name under the lake's URL.
    pub name: String,
    /// Its bytes.
    pub spool: Spool,
    /// By what it is recognised.
    pub proof: Proof,
    /// Whether it has been put.
    pub put: bool,
}

/// What was built.
#[derive(Debug)]
pub struct Built {
    /// The error file, if any, then the data file, if it has rows.
    pub parts: Vec<Part>,
    /// Rows in the data file.
    pub rows: u64,
    /// Records in the error file.
    pub rejected: u64,
    /// Offsets that the log no longer holds, noted in the error file.
    pub lost: u64,
}

/// Why a build broke off.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The lake is being stopped.
    #[error("stopped")]
    Stopped,
    /// The log could not be read.
    #[error("cannot read the log: {0}")]
    Log(#[from] LogError),
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

/// One record on its way into a file.
pub(crate) struct Row<'a> {
    pub offset: Offset,
    pub timestamp: Timestamp,
    pub key: Option<&'a [u8]>,
    pub value: &'a [u8],
    /// Those fields that have no column, as a JSON object.
    pub rest: Option<String>,
}

/// A data file under construction.
trait RowWriter {
    /// Takes a record that is a JSON object and fits the schema.
    fn push(&mut self, row: Row<'_>, rejects: &mut Rejects) -> Result<(), BuildError>;
    /// Completes the file; `None` if it has no rows.
    fn finish(self: Box<Self>, rejects: &mut Rejects) -> Result<Option<(Spool, u64, Proof)>, BuildError>;
}

/// Builds a file. Blocks. `stop` breaks it off between chunks.
pub fn build(job: &Job, source: &dyn Source, stop: &AtomicBool) -> Result<Built, BuildError> {
    let mut rejects = Rejects::new(job);
    let mut writer: Box<dyn RowWriter> = match job.format {
        LakeFormat::Parquet => Box::new(parquet::ParquetWriter::new(job)?),
        LakeFormat::Ndjson => Box::new(ndjson::NdjsonWriter::new(job)),
    };
    let mut sorter =
        Sorter { format: job.format, parser: Parser::default(), schema: &job.schema, probe: job.schema.clone() };
    let (mut position, end) = (job.intent.first, job.intent.last.next());
    let mut records = 0;
    while position < end {
        if stop.load(Ordering::Relaxed) {
            return Err(BuildError::Stopped);
        }
        let mut failed = None;
        position = walk_chunk(source, position, end, &mut |item| {
            let result = match item {
                Item::Record { offset, record, .. } => {
                    records += 1;
                    sorter.sort(offset, record.timestamp, record.key, record.value, writer.as_mut(), &mut rejects)
                }
                Item::Broken { first, end, appended, reason, batch } => {
                    records += first.records_until(end);
                    rejects.broken(first, end, appended, &reason, &batch)
                }
                Item::Lost { first, end, reason } => rejects.lost(first, end, &reason),
                Item::Boundary { .. } => Ok(()),
            };
            match result {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed.get_or_insert(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
    }
    let data = writer.finish(&mut rejects)?;
    let (rejected, lost) = (rejects.rejected(), rejects.lost_count());
    let rows = data.as_ref().map_or(0, |(_, rows, _)| *rows);
    assert_eq!(rows + rejected, records, "each record is a row or rejected");
    let mut parts = Vec::new();
    if let Some(spool) = rejects.finish()? {
        let name = format!("errors/{}", plan::error_file_name(&job.intent.name));
        parts.push(Part { name, spool, proof: Proof::Bytes, put: false });
    }
    if let Some((spool, _, proof)) = data {
        parts.push(Part { name: job.intent.name.clone(), spool, proof, put: false });
    }
    Ok(Built { parts, rows, rejected, lost })
}

/// Tells rows from what cannot be one.
struct Sorter<'a> {
    format: LakeFormat,
    parser: Parser,
    schema: &'a Schema,
    /// Changes only if a record does not fit, which scanning has ruled out.
    probe: Schema,
}

impl Sorter<'_> {
    fn sort(
        &mut self,
        offset: Offset,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        writer: &mut dyn RowWriter,
        rejects: &mut Rejects,
    ) -> Result<(), BuildError> {
        let Some(bytes) = value else {
            return rejects.record(offset, timestamp, key, None, "the record has no value");
        };
        let json = match object(&mut self.parser, bytes) {
            Ok(json) => json,
            Err(reason) => return rejects.record(offset, timestamp, key, value, &reason.to_string()),
        };
        let mut rest = None;
        if self.format == LakeFormat::Parquet {
            if self.probe.observe(&json) {
                self.probe = self.schema.clone();
                return rejects.record(offset, timestamp, key, value, "the record does not fit the file's columns");
            }
            if self.schema.rest {
                rest = decode::rest(&json, self.schema);
            }
        }
        writer.push(Row { offset, timestamp, key, value: bytes, rest }, rejects)
    }
}

/// Why a value is not a row.
#[derive(Debug, thiserror::Error)]
pub enum NotARow {
    /// It is not JSON.
    #[error(transparent)]
    NotJson(NotJson),
    /// It is JSON of another kind.
    #[error("not a JSON object but {0}")]
    NotAnObject(&'static str),
}

/// Parses a value that is to be a JSON object.
pub fn object<'a>(parser: &'a mut Parser, value: &'a [u8]) -> Result<crate::json::Json<'a>, NotARow> {
    let json = parser.parse(value).map_err(NotARow::NotJson)?;
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

/// Reads a spool for its PUT.
pub fn body(part: &Part) -> std::io::Result<Bytes> {
    part.spool.read()
}
