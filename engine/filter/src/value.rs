//! The values that filters compute with: CEL's, without its unsigned numbers.
//!
//! A value of a record borrows from the record where it can; lists and maps are shared, so that a copy costs a counter.
//! Numbers of both kinds compare with each other, an `int` as the `double` nearest to it, as in the reference
//! implementation. Values of different types are unequal, but have no order.

use std::cmp::Ordering;
use std::ops::Deref;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use crate::budget::{Budget, Spent};
use crate::error::ValueType;

/// Borrowed from the record or the filter, or shared.
#[derive(Debug)]
pub enum Part<'v, T: ?Sized> {
    Borrowed(&'v T),
    Shared(Arc<T>),
}

impl<T: ?Sized> Clone for Part<'_, T> {
    fn clone(&self) -> Self {
        match self {
            Part::Borrowed(part) => Part::Borrowed(part),
            Part::Shared(part) => Part::Shared(Arc::clone(part)),
        }
    }
}

impl<T: ?Sized> Deref for Part<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        match self {
            Part::Borrowed(part) => part,
            Part::Shared(part) => part,
        }
    }
}

/// A value.
#[derive(Debug, Clone)]
pub enum Value<'v> {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Part<'v, str>),
    Bytes(Part<'v, [u8]>),
    Time(DateTime<Utc>),
    Span(TimeDelta),
    List(Part<'v, [Value<'v>]>),
    Map(Part<'v, Map<'v>>),
}

const _: () = assert!(size_of::<Value<'_>>() <= 32, "FILTER_VALUE_PARTS_MAX counts with small values");

impl<'v> Value<'v> {
    /// A text of ours.
    pub fn text(text: String) -> Self {
        Value::Text(Part::Shared(text.into()))
    }

    /// A list of ours.
    pub fn list(values: Vec<Value<'v>>) -> Self {
        Value::List(Part::Shared(values.into()))
    }

    /// A map of ours.
    pub fn map(map: Map<'v>) -> Self {
        Value::Map(Part::Shared(Arc::new(map)))
    }

    /// The same value without a share in it: no counter that threads would fight for.
    pub fn borrow(&'v self) -> Value<'v> {
        match self {
            Value::Text(text) => Value::Text(Part::Borrowed(text)),
            Value::Bytes(bytes) => Value::Bytes(Part::Borrowed(bytes)),
            Value::List(list) => Value::List(Part::Borrowed(list)),
            Value::Map(map) => Value::Map(Part::Borrowed(map)),
            plain => plain.clone(),
        }
    }

    /// The same value, borrowing nothing. Maps do not come here: a filter's text cannot make one.
    pub fn to_static(&self) -> Option<Value<'static>> {
        Some(match self {
            Value::Null => Value::Null,
            Value::Bool(truth) => Value::Bool(*truth),
            Value::Int(number) => Value::Int(*number),
            Value::Double(number) => Value::Double(*number),
            Value::Text(text) => Value::text(text.to_string()),
            Value::Bytes(bytes) => Value::Bytes(Part::Shared((**bytes).into())),
            Value::Time(time) => Value::Time(*time),
            Value::Span(span) => Value::Span(*span),
            Value::List(list) => Value::list(list.iter().map(Value::to_static).collect::<Option<_>>()?),
            Value::Map(_) => return None,
        })
    }

    /// Its type.
    pub fn kind(&self) -> ValueType {
        match self {
            Value::Null => ValueType::Null,
            Value::Bool(_) => ValueType::Bool,
            Value::Int(_) => ValueType::Int,
            Value::Double(_) => ValueType::Double,
            Value::Text(_) => ValueType::String,
            Value::Bytes(_) => ValueType::Bytes,
            Value::Time(_) => ValueType::Timestamp,
            Value::Span(_) => ValueType::Duration,
            Value::List(_) => ValueType::List,
            Value::Map(_) => ValueType::Map,
        }
    }

    /// `==`. Recursive: as deep as JSON may be, and lists in a filter's text.
    pub fn equals(&self, other: &Value<'_>, budget: &mut Budget) -> Result<bool, Spent> {
        budget.take(1)?;
        Ok(match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Text(a), Value::Text(b)) => {
                a.len() == b.len() && {
                    budget.take_bytes(a.len())?;
                    **a == **b
                }
            }
            (Value::Bytes(a), Value::Bytes(b)) => {
                a.len() == b.len() && {
                    budget.take_bytes(a.len())?;
                    **a == **b
                }
            }
            (Value::Time(a), Value::Time(b)) => a == b,
            (Value::Span(a), Value::Span(b)) => a == b,
            (Value::List(a), Value::List(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for (a, b) in a.iter().zip(b.iter()) {
                    if !a.equals(b, budget)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Value::Map(a), Value::Map(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for (name, a) in a.iter() {
                    budget.take_bytes(name.len())?;
                    match b.get(name) {
                        Some(b) if a.equals(b, budget)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (a, b) => a.order_of_numbers(b) == Some(Some(Ordering::Equal)),
        })
    }

    /// `<` and its like; `None`: these two have no order.
    pub fn order(&self, other: &Value<'_>, budget: &mut Budget) -> Result<Option<Ordering>, Spent> {
        Ok(match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::Text(a), Value::Text(b)) => {
                budget.take_bytes(a.len().min(b.len()))?;
                Some(a.as_bytes().cmp(b.as_bytes()))
            }
            (Value::Bytes(a), Value::Bytes(b)) => {
                budget.take_bytes(a.len().min(b.len()))?;
                Some((**a).cmp(&**b))
            }
            (Value::Time(a), Value::Time(b)) => Some(a.cmp(b)),
            (Value::Span(a), Value::Span(b)) => Some(a.cmp(b)),
            (a, b) => a.order_of_numbers(b).flatten(),
        })
    }

    /// `None`: one is no number. `Some(None)`: one is not a number in the other sense.
    fn order_of_numbers(&self, other: &Value<'_>) -> Option<Option<Ordering>> {
        Some(match (self, other) {
            (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
            (Value::Int(a), Value::Double(b)) => (*a as f64).partial_cmp(b),
            (Value::Double(a), Value::Int(b)) => a.partial_cmp(&(*b as f64)),
            _ => return None,
        })
    }
}

/// How many members are searched from the front; more of them are sorted.
const UNSORTED_MAX: usize = 16;

fn by_name(a: &(Part<'_, str>, Value<'_>), b: &(Part<'_, str>, Value<'_>)) -> Ordering {
    a.0.as_bytes().cmp(b.0.as_bytes())
}

/// Names and values; of a repeated name the last. Many are sorted by name, so that no filter times many members is slow.
#[derive(Debug, Default)]
pub struct Map<'v> {
    members: Vec<(Part<'v, str>, Value<'v>)>,
}

impl<'v> Map<'v> {
    pub fn new(mut members: Vec<(Part<'v, str>, Value<'v>)>) -> Self {
        // The sort is stable, so the last of equal names is the last that came: later ones go first, the first is kept.
        if members.len() > UNSORTED_MAX {
            members.reverse();
            members.sort_by(by_name);
            members.dedup_by(|(later, _), (kept, _)| **later == **kept);
        } else {
            let mut at = 0;
            while at < members.len() {
                let (name, _) = &members[at];
                if members[at + 1..].iter().any(|(later, _)| **later == **name) {
                    members.remove(at);
                } else {
                    at += 1;
                }
            }
        }
        if members.capacity() > 2 * members.len() {
            members.shrink_to_fit();
        }
        Self { members }
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn get(&self, name: &str) -> Option<&Value<'v>> {
        if self.members.len() > UNSORTED_MAX {
            let at = self.members.binary_search_by(|(member, _)| (**member).cmp(name)).ok()?;
            Some(&self.members[at].1)
        } else {
            self.members.iter().find(|(member, _)| **member == *name).map(|(_, value)| value)
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Part<'v, str>, &Value<'v>)> {
        self.members.iter().map(|(name, value)| (name, value))
    }
}
