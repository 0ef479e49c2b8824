//! The error file: one line for each record that cannot be a row, and for each gap, with the reason. Never dropped.
//!
//! ```text
//! {"stream":"rides","partition":0,"offset":17,"timestamp":1700000000000,"reason":"not JSON: …","key_base64":"…","value_base64":"…"}
//! {"stream":"rides","partition":0,"offset":40,"last_offset":49,"timestamp":…,"reason":"…","batch_base64":"…"}
//! {"stream":"rides","partition":0,"offset":50,"last_offset":59,"reason":"the log begins at 60: …"}
//! ```
//! `timestamp` is the record's own, or its batch's append time, in Unix ms; `appended` when it was appended. The second shape
//! is a stored batch that does not decode, the third offsets that the log did not have any more; those are not counted as
//! rejected but as lost. Headers, where there are any, are a list of `{"name", "value_base64"}`.

use std::io::Write;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millstream_protocol::{Offset, Timestamp};
use serde::{Deserialize, Serialize};

use super::spool::{Spool, SpoolWriter};
use super::{BuildError, FileContext, Row};

/// One line of an error file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ErrorLine {
    pub stream: String,
    pub partition: u32,
    pub offset: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_offset: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub appended: Option<i64>,
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<ErrorHeader>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_base64: Option<String>,
}

/// A header of a rejected record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ErrorHeader {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
}

impl ErrorLine {
    /// How many offsets it is about.
    pub fn records(&self) -> u64 {
        self.last_offset.map_or(1, |last| last.saturating_sub(self.offset).saturating_add(1))
    }

    /// Whether it is about offsets that the log did not have any more.
    pub fn is_gap(&self) -> bool {
        self.last_offset.is_some() && self.batch_base64.is_none()
    }
}

/// The error file under construction.
#[derive(Debug)]
pub(crate) struct ErrorFile {
    stream: String,
    partition: u32,
    spool_dir: PathBuf,
    writer: SpoolWriter,
    /// Records rejected.
    pub rejected: u64,
    /// Offsets lost.
    pub lost: u64,
}

impl ErrorFile {
    /// An empty one.
    pub fn create(context: &FileContext) -> Result<Self, BuildError> {
        Ok(Self {
            stream: context.stream.clone(),
            partition: context.partition.0,
            spool_dir: context.spool_dir.clone(),
            writer: SpoolWriter::create(&context.spool_dir).map_err(BuildError::spool(&context.spool_dir))?,
            rejected: 0,
            lost: 0,
        })
    }

    /// A record that is not a row.
    pub fn record(&mut self, row: &Row<'_>, appended: Timestamp, reason: &str) -> Result<(), BuildError> {
        self.rejected += 1;
        let encode = |bytes: &[u8]| STANDARD.encode(bytes);
        let headers = row
            .headers
            .iter()
            .map(|(name, value)| ErrorHeader { name: (*name).to_owned(), value_base64: value.map(encode) });
        let line = ErrorLine {
            timestamp: Some(row.timestamp.0),
            appended: Some(appended.0),
            key_base64: row.key.map(encode),
            value_base64: row.value.map(encode),
            headers: headers.collect(),
            ..self.line(row.offset, reason)
        };
        self.write(&line)
    }

    /// A stored batch of which `first..end` does not decode.
    pub fn broken(
        &mut self,
        first: Offset,
        end: Offset,
        appended: Timestamp,
        reason: &str,
        batch: &[u8],
    ) -> Result<(), BuildError> {
        self.rejected += first.records_until(end);
        let line = ErrorLine {
            last_offset: Some(end.0 - 1),
            timestamp: Some(appended.0),
            batch_base64: Some(STANDARD.encode(batch)),
            ..self.line(first, reason)
        };
        self.write(&line)
    }

    /// Offsets that are not in the log.
    pub fn lost(&mut self, first: Offset, end: Offset, reason: &str) -> Result<(), BuildError> {
        self.lost += first.records_until(end);
        let line = ErrorLine { last_offset: Some(end.0 - 1), ..self.line(first, reason) };
        self.write(&line)
    }

    /// A line of an earlier error file, as it is.
    pub fn again(&mut self, line: &ErrorLine) -> Result<(), BuildError> {
        if line.is_gap() {
            self.lost += line.records();
        } else {
            self.rejected += line.records();
        }
        self.write(line)
    }

    /// How large the file is by now.
    pub fn written(&self) -> u64 {
        self.writer.size()
    }

    /// Completes the file.
    pub fn finish(self) -> Result<Spool, BuildError> {
        self.writer.finish().map_err(BuildError::spool(&self.spool_dir))
    }

    fn line(&self, offset: Offset, reason: &str) -> ErrorLine {
        ErrorLine {
            stream: self.stream.clone(),
            partition: self.partition,
            offset: offset.0,
            last_offset: None,
            timestamp: None,
            appended: None,
            reason: reason.to_owned(),
            key_base64: None,
            value_base64: None,
            headers: Vec::new(),
            batch_base64: None,
        }
    }

    fn write(&mut self, line: &ErrorLine) -> Result<(), BuildError> {
        let mut out = serde_json::to_vec(line).map_err(BuildError::encode)?;
        out.push(b'\n');
        self.writer.write_all(&out).map_err(BuildError::spool(&self.spool_dir))
    }
}
