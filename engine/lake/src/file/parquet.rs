//! Parquet with columns: rows through the shredder in chunks, row groups bounded in memory, the intent in the footer.
//!
//! A file begins by gathering: its first rows are kept as they are and observed, up to [`GATHER_BYTES`], or only up to
//! [`GATHER_KNOWN_BYTES`] while there is nothing new in them. Then what they taught goes into the lake's schema, which is settled,
//! and is the file's from there on. A later row that would widen it
//! is not taken ([`Pushed::Drifts`]): it begins the next file, which gathers again. So a schema widens between files only, and
//! what is new at the beginning of a file is in its columns from the first row on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use millstream_protocol::frame::control::LakeCompression;
use millstream_protocol::{Offset, Timestamp};
use parking_lot::Mutex;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use super::spool::{Spool, SpoolWriter};
use super::{BuildError, FileContext, Pushed, Row};
use crate::json::{Json, Parser};
use crate::schema::{LakeSchema, OFFSET, PARTITION, Schema, TIMESTAMP};
use crate::shred::{Shredded, Shredder};

/// Bytes of JSON from which a file learns its schema.
const GATHER_BYTES: usize = 4 << 20;
/// The same while the lake's files have columns for all that came: gathered rows are parsed twice, and held as JSON.
const GATHER_KNOWN_BYTES: usize = 64 << 10;
/// Values that go into a record batch at once, where the columns are few: rows × leaf columns.
const CHUNK_VALUES: usize = 1 << 17;
const CHUNK_ROWS: usize = 8_192;
const CHUNK_BYTES: usize = 2 << 20;
/// What readers like: a row group of a million rows, or 64 MiB.
const ROW_GROUP_ROWS: usize = 1 << 20;
const ROW_GROUP_BYTES: usize = 64 << 20;

/// A Parquet file being written.
pub(super) struct Writer {
    inner: ArrowWriter<SpoolWriter>,
    spool_dir: PathBuf,
}

impl Writer {
    pub fn create(spool_dir: &Path, written: &SchemaRef, compression: LakeCompression) -> Result<Writer, BuildError> {
        let spool = SpoolWriter::create(spool_dir).map_err(BuildError::spool(spool_dir))?;
        let compression = match compression {
            LakeCompression::None => Compression::UNCOMPRESSED,
            LakeCompression::Snappy => Compression::SNAPPY,
            LakeCompression::Lz4 => Compression::LZ4_RAW,
            // gzip is refused for Parquet when a lake is added.
            LakeCompression::Zstd | LakeCompression::Gzip => {
                Compression::ZSTD(ZstdLevel::try_new(1).map_err(BuildError::encode)?)
            }
        };
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
            // Where records come from is nearly a sequence: a dictionary of it is the more expensive and the larger way.
            .set_column_dictionary_enabled(PARTITION.into(), false)
            .set_column_dictionary_enabled(OFFSET.into(), false)
            .set_column_dictionary_enabled(TIMESTAMP.into(), false)
            .set_column_encoding(OFFSET.into(), Encoding::DELTA_BINARY_PACKED)
            .set_column_encoding(TIMESTAMP.into(), Encoding::DELTA_BINARY_PACKED)
            .set_created_by(format!("millstream {}", env!("CARGO_PKG_VERSION")))
            .build();
        // Every type here says by itself what it is; readers need no Arrow schema beside it.
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        let inner = ArrowWriter::try_new_with_options(spool, Arc::clone(written), options);
        let spool_dir = spool_dir.to_owned();
        Ok(Writer { inner: inner.map_err(|error| failed(&spool_dir, error))?, spool_dir })
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), BuildError> {
        self.inner.write(batch).map_err(|error| failed(&self.spool_dir, error))
    }

    pub fn close_row_group(&mut self) -> Result<(), BuildError> {
        self.inner.flush().map_err(|error| failed(&self.spool_dir, error))
    }

    pub fn memory(&self) -> usize {
        self.inner.memory_size()
    }

    pub fn written(&self) -> u64 {
        (self.inner.bytes_written() + self.inner.in_progress_size()) as u64
    }

    pub fn finish(mut self, entries: &[(String, String)]) -> Result<Spool, BuildError> {
        for (key, value) in entries {
            self.inner.append_key_value_metadata(KeyValue::new(key.clone(), value.clone()));
        }
        // This writes the footer.
        let spool = self.inner.into_inner().map_err(|error| failed(&self.spool_dir, error))?;
        spool.finish().map_err(BuildError::spool(&self.spool_dir))
    }
}

/// The encoder hands on errors of the spool.
fn failed(spool_dir: &Path, error: ParquetError) -> BuildError {
    match error {
        ParquetError::External(cause) => match cause.downcast::<std::io::Error>() {
            Ok(source) => BuildError::Spool { path: spool_dir.to_owned(), source: *source },
            Err(cause) => BuildError::encode(cause),
        },
        error => BuildError::encode(error),
    }
}

/// A Parquet file with columns, under construction.
pub(crate) struct ParquetFile {
    stage: Stage,
    partition: i32,
    compression: LakeCompression,
    spool_dir: PathBuf,
    lake_schema: Arc<Mutex<LakeSchema>>,
}

enum Stage {
    Gathering(Gathered),
    Writing(Box<Writing>),
}

/// Rows that are kept as they are.
#[derive(Default)]
struct Gathered {
    schema: Schema,
    /// Whether there was something that no file of the lake has yet.
    is_new: bool,
    bytes: Vec<u8>,
    rows: Vec<(Offset, Timestamp, usize)>,
}

struct Writing {
    schema: Schema,
    shredder: Shredder,
    writer: Writer,
    chunk_rows: usize,
    /// Whether a row that would widen the schema is left for the next file.
    may_drift: bool,
}

impl ParquetFile {
    /// One that finds its schema in its first rows, beside what the lake knows already.
    pub fn gathering(context: &FileContext) -> ParquetFile {
        let (schema, is_new) = {
            let known = context.schema.lock();
            (known.seen().clone(), known.has_news())
        };
        Self::new(context, Stage::Gathering(Gathered { schema, is_new, ..Gathered::default() }))
    }

    /// One of that schema.
    pub fn with_schema(context: &FileContext, schema: &Schema) -> Result<ParquetFile, BuildError> {
        let mut file = Self::new(context, Stage::Gathering(Gathered::default()));
        file.stage = Stage::Writing(file.begin(schema.clone(), false)?);
        Ok(file)
    }

    fn new(context: &FileContext, stage: Stage) -> ParquetFile {
        ParquetFile {
            stage,
            partition: i32::try_from(context.partition.0).unwrap_or(i32::MAX),
            compression: context.compression,
            spool_dir: context.spool_dir.clone(),
            lake_schema: Arc::clone(&context.schema),
        }
    }

    fn begin(&self, schema: Schema, may_drift: bool) -> Result<Box<Writing>, BuildError> {
        let shredder = Shredder::new(schema.clone(), self.partition);
        let writer = Writer::create(&self.spool_dir, shredder.written(), self.compression)?;
        let chunk_rows = (CHUNK_VALUES / shredder.leaves().max(1)).clamp(16, CHUNK_ROWS);
        Ok(Box::new(Writing { schema, shredder, writer, chunk_rows, may_drift }))
    }

    /// Takes a row.
    pub fn push(&mut self, row: &Row<'_>, json: &Json<'_>) -> Result<Pushed, BuildError> {
        match &mut self.stage {
            Stage::Gathering(gathered) => {
                if gathered.schema.observe(json) {
                    gathered.is_new = true;
                    self.lake_schema.lock().note(&gathered.schema);
                }
                gathered.bytes.extend_from_slice(row.value.unwrap_or_default());
                gathered.rows.push((row.offset, row.timestamp, gathered.bytes.len()));
                let enough = if gathered.is_new { GATHER_BYTES } else { GATHER_KNOWN_BYTES };
                if gathered.bytes.len() >= enough {
                    self.settle()?;
                }
                Ok(Pushed::Taken)
            }
            Stage::Writing(writing) => writing.push(row.offset, row.timestamp, json),
        }
    }

    /// Ends the gathering.
    fn settle(&mut self) -> Result<(), BuildError> {
        let Stage::Gathering(gathered) = &mut self.stage else { return Ok(()) };
        let gathered = std::mem::take(gathered);
        let schema = self.lake_schema.lock().settle();
        // All these rows were observed: what does not fit now has no column to fit into.
        let mut writing = self.begin(schema, false)?;
        let mut parser = Parser::default();
        let mut start = 0;
        for (offset, timestamp, end) in gathered.rows {
            let json = parser.parse(&gathered.bytes[start..end]).map_err(BuildError::encode)?;
            writing.push(offset, timestamp, &json)?;
            start = end;
        }
        writing.may_drift = true;
        self.stage = Stage::Writing(writing);
        Ok(())
    }

    /// About how large the file is by now.
    pub fn written(&self) -> u64 {
        match &self.stage {
            // What JSON comes to as Parquet is not known yet.
            Stage::Gathering(gathered) => gathered.bytes.len() as u64 / 8,
            Stage::Writing(writing) => writing.writer.written(),
        }
    }

    /// About how much memory it holds.
    pub fn memory(&self) -> usize {
        match &self.stage {
            Stage::Gathering(gathered) => gathered.bytes.capacity() + gathered.rows.capacity() * 24,
            Stage::Writing(writing) => writing.writer.memory() + writing.shredder.bytes(),
        }
    }

    /// Closes the row group.
    pub fn shrink(&mut self) -> Result<(), BuildError> {
        self.settle()?;
        if let Stage::Writing(writing) = &mut self.stage {
            writing.flush()?;
            writing.writer.close_row_group()?;
        }
        Ok(())
    }

    /// Completes the file.
    pub fn finish(mut self, entries: &[(String, String)]) -> Result<(Spool, Schema), BuildError> {
        self.settle()?;
        let Stage::Writing(mut writing) = self.stage else {
            return Err(BuildError::Encode("a file that is still gathering".into()));
        };
        writing.flush()?;
        Ok((writing.writer.finish(entries)?, writing.schema))
    }
}

impl Writing {
    fn push(&mut self, offset: Offset, timestamp: Timestamp, json: &Json<'_>) -> Result<Pushed, BuildError> {
        match self.shredder.push(offset, timestamp, json, self.may_drift) {
            Shredded::Row => {}
            Shredded::Drifts => return Ok(Pushed::Drifts),
            Shredded::Misfit(reason) => return Ok(Pushed::Misfit(reason)),
        }
        if self.shredder.rows() >= self.chunk_rows || self.shredder.bytes() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(Pushed::Taken)
    }

    fn flush(&mut self) -> Result<(), BuildError> {
        if self.shredder.rows() > 0 {
            let batch = self.shredder.finish().map_err(BuildError::encode)?;
            self.writer.write(&batch)?;
        }
        Ok(())
    }
}
