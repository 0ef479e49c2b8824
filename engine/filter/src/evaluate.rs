//! Runs a compiled filter on a record.
//!
//! Every node costs a step, every element and every 64 bytes looked at one more; at the end of the steps the evaluation
//! ends, and nothing hides that. The recursion is as deep as the filter's own tree.

use std::cmp::Ordering;

use crate::budget::{Budget, Spent};
use crate::candidate::Candidate;
use crate::error::{FilterError, Reason};
use crate::node::{Arithmetic, Comparison, Kind, Macro, Node, Step};
use crate::time;
use crate::value::{Part, Value};

impl From<Spent> for Reason {
    fn from(Spent: Spent) -> Self {
        Reason::Steps
    }
}

/// One run.
pub struct Evaluation<'v, 'a> {
    /// `None` while constants are computed, which ask nothing of a record.
    candidate: Option<&'v Candidate<'a>>,
    budget: Budget,
    variable: Option<Value<'v>>,
}

type Outcome<'v> = Result<Value<'v>, FilterError>;

impl<'v, 'a> Evaluation<'v, 'a> {
    pub fn of(candidate: &'v Candidate<'a>) -> Self {
        Self { candidate: Some(candidate), budget: Budget::new(), variable: None }
    }

    /// For expressions that are made of constants only.
    pub fn of_constants() -> Self {
        Self { candidate: None, budget: Budget::new(), variable: None }
    }

    /// What the expression says of the record.
    pub fn truth(&mut self, node: &'v Node) -> Result<bool, FilterError> {
        match self.value(node)? {
            Value::Bool(truth) => Ok(truth),
            other => Err(fail(node, Reason::NotBool { got: other.kind() })),
        }
    }

    /// The value of an expression.
    pub fn value(&mut self, node: &'v Node) -> Outcome<'v> {
        self.budget.take(1).map_err(|spent| fail(node, spent.into()))?;
        match &node.kind {
            Kind::Constant(value) => Ok(value.borrow()),
            Kind::Path(root, steps) => {
                let candidate = self.candidate.expect("constants name no root");
                let mut value: &'v Value<'v> = candidate.root(*root).map_err(|reason| fail(node, reason))?;
                for Step { at, name } in steps {
                    value = member(value, name).map_err(|reason| FilterError { position: *at as usize, reason })?;
                }
                Ok(value.borrow())
            }
            Kind::Variable => Ok(self.variable.clone().expect("the compiler saw the macro around")),
            Kind::Select(of, name) => {
                let of = self.value(of)?;
                member(&of, name).cloned().map_err(|reason| fail(node, reason))
            }
            Kind::Has(of, name) => {
                let of = self.value(of)?;
                match member(&of, name) {
                    Ok(_) => Ok(Value::Bool(true)),
                    Err(Reason::NoSuchMember) => Ok(Value::Bool(false)),
                    Err(reason) => Err(fail(node, reason)),
                }
            }
            Kind::Index(operands) => {
                let (of, index) = self.both(operands)?;
                self.index(&of, &index).map_err(|reason| fail(node, reason))
            }
            Kind::List(elements) => {
                self.budget.take_allocation().map_err(|spent| fail(node, spent.into()))?;
                let values = elements.iter().map(|element| self.value(element)).collect::<Result<_, _>>()?;
                Ok(Value::list(values))
            }
            Kind::Or(operands) => self.logical(node, operands, true),
            Kind::And(operands) => self.logical(node, operands, false),
            Kind::Not(operand) => match self.value(operand)? {
                Value::Bool(truth) => Ok(Value::Bool(!truth)),
                other => Err(fail(node, Reason::MismatchOne { operation: "`!`", operand: other.kind() })),
            },
            Kind::Negate(operand) => negate(&self.value(operand)?).map_err(|reason| fail(node, reason)),
            Kind::Choose(operands) => {
                let [condition, yes, no] = &**operands;
                match self.value(condition)? {
                    Value::Bool(true) => self.value(yes),
                    Value::Bool(false) => self.value(no),
                    other => Err(fail(node, Reason::MismatchOne { operation: "`?`", operand: other.kind() })),
                }
            }
            Kind::Equal(operands) => self.equal(node, operands).map(Value::Bool),
            Kind::Unequal(operands) => self.equal(node, operands).map(|equal| Value::Bool(!equal)),
            Kind::Order(comparison, operands) => {
                let (left, right) = self.both(operands)?;
                let order = left.order(&right, &mut self.budget).map_err(|spent| fail(node, spent.into()))?;
                let order = order.ok_or_else(|| {
                    let (left, right) = (left.kind(), right.kind());
                    fail(node, Reason::Mismatch { operation: comparison.name(), left, right })
                })?;
                Ok(Value::Bool(match comparison {
                    Comparison::Less => order == Ordering::Less,
                    Comparison::AtMost => order != Ordering::Greater,
                    Comparison::Greater => order == Ordering::Greater,
                    Comparison::AtLeast => order != Ordering::Less,
                }))
            }
            Kind::Arithmetic(operation, operands) => {
                let (left, right) = self.both(operands)?;
                self.arithmetic(*operation, &left, &right).map_err(|reason| fail(node, reason))
            }
            Kind::In(operands) => {
                let (element, container) = self.both(operands)?;
                self.is_in(&element, &container).map(Value::Bool).map_err(|reason| fail(node, reason))
            }
            Kind::Call(function, operands) => match &**operands {
                [operand] => {
                    let operand = self.value(operand)?;
                    function.call_one(operand, &mut self.budget).map_err(|reason| fail(node, reason))
                }
                [left, right] => {
                    let (left, right) = (self.value(left)?, self.value(right)?);
                    function.call_two(&left, &right, &mut self.budget).map_err(|reason| fail(node, reason))
                }
                _ => unreachable!("the compiler checked the number of operands"),
            },
            Kind::InNetwork(address, network) => match self.value(address)? {
                Value::Text(text) => {
                    let unreadable = Reason::Unreadable { function: "in_cidr" };
                    network.contains(&text).map(Value::Bool).ok_or_else(|| fail(node, unreadable))
                }
                other => Err(fail(node, Reason::MismatchOne { operation: "in_cidr", operand: other.kind() })),
            },
            Kind::Each(kind, operands) => {
                let [range, body] = &**operands;
                let range = self.range(node, range, kind.name())?;
                let outcome = self.each(node, *kind, range, body);
                self.variable = None;
                outcome
            }
            Kind::MapIf(operands) => {
                let [range, condition, body] = &**operands;
                let range = self.range(node, range, "map")?;
                let outcome = self.map_if(node, range, condition, body);
                self.variable = None;
                outcome
            }
        }
    }

    fn both(&mut self, operands: &'v [Node; 2]) -> Result<(Value<'v>, Value<'v>), FilterError> {
        Ok((self.value(&operands[0])?, self.value(&operands[1])?))
    }

    fn equal(&mut self, node: &'v Node, operands: &'v [Node; 2]) -> Result<bool, FilterError> {
        let (left, right) = self.both(operands)?;
        left.equals(&right, &mut self.budget).map_err(|spent| fail(node, spent.into()))
    }

    /// `||` if `decisive` is true, `&&` if it is false: an operand with that value decides, whatever the other says.
    fn logical(&mut self, node: &'v Node, operands: &'v [Node; 2], decisive: bool) -> Outcome<'v> {
        let operation = if decisive { "`||`" } else { "`&&`" };
        let truth = |value: Value<'_>| match value {
            Value::Bool(truth) => Ok(truth),
            other => Err(fail(node, Reason::MismatchOne { operation, operand: other.kind() })),
        };
        let left = self.value(&operands[0]).and_then(truth);
        match left {
            Ok(truth) if truth == decisive => return Ok(Value::Bool(decisive)),
            Err(error) if error.reason == Reason::Steps => return Err(error),
            _ => {}
        }
        let right = self.value(&operands[1]).and_then(truth)?;
        if right == decisive { Ok(Value::Bool(decisive)) } else { left.map(Value::Bool) }
    }

    fn index(&mut self, of: &Value<'v>, index: &Value<'v>) -> Result<Value<'v>, Reason> {
        match (of, index) {
            (Value::Map(_), Value::Text(name)) => {
                self.budget.take_bytes(name.len())?;
                member(of, name).cloned()
            }
            (Value::Map(_), Value::Int(_) | Value::Double(_) | Value::Bool(_)) => Err(Reason::NoSuchMember),
            (Value::List(list), index) => {
                let index = match *index {
                    Value::Int(index) => index,
                    Value::Double(index) if index.fract() == 0.0 && index.abs() < 1e15 => index as i64,
                    _ => return Err(Reason::Mismatch { operation: "`[]`", left: of.kind(), right: index.kind() }),
                };
                usize::try_from(index).ok().and_then(|index| list.get(index)).cloned().ok_or(Reason::OutOfRange)
            }
            (of, index) => Err(Reason::Mismatch { operation: "`[]`", left: of.kind(), right: index.kind() }),
        }
    }

    fn is_in(&mut self, element: &Value<'v>, container: &Value<'v>) -> Result<bool, Reason> {
        match (element, container) {
            (element, Value::List(list)) => {
                for candidate in list.iter() {
                    if candidate.equals(element, &mut self.budget)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            (Value::Text(name), Value::Map(map)) => {
                self.budget.take_bytes(name.len())?;
                Ok(map.get(name).is_some())
            }
            (Value::Int(_) | Value::Double(_) | Value::Bool(_), Value::Map(_)) => Ok(false),
            (element, container) => {
                Err(Reason::Mismatch { operation: "`in`", left: element.kind(), right: container.kind() })
            }
        }
    }

    fn arithmetic(&mut self, operation: Arithmetic, left: &Value<'v>, right: &Value<'v>) -> Result<Value<'v>, Reason> {
        use Arithmetic::{Add, Divide, Multiply, Remainder, Subtract};
        let name = operation.name();
        let overflow = Reason::Overflow { operation: name };
        let time_in_range = |time| time::within_range(time).map(Value::Time).ok_or(overflow);
        let span = |nanos| time::span_of_nanos(nanos).map(Value::Span).ok_or(overflow);
        let nanos = time::nanos_of_span;
        match (operation, left, right) {
            (_, Value::Int(a), Value::Int(b)) => {
                let result = match operation {
                    Add => a.checked_add(*b),
                    Subtract => a.checked_sub(*b),
                    Multiply => a.checked_mul(*b),
                    Divide | Remainder if *b == 0 => return Err(Reason::DivisionByZero),
                    Divide => a.checked_div(*b),
                    Remainder => a.checked_rem(*b),
                };
                result.map(Value::Int).ok_or(overflow)
            }
            (Add, Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
            (Subtract, Value::Double(a), Value::Double(b)) => Ok(Value::Double(a - b)),
            (Multiply, Value::Double(a), Value::Double(b)) => Ok(Value::Double(a * b)),
            (Divide, Value::Double(a), Value::Double(b)) => Ok(Value::Double(a / b)),
            (Add, Value::Text(a), Value::Text(b)) => {
                self.budget.take_allocation()?;
                self.budget.take_copied(a.len() + b.len())?;
                Ok(Value::text([&**a, &**b].concat()))
            }
            (Add, Value::Bytes(a), Value::Bytes(b)) => {
                self.budget.take_allocation()?;
                self.budget.take_copied(a.len() + b.len())?;
                Ok(Value::Bytes(Part::Shared([&**a, &**b].concat().into())))
            }
            (Add, Value::List(a), Value::List(b)) => {
                self.budget.take_allocation()?;
                self.budget.take_elements((a.len() + b.len()).saturating_mul(4))?;
                Ok(Value::list([&**a, &**b].concat()))
            }
            (Add, Value::Time(time), Value::Span(by)) | (Add, Value::Span(by), Value::Time(time)) => {
                time_in_range(time.checked_add_signed(*by).ok_or(overflow)?)
            }
            (Subtract, Value::Time(time), Value::Span(by)) => {
                time_in_range(time.checked_sub_signed(*by).ok_or(overflow)?)
            }
            (Subtract, Value::Time(a), Value::Time(b)) => span(nanos(&a.signed_duration_since(b))),
            (Add, Value::Span(a), Value::Span(b)) => span(nanos(a) + nanos(b)),
            (Subtract, Value::Span(a), Value::Span(b)) => span(nanos(a) - nanos(b)),
            (_, left, right) => Err(Reason::Mismatch { operation: name, left: left.kind(), right: right.kind() }),
        }
    }

    /// What a macro runs over: the elements of a list, the names of a map.
    fn range(
        &mut self,
        node: &'v Node,
        range: &'v Node,
        operation: &'static str,
    ) -> Result<Part<'v, [Value<'v>]>, FilterError> {
        match self.value(range)? {
            Value::List(list) => Ok(list),
            Value::Map(map) => {
                self.budget.take_elements(map.len()).map_err(|spent| fail(node, spent.into()))?;
                Ok(Part::Shared(map.iter().map(|(name, _)| Value::Text(name.clone())).collect()))
            }
            other => Err(fail(node, Reason::MismatchOne { operation, operand: other.kind() })),
        }
    }

    fn each(&mut self, node: &'v Node, kind: Macro, range: Part<'v, [Value<'v>]>, body: &'v Node) -> Outcome<'v> {
        let mut kept = Vec::new();
        let mut count = 0_usize;
        let mut pending = None;
        for element in range.iter() {
            self.variable = Some(element.clone());
            if kind == Macro::Map {
                kept.push(self.value(body)?);
                continue;
            }
            match (kind, self.truth(body)) {
                // As with `&&` and `||`, an element that decides outweighs those that failed.
                (Macro::All, Ok(false)) => return Ok(Value::Bool(false)),
                (Macro::Exists, Ok(true)) => return Ok(Value::Bool(true)),
                (Macro::All | Macro::Exists, Err(error)) if error.reason != Reason::Steps => pending = Some(error),
                (_, Err(error)) => return Err(error),
                (Macro::Filter, Ok(true)) => kept.push(element.clone()),
                (Macro::ExistsOne, Ok(true)) => count += 1,
                (_, Ok(_)) => {}
            }
        }
        match (kind, pending) {
            (_, Some(error)) => Err(error),
            (Macro::All, None) => Ok(Value::Bool(true)),
            (Macro::Exists, None) => Ok(Value::Bool(false)),
            (Macro::ExistsOne, None) => Ok(Value::Bool(count == 1)),
            (Macro::Filter | Macro::Map, None) => {
                self.budget.take_elements(kept.len()).map_err(|spent| fail(node, spent.into()))?;
                Ok(Value::list(kept))
            }
        }
    }

    fn map_if(
        &mut self,
        node: &'v Node,
        range: Part<'v, [Value<'v>]>,
        condition: &'v Node,
        body: &'v Node,
    ) -> Outcome<'v> {
        let mut kept = Vec::new();
        for element in range.iter() {
            self.variable = Some(element.clone());
            if self.truth(condition)? {
                kept.push(self.value(body)?);
            }
        }
        self.budget.take_elements(kept.len()).map_err(|spent| fail(node, spent.into()))?;
        Ok(Value::list(kept))
    }
}

fn fail(node: &Node, reason: Reason) -> FilterError {
    FilterError { position: node.at as usize, reason }
}

fn member<'r, 'v>(of: &'r Value<'v>, name: &str) -> Result<&'r Value<'v>, Reason> {
    match of {
        Value::Map(map) => map.get(name).ok_or(Reason::NoSuchMember),
        other => Err(Reason::MismatchOne { operation: "`.`", operand: other.kind() }),
    }
}

fn negate<'v>(value: &Value<'v>) -> Result<Value<'v>, Reason> {
    let overflow = Reason::Overflow { operation: "`-`" };
    match value {
        Value::Int(number) => number.checked_neg().map(Value::Int).ok_or(overflow),
        Value::Double(number) => Ok(Value::Double(-number)),
        other => Err(Reason::MismatchOne { operation: "`-`", operand: other.kind() }),
    }
}
