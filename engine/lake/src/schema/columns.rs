//! A schema in Arrow's terms: how the records' JSON is decoded, and what the file's columns are.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{
    DataType, Field as ArrowField, FieldRef, Fields as ArrowFields, Schema as ArrowSchema, SchemaRef, TimeUnit,
};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

use super::Schema;
use super::kind::{Kind, Node};

const PARTITION: &str = "_partition";
const OFFSET: &str = "_offset";
const TIMESTAMP: &str = "_timestamp";
const REST: &str = "_rest";
const EMPTY: &str = "_empty";

/// The names of the columns for partition, offset and timestamp.
pub(crate) fn own_columns() -> [&'static str; 3] {
    [PARTITION, OFFSET, TIMESTAMP]
}

/// The columns of one file.
#[derive(Debug, Clone)]
pub(crate) struct Columns {
    /// The fields under the names they have in the records: what the JSON decoder is given.
    pub decoded: SchemaRef,
    /// The file's: those under their columns' names, `_rest` if there is one, and the lake's own.
    pub written: SchemaRef,
    /// Whether there is a `_rest`.
    pub rest: bool,
    /// Leaf columns from fields.
    pub leaves: usize,
}

impl Columns {
    pub fn new(schema: &Schema) -> Columns {
        let mut decoded: Vec<FieldRef> = Vec::new();
        let mut written: Vec<FieldRef> = Vec::new();
        for field in schema.fields.iter() {
            if let Some(rendered) = render(&field.name, &field.node) {
                written.push(Arc::new(rendered.clone().with_name(column_name(&field.name))));
                decoded.push(Arc::new(rendered));
            }
        }
        if schema.rest {
            written.push(Arc::new(with_id(ArrowField::new(REST, DataType::Utf8, true), 4)));
        }
        written.push(Arc::new(with_id(ArrowField::new(PARTITION, DataType::Int32, false), 1)));
        written.push(Arc::new(with_id(ArrowField::new(OFFSET, DataType::Int64, false), 2)));
        written.push(Arc::new(with_id(ArrowField::new(TIMESTAMP, timestamp(), true), 3)));
        let leaves = schema.fields.iter().map(|field| field.node.leaves()).sum();
        Columns {
            decoded: Arc::new(ArrowSchema::new(decoded)),
            written: Arc::new(ArrowSchema::new(written)),
            rest: schema.rest,
            leaves,
        }
    }
}

/// UTC under the only name that Arrow knows without a table of time zones. In the file it is "adjusted to UTC".
pub(crate) const UTC: &str = "+00:00";

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))
}

/// The column of a top-level field: its name, unless that is one of the lake's own, which no two fields share.
fn column_name(name: &str) -> String {
    if name.is_empty() {
        return EMPTY.to_owned();
    }
    let stem = name.trim_end_matches('_').to_ascii_lowercase();
    if [PARTITION, OFFSET, TIMESTAMP, REST, EMPTY].contains(&stem.as_str()) {
        format!("{name}_")
    } else {
        name.to_owned()
    }
}

/// `None` while nothing but null is known.
fn render(name: &str, node: &Node) -> Option<ArrowField> {
    let data_type = match &node.kind {
        Kind::Null => return None,
        Kind::Bool => DataType::Boolean,
        Kind::Int | Kind::Long => DataType::Int64,
        Kind::Float => DataType::Float64,
        Kind::Time => timestamp(),
        Kind::Text => DataType::Utf8,
        Kind::List(element) => {
            let text = || with_id(ArrowField::new("element", DataType::Utf8, true), element.id);
            DataType::List(Arc::new(render("element", element).unwrap_or_else(text)))
        }
        Kind::Struct(fields) => {
            let fields: ArrowFields = fields.iter().filter_map(|field| render(&field.name, &field.node)).collect();
            if fields.is_empty() { DataType::Utf8 } else { DataType::Struct(fields) }
        }
    };
    Some(with_id(ArrowField::new(name, data_type, true), node.id))
}

fn with_id(field: ArrowField, id: u32) -> ArrowField {
    field.with_metadata(HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_field_takes_a_column_of_the_lake_or_of_another_field() {
        let names =
            ["_offset", "_offset_", "_Offset", "_rest", "", "_empty", "_partition__", "_timestamp", "a_", "offset"];
        let columns: Vec<String> = names.iter().map(|name| column_name(name)).collect();
        assert_eq!(
            columns,
            [
                "_offset_",
                "_offset__",
                "_Offset_",
                "_rest_",
                "_empty",
                "_empty_",
                "_partition___",
                "_timestamp_",
                "a_",
                "offset"
            ]
        );
    }
}
