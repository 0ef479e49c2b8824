//! A schema in Arrow's terms: what a file's columns are.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{
    DataType, Field as ArrowField, FieldRef, Fields as ArrowFields, Schema as ArrowSchema, SchemaRef, TimeUnit,
};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

use super::Schema;
use super::kind::{Kind, Node};

/// The lake's own columns of places: partition, offset, timestamp.
pub(crate) const PARTITION: &str = "_partition";
pub(crate) const OFFSET: &str = "_offset";
pub(crate) const TIMESTAMP: &str = "_timestamp";
const REST: &str = "_rest";

/// The names of the lake's own columns: partition, offset, timestamp, what has no column.
pub(crate) fn own_columns() -> [&'static str; 4] {
    [PARTITION, OFFSET, TIMESTAMP, REST]
}

/// The columns of one file.
#[derive(Debug, Clone)]
pub(crate) struct Columns {
    /// Those from fields, then `_rest` and the lake's own.
    pub written: SchemaRef,
    /// Leaf columns from fields.
    pub leaves: usize,
}

impl Columns {
    pub fn new(schema: &Schema) -> Columns {
        let rendered = |field: &super::Field| render(&field.column, &field.node).map(Arc::new);
        let mut written: Vec<FieldRef> = schema.fields.iter().filter_map(rendered).collect();
        written.push(Arc::new(with_id(ArrowField::new(REST, DataType::Utf8, true), 4)));
        written.extend(places());
        let leaves = schema.fields.iter().map(|field| field.node.leaves()).sum();
        Columns { written: Arc::new(ArrowSchema::new(written)), leaves }
    }
}

/// The columns of a file of records as they are.
pub(crate) fn raw_schema() -> SchemaRef {
    let name = with_id(ArrowField::new("name", DataType::Utf8, false), 8);
    let value = with_id(ArrowField::new("value", DataType::Binary, true), 9);
    let header = DataType::Struct(vec![name, value].into());
    let headers = DataType::List(Arc::new(with_id(ArrowField::new("element", header, false), 7)));
    let mut columns: Vec<FieldRef> = places().into();
    columns.push(Arc::new(with_id(ArrowField::new("key", DataType::Binary, true), 5)));
    columns.push(Arc::new(with_id(ArrowField::new("headers", headers, false), 6)));
    columns.push(Arc::new(with_id(ArrowField::new("value", DataType::Binary, true), 10)));
    Arc::new(ArrowSchema::new(columns))
}

/// Where a record comes from: three columns of every file.
fn places() -> [FieldRef; 3] {
    [
        Arc::new(with_id(ArrowField::new(PARTITION, DataType::Int32, false), 1)),
        Arc::new(with_id(ArrowField::new(OFFSET, DataType::Int64, false), 2)),
        Arc::new(with_id(ArrowField::new(TIMESTAMP, timestamp(), true), 3)),
    ]
}

/// UTC under the only name that Arrow knows without a table of time zones. In the file it is "adjusted to UTC".
pub(crate) const UTC: &str = "+00:00";

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))
}

/// `None` while nothing but null is known.
fn render(name: &str, node: &Node) -> Option<ArrowField> {
    let data_type = match &node.kind {
        Kind::Null => return None,
        Kind::Bool => DataType::Boolean,
        Kind::Int32 => DataType::Int32,
        Kind::Int | Kind::Long => DataType::Int64,
        Kind::Float => DataType::Float64,
        Kind::Time => timestamp(),
        Kind::Text | Kind::String => DataType::Utf8,
        Kind::Date => DataType::Date32,
        // The digits are bounded where a schema is parsed.
        Kind::Decimal(precision, scale) => DataType::Decimal128(*precision, *scale as i8),
        Kind::List(element) => DataType::List(Arc::new(render("element", element)?)),
        Kind::Struct(fields) => DataType::Struct(
            fields.iter().filter_map(|field| render(&field.column, &field.node)).collect::<ArrowFields>(),
        ),
    };
    Some(with_id(ArrowField::new(name, data_type, !node.required), node.id))
}

fn with_id(field: ArrowField, id: u32) -> ArrowField {
    field.with_metadata(HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())]))
}

/// A column's field id; 0 if it has none.
pub(crate) fn field_id(field: &ArrowField) -> u32 {
    field.metadata().get(PARQUET_FIELD_ID_META_KEY).and_then(|id| id.parse().ok()).unwrap_or_default()
}

/// A type's name, as in a schema file.
pub(crate) fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "boolean".into(),
        DataType::Int32 => "int32".into(),
        DataType::Int64 => "int64".into(),
        DataType::Float64 => "float64".into(),
        DataType::Timestamp(..) => "timestamp".into(),
        DataType::Date32 => "date".into(),
        DataType::Utf8 => "string".into(),
        DataType::Binary => "binary".into(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::List(element) => format!("list<{}>", type_name(element.data_type())),
        DataType::Struct(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|field| format!("{}: {}", field.name(), type_name(field.data_type()))).collect();
            format!("struct<{}>", fields.join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Parser;

    #[test]
    fn no_two_columns_differ_only_in_case_and_none_takes_one_of_the_lake() {
        let mut observed = Schema::default();
        let record = r#"{"_offset":1,"Id":1,"id":2,"ID":3,"id_2":4,"_Rest":5,"":6,"s":{"a":1,"A":2},"É":1,"é":2}"#;
        observed.observe(&Parser::default().parse(record.as_bytes()).expect("json"));
        let mut schema = Schema::default();
        schema.absorb(&observed);
        let columns = Columns::new(&schema).written;
        let names: Vec<&str> = columns.fields().iter().map(|field| field.name().as_str()).collect();
        let expected = ["_offset_2", "Id", "id_2", "ID_3", "id_2_2", "_Rest_2", "_empty", "s", "É", "é_2"];
        assert_eq!(names, [&expected[..], &["_rest", "_partition", "_offset", "_timestamp"]].concat());
        assert_eq!(type_name(columns.field(7).data_type()), "struct<a: int64, A_2: int64>");
    }
}
