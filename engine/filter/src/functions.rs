//! The functions that a filter may call: their names, what they take, what they do.

use std::fmt;

use chrono::{DateTime, Datelike, TimeDelta, Timelike, Utc};

use crate::budget::Budget;
use crate::error::{Reason, ValueType};
use crate::text::{self, Network};
use crate::time;
use crate::value::{Part, Value};

/// A function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    LowerAscii,
    Like,
    InCidr,
    Subject,
    Int,
    Double,
    String,
    Bool,
    Bytes,
    Timestamp,
    Duration,
    Clock(Clock),
}

/// A part of a time, in UTC, or the whole of a duration in a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    FullYear,
    Month,
    DayOfYear,
    DayOfMonth,
    Date,
    DayOfWeek,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

/// How a function is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `f(x, …)`
    Global,
    /// `x.f(…)`
    Member,
    /// Either.
    Both,
}

/// A row of the table: name, function, how it is called, with how many operands (that before the dot included).
pub struct Entry {
    pub name: &'static str,
    pub function: Function,
    pub style: Style,
    pub operands: usize,
}

const fn row(name: &'static str, function: Function, style: Style, operands: usize) -> Entry {
    Entry { name, function, style, operands }
}

/// Every function there is.
pub const FUNCTIONS: &[Entry] = &[
    row("size", Function::Size, Style::Both, 1),
    row("contains", Function::Contains, Style::Member, 2),
    row("startsWith", Function::StartsWith, Style::Member, 2),
    row("endsWith", Function::EndsWith, Style::Member, 2),
    row("lowerAscii", Function::LowerAscii, Style::Member, 1),
    row("like", Function::Like, Style::Global, 2),
    row("in_cidr", Function::InCidr, Style::Global, 2),
    row("subject", Function::Subject, Style::Global, 2),
    row("int", Function::Int, Style::Global, 1),
    row("double", Function::Double, Style::Global, 1),
    row("string", Function::String, Style::Global, 1),
    row("bool", Function::Bool, Style::Global, 1),
    row("bytes", Function::Bytes, Style::Global, 1),
    row("timestamp", Function::Timestamp, Style::Global, 1),
    row("duration", Function::Duration, Style::Global, 1),
    row("getFullYear", Function::Clock(Clock::FullYear), Style::Member, 1),
    row("getMonth", Function::Clock(Clock::Month), Style::Member, 1),
    row("getDayOfYear", Function::Clock(Clock::DayOfYear), Style::Member, 1),
    row("getDayOfMonth", Function::Clock(Clock::DayOfMonth), Style::Member, 1),
    row("getDate", Function::Clock(Clock::Date), Style::Member, 1),
    row("getDayOfWeek", Function::Clock(Clock::DayOfWeek), Style::Member, 1),
    row("getHours", Function::Clock(Clock::Hours), Style::Member, 1),
    row("getMinutes", Function::Clock(Clock::Minutes), Style::Member, 1),
    row("getSeconds", Function::Clock(Clock::Seconds), Style::Member, 1),
    row("getMilliseconds", Function::Clock(Clock::Milliseconds), Style::Member, 1),
];

/// The row of that name.
pub fn find(name: &str) -> Option<&'static Entry> {
    FUNCTIONS.iter().find(|entry| entry.name == name)
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parameters = match self.function {
            Function::Like | Function::Subject => "(text, pattern)",
            Function::InCidr => "(address, network)",
            _ if self.operands == 2 => "(text)",
            _ if self.style == Style::Member => "()",
            _ => "(x)",
        };
        let receiver = if self.style == Style::Member { "x." } else { "" };
        write!(f, "{receiver}{}{parameters}", self.name)
    }
}

impl Function {
    /// The name as it is written.
    pub fn name(self) -> &'static str {
        FUNCTIONS.iter().find(|entry| entry.function == self).map_or("", |entry| entry.name)
    }

    /// Whether it takes two texts.
    pub fn takes_texts(self) -> bool {
        FUNCTIONS.iter().any(|entry| entry.function == self && entry.operands == 2)
    }

    /// The type of its results.
    pub fn result(self) -> ValueType {
        match self {
            Function::Contains | Function::StartsWith | Function::EndsWith => ValueType::Bool,
            Function::Like | Function::InCidr | Function::Subject | Function::Bool => ValueType::Bool,
            Function::LowerAscii | Function::String => ValueType::String,
            Function::Size | Function::Int | Function::Clock(_) => ValueType::Int,
            Function::Double => ValueType::Double,
            Function::Bytes => ValueType::Bytes,
            Function::Timestamp => ValueType::Timestamp,
            Function::Duration => ValueType::Duration,
        }
    }

    /// Calls it with one operand.
    pub fn call_one<'v>(self, operand: Value<'v>, budget: &mut Budget) -> Result<Value<'v>, Reason> {
        let unreadable = || Reason::Unreadable { function: self.name() };
        let mismatch = Reason::MismatchOne { operation: self.name(), operand: operand.kind() };
        if let Value::Text(text) = &operand {
            budget.take_bytes(text.len())?;
        }
        Ok(match (self, operand) {
            (Function::Size, Value::Text(text)) => Value::Int(text.chars().count() as i64),
            (Function::Size, Value::Bytes(bytes)) => Value::Int(bytes.len() as i64),
            (Function::Size, Value::List(list)) => Value::Int(list.len() as i64),
            (Function::Size, Value::Map(map)) => Value::Int(map.len() as i64),
            (Function::LowerAscii, Value::Text(text)) => {
                if text.bytes().any(|b| b.is_ascii_uppercase()) {
                    budget.take_copied(text.len())?;
                    Value::text(text.to_ascii_lowercase())
                } else {
                    Value::Text(text)
                }
            }
            (Function::Int, Value::Int(number)) => Value::Int(number),
            (Function::Int, Value::Double(number)) => {
                // Both bounds are excluded: the lower because CEL says so, the upper because it is 2^63 itself.
                let fits = number > i64::MIN as f64 && number < i64::MAX as f64;
                if !fits {
                    return Err(Reason::Overflow { operation: self.name() });
                }
                Value::Int(number as i64)
            }
            (Function::Int, Value::Text(text)) => Value::Int(text.parse().map_err(|_| unreadable())?),
            (Function::Int, Value::Time(time)) => Value::Int(time.timestamp()),
            (Function::Double, Value::Int(number)) => Value::Double(number as f64),
            (Function::Double, Value::Double(number)) => Value::Double(number),
            (Function::Double, Value::Text(text)) => Value::Double(text.parse().map_err(|_| unreadable())?),
            (Function::String, Value::Text(text)) => Value::Text(text),
            (Function::String, Value::Bool(truth)) => Value::text(truth.to_string()),
            (Function::String, Value::Int(number)) => Value::text(number.to_string()),
            (Function::String, Value::Double(number)) => Value::text(number.to_string()),
            (Function::String, Value::Bytes(bytes)) => {
                budget.take_copied(bytes.len())?;
                Value::text(std::str::from_utf8(&bytes).map_err(|_| unreadable())?.to_owned())
            }
            (Function::Bool, Value::Bool(truth)) => Value::Bool(truth),
            (Function::Bool, Value::Text(text)) => match &*text {
                "1" | "t" | "true" | "TRUE" | "True" => Value::Bool(true),
                "0" | "f" | "false" | "FALSE" | "False" => Value::Bool(false),
                _ => return Err(unreadable()),
            },
            (Function::Bytes, Value::Bytes(bytes)) => Value::Bytes(bytes),
            (Function::Bytes, Value::Text(text)) => {
                budget.take_copied(text.len())?;
                Value::Bytes(Part::Shared(text.as_bytes().into()))
            }
            (Function::Timestamp, Value::Time(time)) => Value::Time(time),
            (Function::Timestamp, Value::Text(text)) => {
                Value::Time(time::parse_timestamp(&text).ok_or_else(unreadable)?)
            }
            (Function::Timestamp, Value::Int(seconds)) => {
                Value::Time(time::timestamp_of_seconds(seconds).ok_or_else(unreadable)?)
            }
            (Function::Duration, Value::Span(span)) => Value::Span(span),
            (Function::Duration, Value::Text(text)) => Value::Span(time::parse_duration(&text).ok_or_else(unreadable)?),
            (Function::Clock(clock), Value::Time(time)) => Value::Int(clock.of_time(&time)),
            (Function::Clock(clock), Value::Span(span)) => Value::Int(clock.of_span(&span).ok_or(mismatch)?),
            _ => return Err(mismatch),
        })
    }

    /// Calls it with two operands.
    pub fn call_two<'v>(self, left: &Value<'v>, right: &Value<'v>, budget: &mut Budget) -> Result<Value<'v>, Reason> {
        let (Value::Text(text), Value::Text(other)) = (left, right) else {
            return Err(Reason::Mismatch { operation: self.name(), left: left.kind(), right: right.kind() });
        };
        let unreadable = Reason::Unreadable { function: self.name() };
        let searched = match self {
            Function::StartsWith | Function::EndsWith => other.len(),
            _ => text.len() + other.len(),
        };
        budget.take_bytes(searched)?;
        Ok(Value::Bool(match self {
            Function::Contains => text::contains(text, other),
            Function::StartsWith => text.starts_with(&**other),
            Function::EndsWith => text.ends_with(&**other),
            Function::Like => text::like(text, other),
            Function::InCidr => Network::parse(other).and_then(|network| network.contains(text)).ok_or(unreadable)?,
            Function::Subject => text::subject(text, other).ok_or(unreadable)?,
            _ => return Err(Reason::Mismatch { operation: self.name(), left: left.kind(), right: right.kind() }),
        }))
    }
}

impl Clock {
    fn of_time(self, time: &DateTime<Utc>) -> i64 {
        match self {
            Clock::FullYear => i64::from(time.year()),
            Clock::Month => i64::from(time.month0()),
            Clock::DayOfYear => i64::from(time.ordinal0()),
            Clock::DayOfMonth => i64::from(time.day0()),
            Clock::Date => i64::from(time.day()),
            Clock::DayOfWeek => i64::from(time.weekday().num_days_from_sunday()),
            Clock::Hours => i64::from(time.hour()),
            Clock::Minutes => i64::from(time.minute()),
            Clock::Seconds => i64::from(time.second()),
            Clock::Milliseconds => i64::from(time.timestamp_subsec_millis()),
        }
    }

    fn of_span(self, span: &TimeDelta) -> Option<i64> {
        match self {
            Clock::Hours => Some(span.num_hours()),
            Clock::Minutes => Some(span.num_minutes()),
            Clock::Seconds => Some(span.num_seconds()),
            Clock::Milliseconds => Some(span.num_milliseconds()),
            _ => None,
        }
    }
}
