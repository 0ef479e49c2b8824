//! Parquet: rows in chunks through the JSON decoder, row groups bounded in memory, the intent in the footer.

use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_json::reader::Decoder;
use arrow_schema::ArrowError;
use millstream_protocol::{Offset, Timestamp};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use super::decode::{decode, decoder};
use super::errors::Rejects;
use super::spool::{Spool, SpoolWriter};
use super::{BuildError, Job, Row, RowWriter};
use crate::schema::{Columns, UTC};
use crate::store::Proof;

/// Rows decoded at once, where the columns are few.
const CHUNK_ROWS: usize = 4_096;
/// Values decoded at once: rows × leaf columns.
const CHUNK_VALUES: usize = 1 << 18;
/// Bytes of JSON decoded at once.
const CHUNK_BYTES: usize = 4 << 20;
const ROW_GROUP_ROWS: usize = 128 << 10;
const ROW_GROUP_BYTES: usize = 16 << 20;

/// A row that waits for its chunk to be full; its bytes are in the chunk's buffer.
#[derive(Debug)]
struct Waiting {
    offset: Offset,
    timestamp: Timestamp,
    /// The length of the key, which lies before the value.
    key: Option<usize>,
    start: usize,
    end: usize,
    rest: Option<String>,
}

/// A Parquet file under construction.
pub struct ParquetWriter {
    columns: Columns,
    decoder: Decoder,
    partition: i32,
    chunk_rows: usize,
    bytes: Vec<u8>,
    waiting: Vec<Waiting>,
    writer: Option<ArrowWriter<SpoolWriter>>,
    rows: u64,
    intent: Vec<(String, String)>,
    spool_dir: PathBuf,
}

impl ParquetWriter {
    /// An empty one; the file is made with the first row.
    pub fn new(job: &Job) -> Result<Self, BuildError> {
        let columns = Columns::new(&job.schema);
        let chunk_rows = (CHUNK_VALUES / columns.leaves.max(1)).clamp(16, CHUNK_ROWS);
        let decoder = decoder(columns.decoded.clone(), chunk_rows).map_err(encode)?;
        Ok(Self {
            columns,
            decoder,
            partition: i32::try_from(job.partition.0).expect("a stream has at most 10,000 partitions"),
            chunk_rows,
            bytes: Vec::new(),
            waiting: Vec::new(),
            writer: None,
            rows: 0,
            intent: intent_entries(job),
            spool_dir: job.spool_dir.clone(),
        })
    }

    fn flush(&mut self, rejects: &mut Rejects) -> Result<(), BuildError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let waiting = std::mem::take(&mut self.waiting);
        let bytes = std::mem::take(&mut self.bytes);
        match self.batch(&waiting, &bytes) {
            Ok(batch) => self.write(&batch)?,
            // Taken apart: whatever of it can be a row becomes one.
            Err(_) => {
                for row in waiting.chunks(1) {
                    self.decoder = decoder(self.columns.decoded.clone(), self.chunk_rows).map_err(encode)?;
                    match self.batch(row, &bytes) {
                        Ok(batch) => self.write(&batch)?,
                        Err(error) => {
                            let row = &row[0];
                            let key = row.key.map(|length| &bytes[row.start - length..row.start]);
                            let value = &bytes[row.start..row.end];
                            rejects.record(row.offset, row.timestamp, key, Some(value), &error.to_string())?;
                        }
                    }
                }
                self.decoder = decoder(self.columns.decoded.clone(), self.chunk_rows).map_err(encode)?;
            }
        }
        // The buffers' memory is used again, unless one record made them huge.
        self.waiting = waiting;
        self.waiting.clear();
        if bytes.capacity() <= 2 * CHUNK_BYTES {
            self.bytes = bytes;
            self.bytes.clear();
        }
        Ok(())
    }

    fn batch(&mut self, rows: &[Waiting], bytes: &[u8]) -> Result<RecordBatch, ArrowError> {
        let mut arrays: Vec<ArrayRef> = if self.columns.decoded.fields().is_empty() {
            Vec::new()
        } else {
            decode(&mut self.decoder, rows.iter().map(|row| &bytes[row.start..row.end]))?.columns().to_vec()
        };
        if self.columns.rest {
            arrays.push(Arc::new(rows.iter().map(|row| row.rest.as_deref()).collect::<StringArray>()));
        }
        arrays.push(Arc::new(Int32Array::from(vec![self.partition; rows.len()])));
        arrays.push(Arc::new(rows.iter().map(|row| row.offset.0 as i64).collect::<Int64Array>()));
        // A time beyond the range of microseconds, 290,000 years away, is null.
        let times = rows.iter().map(|row| row.timestamp.0.checked_mul(1_000));
        arrays.push(Arc::new(times.collect::<TimestampMicrosecondArray>().with_timezone(UTC)));
        RecordBatch::try_new(self.columns.written.clone(), arrays)
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), BuildError> {
        if self.writer.is_none() {
            let spool = SpoolWriter::create(&self.spool_dir)
                .map_err(|source| BuildError::Spool { path: self.spool_dir.clone(), source })?;
            let entries = self.intent.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())).collect();
            let properties = WriterProperties::builder()
                .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).expect("zstd has a level 1")))
                .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
                .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
                .set_created_by(format!("millstream {}", env!("CARGO_PKG_VERSION")))
                .set_key_value_metadata(Some(entries))
                .build();
            // Every type here says by itself what it is; readers need no Arrow schema beside it.
            let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
            let writer = ArrowWriter::try_new_with_options(spool, self.columns.written.clone(), options);
            self.writer = Some(writer.map_err(|error| self.failed(error))?);
        }
        let writer = self.writer.as_mut().expect("it was made above");
        let written = writer.write(batch);
        written.map_err(|error| self.failed(error))?;
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// The encoder hands on errors of the spool.
    fn failed(&self, error: ParquetError) -> BuildError {
        match error {
            ParquetError::External(cause) => match cause.downcast::<std::io::Error>() {
                Ok(source) => BuildError::Spool { path: self.spool_dir.clone(), source: *source },
                Err(cause) => encode(cause),
            },
            error => encode(error),
        }
    }
}

impl RowWriter for ParquetWriter {
    fn push(&mut self, row: Row<'_>, rejects: &mut Rejects) -> Result<(), BuildError> {
        self.bytes.extend_from_slice(row.key.unwrap_or_default());
        let start = self.bytes.len();
        self.bytes.extend_from_slice(row.value);
        self.waiting.push(Waiting {
            offset: row.offset,
            timestamp: row.timestamp,
            key: row.key.map(<[u8]>::len),
            start,
            end: self.bytes.len(),
            rest: row.rest,
        });
        if self.waiting.len() >= self.chunk_rows || self.bytes.len() >= CHUNK_BYTES {
            self.flush(rejects)?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>, rejects: &mut Rejects) -> Result<Option<(Spool, u64, Proof)>, BuildError> {
        self.flush(rejects)?;
        let rows = ("millstream.rows".to_owned(), self.rows.to_string());
        let Some(mut writer) = self.writer.take() else { return Ok(None) };
        writer.append_key_value_metadata(KeyValue::new(rows.0.clone(), rows.1.clone()));
        // This writes the footer.
        let spool = writer.into_inner().map_err(|error| self.failed(error))?;
        let spool = spool.finish().map_err(|source| BuildError::Spool { path: self.spool_dir.clone(), source })?;
        let mut proof = self.intent;
        proof.push(rows);
        Ok(Some((spool, self.rows, Proof::Footer(proof))))
    }
}

/// What the footer says of the intent.
fn intent_entries(job: &Job) -> Vec<(String, String)> {
    let entries = [
        ("lake", job.lake_name.clone()),
        ("lake_id", job.lake.to_string()),
        ("stream", job.stream.clone()),
        ("partition", job.partition.to_string()),
        ("incarnation", job.incarnation.to_string()),
        ("epoch", job.intent.epoch.to_string()),
        ("first", job.intent.first.to_string()),
        ("last", job.intent.last.to_string()),
    ];
    entries.into_iter().map(|(key, value)| (format!("millstream.{key}"), value)).collect()
}

fn encode(error: impl std::fmt::Display) -> BuildError {
    BuildError::Encode(error.to_string())
}
