//! The lattice: the kind of a field is the join of the kinds of its values.
//!
//! ```text
//!                 Text
//!      ┌───────┬───┴───┬────────┬────────┬─────────┐
//!    Long    Float    Time     Bool    List(·)   Struct(·)
//!      └──Int──┘
//!                 Null  (below all)
//! ```
//! `Int` holds integers within ±2⁵³, which float64 holds exactly, `Long` those within 64 bits: an integer that a float
//! would change never becomes one. Lists and structs join element by element and field by field.
//! Proof: the properties below: join is commutative, associative and idempotent, and a record fits what it was
//! joined into.

use std::collections::HashMap;

use crate::json::{Json, Token, TokenKind};
use crate::rfc3339;

/// Containers nested deeper become text.
const DEPTH_MAX: u32 = 64;
/// An object with more different fields becomes text.
pub(super) const STRUCT_FIELDS_MAX: usize = 1_000;
/// Integers up to here are the same in float64.
const FLOAT_EXACT_MAX: u64 = 1 << 53;

/// What a field's values are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Kind {
    /// Only null so far.
    #[default]
    Null,
    /// `true`, `false`.
    Bool,
    /// Integers within ±2⁵³.
    Int,
    /// Integers within 64 bits.
    Long,
    /// Numbers that float64 holds.
    Float,
    /// Strings that are UTC times to the microsecond.
    Time,
    /// Anything, as text.
    Text,
    /// Arrays.
    List(Box<Node>),
    /// Objects.
    Struct(Fields),
}

/// A kind with its field id; 0 until one is given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// The field id.
    pub id: u32,
    /// What the values are.
    pub kind: Kind,
}

/// A named node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The field's name in the records.
    pub name: String,
    /// What its values are.
    pub node: Node,
}

/// Fields in the order in which they were first seen, found by name.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    list: Vec<Field>,
    by_name: HashMap<String, usize>,
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl Eq for Fields {}

impl Fields {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Field> {
        self.list.iter()
    }

    /// The index of that name. `hint` is where it is expected: records mostly have their fields in the same order.
    pub(super) fn find(&self, name: &str, hint: usize) -> Option<usize> {
        match self.list.get(hint) {
            Some(field) if field.name == name => Some(hint),
            _ => self.by_name.get(name).copied(),
        }
    }

    /// Whether there is a field of that name.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Adds a field that is not there yet; returns its index.
    pub(super) fn insert(&mut self, name: String) -> usize {
        let index = self.list.len();
        let before = self.by_name.insert(name.clone(), index);
        debug_assert_eq!(before, None, "a field is inserted once");
        self.list.push(Field { name, node: Node::default() });
        index
    }

    pub(super) fn node_mut(&mut self, index: usize) -> &mut Node {
        &mut self.list[index].node
    }
}

impl Node {
    /// Widens the kind so that the value at that index fits. Returns whether it changed.
    pub(super) fn observe(&mut self, json: &Json<'_>, at: u32, depth: u32) -> bool {
        let token = json.token(at);
        match (&mut self.kind, token.kind) {
            (Kind::Text, _) | (_, TokenKind::Null) => false,
            (Kind::Null, TokenKind::Object | TokenKind::Array) if depth >= DEPTH_MAX => self.become_text(),
            (Kind::Null, TokenKind::Object) => {
                self.kind = Kind::Struct(Fields::default());
                self.observe(json, at, depth);
                true
            }
            (Kind::Null, TokenKind::Array) => {
                self.kind = Kind::List(Box::default());
                self.observe(json, at, depth);
                true
            }
            (Kind::Struct(fields), TokenKind::Object) => {
                let mut changed = false;
                let mut hint = 0;
                for (key, value) in json.field_indexes(at) {
                    let name = json.string(json.token(key));
                    let index = fields.find(&name, hint).unwrap_or_else(|| {
                        changed = true;
                        fields.insert(name.into_owned())
                    });
                    hint = index + 1;
                    changed |= fields.node_mut(index).observe(json, value, depth + 1);
                    if fields.len() > STRUCT_FIELDS_MAX {
                        return self.become_text();
                    }
                }
                changed
            }
            (Kind::List(element), TokenKind::Array) => {
                json.element_indexes(at).fold(false, |changed, at| changed | element.observe(json, at, depth + 1))
            }
            (_, TokenKind::Object | TokenKind::Array) => self.become_text(),
            (kind, _) => {
                let seen = scalar(json, token);
                *kind != seen && self.join(&Node { id: 0, kind: seen })
            }
        }
    }

    /// Widens the kind so that whatever fits `other` fits. Returns whether it changed. The own id stays.
    pub(super) fn join(&mut self, other: &Node) -> bool {
        match (&mut self.kind, &other.kind) {
            (Kind::Text, _) | (_, Kind::Null) => false,
            (Kind::Struct(fields), Kind::Struct(others)) => {
                let mut changed = false;
                for field in others.iter() {
                    match fields.find(&field.name, 0) {
                        Some(index) => changed |= fields.node_mut(index).join(&field.node),
                        None => {
                            let index = fields.insert(field.name.clone());
                            *fields.node_mut(index) = field.node.clone();
                            changed = true;
                        }
                    }
                    if fields.len() > STRUCT_FIELDS_MAX {
                        return self.become_text();
                    }
                }
                changed
            }
            (Kind::List(element), Kind::List(other)) => element.join(other),
            (Kind::Float | Kind::Long, Kind::Int) => false,
            (mine, theirs) if mine == theirs => false,
            (mine @ Kind::Int, wider @ (Kind::Long | Kind::Float)) => {
                *mine = wider.clone();
                true
            }
            (mine @ Kind::Null, _) => {
                *mine = other.kind.clone();
                true
            }
            _ => self.become_text(),
        }
    }

    fn become_text(&mut self) -> bool {
        self.kind = Kind::Text;
        true
    }

    /// Gives each node that has none the next id.
    pub(super) fn give_ids(&mut self, next_id: &mut u32) {
        if self.id == 0 {
            self.id = *next_id;
            *next_id += 1;
        }
        match &mut self.kind {
            Kind::List(element) => element.give_ids(next_id),
            Kind::Struct(fields) => fields.list.iter_mut().for_each(|field| field.node.give_ids(next_id)),
            _ => {}
        }
    }

    /// Forgets all ids.
    pub(super) fn clear_ids(&mut self) {
        self.id = 0;
        match &mut self.kind {
            Kind::List(element) => element.clear_ids(),
            Kind::Struct(fields) => fields.list.iter_mut().for_each(|field| field.node.clear_ids()),
            _ => {}
        }
    }

    /// How many leaf columns this is.
    pub(super) fn leaves(&self) -> usize {
        match &self.kind {
            Kind::List(element) => element.leaves(),
            Kind::Struct(fields) => fields.iter().map(|field| field.node.leaves()).sum::<usize>().max(1),
            _ => 1,
        }
    }
}

/// The kind of a value that is no container.
fn scalar(json: &Json<'_>, token: Token) -> Kind {
    match token.kind {
        TokenKind::Bool => Kind::Bool,
        // An escape in it, however odd, is not how anybody writes a time.
        TokenKind::Plain => match rfc3339::micros(&json.string(token)) {
            Some(_) => Kind::Time,
            None => Kind::Text,
        },
        TokenKind::Integer => match json.raw(token).parse::<i64>() {
            Ok(value) if value.unsigned_abs() <= FLOAT_EXACT_MAX => Kind::Int,
            Ok(_) => Kind::Long,
            Err(_) => Kind::Text,
        },
        TokenKind::Float => match json.raw(token).parse::<f64>() {
            Ok(value) if value.is_finite() => Kind::Float,
            _ => Kind::Text,
        },
        TokenKind::Null => Kind::Null,
        TokenKind::Escaped | TokenKind::Object | TokenKind::Array => Kind::Text,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::json::Parser;

    fn kind_of(values: &[&str]) -> Kind {
        let mut node = Node::default();
        for value in values {
            node.observe(&Parser::default().parse(value.as_bytes()).expect("json"), 0, 1);
        }
        node.kind
    }

    #[test]
    fn kinds_join_as_the_table_says() {
        assert_eq!(kind_of(&["null", "1012", "1012.3", "null"]), Kind::Float);
        assert_eq!(kind_of(&["1012.3", "1012"]), Kind::Float);
        assert_eq!(kind_of(&["1", "9223372036854775807"]), Kind::Long);
        assert_eq!(kind_of(&["9007199254740992"]), Kind::Int);
        assert_eq!(kind_of(&["9007199254740993", "0.5"]), Kind::Text);
        assert_eq!(kind_of(&["0.5", "1", "9007199254740993"]), Kind::Text);
        assert_eq!(kind_of(&["9223372036854775808"]), Kind::Text);
        assert_eq!(kind_of(&["1e400"]), Kind::Text);
        assert_eq!(kind_of(&["true", "1"]), Kind::Text);
        assert_eq!(kind_of(&[r#""2013-01-01T10:15:00Z""#, "null"]), Kind::Time);
        assert_eq!(kind_of(&[r#""2013-01-01T10:15:00Z""#, r#""soon""#]), Kind::Text);
        assert_eq!(kind_of(&["[]", "{}"]), Kind::Text);
        assert_eq!(kind_of(&["[]"]), Kind::List(Box::default()));
        assert_eq!(kind_of(&["[null,1]", "[2.5]"]), Kind::List(Box::new(Node { id: 0, kind: Kind::Float })));
    }

    #[test]
    fn a_map_in_disguise_and_deep_nesting_become_text() {
        let map: Vec<String> = (0..=STRUCT_FIELDS_MAX).map(|n| format!("\"{n}\":1")).collect();
        assert_eq!(kind_of(&[&format!("{{{}}}", map.join(","))]), Kind::Text);
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        let mut kind = kind_of(&[&deep]);
        let mut depth = 0;
        while let Kind::List(element) = kind {
            kind = element.kind;
            depth += 1;
        }
        assert_eq!((kind, depth), (Kind::Text, DEPTH_MAX as usize - 1));
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i8>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[ab\n\"]{0,3}".prop_map(Value::from),
            Just(json!("2013-01-01T10:15:00Z")),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[abc]", inner, 0..3)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn node_of(values: &[Value]) -> Node {
        let texts: Vec<String> = values.iter().map(Value::to_string).collect();
        Node { id: 0, kind: kind_of(&texts.iter().map(String::as_str).collect::<Vec<_>>()) }
    }

    /// With the fields by name: their order is the only thing that depends on the order of the records.
    fn sorted(node: &Node) -> Node {
        let kind = match &node.kind {
            Kind::List(element) => Kind::List(Box::new(sorted(element))),
            Kind::Struct(fields) => {
                let mut list: Vec<&Field> = fields.iter().collect();
                list.sort_by(|a, b| a.name.cmp(&b.name));
                let mut fields = Fields::default();
                for field in list {
                    let index = fields.insert(field.name.clone());
                    *fields.node_mut(index) = sorted(&field.node);
                }
                Kind::Struct(fields)
            }
            other => other.clone(),
        };
        Node { id: 0, kind }
    }

    fn joined(a: &Node, b: &Node) -> Node {
        let mut node = a.clone();
        let changed = node.join(b);
        assert_eq!(changed, node != *a);
        node
    }

    proptest! {
        #[test]
        fn join_is_commutative_associative_and_idempotent(
            a in prop::collection::vec(values(), 0..4),
            b in prop::collection::vec(values(), 0..4),
            c in prop::collection::vec(values(), 0..4),
        ) {
            let (a, b, c) = (node_of(&a), node_of(&b), node_of(&c));
            prop_assert_eq!(sorted(&joined(&a, &b)), sorted(&joined(&b, &a)));
            prop_assert_eq!(sorted(&joined(&joined(&a, &b), &c)), sorted(&joined(&a, &joined(&b, &c))));
            prop_assert_eq!(joined(&a, &a), a);
        }

        #[test]
        fn every_value_fits_the_joined_kind(values in prop::collection::vec(values(), 1..6)) {
            let halves = values.split_at(values.len() / 2);
            let mut node = joined(&node_of(halves.0), &node_of(halves.1));
            prop_assert_eq!(sorted(&node), sorted(&node_of(&values)));
            for value in &values {
                let text = value.to_string();
                prop_assert!(!node.observe(&Parser::default().parse(text.as_bytes()).expect("json"), 0, 1));
            }
        }
    }
}
