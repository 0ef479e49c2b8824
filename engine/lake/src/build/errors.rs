//! The error file: one line for each record that cannot be a row, and for each gap, with the reason. Never dropped.
//!
//! ```text
//! {"stream":"rides","partition":0,"offset":17,"timestamp":1700000000000,"reason":"not JSON: …","key_base64":"…","value_base64":"…"}
//! {"stream":"rides","partition":0,"offset":40,"last_offset":49,"timestamp":…,"reason":"…","batch_base64":"…"}
//! {"stream":"rides","partition":0,"offset":50,"last_offset":59,"reason":"the log begins at 60: …"}
//! ```
//! `timestamp` is the record's own, or its batch's append time, in Unix ms. The second shape is a stored batch that does not
//! decode, the third offsets that the log did not have any more; those are not counted as rejected but as lost.

use std::io::Write;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millstream_protocol::{Offset, Timestamp};
use serde::Serialize;

use super::spool::{Spool, SpoolWriter};
use super::{BuildError, Job};

#[derive(Serialize)]
struct Line<'a> {
    stream: &'a str,
    partition: u32,
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<i64>,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_base64: Option<String>,
}

/// The error file under construction.
#[derive(Debug)]
pub struct Rejects {
    stream: String,
    partition: u32,
    spool_dir: PathBuf,
    writer: Option<SpoolWriter>,
    rejected: u64,
    lost: u64,
}

impl Rejects {
    /// None yet; the file is made with the first.
    pub fn new(job: &Job) -> Self {
        Self {
            stream: job.stream.clone(),
            partition: job.partition.0,
            spool_dir: job.spool_dir.clone(),
            writer: None,
            rejected: 0,
            lost: 0,
        }
    }

    /// A record that is not a row.
    pub fn record(
        &mut self,
        offset: Offset,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        reason: &str,
    ) -> Result<(), BuildError> {
        self.rejected += 1;
        let line = Line {
            timestamp: Some(timestamp.0),
            key_base64: key.map(|key| STANDARD.encode(key)),
            value_base64: value.map(|value| STANDARD.encode(value)),
            ..self.line(offset, reason)
        };
        let line = encode(&line);
        self.write(line)
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
        let line = Line {
            last_offset: Some(end.0 - 1),
            timestamp: Some(appended.0),
            batch_base64: Some(STANDARD.encode(batch)),
            ..self.line(first, reason)
        };
        let line = encode(&line);
        self.write(line)
    }

    /// Offsets that are not in the log.
    pub fn lost(&mut self, first: Offset, end: Offset, reason: &str) -> Result<(), BuildError> {
        self.lost += first.records_until(end);
        let line = encode(&Line { last_offset: Some(end.0 - 1), ..self.line(first, reason) });
        self.write(line)
    }

    /// Records rejected so far.
    pub fn rejected(&self) -> u64 {
        self.rejected
    }

    /// Offsets lost so far.
    pub fn lost_count(&self) -> u64 {
        self.lost
    }

    /// The file, if there is anything in it.
    pub fn finish(self) -> Result<Option<Spool>, BuildError> {
        let spool_dir = self.spool_dir;
        let finished = self.writer.map(SpoolWriter::finish).transpose();
        finished.map_err(|source| BuildError::Spool { path: spool_dir, source })
    }

    fn line<'a>(&'a self, offset: Offset, reason: &'a str) -> Line<'a> {
        Line {
            stream: &self.stream,
            partition: self.partition,
            offset: offset.0,
            last_offset: None,
            timestamp: None,
            reason,
            key_base64: None,
            value_base64: None,
            batch_base64: None,
        }
    }

    fn write(&mut self, line: Vec<u8>) -> Result<(), BuildError> {
        let spool = |source| BuildError::Spool { path: self.spool_dir.clone(), source };
        if self.writer.is_none() {
            self.writer = Some(SpoolWriter::create(&self.spool_dir).map_err(spool)?);
        }
        let writer = self.writer.as_mut().expect("it was made above");
        writer.write_all(&line).map_err(spool)
    }
}

fn encode(line: &Line<'_>) -> Vec<u8> {
    let mut out = serde_json::to_vec(line).expect("strings and numbers always serialise");
    out.push(b'\n');
    out
}
