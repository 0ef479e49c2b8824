//! What columns a lake has, and of which type: inferred from its records, only ever widened.
//!
//! **Types.** Each field of the records, at each depth, has a [`Kind`]; kinds form a lattice (`kind.rs`), and a field's
//! kind is the join of all values seen:
//!
//! | values seen | column |
//! | --- | --- |
//! | `true`, `false` | bool |
//! | integers within 64 bits | int64 |
//! | fractions, exponents; or these and integers within ±2⁵³ | float64 |
//! | strings that are all strict RFC 3339 in UTC, to the microsecond | timestamp(µs, UTC) |
//! | other strings | utf8 |
//! | integers beyond 64 bits, floats beyond float64's range, integers beyond ±2⁵³ beside fractions | utf8, the number's text |
//! | arrays | list; of objects: list of structs |
//! | objects | struct |
//! | anything mixed | utf8: strings as they are, numbers and bools as their text, arrays and objects as JSON |
//! | only `null` | no column until a value is seen |
//! | only `{}`, or objects whose fields are all null | utf8 with the JSON |
//! | only `[]`, or arrays of nulls | list of utf8 |
//!
//! Everything is nullable; `null` and an absent field are the same. A field named twice in one object counts with its
//! last value. A container nested deeper than 64 levels, an object with more than 1,000 different fields (a map in
//! disguise), and the widest columns of a lake that comes to have more than 4,000 leaves, become utf8 with the JSON.
//!
//! **Order and names.** Columns come in the order in which their fields were first seen, then `_partition` (int32),
//! `_offset` (int64) and `_timestamp` (timestamp(µs, UTC), the record's own). A field whose name is one of these, or
//! `_rest` or `_empty`, in any case and with any number of `_` behind it, gets one more `_` behind it; a field without a
//! name is `_empty`. There are at most 2,000 top-level columns; fields that come later go into one more column, `_rest`, as
//! a JSON object.
//!
//! **Field ids** are given once and never change: 1 to 4 for the lake's own columns, 16 and up for the fields, nested ones
//! and list elements included, so that files can be adopted into a table format without being rewritten.

mod columns;
mod kind;
mod stored;

pub(crate) use columns::{Columns, UTC, own_columns};
pub use kind::{Field, Fields, Kind, Node};
pub use stored::{BrokenSchema, StoredNode};

use crate::json::{Json, TokenKind};

/// The most top-level columns from fields; what comes later goes into `_rest`.
pub const COLUMNS_MAX: usize = 2_000;
/// The most leaf columns; beyond, the widest columns become text.
pub const LEAVES_MAX: usize = 4_000;

const FIRST_FIELD_ID: u32 = 16;

const _: () = assert!(COLUMNS_MAX <= LEAVES_MAX, "a lake of flat records must fit");

/// The columns of a lake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// Rises with each change.
    pub version: u32,
    /// Whether some fields have no column of their own and are kept in `_rest`.
    pub rest: bool,
    /// The top-level fields.
    pub fields: Fields,
    next_id: u32,
}

impl Default for Schema {
    fn default() -> Self {
        Self { version: 0, rest: false, fields: Fields::default(), next_id: FIRST_FIELD_ID }
    }
}

impl Schema {
    /// Widens the schema so that this record fits, which must be an object. Returns whether it changed.
    pub(crate) fn observe(&mut self, json: &Json<'_>) -> bool {
        debug_assert_eq!(json.root().kind, TokenKind::Object);
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
                None => {
                    let kept = json.token(value).kind != TokenKind::Null;
                    changed |= kept && !self.rest;
                    self.rest |= kept;
                    continue;
                }
            };
            hint = index + 1;
            changed |= self.fields.node_mut(index).observe(json, value, 1);
        }
        changed
    }

    /// Widens the schema so that whatever fits `other` fits it. Returns whether it changed; if so it is a new version,
    /// in which each field has an id.
    pub fn absorb(&mut self, other: &Schema) -> bool {
        let mut changed = other.rest && !self.rest;
        self.rest |= other.rest;
        // Ids are this schema's to give.
        let mut others = other.fields.clone();
        (0..others.len()).for_each(|index| others.node_mut(index).clear_ids());
        for field in others.iter() {
            match self.fields.find(&field.name, 0) {
                Some(index) => changed |= self.fields.node_mut(index).join(&field.node),
                None if self.fields.len() < COLUMNS_MAX => {
                    let index = self.fields.insert(field.name.clone());
                    *self.fields.node_mut(index) = field.node.clone();
                    changed = true;
                }
                None if field.node.kind == Kind::Null => {}
                None => {
                    changed |= !self.rest;
                    self.rest = true;
                }
            }
        }
        if changed {
            self.bound_leaves();
            for index in 0..self.fields.len() {
                self.fields.node_mut(index).give_ids(&mut self.next_id);
            }
            self.version += 1;
        }
        changed
    }

    /// The newest of several versions of one lake's schema, with whatever only the others know.
    pub fn newest<'a>(schemas: impl IntoIterator<Item = &'a Schema>) -> Schema {
        let mut schemas: Vec<&Schema> = schemas.into_iter().collect();
        schemas.sort_by_key(|schema| std::cmp::Reverse(schema.version));
        let Some((newest, older)) = schemas.split_first() else { return Schema::default() };
        let mut schema = (*newest).clone();
        for other in older {
            schema.absorb(other);
        }
        schema
    }

    fn bound_leaves(&mut self) {
        while self.fields.iter().map(|field| field.node.leaves()).sum::<usize>() > LEAVES_MAX {
            let widest = (0..self.fields.len()).max_by_key(|index| self.fields.node_mut(*index).leaves());
            let widest = widest.expect("a schema with leaves has fields");
            self.fields.node_mut(widest).kind = Kind::Text;
        }
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
    fn fields_beyond_the_bound_go_to_rest_and_nulls_do_not() {
        let wide: Vec<String> = (0..COLUMNS_MAX).map(|n| format!("\"f{n}\":{n}")).collect();
        let wide = format!("{{{}}}", wide.join(","));
        let mut schema = observed(&[&wide, r#"{"more":null}"#]);
        assert!(!schema.rest);
        let mut lake = Schema::default();
        lake.absorb(&schema);
        assert!(schema.absorb(&observed(&[r#"{"more":1}"#])));
        assert!(schema.rest && schema.fields.len() == COLUMNS_MAX);
        assert!(lake.absorb(&schema) && lake.rest);
        let mut parser = Parser::default();
        assert!(!schema.observe(&parser.parse(br#"{"another":[1],"f7":2}"#).expect("json")));
    }

    #[test]
    fn the_widest_columns_become_text_when_the_leaves_are_too_many() {
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
        assert_eq!(kinds, [false, false, false, false, true, false]);
    }
}
