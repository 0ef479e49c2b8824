//! A declared schema: the text of a schema file.
//!
//! ```json
//! {"columns": [
//!   {"name": "id", "type": "int64", "required": true},
//!   {"name": "price", "type": "decimal(12,2)"},
//!   {"name": "at", "type": "timestamp"},
//!   {"name": "tags", "type": "list<string>"},
//!   {"name": "to", "type": "struct<street: string, zip: string>"}
//! ]}
//! ```
//! Types: `boolean`, `int32`, `int64`, `float64`, `decimal(digits, behind the point)`, `string`, `date`, `timestamp` (RFC 3339,
//! kept in UTC to the microsecond), `json` (any value, as text), `list<…>`, `struct<name: …, …>`; a name with other
//! characters than letters, digits and `_` stands in quotes there.
//!
//! A record whose values do not fit goes to the error prefix; a field that is not declared goes to `_rest`.

use serde::Deserialize;

use super::kind::{Field, Fields, Kind, Node};
use super::{COLUMNS_MAX, DEPTH_MAX, LEAVES_MAX, Schema};

/// Why a text is not a schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SchemaError(String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    columns: Vec<Column>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Column {
    name: String,
    r#type: String,
    #[serde(default)]
    required: bool,
}

/// Reads a schema file's text.
///
/// # Errors
/// Where it does not parse, a type is not known, a column is there twice, or there are too many.
pub fn parse_declared(text: &str) -> Result<Schema, SchemaError> {
    let file: File = serde_json::from_str(text).map_err(|error| {
        SchemaError(format!(
            "the schema does not parse: {error}; it is {{\"columns\": [{{\"name\": …, \"type\": …}}]}}"
        ))
    })?;
    if file.columns.is_empty() || file.columns.len() > COLUMNS_MAX {
        let count = file.columns.len();
        return Err(SchemaError(format!("the schema has {count} columns, allowed are 1 to {COLUMNS_MAX}")));
    }
    let mut schema = Schema { declared: true, version: 1, ..Schema::default() };
    for Column { name, r#type, required } in file.columns {
        let mut types = Types { text: &r#type, at: 0 };
        let kind = types.whole().map_err(|what| {
            SchemaError(format!("column {name:?} has the type {:?}: {what} at character {}", r#type, types.at + 1))
        })?;
        add(&mut schema.fields, name, Node { required, settled: true, ..Node::of(kind) })?;
    }
    if schema.leaves() > LEAVES_MAX {
        let leaves = schema.leaves();
        return Err(SchemaError(format!("the schema has {leaves} leaf columns, allowed are {LEAVES_MAX}")));
    }
    for index in 0..schema.fields.len() {
        schema.fields.node_mut(index).give_ids(&mut schema.next_id);
    }
    Ok(schema)
}

fn add(fields: &mut Fields, name: String, node: Node) -> Result<(), SchemaError> {
    if fields.get(&name).is_some() {
        return Err(SchemaError(format!("the column {name:?} is there twice")));
    }
    let index = fields.insert(name);
    *fields.node_mut(index) = node;
    Ok(())
}

/// Reads types.
struct Types<'a> {
    text: &'a str,
    at: usize,
}

impl Types<'_> {
    fn whole(&mut self) -> Result<Kind, String> {
        let kind = self.kind(1)?;
        self.space();
        if self.at < self.text.len() { Err("something behind the type".into()) } else { Ok(kind) }
    }

    fn kind(&mut self, depth: u32) -> Result<Kind, String> {
        if depth > DEPTH_MAX {
            return Err(format!("a type nested deeper than {DEPTH_MAX} levels"));
        }
        let before = self.at;
        let word = self.word().to_ascii_lowercase();
        match word.as_str() {
            "boolean" | "bool" => Ok(Kind::Bool),
            "int32" | "int" => Ok(Kind::Int32),
            "int64" | "long" => Ok(Kind::Long),
            "float64" | "double" => Ok(Kind::Float),
            "string" => Ok(Kind::String),
            "date" => Ok(Kind::Date),
            "timestamp" => Ok(Kind::Time),
            "json" => Ok(Kind::Text),
            "decimal" => {
                self.expect('(')?;
                let precision = self.number()?;
                self.expect(',')?;
                let scale = self.number()?;
                self.expect(')')?;
                if (1..=38).contains(&precision) && scale <= precision {
                    Ok(Kind::Decimal(precision, scale))
                } else {
                    Err("a decimal of other than 1 to 38 digits".into())
                }
            }
            "list" => {
                self.expect('<')?;
                let element = self.kind(depth + 1)?;
                self.expect('>')?;
                Ok(Kind::List(Box::new(Node { settled: true, ..Node::of(element) })))
            }
            "struct" => {
                self.expect('<')?;
                let mut fields = Fields::default();
                loop {
                    let name = self.name()?;
                    self.expect(':')?;
                    let kind = self.kind(depth + 1)?;
                    add(&mut fields, name, Node { settled: true, ..Node::of(kind) }).map_err(|error| error.0)?;
                    if self.expect(',').is_err() {
                        break;
                    }
                }
                self.expect('>')?;
                Ok(Kind::Struct(fields))
            }
            _ => {
                self.at = before;
                Err("not one of boolean, int32, int64, float64, decimal(p,s), string, date, timestamp, json, list<…>, \
                     struct<name: …>"
                    .into())
            }
        }
    }

    fn space(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    fn word(&mut self) -> String {
        self.space();
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        self.at += end;
        rest[..end].to_owned()
    }

    fn name(&mut self) -> Result<String, String> {
        self.space();
        let rest = &self.text[self.at..];
        if let Some(quoted) = rest.strip_prefix('"') {
            let end = quoted.find('"').ok_or("a quote that is not closed")?;
            self.at += end + 2;
            return Ok(quoted[..end].to_owned());
        }
        let word = self.word();
        if word.is_empty() { Err("something instead of a name".into()) } else { Ok(word) }
    }

    fn number(&mut self) -> Result<u8, String> {
        self.word().parse().map_err(|_| "something instead of a number of digits".to_owned())
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        self.space();
        if self.text[self.at..].starts_with(wanted) {
            self.at += wanted.len_utf8();
            Ok(())
        } else {
            Err(format!("something instead of '{wanted}'"))
        }
    }
}

/// Whether files of the old schema and of the new one can be read together, and no record that fitted stops fitting.
///
/// # Errors
/// The first column that does not.
pub(crate) fn check_loosens(old: &Schema, new: &Schema) -> Result<(), SchemaError> {
    loosens(&old.fields, &new.fields, "")
}

fn loosens(old: &Fields, new: &Fields, path: &str) -> Result<(), SchemaError> {
    for before in old.iter() {
        let name = format!("{path}{}", before.name);
        let Some(after) = new.get(&before.name) else {
            return Err(SchemaError(format!("the column {name:?} is not in the new schema: keep it, files have it")));
        };
        if before.column != after.column {
            let (was, is) = (&before.column, &after.column);
            return Err(SchemaError(format!("the column of {name:?} was {was:?} and would be {is:?}: keep the order")));
        }
        loosens_node(&before.node, &after.node, &name)?;
    }
    match new.iter().find(|after| after.node.required && old.get(&after.name).is_none()) {
        Some(Field { name, .. }) => {
            Err(SchemaError(format!("the new column {path}{name:?} is required: files of before do not have it")))
        }
        None => Ok(()),
    }
}

fn loosens_node(old: &Node, new: &Node, name: &str) -> Result<(), SchemaError> {
    if new.required && !old.required {
        return Err(SchemaError(format!("the column {name:?} would become required: files may have nulls in it")));
    }
    match (&old.kind, &new.kind) {
        (was, is) if was == is => Ok(()),
        (Kind::Int32, Kind::Long) | (Kind::String, Kind::Text) => Ok(()),
        (Kind::Decimal(p, s), Kind::Decimal(more, same)) if s == same && more >= p => Ok(()),
        (Kind::List(was), Kind::List(is)) => loosens_node(was, is, &format!("{name}[]")),
        (Kind::Struct(was), Kind::Struct(is)) => loosens(was, is, &format!("{name}.")),
        _ => Err(SchemaError(format!(
            "the type of {name:?} changes to one that does not hold what files have: allowed are int32 to int64, string to \
             json, more digits before the point of a decimal"
        ))),
    }
}

impl Schema {
    /// Takes over a declared schema: fields that were there before keep their ids.
    pub fn redeclare(&mut self, declared: &Schema) {
        let mut next_id = self.next_id;
        let mut fields = declared.fields.clone();
        keep_ids(&self.fields, &mut fields, &mut next_id);
        let version = self.version + u32::from(fields != self.fields);
        *self = Schema { version, full: false, declared: true, fields, next_id };
    }
}

fn keep_ids(old: &Fields, new: &mut Fields, next_id: &mut u32) {
    for index in 0..new.len() {
        let before = new.iter().nth(index).and_then(|Field { name, .. }| old.get(name)).map(|field| &field.node);
        keep_id(before, new.node_mut(index), next_id);
    }
}

fn keep_id(old: Option<&Node>, new: &mut Node, next_id: &mut u32) {
    new.id = match old {
        Some(old) => old.id,
        None => {
            *next_id += 1;
            *next_id - 1
        }
    };
    match (&mut new.kind, old.map(|old| &old.kind)) {
        (Kind::List(element), Some(Kind::List(old))) => keep_id(Some(old), element, next_id),
        (Kind::List(element), _) => keep_id(None, element, next_id),
        (Kind::Struct(fields), Some(Kind::Struct(old))) => keep_ids(old, fields, next_id),
        (Kind::Struct(fields), _) => keep_ids(&Fields::default(), fields, next_id),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(columns: &[(&str, &str)]) -> String {
        let columns: Vec<_> =
            columns.iter().map(|(name, kind)| serde_json::json!({"name": name, "type": kind})).collect();
        serde_json::json!({ "columns": columns }).to_string()
    }

    #[test]
    fn types_are_read_and_shown_alike() {
        let types = [
            "boolean",
            "int32",
            "int64",
            "float64",
            "decimal(12,2)",
            "string",
            "date",
            "timestamp",
            "list<list<int64>>",
            "struct<a: int64, b: list<struct<c: string>>>",
        ];
        let named: Vec<(String, &str)> = types.iter().enumerate().map(|(n, kind)| (format!("c{n}"), *kind)).collect();
        let text = columns(&named.iter().map(|(name, kind)| (name.as_str(), *kind)).collect::<Vec<_>>());
        let schema = parse_declared(&text).expect("legal");
        let written = super::super::Columns::new(&schema).written;
        let shown: Vec<String> =
            written.fields().iter().take(types.len()).map(|field| super::super::type_name(field.data_type())).collect();
        assert_eq!(shown, types);
        parse_declared(&columns(&[("q", r#"struct<"a b": json>"#)])).expect("a quoted name");
    }

    #[test]
    fn errors_name_the_column_and_the_place() {
        for (text, says) in [
            ("{", "does not parse: EOF while parsing an object at line 1 column 1"),
            (r#"{"columns":[]}"#, "0 columns"),
            (r#"{"columns":[{"name":"a","type":"int64","nullable":true}]}"#, "unknown field `nullable`"),
            (&columns(&[("a", "integer")]), "column \"a\" has the type \"integer\": not one of"),
            (&columns(&[("a", "list<int64")]), "something instead of '>' at character 11"),
            (&columns(&[("a", "decimal(40,2)")]), "1 to 38 digits"),
            (&columns(&[("a", "int64"), ("a", "int64")]), "\"a\" is there twice"),
            (&columns(&[("a", "struct<b: int64, b: string>")]), "\"b\" is there twice"),
            (&columns(&[("a", "int64 x")]), "something behind the type"),
        ] {
            let error = parse_declared(text).expect_err(text).to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_schema_may_grow_and_loosen_and_keeps_its_ids() {
        let old = parse_declared(&columns(&[("a", "int32"), ("s", "struct<x: string>")])).expect("legal");
        let new = parse_declared(&columns(&[("b", "date"), ("a", "int64"), ("s", "struct<y: int64, x: json>")]));
        let new = new.expect("legal");
        assert_eq!(check_loosens(&old, &new), Ok(()));
        let mut schema = old.clone();
        schema.redeclare(&new);
        let ids: Vec<u32> = schema.fields.iter().map(|field| field.node.id).collect();
        assert_eq!((ids, schema.version), (vec![19, 16, 17], 2));
        for (columns_of, says) in [
            (vec![("a", "int32")], "\"s\" is not in the new schema"),
            (vec![("a", "string"), ("s", "struct<x: string>")], "type of \"a\" changes"),
            (vec![("a", "int32"), ("s", "struct<x: int64>")], "type of \"s.x\" changes"),
        ] {
            let error = check_loosens(&old, &parse_declared(&columns(&columns_of)).expect("legal")).expect_err(says);
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
