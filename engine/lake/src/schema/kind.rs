//! The lattice: the kind of a field is the join of the kinds of its values.
//!
//! ```text
//!            Text
//!   ┌──────┬───┴──┬───────┬─────────┐
//! Float  Time   Bool   List(·)  Struct(·)
//!   │
//!  Long
//!   │
//!  Int
//!   └── Null  (below all)
//! ```
//! `Int` holds integers within ±2⁵³, which float64 holds exactly, `Long` those within 64 bits. Lists and structs join
//! element by element and field by field. Numbers that neither int64 nor float64 holds exactly take no part: they never
//! fit a column, and go to `_rest`.
//!
//! A *settled* node is a column of a file: it grows by new fields below it and from `Int` to `Long` or `Float`, and in no
//! other way, since readers of several files at once cannot reconcile more. What does not fit it goes to `_rest`.
//! Declared nodes never change at all.
//!
//! Proof: the properties below: join is commutative, associative and idempotent.

use std::collections::{HashMap, HashSet};

use crate::json::{Json, Token, TokenKind};
use crate::number::exact_float;
use crate::rfc3339;

/// Containers nested deeper become text.
pub(crate) const DEPTH_MAX: u32 = 64;
/// An object with more different fields becomes text.
pub(crate) const STRUCT_FIELDS_MAX: usize = 1_000;
/// Integers up to here are the same in float64.
pub(crate) const FLOAT_EXACT_MAX: u64 = 1 << 53;

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
    /// Numbers that float64 holds exactly.
    Float,
    /// Strings that are UTC times to the microsecond.
    Time,
    /// Anything, as text.
    Text,
    /// Arrays.
    List(Box<Node>),
    /// Objects.
    Struct(Fields),
    /// Declared: integers within 32 bits.
    Int32,
    /// Declared: strings, and nothing else.
    String,
    /// Declared: `2013-01-31`.
    Date,
    /// Declared: numbers of so many digits, so many of them behind the point.
    Decimal(u8, u8),
}

/// A kind with its field id; 0 until one is given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// The field id.
    pub id: u32,
    /// Whether a file has it.
    pub settled: bool,
    /// Declared: whether null does not fit.
    pub required: bool,
    /// What the values are.
    pub kind: Kind,
}

/// A named node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The field's name in the records.
    pub name: String,
    /// Its column's: the same, unless another one has it, in whatever case.
    pub column: String,
    /// What its values are.
    pub node: Node,
}

/// Fields in the order in which they were first seen, found by name.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    list: Vec<Field>,
    by_name: HashMap<String, usize>,
    /// Columns' names in small letters.
    taken: HashSet<String>,
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl Eq for Fields {}

impl Fields {
    /// None yet; those columns' names are never given to a field.
    pub(super) fn without(reserved: &[&str]) -> Fields {
        Fields { taken: reserved.iter().map(|name| (*name).to_owned()).collect(), ..Fields::default() }
    }

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
    pub(crate) fn find(&self, name: &str, hint: usize) -> Option<usize> {
        match self.list.get(hint) {
            Some(field) if field.name == name => Some(hint),
            _ => self.by_name.get(name).copied(),
        }
    }

    /// The field of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&Field> {
        self.by_name.get(name).map(|index| &self.list[*index])
    }

    /// Adds a field that is not there yet; returns its index. Its column has its name, or if another column has that,
    /// in whatever case, the first of `name_2`, `name_3`, … that is free.
    pub(super) fn insert(&mut self, name: String) -> usize {
        let stem = if name.is_empty() { "_empty" } else { &name };
        let mut column = stem.to_owned();
        let mut number = 2;
        while !self.taken.insert(column.to_lowercase()) {
            column = format!("{stem}_{number}");
            number += 1;
        }
        self.insert_as(name, column)
    }

    /// Adds a field whose column's name is known.
    pub(super) fn insert_as(&mut self, name: String, column: String) -> usize {
        let index = self.list.len();
        self.taken.insert(column.to_lowercase());
        let before = self.by_name.insert(name.clone(), index);
        debug_assert_eq!(before, None, "a field is inserted once");
        self.list.push(Field { name, column, node: Node::default() });
        index
    }

    pub(super) fn node_mut(&mut self, index: usize) -> &mut Node {
        &mut self.list[index].node
    }

    pub(super) fn remove_last(&mut self) {
        if let Some(field) = self.list.pop() {
            self.by_name.remove(&field.name);
            self.taken.remove(&field.column.to_lowercase());
        }
    }
}

impl Node {
    /// A node of that kind, without an id.
    pub fn of(kind: Kind) -> Node {
        Node { kind, ..Node::default() }
    }

    /// Widens the kind as far as it may so that the value at that index fits. Returns whether it changed.
    pub(super) fn observe(&mut self, json: &Json<'_>, at: u32, depth: u32) -> bool {
        let token = json.token(at);
        let settled = self.settled;
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
                    let index = match fields.find(&name, hint) {
                        Some(index) => index,
                        None if fields.len() < STRUCT_FIELDS_MAX => {
                            changed = true;
                            fields.insert(name.into_owned())
                        }
                        None if settled => continue,
                        None => return self.become_text(),
                    };
                    hint = index + 1;
                    changed |= fields.node_mut(index).observe(json, value, depth + 1);
                }
                changed
            }
            (Kind::List(element), TokenKind::Array) => {
                json.element_indexes(at).fold(false, |changed, at| changed | element.observe(json, at, depth + 1))
            }
            (_, TokenKind::Object | TokenKind::Array) => self.conflict(),
            (_, _) => match scalar(json, token) {
                Some(seen) => self.meet(&seen),
                None => false,
            },
        }
    }

    /// Widens the kind as far as it may so that whatever fits `other` fits. Returns whether it changed. The own id stays.
    pub(super) fn join(&mut self, other: &Node) -> bool {
        let settled = self.settled;
        match (&mut self.kind, &other.kind) {
            (Kind::Text, _) | (_, Kind::Null) => false,
            (Kind::Struct(fields), Kind::Struct(others)) => {
                let mut changed = false;
                for field in others.iter() {
                    let index = match fields.find(&field.name, 0) {
                        Some(index) => index,
                        None if fields.len() < STRUCT_FIELDS_MAX => {
                            changed = true;
                            fields.insert(field.name.clone())
                        }
                        None if settled => continue,
                        None => return self.become_text(),
                    };
                    changed |= fields.node_mut(index).join(&field.node);
                }
                changed
            }
            (Kind::List(element), Kind::List(other)) => element.join(other),
            (mine @ Kind::Null, _) => {
                *mine = other.kind.clone();
                let id = self.id;
                self.renew();
                self.id = id;
                true
            }
            (_, theirs) => {
                let theirs = theirs.clone();
                self.meet(&theirs)
            }
        }
    }

    /// Meets a kind that is neither null nor a container of the same sort.
    fn meet(&mut self, seen: &Kind) -> bool {
        match (&self.kind, seen) {
            (mine, seen) if mine == seen => false,
            (Kind::Float | Kind::Long, Kind::Int) | (Kind::Float, Kind::Long) => false,
            (Kind::Long, Kind::Float) if self.settled => false,
            (Kind::Null, _) | (Kind::Int, Kind::Long | Kind::Float) | (Kind::Long, Kind::Float) => {
                self.kind = seen.clone();
                true
            }
            _ => self.conflict(),
        }
    }

    /// Two kinds that no number type holds together.
    fn conflict(&mut self) -> bool {
        let declared = matches!(self.kind, Kind::Int32 | Kind::String | Kind::Date | Kind::Decimal(..));
        if self.settled || declared || self.kind == Kind::Text { false } else { self.become_text() }
    }

    fn become_text(&mut self) -> bool {
        self.kind = Kind::Text;
        true
    }

    /// Makes it, and all that is known below it, a column: lists of nothing are lists of text, objects without a typed
    /// field are text, and from now on only what a column may do changes it.
    pub(super) fn settle(&mut self) {
        match &mut self.kind {
            Kind::Null => return,
            Kind::List(element) => {
                if element.kind == Kind::Null {
                    element.kind = Kind::Text;
                }
                element.settle();
            }
            Kind::Struct(fields) => {
                if fields.iter().all(|field| field.node.kind == Kind::Null) {
                    self.kind = Kind::Text;
                } else {
                    fields.list.iter_mut().for_each(|field| field.node.settle());
                }
            }
            _ => {}
        }
        self.settled = true;
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

    /// Makes what was taken over from another schema new in this one: without ids, not settled.
    pub(super) fn renew(&mut self) {
        self.id = 0;
        self.settled = false;
        match &mut self.kind {
            Kind::List(element) => element.renew(),
            Kind::Struct(fields) => fields.list.iter_mut().for_each(|field| field.node.renew()),
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

/// The kind of a value that is no container; `None` for a number that no column holds exactly.
fn scalar(json: &Json<'_>, token: Token) -> Option<Kind> {
    Some(match token.kind {
        TokenKind::Bool => Kind::Bool,
        // An escape in it, however odd, is not how anybody writes a time.
        TokenKind::Plain => match rfc3339::micros(json.plain(token)) {
            Some(_) => Kind::Time,
            None => Kind::Text,
        },
        TokenKind::Integer => match json.raw(token).parse::<i64>() {
            Ok(value) if value.unsigned_abs() <= FLOAT_EXACT_MAX => Kind::Int,
            Ok(_) => Kind::Long,
            Err(_) => return None,
        },
        TokenKind::Float => {
            exact_float(json.raw(token))?;
            Kind::Float
        }
        TokenKind::Null => Kind::Null,
        TokenKind::Escaped | TokenKind::Object | TokenKind::Array => Kind::Text,
    })
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
        assert_eq!(kind_of(&["9007199254740993", "0.5"]), Kind::Float);
        assert_eq!(kind_of(&["0.5", "1", "9007199254740993"]), Kind::Float);
        assert_eq!(kind_of(&["9223372036854775808", "7"]), Kind::Int);
        assert_eq!(kind_of(&["1e400"]), Kind::Null);
        assert_eq!(kind_of(&["true", "1"]), Kind::Text);
        assert_eq!(kind_of(&[r#""2013-01-01T10:15:00Z""#, "null"]), Kind::Time);
        assert_eq!(kind_of(&[r#""2013-01-01T10:15:00Z""#, r#""soon""#]), Kind::Text);
        assert_eq!(kind_of(&["[]", "{}"]), Kind::Text);
        assert_eq!(kind_of(&["[]"]), Kind::List(Box::default()));
        assert_eq!(kind_of(&["[null,1]", "[2.5]"]), Kind::List(Box::new(Node::of(Kind::Float))));
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
        Node::of(kind_of(&texts.iter().map(String::as_str).collect::<Vec<_>>()))
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
        Node::of(kind)
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
