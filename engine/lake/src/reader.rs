//! Reads landed Parquet files back: for the demo, for tools that check, for tests. Not on the path of landing.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use arrow_json::LineDelimitedWriter;
use arrow_schema::{DataType, FieldRef, Schema};
use millstream_protocol::{Offset, PartitionId, Timestamp};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use serde_json::{Map, Number, Value};

use crate::rfc3339;
use crate::schema::{UTC, own_columns};

/// Why a file cannot be read back.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {file}: {reason}")]
pub struct ReadError {
    file: String,
    reason: String,
}

/// What a landed file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Rows.
    pub rows: u64,
    /// The columns, in order, the lake's own included.
    pub columns: Vec<String>,
}

/// One landed record.
#[derive(Debug, Clone, PartialEq)]
pub struct LandedRow {
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: Option<Timestamp>,
    /// The other columns; nulls are left out.
    pub fields: Map<String, Value>,
}

/// Reads a Parquet file's footer.
///
/// # Errors
/// If it cannot be read, or is no Parquet file.
pub fn parquet_summary(path: &Path) -> Result<Summary, ReadError> {
    let builder = open(path)?;
    let rows = builder.metadata().file_metadata().num_rows();
    let columns = builder.schema().fields().iter().map(|field| field.name().clone()).collect();
    Ok(Summary { rows: rows.unsigned_abs(), columns })
}

/// Reads a landed Parquet file's rows one by one, a few thousand in memory at a time.
///
/// # Errors
/// If it cannot be opened; the iterator yields what goes wrong later.
pub fn read_rows(path: &Path) -> Result<Rows, ReadError> {
    let file = path.display().to_string();
    let reader = open(path)?.with_batch_size(4_096).build();
    let reader = reader.map_err(|error| ReadError { file: file.clone(), reason: error.to_string() })?;
    Ok(Rows { file, reader, batch: Vec::new().into_iter() })
}

fn open(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>, ReadError> {
    let failed = |reason: String| ReadError { file: path.display().to_string(), reason };
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let options = ArrowReaderOptions::new();
    let builder = ArrowReaderMetadata::load(&file, options.clone()).and_then(|metadata| {
        let fields: Vec<FieldRef> = metadata.schema().fields().iter().map(in_utc).collect();
        let options = options.with_schema(Arc::new(Schema::new(fields)));
        ArrowReaderMetadata::try_new(Arc::clone(metadata.metadata()), options)
    });
    let metadata = builder.map_err(|error| failed(error.to_string()))?;
    Ok(ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata))
}

/// The same field with its times' zone under the name that can be printed without a table of time zones.
fn in_utc(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, Some(UTC.into())),
        DataType::List(element) => DataType::List(in_utc(element)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(in_utc).collect()),
        other => other.clone(),
    };
    Arc::new(field.as_ref().clone().with_data_type(data_type))
}

/// The rows of a file.
pub struct Rows {
    file: String,
    reader: ParquetRecordBatchReader,
    batch: std::vec::IntoIter<LandedRow>,
}

impl Iterator for Rows {
    type Item = Result<LandedRow, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.batch.next() {
                return Some(Ok(row));
            }
            let rows = match self.reader.next()? {
                Ok(batch) => rows_of(&batch),
                Err(error) => Err(error.to_string()),
            };
            match rows {
                Ok(rows) => self.batch = rows.into_iter(),
                Err(reason) => return Some(Err(ReadError { file: self.file.clone(), reason })),
            }
        }
    }
}

fn rows_of(batch: &RecordBatch) -> Result<Vec<LandedRow>, String> {
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("it has no column {name}"));
    let [partition, offset, timestamp, _] = own_columns();
    let wrong = |name: &str| format!("its column {name} has another type");
    let partitions = column(partition)?.as_primitive_opt::<Int32Type>().ok_or_else(|| wrong(partition))?;
    let offsets = column(offset)?.as_primitive_opt::<Int64Type>().ok_or_else(|| wrong(offset))?;
    let times = column(timestamp)?.as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(|| wrong(timestamp))?;
    let others: Vec<usize> = (0..batch.num_columns())
        .filter(|index| !own_columns()[..3].contains(&batch.schema_ref().field(*index).name().as_str()))
        .collect();
    let fields = if others.is_empty() {
        vec![Map::new(); batch.num_rows()]
    } else {
        objects(&batch.project(&others).map_err(|error| error.to_string())?)?
    };
    if fields.len() != batch.num_rows() {
        return Err(format!("{} rows came back as {}", batch.num_rows(), fields.len()));
    }
    let rows = fields.into_iter().enumerate().map(|(row, fields)| LandedRow {
        partition: PartitionId(partitions.value(row).unsigned_abs()),
        offset: Offset(offsets.value(row).unsigned_abs()),
        timestamp: times.is_valid(row).then(|| Timestamp(times.value(row).div_euclid(1_000))),
        fields,
    });
    Ok(rows.collect())
}

fn objects(batch: &RecordBatch) -> Result<Vec<Map<String, Value>>, String> {
    let mut out = Vec::new();
    let mut writer = LineDelimitedWriter::new(&mut out);
    writer.write(batch).and_then(|()| writer.finish()).map_err(|error| error.to_string())?;
    let lines = serde_json::Deserializer::from_slice(&out).into_iter();
    lines.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())
}

/// A record's JSON in the form in which two that mean the same are equal: without nulls, with whole floats as integers, and
/// times in one spelling. Compare a record that was sent with a row's `fields`, both normalised.
pub fn normalised(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let fields = map.iter().filter(|(_, value)| !value.is_null());
            Value::Object(fields.map(|(name, value)| (name.clone(), normalised(value))).collect())
        }
        Value::Array(elements) => Value::Array(elements.iter().map(normalised).collect()),
        Value::Number(number) => Value::Number(whole(number).unwrap_or_else(|| number.clone())),
        Value::String(text) => match rfc3339::micros(text.as_bytes()) {
            Some(micros) => Value::String(format!("time:{micros}")),
            None => value.clone(),
        },
        other => other.clone(),
    }
}

/// The integer that a float is, where it is one that floats hold exactly.
fn whole(number: &Number) -> Option<Number> {
    let float = number.as_f64().filter(|_| number.is_f64())?;
    (float.fract() == 0.0 && float.abs() <= (1_u64 << 53) as f64).then(|| Number::from(float as i64))
}
