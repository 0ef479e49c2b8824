//! A schema as it is stored in a partition's state: a flat list, since archives know no recursion.

use rkyv::{Archive, Deserialize, Serialize};

use super::kind::{Kind, Node};
use super::{COLUMNS_MAX, FIRST_FIELD_ID, Schema};

/// One node, after its parent and before its siblings. The numbers of the kinds are for ever.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct StoredNode {
    /// 1 for a column, one more for each level below.
    pub depth: u16,
    /// 0 null, 1 bool, 2 int, 3 long, 4 float, 5 time, 6 text, 7 list, 8 struct.
    pub kind: u8,
    /// The field id.
    pub id: u32,
    /// The field's name; empty for a list's element.
    pub name: String,
}

/// A stored schema that is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its schema is malformed at node {0}")]
pub struct BrokenSchema(usize);

impl Schema {
    /// The schema as a flat list.
    pub fn to_stored(&self) -> Vec<StoredNode> {
        let mut out = Vec::new();
        for field in self.fields.iter() {
            put(&field.node, &field.name, 1, &mut out);
        }
        out
    }

    /// The schema from its version, its rest flag and the flat list.
    ///
    /// # Errors
    /// [`BrokenSchema`].
    pub fn from_stored(version: u32, rest: bool, nodes: &[StoredNode]) -> Result<Schema, BrokenSchema> {
        let mut schema = Schema { version, rest, ..Schema::default() };
        let mut at = 0;
        while at < nodes.len() {
            let name = nodes[at].name.clone();
            if schema.fields.contains(&name) || schema.fields.len() >= COLUMNS_MAX {
                return Err(BrokenSchema(at));
            }
            let index = schema.fields.insert(name);
            *schema.fields.node_mut(index) = take(nodes, &mut at, 1)?;
        }
        schema.next_id = nodes.iter().map(|node| node.id + 1).max().unwrap_or(0).max(FIRST_FIELD_ID);
        Ok(schema)
    }
}

fn put(node: &Node, name: &str, depth: u16, out: &mut Vec<StoredNode>) {
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
    };
    out.push(StoredNode { depth, kind, id: node.id, name: name.to_owned() });
    match &node.kind {
        Kind::List(element) => put(element, "", depth + 1, out),
        Kind::Struct(fields) => fields.iter().for_each(|field| put(&field.node, &field.name, depth + 1, out)),
        _ => {}
    }
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
            let mut fields = super::Fields::default();
            while nodes.get(*at).is_some_and(|node| node.depth > depth) {
                let name = nodes[*at].name.clone();
                if fields.contains(&name) {
                    return Err(broken);
                }
                let index = fields.insert(name);
                *fields.node_mut(index) = take(nodes, at, depth + 1)?;
            }
            Kind::Struct(fields)
        }
        _ => return Err(broken),
    };
    Ok(Node { id: stored.id, kind })
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
        let back = Schema::from_stored(schema.version, schema.rest, &schema.to_stored());
        assert_eq!(back, Ok(schema));
    }

    #[test]
    fn broken_lists_are_refused() {
        let whole = example().to_stored();
        for at in 0..whole.len() {
            for change in [|node: &mut StoredNode| node.depth += 100, |node: &mut StoredNode| node.kind = 9] {
                let mut nodes = whole.clone();
                change(&mut nodes[at]);
                assert!(Schema::from_stored(1, false, &nodes).is_err(), "node {at}");
            }
        }
        let twice = [whole.clone(), whole].concat();
        assert!(Schema::from_stored(1, false, &twice).is_err());
    }
}
