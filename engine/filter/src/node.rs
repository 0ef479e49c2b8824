//! A compiled filter: CEL's syntax tree, checked, with its names resolved and its constants computed.

use crate::error::ValueType;
use crate::functions::Function;
use crate::text::Network;
use crate::value::Value;

/// An expression, and the byte of the text to blame for it.
#[derive(Debug)]
pub struct Node {
    pub at: u32,
    pub kind: Kind,
}

/// What a filter reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    Key,
    Headers,
    Timestamp,
    Value,
}

/// What an expression does. The operands of macros stand outside of `Box<[Node; N]>` only where they differ in number.
#[derive(Debug)]
pub enum Kind {
    Constant(Value<'static>),
    /// A root, and the members that lead on from it.
    Path(Root, Vec<Step>),
    /// The variable of the macro around. There is one at most: macros do not nest.
    Variable,
    Select(Box<Node>, Box<str>),
    Has(Box<Node>, Box<str>),
    Index(Box<[Node; 2]>),
    List(Vec<Node>),
    Or(Box<[Node; 2]>),
    And(Box<[Node; 2]>),
    Not(Box<Node>),
    Negate(Box<Node>),
    Choose(Box<[Node; 3]>),
    Equal(Box<[Node; 2]>),
    Unequal(Box<[Node; 2]>),
    Order(Comparison, Box<[Node; 2]>),
    Arithmetic(Arithmetic, Box<[Node; 2]>),
    In(Box<[Node; 2]>),
    Call(Function, Vec<Node>),
    /// `in_cidr` with a network that was read when the filter was compiled.
    InNetwork(Box<Node>, Network),
    /// A macro over the elements of the first.
    Each(Macro, Box<[Node; 2]>),
    /// `list.map(variable, condition, result)`.
    MapIf(Box<[Node; 3]>),
}

/// A member on the way from a root.
#[derive(Debug)]
pub struct Step {
    pub at: u32,
    pub name: Box<str>,
}

/// `<` and its like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Less,
    AtMost,
    Greater,
    AtLeast,
}

impl Comparison {
    pub fn name(self) -> &'static str {
        match self {
            Comparison::Less => "`<`",
            Comparison::AtMost => "`<=`",
            Comparison::Greater => "`>`",
            Comparison::AtLeast => "`>=`",
        }
    }
}

/// `+` and its like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Arithmetic {
    pub fn name(self) -> &'static str {
        match self {
            Arithmetic::Add => "`+`",
            Arithmetic::Subtract => "`-`",
            Arithmetic::Multiply => "`*`",
            Arithmetic::Divide => "`/`",
            Arithmetic::Remainder => "`%`",
        }
    }
}

/// The macros that run an expression for each element of a list, or each name of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Macro {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
}

impl Macro {
    pub fn name(self) -> &'static str {
        match self {
            Macro::All => "all",
            Macro::Exists => "exists",
            Macro::ExistsOne => "exists_one",
            Macro::Filter => "filter",
            Macro::Map => "map",
        }
    }
}

/// The type of an expression, as far as its text alone says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    Of(ValueType),
    /// One of several, none of them a truth.
    NoTruth,
    /// It depends on the record.
    Open,
}

impl Node {
    /// What can be said of its result without a record.
    pub fn sort(&self) -> Sort {
        match &self.kind {
            Kind::Constant(value) => Sort::Of(value.kind()),
            Kind::Has(..)
            | Kind::Or(_)
            | Kind::And(_)
            | Kind::Not(_)
            | Kind::Equal(_)
            | Kind::Unequal(_)
            | Kind::Order(..)
            | Kind::In(_)
            | Kind::InNetwork(..)
            | Kind::Each(Macro::All | Macro::Exists | Macro::ExistsOne, _) => Sort::Of(ValueType::Bool),
            Kind::Path(Root::Headers, steps) if steps.is_empty() => Sort::Of(ValueType::Map),
            Kind::Path(Root::Timestamp, steps) if steps.is_empty() => Sort::Of(ValueType::Timestamp),
            Kind::Negate(_) | Kind::Arithmetic(..) => Sort::NoTruth,
            Kind::List(_) | Kind::MapIf(_) | Kind::Each(Macro::Filter | Macro::Map, _) => Sort::Of(ValueType::List),
            Kind::Call(function, _) => Sort::Of(function.result()),
            Kind::Choose(operands) => {
                let [_, yes, no] = &**operands;
                let (yes, no) = (yes.sort(), no.sort());
                if yes == no { yes } else { Sort::Open }
            }
            Kind::Path(..) | Kind::Variable | Kind::Select(..) | Kind::Index(_) => Sort::Open,
        }
    }
}
