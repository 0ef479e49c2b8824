//! A schema as it is stored in a partition's state: a flat list, since archives know no recursion.

use rkyv::{Archive, Deserialize, Serialize};

use super::kind::{Field, Fields, Kind, Node};
use super::{COLUMNS_MAX, FIRST_FIELD_ID, Schema};

/// One node, after its parent and before its siblings. The numbers of the kinds are for ever.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct StoredNode {
    /// 1 for a column, one more for each level below.
    pub depth: u16,
    /// 0 null, 1 bool, 2 int, 3 long, 4 float, 5 time, 6 text, 7 list, 8 struct, 9 int32, 10 string, 11 date, 12 decimal.
    pub kind: u8,
    /// 1: settled, 2: required.
    pub flags: u8,
    /// A decimal's digits, and those behind the point; otherwise 0.
    pub digits: (u8, u8),
    /// The field id.
    pub id: u32,
    /// The field's name; empty for a list's element.
    pub name: String,
    /// Its column's name, if that is another one.
    pub column: Option<String>,
}

/// A stored schema that is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its schema is malformed at node {0}")]
pub struct BrokenSchema(usize);

impl Schema {
    /// The schema as a flat list.
    pub fn to_stored(&self) -> Vec<StoredNode> {
        let mut out = Vec::new();
        self.fields.iter().for_each(|field| put_field(field, 1, &mut out));
        out
    }

    /// The schema from its version, whether it is full, whether it was declared, and the flat list.
    ///
    /// # Errors
    /// [`BrokenSchema`].
    pub fn from_stored(
        version: u32,
        (full, declared): (bool, bool),
        nodes: &[StoredNode],
    ) -> Result<Schema, BrokenSchema> {
        let mut schema = Schema { version, full, declared, ..Schema::default() };
        let mut at = 0;
        while at < nodes.len() {
            if schema.fields.get(&nodes[at].name).is_some() || schema.fields.len() >= COLUMNS_MAX {
                return Err(BrokenSchema(at));
            }
            take_field(nodes, &mut at, 1, &mut schema.fields)?;
        }
        schema.next_id = nodes.iter().map(|node| node.id + 1).max().unwrap_or(0).max(FIRST_FIELD_ID);
        Ok(schema)
    }
}

fn put_field(field: &Field, depth: u16, out: &mut Vec<StoredNode>) {
    let column = (field.column != field.name).then(|| field.column.clone());
    put(&field.node, &field.name, column, depth, out);
}

fn put(node: &Node, name: &str, column: Option<String>, depth: u16, out: &mut Vec<StoredNode>) {
    let mut digits = (0, 0);
    let kind = match node.kind {
        Kind::Null => 0,
        Kind::Bool => 1,
        Kind::Int => 2,
        Kind::Long => 3,
        Kind::Float => 4,
        Kind::Time => 5,
        Kind::Text => 6,
        Kind::List(_) => 7,
        Kind::Struct(_) => 8,
        Kind::Int32 => 9,
        Kind::String => 10,
        Kind::Date => 11,
        Kind::Decimal(precision, scale) => {
            digits = (precision, scale);
            12
        }
    };
    let flags = u8::from(node.settled) | u8::from(node.required) << 1;
    out.push(StoredNode { depth, kind, flags, digits, id: node.id, name: name.to_owned(), column });
    match &node.kind {
        Kind::List(element) => put(element, "", None, depth + 1, out),
        Kind::Struct(fields) => fields.iter().for_each(|field| put_field(field, depth + 1, out)),
        _ => {}
    }
}

fn take_field(nodes: &[StoredNode], at: &mut usize, depth: u16, fields: &mut Fields) -> Result<(), BrokenSchema> {
    let StoredNode { name, column, .. } = &nodes[*at];
    let index = fields.insert_as(name.clone(), column.as_ref().unwrap_or(name).clone());
    *fields.node_mut(index) = take(nodes, at, depth)?;
    Ok(())
}

fn take(nodes: &[StoredNode], at: &mut usize, depth: u16) -> Result<Node, BrokenSchema> {
    let broken = BrokenSchema(*at);
    let stored = nodes.get(*at).filter(|node| node.depth == depth && node.id < u32::MAX).ok_or(broken)?;
    *at += 1;
    let kind = match stored.kind {
        0 => Kind::Null,
        1 => Kind::Bool,
        2 => Kind::Int,
        3 => Kind::Long,
        4 => Kind::Float,
        5 => Kind::Time,
        6 => Kind::Text,
        // The depth is bounded where schemas are made; a stored one beyond it is refused before it recurses.
        7 | 8 if depth > 64 => return Err(broken),
        7 => Kind::List(Box::new(take(nodes, at, depth + 1)?)),
        8 => {
            let mut fields = Fields::default();
            while nodes.get(*at).is_some_and(|node| node.depth > depth) {
                if fields.get(&nodes[*at].name).is_some() {
                    return Err(broken);
                }
                take_field(nodes, at, depth + 1, &mut fields)?;
            }
            Kind::Struct(fields)
        }
        9 => Kind::Int32,
        10 => Kind::String,
        11 => Kind::Date,
        12 if (1..=38).contains(&stored.digits.0) && stored.digits.1 <= stored.digits.0 => {
            Kind::Decimal(stored.digits.0, stored.digits.1)
        }
        _ => return Err(broken),
    };
    let (settled, required) = (stored.flags & 1 != 0, stored.flags & 2 != 0);
    Ok(Node { id: stored.id, settled, required, kind })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Parser;

    fn example() -> Schema {
        let mut observed = Schema::default();
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        let record = format!(
            r#"{{"n":null,"b":true,"i":1,"l":9223372036854775807,"f":1.5,"t":"2013-01-01T10:15:00Z","x":"x","e":[],"s":{{"a":[{{"b":1}}],"c":{{}}}},"d":{deep}}}"#
        );
        observed.observe(&Parser::default().parse(record.as_bytes()).expect("json"));
        let mut schema = Schema::default();
        schema.absorb(&observed);
        schema
    }

    #[test]
    fn a_schema_comes_back_as_it_was_stored() {
        let schema = example();
        let back = Schema::from_stored(schema.version, (schema.full, schema.declared), &schema.to_stored());
        assert_eq!(back, Ok(schema));
    }

    #[test]
    fn broken_lists_are_refused() {
        let whole = example().to_stored();
        for at in 0..whole.len() {
            for change in [|node: &mut StoredNode| node.depth += 100, |node: &mut StoredNode| node.kind = 99] {
                let mut nodes = whole.clone();
                change(&mut nodes[at]);
                assert!(Schema::from_stored(1, (false, false), &nodes).is_err(), "node {at}");
            }
        }
        let twice = [whole.clone(), whole].concat();
        assert!(Schema::from_stored(1, (false, false), &twice).is_err());
    }
}
