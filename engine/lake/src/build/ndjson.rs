//! NDJSON: each record's value as it is, one a line.

use std::io::Write;
use std::path::PathBuf;

use super::errors::Rejects;
use super::spool::{Spool, SpoolWriter};
use super::{BuildError, Job, Row, RowWriter};
use crate::json::compact;
use crate::store::Proof;

/// An NDJSON file under construction.
#[derive(Debug)]
pub struct NdjsonWriter {
    spool_dir: PathBuf,
    writer: Option<SpoolWriter>,
    rows: u64,
}

impl NdjsonWriter {
    /// An empty one; the file is made with the first row.
    pub fn new(job: &Job) -> Self {
        Self { spool_dir: job.spool_dir.clone(), writer: None, rows: 0 }
    }

    fn write(&mut self, row: &Row<'_>) -> std::io::Result<()> {
        if self.writer.is_none() {
            self.writer = Some(SpoolWriter::create(&self.spool_dir)?);
        }
        let writer = self.writer.as_mut().expect("it was made above");
        if row.value.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
            let text = std::str::from_utf8(row.value).expect("valid JSON is UTF-8");
            let mut line = String::with_capacity(text.len());
            compact(text, &mut line);
            writer.write_all(line.as_bytes())?;
        } else {
            writer.write_all(row.value)?;
        }
        self.rows += 1;
        writer.write_all(b"\n")
    }
}

impl RowWriter for NdjsonWriter {
    fn push(&mut self, row: Row<'_>, _rejects: &mut Rejects) -> Result<(), BuildError> {
        self.write(&row).map_err(|source| BuildError::Spool { path: self.spool_dir.clone(), source })
    }

    fn finish(self: Box<Self>, _rejects: &mut Rejects) -> Result<Option<(Spool, u64, Proof)>, BuildError> {
        let (rows, path) = (self.rows, self.spool_dir);
        let spool = self.writer.map(SpoolWriter::finish).transpose();
        let spool = spool.map_err(|source| BuildError::Spool { path, source })?;
        Ok(spool.map(|spool| (spool, rows, Proof::Bytes)))
    }
}
