//! Shreds records into columns: from the tokens of [`crate::json`] straight into Arrow's buffers.
//!
//! Strict, which a general decoder is not: a fraction is never cut to an integer, a number never read out of a string, and what
//! no column holds exactly is kept as text in `_rest`. What becomes of a record depends on the record and the schema alone, so that
//! a redo after a crash comes to the same rows.
//!
//! A value that does not fit is found out half way through its record; columns are therefore made of plain vectors, which can
//! be cut back.
//!
//! Proof: below, and against the records themselves in `tests/real_data.rs`.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch,
    StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow_buffer::{BooleanBufferBuilder, Buffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, FieldRef, Fields as ArrowFields, SchemaRef};
use millstream_protocol::{Offset, Timestamp};

use crate::json::{Json, TokenKind, compact};
use crate::number::{exact_decimal, exact_float, exact_float_of};
use crate::rfc3339;
use crate::schema::{Columns, Fields, Kind, Lookup, Node, Schema, UTC};

/// What became of a record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Shredded {
    /// It is a row.
    Row,
    /// It would widen the schema; nothing was taken.
    Drifts,
    /// It does not fit a declared schema, and why; nothing was taken.
    Misfit(String),
}

/// Rows on their way into a record batch.
pub(crate) struct Shredder {
    schema: Schema,
    /// The same, for asking whether a record would widen it.
    probe: Option<Box<Schema>>,
    written: SchemaRef,
    leaves: usize,
    partition: i32,
    lookup: Lookup,
    /// By field: its column, if it has one.
    slots: Vec<Option<usize>>,
    columns: Vec<Column>,
    rest: Column,
    offsets: Vec<i64>,
    times: Vec<i64>,
    times_valid: NullBufferBuilder,
    bytes: usize,
}

impl Shredder {
    /// For files of that schema.
    pub fn new(schema: Schema, partition: i32) -> Shredder {
        let Columns { written, leaves } = Columns::new(&schema);
        let (slots, columns) = columns_of(&schema.fields, written.fields(), schema.declared);
        Shredder {
            schema,
            probe: None,
            written,
            leaves,
            partition,
            lookup: Lookup::default(),
            slots,
            columns,
            rest: Column::new(Values::text(false)),
            offsets: Vec::new(),
            times: Vec::new(),
            times_valid: NullBufferBuilder::new(0),
            bytes: 0,
        }
    }

    /// The file's columns.
    pub fn written(&self) -> &SchemaRef {
        &self.written
    }

    /// Leaf columns from fields.
    pub fn leaves(&self) -> usize {
        self.leaves
    }

    /// Rows that wait.
    pub fn rows(&self) -> usize {
        self.offsets.len()
    }

    /// About the bytes of the records of these rows.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a record, which is an object. With `may_drift`, one that would widen the schema is left out.
    pub fn push(&mut self, offset: Offset, timestamp: Timestamp, json: &Json<'_>, may_drift: bool) -> Shredded {
        let row = self.rows();
        let mut rest = String::new();
        for (key, value) in json.field_indexes(0) {
            if json.token(value).kind == TokenKind::Null {
                continue;
            }
            let index = self.lookup.find(json, key, &self.schema.fields);
            let column = index.and_then(|index| self.slots[index]).map(|slot| &mut self.columns[slot]);
            match column {
                Some(column) if column.len() == row => {
                    if column.push(json, value) {
                        continue;
                    }
                    column.truncate(row);
                    if self.schema.declared {
                        let name = json.string(json.token(key));
                        let reason = format!("the field {name:?} does not fit its column: {}", shown(json, value));
                        self.cut_back(row);
                        return Shredded::Misfit(reason);
                    }
                    column.push_null();
                }
                _ => {}
            }
            rest.push(if rest.is_empty() { '{' } else { ',' });
            rest.push_str(json.raw(json.token(key)));
            rest.push(':');
            compact(json.raw(json.token(value)), &mut rest);
        }
        if self.schema.declared {
            if let Some(name) = self.missing(row) {
                let reason = format!("the field {name:?} is required, and null or missing");
                self.cut_back(row);
                return Shredded::Misfit(reason);
            }
        } else if may_drift && !rest.is_empty() && self.drifts(json) {
            self.cut_back(row);
            return Shredded::Drifts;
        }
        for column in &mut self.columns {
            if column.len() == row {
                column.push_null();
            }
        }
        if rest.is_empty() {
            self.rest.push_null();
        } else {
            rest.push('}');
            self.rest.push_text(&rest);
        }
        self.offsets.push(offset.0 as i64);
        // A time beyond the range of microseconds, 290,000 years away, is null.
        let micros = timestamp.0.checked_mul(1_000);
        self.times.push(micros.unwrap_or_default());
        self.times_valid.append(micros.is_some());
        self.bytes += json.raw(json.root()).len();
        Shredded::Row
    }

    /// Whether a record that does not fit would, with a wider schema.
    fn drifts(&mut self, json: &Json<'_>) -> bool {
        let drifts = self.probe.get_or_insert_with(|| Box::new(self.schema.clone())).observe(json);
        if drifts {
            self.probe = None;
        }
        drifts
    }

    /// A required field that the record did not have.
    fn missing(&self, row: usize) -> Option<&str> {
        let mut fields = self.schema.fields.iter().zip(&self.slots);
        let missing = fields
            .find(|(field, slot)| field.node.required && slot.is_some_and(|slot| self.columns[slot].len() == row));
        missing.map(|(field, _)| field.name.as_str())
    }

    fn cut_back(&mut self, row: usize) {
        self.columns.iter_mut().for_each(|column| column.truncate(row));
    }

    /// The rows so far as a batch; begins anew.
    pub fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        let rows = self.rows();
        self.bytes = 0;
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len() + 4);
        for (column, field) in self.columns.iter_mut().zip(self.written.fields()) {
            arrays.push(column.finish(field.data_type())?);
        }
        arrays.push(self.rest.finish(&DataType::Utf8)?);
        arrays.push(Arc::new(Int32Array::from(vec![self.partition; rows])));
        arrays.push(Arc::new(Int64Array::from(take(&mut self.offsets))));
        let times = TimestampMicrosecondArray::new(take(&mut self.times).into(), self.times_valid.finish());
        arrays.push(Arc::new(times.with_timezone(UTC)));
        RecordBatch::try_new(Arc::clone(&self.written), arrays)
    }
}

/// A value for an error's text, cut short.
fn shown(json: &Json<'_>, at: u32) -> String {
    let text = json.raw(json.token(at));
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A vector's content; the vector stays as large as it was.
fn take<T>(vector: &mut Vec<T>) -> Vec<T> {
    let capacity = vector.len();
    std::mem::replace(vector, Vec::with_capacity(capacity))
}

/// The columns of fields, and by field which is its own.
fn columns_of(fields: &Fields, written: &ArrowFields, declared: bool) -> (Vec<Option<usize>>, Vec<Column>) {
    let (mut slots, mut columns) = (Vec::with_capacity(fields.len()), Vec::new());
    for field in fields.iter() {
        if field.node.kind == Kind::Null {
            slots.push(None);
            continue;
        }
        slots.push(Some(columns.len()));
        columns.push(Column::of(&field.node, &written[columns.len()], declared));
    }
    (slots, columns)
}

/// One column of rows that wait.
struct Column {
    valid: NullBufferBuilder,
    values: Values,
}

enum Values {
    Bool(BooleanBufferBuilder),
    Int32(Vec<i32>),
    Int(Vec<i64>),
    Float(Vec<f64>),
    /// Microseconds; whether other zones than UTC are read.
    Time(Vec<i64>, bool),
    Date(Vec<i32>),
    Decimal(Vec<i128>, u8, u8),
    /// The bytes, the ends, and whether nothing but strings fits.
    Text(Vec<u8>, Vec<i32>, bool),
    List(Vec<i32>, Box<Column>),
    Struct(Box<Fields>, Lookup, Vec<Option<usize>>, Vec<Column>),
}

impl Values {
    fn text(strict: bool) -> Values {
        Values::Text(Vec::new(), vec![0], strict)
    }
}

impl Column {
    fn new(values: Values) -> Column {
        Column { valid: NullBufferBuilder::new(0), values }
    }

    fn of(node: &Node, field: &FieldRef, declared: bool) -> Column {
        Column::new(match (&node.kind, field.data_type()) {
            (Kind::Bool, _) => Values::Bool(BooleanBufferBuilder::new(0)),
            (Kind::Int32, _) => Values::Int32(Vec::new()),
            (Kind::Int | Kind::Long, _) => Values::Int(Vec::new()),
            (Kind::Float, _) => Values::Float(Vec::new()),
            (Kind::Time, _) => Values::Time(Vec::new(), declared),
            (Kind::Date, _) => Values::Date(Vec::new()),
            (Kind::Decimal(precision, scale), _) => Values::Decimal(Vec::new(), *precision, *scale),
            (Kind::String, _) => Values::text(true),
            (Kind::List(element), DataType::List(field)) => {
                Values::List(vec![0], Box::new(Column::of(element, field, declared)))
            }
            (Kind::Struct(fields), DataType::Struct(written)) => {
                let (slots, columns) = columns_of(fields, written, declared);
                Values::Struct(Box::new(fields.clone()), Lookup::default(), slots, columns)
            }
            _ => Values::text(false),
        })
    }

    fn len(&self) -> usize {
        self.valid.len()
    }

    fn push_null(&mut self) {
        self.valid.append_null();
        self.fill();
    }

    /// What stands in the buffers for a null.
    fn fill(&mut self) {
        match &mut self.values {
            Values::Bool(values) => values.append(false),
            Values::Int32(values) | Values::Date(values) => values.push(0),
            Values::Int(values) | Values::Time(values, _) => values.push(0),
            Values::Float(values) => values.push(0.0),
            Values::Decimal(values, ..) => values.push(0),
            Values::Text(bytes, ends, _) => ends.push(bytes.len() as i32),
            Values::List(ends, element) => ends.push(element.len() as i32),
            Values::Struct(.., columns) => columns.iter_mut().for_each(Column::push_null),
        }
    }

    fn push_text(&mut self, text: &str) {
        if let Values::Text(bytes, ends, _) = &mut self.values {
            bytes.extend_from_slice(text.as_bytes());
            ends.push(bytes.len() as i32);
            self.valid.append_non_null();
        }
    }

    /// Takes a value that is not null. If it does not fit, `false`; the column has to be cut back then.
    fn push(&mut self, json: &Json<'_>, at: u32) -> bool {
        let token = json.token(at);
        let raw = || json.raw(token);
        let fits = match (&mut self.values, token.kind) {
            (Values::Bool(values), TokenKind::Bool) => {
                values.append(raw() == "true");
                true
            }
            (Values::Int(values), TokenKind::Integer) => push_some(values, json.integer(token)),
            (Values::Int32(values), TokenKind::Integer) => {
                push_some(values, json.integer(token).and_then(|value| value.try_into().ok()))
            }
            (Values::Float(values), TokenKind::Integer) => {
                push_some(values, json.integer(token).and_then(exact_float_of))
            }
            (Values::Float(values), TokenKind::Float) => push_some(values, exact_float(raw())),
            (Values::Time(values, any_zone), TokenKind::Plain) => {
                let micros = rfc3339::micros(json.plain(token));
                let micros_of_any_zone = || rfc3339::micros_of_any_zone(&json.string(token));
                push_some(values, micros.or_else(|| any_zone.then(micros_of_any_zone).flatten()))
            }
            (Values::Date(values), TokenKind::Plain) => push_some(values, rfc3339::days(&json.string(token))),
            (Values::Decimal(values, precision, scale), TokenKind::Integer | TokenKind::Float) => {
                push_some(values, exact_decimal(raw(), *precision, *scale))
            }
            (Values::Text(bytes, ends, _), TokenKind::Plain) => {
                bytes.extend_from_slice(json.plain(token));
                push_end(ends, bytes.len())
            }
            (Values::Text(bytes, ends, _), TokenKind::Escaped) => {
                bytes.extend_from_slice(json.string(token).as_bytes());
                push_end(ends, bytes.len())
            }
            (Values::Text(bytes, ends, false), kind) => {
                let raw = raw();
                if matches!(kind, TokenKind::Object | TokenKind::Array) {
                    let mut text = String::with_capacity(raw.len());
                    compact(raw, &mut text);
                    bytes.extend_from_slice(text.as_bytes());
                } else {
                    bytes.extend_from_slice(raw.as_bytes());
                }
                push_end(ends, bytes.len())
            }
            (Values::List(ends, element), TokenKind::Array) => {
                for at in json.element_indexes(at) {
                    if json.token(at).kind == TokenKind::Null {
                        element.push_null();
                    } else if !element.push(json, at) {
                        return false;
                    }
                }
                push_end(ends, element.len())
            }
            (Values::Struct(fields, lookup, slots, columns), TokenKind::Object) => {
                push_struct(fields, lookup, slots, columns, json, at, self.valid.len())
            }
            _ => false,
        };
        if fits {
            self.valid.append_non_null();
        }
        fits
    }

    /// Cuts it back to so many rows, with all that a push which broke off left below.
    fn truncate(&mut self, rows: usize) {
        self.valid.truncate(rows);
        match &mut self.values {
            Values::Bool(values) => values.truncate(rows),
            Values::Int32(values) | Values::Date(values) => values.truncate(rows),
            Values::Int(values) | Values::Time(values, _) => values.truncate(rows),
            Values::Float(values) => values.truncate(rows),
            Values::Decimal(values, ..) => values.truncate(rows),
            Values::Text(bytes, ends, _) => {
                ends.truncate(rows + 1);
                bytes.truncate(ends[ends.len() - 1] as usize);
            }
            Values::List(ends, element) => {
                ends.truncate(rows + 1);
                element.truncate(ends[ends.len() - 1] as usize);
            }
            Values::Struct(.., columns) => columns.iter_mut().for_each(|column| column.truncate(rows)),
        }
    }

    fn finish(&mut self, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
        let rows = self.len();
        let nulls = self.valid.finish();
        Ok(match (&mut self.values, data_type) {
            (Values::Bool(values), _) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            (Values::Int32(values), _) => Arc::new(Int32Array::new(take(values).into(), nulls)),
            (Values::Date(values), _) => Arc::new(Date32Array::new(take(values).into(), nulls)),
            (Values::Int(values), _) => Arc::new(Int64Array::new(take(values).into(), nulls)),
            (Values::Float(values), _) => Arc::new(Float64Array::new(take(values).into(), nulls)),
            (Values::Time(values, _), _) => {
                Arc::new(TimestampMicrosecondArray::new(take(values).into(), nulls).with_timezone(UTC))
            }
            (Values::Decimal(values, precision, scale), _) => Arc::new(
                Decimal128Array::new(take(values).into(), nulls).with_precision_and_scale(*precision, *scale as i8)?,
            ),
            (Values::Text(bytes, ends, _), _) => {
                Arc::new(StringArray::try_new(offsets(ends), Buffer::from_vec(take(bytes)), nulls)?)
            }
            (Values::List(ends, element), DataType::List(field)) => {
                let elements = element.finish(field.data_type())?;
                Arc::new(ListArray::try_new(Arc::clone(field), offsets(ends), elements, nulls)?)
            }
            (Values::Struct(.., columns), DataType::Struct(fields)) => {
                let arrays: Result<Vec<ArrayRef>, ArrowError> =
                    columns.iter_mut().zip(fields).map(|(column, field)| column.finish(field.data_type())).collect();
                Arc::new(StructArray::try_new_with_length(fields.clone(), arrays?, nulls, rows)?)
            }
            (_, other) => return Err(ArrowError::SchemaError(format!("a container is not {other}"))),
        })
    }
}

fn push_some<T>(values: &mut Vec<T>, value: Option<T>) -> bool {
    let fits = value.is_some();
    values.extend(value);
    fits
}

fn push_end(ends: &mut Vec<i32>, end: usize) -> bool {
    i32::try_from(end).is_ok_and(|end| {
        ends.push(end);
        true
    })
}

fn push_struct(
    fields: &Fields,
    lookup: &mut Lookup,
    slots: &[Option<usize>],
    columns: &mut [Column],
    json: &Json<'_>,
    at: u32,
    row: usize,
) -> bool {
    for (key, value) in json.field_indexes(at) {
        if json.token(value).kind == TokenKind::Null {
            continue;
        }
        let index = lookup.find(json, key, fields);
        let column = index.and_then(|index| slots[index]).map(|slot| &mut columns[slot]);
        if !column.is_some_and(|column| column.len() == row && column.push(json, value)) {
            return false;
        }
    }
    for column in columns {
        if column.len() == row {
            column.push_null();
        }
    }
    true
}

/// The ends of a text or list column as offsets; begins anew.
fn offsets(ends: &mut Vec<i32>) -> OffsetBuffer<i32> {
    let capacity = ends.len();
    let ends = std::mem::replace(ends, {
        let mut fresh = Vec::with_capacity(capacity);
        fresh.push(0);
        fresh
    });
    OffsetBuffer::new(ScalarBuffer::from(ends))
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_json::LineDelimitedWriter;
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;
    use crate::json::Parser;
    use crate::reader::normalised;
    use crate::schema::parse_declared;

    fn observed(records: &[Value]) -> Schema {
        let mut seen = Schema::default();
        for record in records {
            seen.observe(&Parser::default().parse(record.to_string().as_bytes()).expect("json"));
        }
        let mut schema = Schema::default();
        schema.absorb(&seen);
        schema
    }

    fn push(shredder: &mut Shredder, record: &Value, may_drift: bool) -> Shredded {
        let (text, mut parser) = (record.to_string(), Parser::default());
        let json = parser.parse(text.as_bytes()).expect("json");
        let offset = Offset(shredder.rows() as u64);
        shredder.push(offset, Timestamp(5), &json, may_drift)
    }

    /// The batch's rows: what is in columns, and what is in `_rest`.
    fn rows(batch: &RecordBatch) -> Vec<(Map<String, Value>, Map<String, Value>)> {
        let mut out = Vec::new();
        let mut writer = LineDelimitedWriter::new(&mut out);
        writer.write(batch).and_then(|()| writer.finish()).expect("written");
        let rest = batch.column_by_name("_rest").expect("a column").as_string::<i32>();
        let lines = serde_json::Deserializer::from_slice(&out).into_iter::<Map<String, Value>>();
        let rest = rest.iter().map(|rest| rest.map_or_else(Map::new, |text| serde_json::from_str(text).expect("json")));
        lines.map(|line| line.expect("a row")).zip(rest).collect()
    }

    #[test]
    fn a_misfit_anywhere_in_a_value_leaves_the_columns_in_step() {
        let schema = observed(&[json!({"a": 1, "l": [{"x": 1, "y": true}], "s": {"p": [1.5], "q": true}})]);
        let mut shredder = Shredder::new(schema, 0);
        let records = [
            json!({"a": 2, "l": [{"x": 1}, {"x": 2, "y": 3}], "s": {"p": [0.5]}}),
            json!({"a": "no", "l": [{"x": 1}, {"z": 2}], "s": {"p": [1, "x"], "q": false}}),
            json!({"a": 3, "l": [], "s": {"p": [], "q": null}}),
        ];
        records.iter().for_each(|record| assert_eq!(push(&mut shredder, record, false), Shredded::Row));
        let rows = rows(&shredder.finish().expect("a batch"));
        assert_eq!((rows[0].0["a"].clone(), rows[0].0.get("l"), &rows[0].1["l"]), (json!(2), None, &records[0]["l"]));
        assert_eq!(Value::Object(rows[1].1.clone()), records[1], "nothing of it fits");
        assert_eq!((&rows[2].0["a"], &rows[2].0["l"], rows[2].1.len()), (&json!(3), &json!([]), 0));
        assert_eq!(shredder.rows(), 0, "it begins anew");
    }

    #[test]
    fn only_what_widens_the_schema_drifts() {
        let schema = observed(&[json!({"i": 1, "l": 9_007_199_254_740_993_i64, "s": {"a": 1}})]);
        let mut shredder = Shredder::new(schema, 0);
        for (record, drifts) in [
            (json!({"i": 2, "new": null}), false),
            (json!({"i": "conflict", "l": 0.5}), false),
            (json!({"new": 1}), true),
            (json!({"i": 0.5}), true),
            (json!({"s": {"b": 1}}), true),
            (json!({"i": 3}), false),
        ] {
            let expected = if drifts { Shredded::Drifts } else { Shredded::Row };
            assert_eq!(push(&mut shredder, &record, true), expected, "{record}");
        }
        assert_eq!(rows(&shredder.finish().expect("a batch")).len(), 3);
    }

    #[test]
    fn of_a_field_named_twice_the_first_is_in_the_column() {
        let mut shredder = Shredder::new(observed(&[json!({"a": 1})]), 0);
        let mut parser = Parser::default();
        let json = parser.parse(br#"{"a":null,"a":1,"a":2,"a":"x"}"#).expect("json");
        assert_eq!(shredder.push(Offset(0), Timestamp(0), &json, true), Shredded::Row);
        let batch = shredder.finish().expect("a batch");
        assert_eq!(batch.column(0).as_primitive::<arrow_array::types::Int64Type>().value(0), 1);
        assert_eq!(batch.column_by_name("_rest").expect("rest").as_string::<i32>().value(0), r#"{"a":2,"a":"x"}"#);
    }

    #[test]
    fn a_declared_schema_takes_nothing_half() {
        let schema = parse_declared(r#"{"columns":[{"name":"a","type":"int32"},{"name":"b","type":"list<date>"}]}"#);
        let mut shredder = Shredder::new(schema.expect("legal"), 0);
        assert!(matches!(push(&mut shredder, &json!({"a": 1, "b": ["2024-01-01", "x"]}), true), Shredded::Misfit(_)));
        assert_eq!(push(&mut shredder, &json!({"b": ["2024-01-01"], "c": 1}), true), Shredded::Row);
        let rows = rows(&shredder.finish().expect("a batch"));
        assert_eq!((rows.len(), rows[0].0.get("a"), &rows[0].1["c"]), (1, None, &json!(1)));
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i8>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i32>().prop_map(|n| Value::from(f64::from(n) / 8.0)),
            "[ab\n\"é]{0,3}".prop_map(Value::from),
            Just(json!("2013-01-01T10:15:00Z")),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[abc]", inner, 0..3)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn records() -> impl Strategy<Value = Vec<Value>> {
        let record = prop::collection::btree_map("[abcd]", values(), 0..4);
        prop::collection::vec(record.prop_map(|map| Value::Object(map.into_iter().collect())), 1..8)
    }

    proptest! {
        /// Whatever the schema was learnt from: each field is in its column or in `_rest`, and means what it meant.
        #[test]
        fn nothing_is_lost_or_changed(known in records(), later in records()) {
            let schema = observed(&known);
            let names: Vec<(String, String)> =
                schema.fields.iter().map(|field| (field.name.clone(), field.column.clone())).collect();
            let mut shredder = Shredder::new(schema, 0);
            let all: Vec<&Value> = known.iter().chain(&later).collect();
            for record in &all {
                prop_assert_eq!(push(&mut shredder, record, false), Shredded::Row);
            }
            let rows = rows(&shredder.finish().expect("a batch"));
            prop_assert_eq!(rows.len(), all.len());
            for ((columns, rest), record) in rows.iter().zip(all) {
                for (name, sent) in record.as_object().expect("an object") {
                    if let Some(kept) = rest.get(name) {
                        prop_assert_eq!(kept, sent);
                        continue;
                    }
                    let column = names.iter().find(|(field, _)| field == name).map(|(_, column)| column);
                    let landed = column.and_then(|column| columns.get(column)).unwrap_or(&Value::Null);
                    let same = normalised(landed) == normalised(sent) || is_text_of(landed, sent);
                    prop_assert!(same, "{}: {} landed as {}", name, sent, landed);
                }
            }
        }
    }

    /// Whether text columns have taken what is not text, at any depth.
    fn is_text_of(landed: &Value, sent: &Value) -> bool {
        match (landed, sent) {
            (Value::String(text), sent) => {
                let printed = sent.to_string();
                *text == printed
            }
            // A float column has taken an integer that is the same.
            (Value::Number(landed), Value::Number(sent)) => {
                landed.as_f64().map(|float| float as i128) == sent.as_i64().map(i128::from)
            }
            (Value::Array(landed), Value::Array(sent)) => {
                landed.len() == sent.len()
                    && landed
                        .iter()
                        .zip(sent)
                        .all(|(a, b)| a == b || is_text_of(a, b) || normalised(a) == normalised(b))
            }
            (Value::Object(landed), Value::Object(sent)) => sent.iter().all(|(name, sent)| {
                let landed = landed.get(name).unwrap_or(&Value::Null);
                normalised(landed) == normalised(sent) || is_text_of(landed, sent)
            }),
            _ => false,
        }
    }
}
