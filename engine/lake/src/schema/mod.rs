//! What columns a lake has, and of which type: inferred from its records and only ever widened, or declared.
//!
//! **Types.** Each field of the records, at each depth, has a [`Kind`]; kinds form a lattice (`kind.rs`), and the kind of a
//! field that is new is the join of all values seen before its first file is begun:
//!
//! | values seen | column |
//! | --- | --- |
//! | `true`, `false` | bool |
//! | integers within 64 bits | int64 |
//! | fractions, exponents; or these and integers | float64; integers beyond ±2⁵³ among them go to `_rest` |
//! | strings that are all strict RFC 3339 in UTC, to the microsecond | timestamp(µs, UTC) |
//! | other strings | utf8 |
//! | arrays | list; of objects: list of structs |
//! | objects | struct |
//! | anything mixed | utf8: strings as they are, numbers and bools as their text, arrays and objects as JSON |
//! | only `null`, or numbers that neither int64 nor float64 holds exactly | no column until another value is seen |
//! | only `{}`, or objects whose fields are all null | utf8 with the JSON |
//! | only `[]`, or arrays of nulls | list of utf8 |
//!
//! **Drift.** A column that a file has changes in two ways only: int64 becomes float64 in the next file (while all its integers
//! are within ±2⁵³), and objects in it get new fields. A new field of the records is a new column of the next file. Every
//! other value that does not fit its column (another type, an integer beyond 64 bits, a decimal that float64 does not hold) leaves
//! the column null in that row, and the whole top-level field goes, as it was sent, into `_rest`, a JSON object. Nothing is
//! dropped, and nothing stops the lake.
//!
//! Everything is nullable; `null` and an absent field are the same. Of a field named twice in one object the first value is in
//! the column and the others are in `_rest`. A container nested deeper than 64 levels and an object with more than 1,000
//! different fields (a map in disguise) become utf8 with the JSON, if they are new. There are at most 2,000 top-level
//! columns and 4,000 leaves; what comes later goes into `_rest`.
//!
//! **Order and names.** Columns come in the order in which their fields were first seen, then `_rest` (utf8), `_partition`
//! (int32), `_offset` (int64) and `_timestamp` (timestamp(µs, UTC), the record's own). No two columns of one level differ
//! only in case: a field whose name is taken so gets `_2`, `_3`, … behind it; a field without a name is `_empty`.
//!
//! **Field ids** are given once and never change: up to 15 for the lake's own columns, 16 and up for the fields, nested ones
//! and list elements included, so that files can be adopted into a table format without being rewritten.

mod columns;
mod declared;
mod kind;
mod lookup;
mod stored;

pub(crate) use columns::{Columns, OFFSET, PARTITION, TIMESTAMP, UTC, field_id, own_columns, raw_schema, type_name};
pub(crate) use declared::check_loosens;
pub use declared::{SchemaError, parse_declared};
pub(crate) use kind::DEPTH_MAX;
pub use kind::{Field, Fields, Kind, Node};
pub(crate) use lookup::Lookup;
pub use stored::{BrokenSchema, StoredNode};

use crate::json::{Json, TokenKind};

/// The most top-level columns from fields; what comes later goes into `_rest`.
pub const COLUMNS_MAX: usize = 2_000;
/// The most leaf columns; what comes later goes into `_rest`.
pub const LEAVES_MAX: usize = 4_000;

const FIRST_FIELD_ID: u32 = 16;

const _: () = assert!(COLUMNS_MAX <= LEAVES_MAX, "a lake of flat records must fit");

/// What a lake knows of its columns, over all partitions: what its files have, and what was seen since the last one was begun.
#[derive(Debug, Default)]
pub(crate) struct LakeSchema {
    settled: Schema,
    seen: Schema,
}

impl LakeSchema {
    /// Files have these columns.
    pub fn new(settled: Schema) -> LakeSchema {
        LakeSchema { seen: settled.clone(), settled }
    }

    /// The columns that files have.
    pub fn settled(&self) -> &Schema {
        &self.settled
    }

    /// What a file that gathers begins with.
    pub fn seen(&self) -> &Schema {
        &self.seen
    }

    /// Whether something was seen that no file has, or there is no file yet.
    pub fn has_news(&self) -> bool {
        self.settled.fields.is_empty() || self.seen != self.settled
    }

    /// A file that gathers has seen this.
    pub fn note(&mut self, observed: &Schema) {
        self.seen.widen(observed);
    }

    /// The schema of a file that begins now: what any of the lake's partitions has seen is in it.
    pub fn settle(&mut self) -> Schema {
        self.settled.absorb(&self.seen);
        self.seen = self.settled.clone();
        self.settled.clone()
    }
}

/// The columns of a lake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// Rises with each change.
    pub version: u32,
    /// Whether something did not find room: nothing new is taken in any more.
    pub full: bool,
    /// Whether it was declared: it is never widened.
    pub declared: bool,
    /// The top-level fields.
    pub fields: Fields,
    next_id: u32,
}

impl Default for Schema {
    fn default() -> Self {
        let fields = Fields::without(&own_columns());
        Self { version: 0, full: false, declared: false, fields, next_id: FIRST_FIELD_ID }
    }
}

impl Schema {
    /// Widens the schema as far as it may so that this record fits, which must be an object. Returns whether it changed.
    pub(crate) fn observe(&mut self, json: &Json<'_>) -> bool {
        debug_assert_eq!(json.root().kind, TokenKind::Object);
        if self.declared || self.full {
            return false;
        }
        let mut changed = false;
        let mut hint = 0;
        for (key, value) in json.field_indexes(0) {
            let name = json.string(json.token(key));
            let index = match self.fields.find(&name, hint) {
                Some(index) => index,
                None if self.fields.len() < COLUMNS_MAX => {
                    changed = true;
                    self.fields.insert(name.into_owned())
                }
                None => continue,
            };
            hint = index + 1;
            changed |= self.fields.node_mut(index).observe(json, value, 1);
        }
        changed
    }

    /// Widens the schema as far as it may so that whatever fits `other` fits it, and settles it: this is now a file's.
    /// Returns whether it changed; if so it is a new version, in which each field has an id.
    pub fn absorb(&mut self, other: &Schema) -> bool {
        let before = self.clone();
        self.widen(other);
        for index in 0..self.fields.len() {
            self.fields.node_mut(index).settle();
            self.fields.node_mut(index).give_ids(&mut self.next_id);
        }
        let changed = *self != before;
        self.version += u32::from(changed);
        changed
    }

    /// Widens the schema as far as it may so that whatever fits `other` fits it.
    fn widen(&mut self, other: &Schema) {
        for field in other.fields.iter() {
            match self.fields.find(&field.name, 0) {
                Some(index) => {
                    let node = self.fields.node_mut(index).clone();
                    self.fields.node_mut(index).join(&field.node);
                    if self.leaves() > LEAVES_MAX {
                        *self.fields.node_mut(index) = node;
                        self.full = true;
                    }
                }
                None if self.fields.len() < COLUMNS_MAX => {
                    let index = self.fields.insert(field.name.clone());
                    self.fields.node_mut(index).join(&field.node);
                    if self.leaves() > LEAVES_MAX {
                        self.fields.node_mut(index).kind = Kind::Text;
                    }
                    if self.leaves() > LEAVES_MAX {
                        self.fields.remove_last();
                        self.full = true;
                    }
                }
                None => {}
            }
        }
    }

    /// The newest of several versions of one lake's schema, with whatever only the others know.
    pub fn newest<'a>(schemas: impl IntoIterator<Item = &'a Schema>) -> Schema {
        let mut schemas: Vec<&Schema> = schemas.into_iter().collect();
        schemas.sort_by_key(|schema| std::cmp::Reverse(schema.version));
        let Some((newest, older)) = schemas.split_first() else { return Schema::default() };
        let mut schema = (*newest).clone();
        if schema.declared {
            return schema;
        }
        for other in older {
            schema.absorb(other);
        }
        schema
    }

    fn leaves(&self) -> usize {
        self.fields.iter().map(|field| field.node.leaves()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Parser;

    fn observed(records: &[&str]) -> Schema {
        let mut schema = Schema::default();
        let mut parser = Parser::default();
        for record in records {
            schema.observe(&parser.parse(record.as_bytes()).expect("json"));
        }
        schema
    }

    #[test]
    fn ids_stay_when_the_schema_widens() {
        let mut schema = Schema::default();
        assert!(schema.absorb(&observed(&[r#"{"a":1,"b":{"c":"x"}}"#])));
        let ids = |schema: &Schema| schema.fields.iter().map(|field| field.node.id).collect::<Vec<_>>();
        assert_eq!(ids(&schema), [16, 17]);
        assert!(!schema.absorb(&observed(&[r#"{"b":{"c":"y"}}"#])));
        assert!(schema.absorb(&observed(&[r#"{"z":[1],"a":1.5,"b":{"c":"y","d":true}}"#])));
        assert_eq!(schema.version, 2);
        assert_eq!(ids(&schema), [16, 17, 20]);
        assert_eq!(schema.fields.iter().map(|field| field.name.as_str()).collect::<Vec<_>>(), ["a", "b", "z"]);
        let Kind::Struct(nested) = &schema.fields.iter().nth(1).expect("b").node.kind else { panic!("a struct") };
        assert_eq!(nested.iter().map(|field| field.node.id).collect::<Vec<_>>(), [18, 19]);
    }

    #[test]
    fn what_is_settled_changes_in_two_ways_only() {
        let mut schema = Schema::default();
        schema.absorb(&observed(&[r#"{"i":1,"l":9007199254740993,"t":"2013-01-01T10:15:00Z","s":{"a":1},"e":[]}"#]));
        let kind = |schema: &Schema, name: &str| schema.fields.get(name).expect("a field").node.kind.clone();
        let mut parser = Parser::default();
        for (record, changes) in [
            (r#"{"i":"x","t":"soon","s":[1],"e":{"x":1}}"#, false),
            (r#"{"l":0.5,"e":[1,{}]}"#, false),
            (r#"{"i":12345678901234567890,"new":123456789012345678901}"#, true),
            (r#"{"i":0.5}"#, true),
            (r#"{"s":{"a":2.5,"b":"x"}}"#, true),
        ] {
            let mut working = schema.clone();
            let observed = working.observe(&parser.parse(record.as_bytes()).expect("json"));
            assert_eq!(observed, changes, "{record}");
            schema.absorb(&working);
        }
        assert_eq!((kind(&schema, "i"), kind(&schema, "l"), kind(&schema, "t")), (Kind::Float, Kind::Long, Kind::Time));
        assert_eq!(kind(&schema, "new"), Kind::Null, "no column until a value fits one");
        let Kind::Struct(nested) = kind(&schema, "s") else { panic!("a struct") };
        assert_eq!((nested.len(), nested.get("a").map(|field| field.node.kind.clone())), (2, Some(Kind::Float)));
        let Kind::List(element) = kind(&schema, "e") else { panic!("a list") };
        assert_eq!(element.kind, Kind::Text);
        assert!(!schema.clone().absorb(&schema), "nothing new");
    }

    #[test]
    fn there_is_room_for_so_many_columns() {
        let wide: Vec<String> = (0..COLUMNS_MAX).map(|n| format!("\"f{n}\":{n}")).collect();
        let mut schema = Schema::default();
        schema.absorb(&observed(&[&format!("{{{}}}", wide.join(","))]));
        assert_eq!(schema.fields.len(), COLUMNS_MAX);
        let mut parser = Parser::default();
        assert!(!schema.observe(&parser.parse(br#"{"another":[1],"f7":2}"#).expect("json")));
    }

    #[test]
    fn what_would_be_too_many_leaves_is_text_or_no_column() {
        let object = |count: usize| (0..count).map(|n| format!("\"k{n}\":1")).collect::<Vec<_>>().join(",");
        let record = format!(
            r#"{{"id":1,"a":{{{}}},"b":{{{}}},"c":{{{}}},"d":{{{}}},"e":{{{}}}}}"#,
            object(900),
            object(800),
            object(850),
            object(950),
            object(600)
        );
        let mut schema = Schema::default();
        schema.absorb(&observed(&[&record]));
        let kinds: Vec<bool> = schema.fields.iter().map(|field| field.node.kind == Kind::Text).collect();
        assert_eq!(kinds, [false, false, false, false, false, true]);
        let more = r#"{"b":{"x":1,"list":[{"y":1,"z":2}]},"f":1}"#;
        schema.absorb(&observed(&[&format!(r#"{{"g":{{{}}},"h":{{{}}}}}"#, object(450), object(100)), more]));
        assert!(schema.leaves() <= LEAVES_MAX);
    }
}
