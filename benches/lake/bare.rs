//! The ceiling: lines of JSON through arrow-json into the same Parquet, and nothing else. One thread; it knows its schema.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufWriter};
use std::path::Path;
use std::sync::Arc;

use arrow_array::{Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_json::ReaderBuilder;
use arrow_json::reader::Decoder;
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use memchr::memmem::Finder;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::Error;
use crate::backlog::{BATCH_RECORDS, Cost, PARTITIONS, Stopwatch};
use crate::flights::Flights;

const BATCH_ROWS: usize = 8_192;

fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let int = |name: &str| Field::new(name, DataType::Int64, true);
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
    Arc::new(Schema::new(vec![
        int("id"),
        Field::new("event_time", time, true),
        text("carrier"),
        int("flight"),
        text("tailnum"),
        text("origin"),
        text("dest"),
        int("sched_dep_time"),
        int("dep_time"),
        int("dep_delay"),
        int("sched_arr_time"),
        int("arr_time"),
        int("arr_delay"),
        int("air_time"),
        int("distance"),
    ]))
}

/// With the columns that a lake adds: what had no column, and where a record comes from.
fn written() -> SchemaRef {
    let mut fields: Vec<FieldRef> = schema().fields().iter().cloned().collect();
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
    fields.push(Arc::new(Field::new("_rest", DataType::Utf8, true)));
    fields.push(Arc::new(Field::new("_partition", DataType::Int32, false)));
    fields.push(Arc::new(Field::new("_offset", DataType::Int64, false)));
    fields.push(Arc::new(Field::new("_timestamp", time, true)));
    Arc::new(Schema::new(fields))
}

/// A batch with those columns.
fn complete(batch: &RecordBatch, first: usize) -> Result<RecordBatch, Error> {
    let rows = batch.num_rows();
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::new(StringArray::new_null(rows)));
    columns.push(Arc::new(Int32Array::from(vec![0; rows])));
    columns.push(Arc::new((first as i64..(first + rows) as i64).collect::<Int64Array>()));
    let times = TimestampMicrosecondArray::from_iter_values((0..rows).map(|_| 1_357_035_300_000_000));
    columns.push(Arc::new(times.with_timezone("+00:00")));
    Ok(RecordBatch::try_new(written(), columns)?)
}

/// A Parquet file with its decoder.
struct Target {
    decoder: Decoder,
    writer: ArrowWriter<BufWriter<File>>,
    rows: usize,
}

impl Target {
    fn create(path: &Path) -> Result<Target, Error> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
            .set_max_row_group_row_count(Some(1 << 20))
            .set_max_row_group_bytes(Some(64 << 20))
            .set_column_dictionary_enabled("_partition".into(), false)
            .set_column_dictionary_enabled("_offset".into(), false)
            .set_column_dictionary_enabled("_timestamp".into(), false)
            .set_column_encoding("_offset".into(), Encoding::DELTA_BINARY_PACKED)
            .set_column_encoding("_timestamp".into(), Encoding::DELTA_BINARY_PACKED)
            .build();
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        let file = BufWriter::with_capacity(256 << 10, File::create(path)?);
        let decoder = ReaderBuilder::new(schema()).with_batch_size(BATCH_ROWS).build_decoder()?;
        Ok(Target { decoder, writer: ArrowWriter::try_new_with_options(file, written(), options)?, rows: 0 })
    }

    /// Takes bytes up to where a batch is full; how many.
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        let taken = self.decoder.decode(bytes)?;
        if taken < bytes.len() {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> Result<(), Error> {
        if let Some(batch) = self.decoder.flush()? {
            self.writer.write(&complete(&batch, self.rows)?)?;
            self.rows += batch.num_rows();
        }
        Ok(())
    }

    fn finish(mut self) -> Result<usize, Error> {
        self.flush()?;
        self.writer.close()?;
        Ok(self.rows)
    }
}

/// Into one file.
pub fn flat(flights: &Flights, dir: &Path) -> Result<Cost, Error> {
    let path = dir.join("bare.parquet");
    let watch = Stopwatch::start();
    let mut target = Target::create(&path)?;
    for reader in flights.readers() {
        let mut reader = reader?;
        loop {
            let bytes = reader.fill_buf()?;
            if bytes.is_empty() {
                break;
            }
            let taken = target.take(bytes)?;
            reader.consume(taken);
        }
    }
    target.finish()?;
    let cost = watch.stop();
    std::fs::remove_file(path)?;
    Ok(cost)
}

/// Into the files that the product writes: for each carrier and time one for each partition of the log, all open at once. It
/// finds both in the text: it knows how the lines are written.
pub fn by_directory(flights: &Flights, dir: &Path) -> Result<Cost, Error> {
    let root = dir.join("bare");
    std::fs::create_dir(&root)?;
    let (carrier, time) = (Finder::new(b"\"carrier\":\""), Finder::new(b"\"event_time\":\""));
    let value = |line: &[u8], finder: &Finder<'_>, max: usize| -> Option<Vec<u8>> {
        let rest = &line[finder.find(line)? + finder.needle().len()..];
        Some(rest.iter().copied().take_while(|byte| *byte != b'"').take(max).collect())
    };
    let mut targets: HashMap<Vec<u8>, Target> = HashMap::new();
    let mut lines = 0;
    let watch = Stopwatch::start();
    flights.each_line(|line| {
        let partition = lines / BATCH_RECORDS % PARTITIONS as usize;
        lines += 1;
        let mut key = value(line, &carrier, 8).ok_or("a flight without a carrier")?;
        key.push(b'-');
        key.extend(value(line, &time, flights.format_bytes()).ok_or("a flight without a time")?);
        key.extend([b'-', b'0' + partition as u8]);
        let target = match targets.get_mut(&key) {
            Some(target) => target,
            None => {
                let path = root.join(String::from_utf8_lossy(&key).into_owned());
                targets.entry(key).or_insert(Target::create(&path)?)
            }
        };
        let mut line = line;
        while !line.is_empty() {
            line = &line[target.take(line)?..];
        }
        Ok(())
    })?;
    for target in targets.into_values() {
        target.finish()?;
    }
    let cost = watch.stop();
    std::fs::remove_dir_all(root)?;
    Ok(cost)
}
