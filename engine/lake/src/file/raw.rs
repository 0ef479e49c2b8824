//! Parquet of records as they are: partition, offset, timestamp, key, headers, value.

use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder};
use arrow_array::{Array, ArrayRef, Int32Array, ListArray, RecordBatch, StructArray};
use arrow_buffer::{OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, SchemaRef};

use super::parquet::Writer;
use super::spool::Spool;
use super::{BuildError, FileContext, Row};
use crate::schema::{UTC, raw_schema};

const CHUNK_ROWS: usize = 8_192;
const CHUNK_BYTES: usize = 2 << 20;

/// A file of records as they are, under construction.
pub(crate) struct RawFile {
    written: SchemaRef,
    partition: i32,
    offsets: Int64Builder,
    times: TimestampMicrosecondBuilder,
    keys: BinaryBuilder,
    values: BinaryBuilder,
    header_ends: Vec<i32>,
    header_names: StringBuilder,
    header_values: BinaryBuilder,
    rows: usize,
    bytes: usize,
    writer: Writer,
}

impl RawFile {
    /// An empty one.
    pub fn create(context: &FileContext) -> Result<RawFile, BuildError> {
        let written = raw_schema();
        let writer = Writer::create(&context.spool_dir, &written, context.compression)?;
        Ok(RawFile {
            written,
            partition: i32::try_from(context.partition.0).unwrap_or(i32::MAX),
            offsets: Int64Builder::new(),
            times: TimestampMicrosecondBuilder::new(),
            keys: BinaryBuilder::new(),
            values: BinaryBuilder::new(),
            header_ends: vec![0],
            header_names: StringBuilder::new(),
            header_values: BinaryBuilder::new(),
            rows: 0,
            bytes: 0,
            writer,
        })
    }

    /// Takes a row.
    pub fn push(&mut self, row: &Row<'_>) -> Result<(), BuildError> {
        self.offsets.append_value(row.offset.0 as i64);
        self.times.append_option(row.timestamp.0.checked_mul(1_000));
        self.keys.append_option(row.key);
        self.values.append_option(row.value);
        for (name, value) in &row.headers {
            self.header_names.append_value(name);
            self.header_values.append_option(*value);
            self.bytes += name.len() + value.map_or(0, <[u8]>::len);
        }
        let headers = self.header_ends[self.header_ends.len() - 1] as usize + row.headers.len();
        self.header_ends.push(i32::try_from(headers).map_err(BuildError::encode)?);
        self.rows += 1;
        self.bytes += row.key.map_or(0, <[u8]>::len) + row.value.map_or(0, <[u8]>::len);
        if self.rows >= CHUNK_ROWS || self.bytes >= CHUNK_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), BuildError> {
        if self.rows == 0 {
            return Ok(());
        }
        let DataType::List(element) = self.written.field(4).data_type() else {
            return Err(BuildError::Encode("headers are a list".into()));
        };
        let DataType::Struct(fields) = element.data_type() else {
            return Err(BuildError::Encode("a header is a struct".into()));
        };
        let names: ArrayRef = Arc::new(self.header_names.finish());
        let values: ArrayRef = Arc::new(self.header_values.finish());
        let count = names.len();
        let headers = StructArray::try_new_with_length(fields.clone(), vec![names, values], None, count);
        let ends = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(&mut self.header_ends, vec![0])));
        let headers =
            headers.and_then(|headers| ListArray::try_new(Arc::clone(element), ends, Arc::new(headers), None));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int32Array::from(vec![self.partition; self.rows])),
            Arc::new(self.offsets.finish()),
            Arc::new(self.times.finish().with_timezone(UTC)),
            Arc::new(self.keys.finish()),
            Arc::new(headers.map_err(BuildError::encode)?),
            Arc::new(self.values.finish()),
        ];
        (self.rows, self.bytes) = (0, 0);
        let batch = RecordBatch::try_new(Arc::clone(&self.written), columns).map_err(BuildError::encode)?;
        self.writer.write(&batch)
    }

    /// About how large the file is by now.
    pub fn written(&self) -> u64 {
        self.writer.written()
    }

    /// About how much memory it holds.
    pub fn memory(&self) -> usize {
        self.writer.memory() + self.bytes
    }

    /// Closes the row group.
    pub fn shrink(&mut self) -> Result<(), BuildError> {
        self.flush()?;
        self.writer.close_row_group()
    }

    /// Completes the file.
    pub fn finish(mut self, entries: &[(String, String)]) -> Result<Spool, BuildError> {
        self.flush()?;
        self.writer.finish(entries)
    }
}
