//! Why a text is no filter, and why a filter has no answer for a record.

use std::fmt;

/// Why a text is no filter: what is wrong, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterInvalid {
    /// The byte at which it goes wrong, from 0; the text's length if something is missing at its end.
    pub position: usize,
    /// The line of that byte, from 1.
    pub line: usize,
    /// The character of that byte in its line, from 1.
    pub column: usize,
    /// What is wrong there, and what to do.
    pub reason: String,
}

impl FilterInvalid {
    pub(crate) fn new(text: &str, position: usize, reason: impl Into<String>) -> Self {
        let position = text.floor_char_boundary(position);
        let before = &text[..position];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            position,
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for FilterInvalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 1 {
            write!(f, "filter, line {}, column {}: {}", self.line, self.column, self.reason)
        } else {
            write!(f, "filter, byte {}: {}", self.position, self.reason)
        }
    }
}

impl std::error::Error for FilterInvalid {}

/// Why a filter has no answer for a record: the record does not match, and the caller counts it.
///
/// Small and without allocation, because a stream may have one for each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (at byte {position} of the filter)")]
pub struct FilterError {
    /// The byte of the filter's text at which it happened: an operator, or where an operand begins.
    pub position: usize,
    /// What happened.
    pub reason: Reason,
}

/// What kept a filter from an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// A member that the record does not have.
    #[error("the record has no such member: guard it with has(…)")]
    NoSuchMember,
    /// The value is not JSON.
    #[error("the value is not JSON (its line {line}, column {column})")]
    NotJson {
        /// The line of the value where JSON ends, from 1.
        line: u32,
        /// The byte in that line, from 1.
        column: u32,
    },
    /// The value nests deeper than [`FILTER_VALUE_DEPTH_MAX`](millstream_protocol::limits::FILTER_VALUE_DEPTH_MAX).
    #[error("the value is JSON nested deeper than a filter reads")]
    TooDeep,
    /// The value has more parts than [`FILTER_VALUE_PARTS_MAX`](millstream_protocol::limits::FILTER_VALUE_PARTS_MAX).
    #[error("the value has more JSON values in it than a filter reads")]
    TooManyParts,
    /// An operator or function that does not take such values.
    #[error("{operation} does not take {left} and {right}")]
    Mismatch {
        /// The operator or function.
        operation: &'static str,
        /// The type of its first operand.
        left: ValueType,
        /// The type of its second.
        right: ValueType,
    },
    /// An operator or function that does not take such a value.
    #[error("{operation} does not take {operand}")]
    MismatchOne {
        /// The operator or function.
        operation: &'static str,
        /// The type of its operand.
        operand: ValueType,
    },
    /// A list that is shorter.
    #[error("the list has no element at that index")]
    OutOfRange,
    /// A result beyond what its type can hold.
    #[error("{operation} overflows")]
    Overflow {
        /// The operator or function.
        operation: &'static str,
    },
    /// A division by zero.
    #[error("division by zero")]
    DivisionByZero,
    /// A text or number that the function cannot read.
    #[error("{function} cannot read that value")]
    Unreadable {
        /// The function.
        function: &'static str,
    },
    /// The record's time lies outside the years 1 to 9999.
    #[error("the record's timestamp is outside the years 1 to 9999")]
    TimeOutOfRange,
    /// The result is neither true nor false.
    #[error("the result is {got}, not true or false")]
    NotBool {
        /// The type of the result.
        got: ValueType,
    },
    /// The work is more than [`FILTER_STEPS_MAX`](millstream_protocol::limits::FILTER_STEPS_MAX).
    #[error("the filter takes more steps on this record than it may")]
    Steps,
}

/// The type of a value in a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    /// `null`: also a tombstone, an absent key, a header without a value.
    Null,
    /// `true` or `false`.
    Bool,
    /// A number of 64 signed bits.
    Int,
    /// Any other number.
    Double,
    /// UTF-8.
    String,
    /// A key or header that is not UTF-8, or `b"…"`.
    Bytes,
    /// A time in UTC.
    Timestamp,
    /// The time between two.
    Duration,
    /// A list.
    List,
    /// An object of JSON, or the headers.
    Map,
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ValueType::Null => "null",
            ValueType::Bool => "a bool",
            ValueType::Int => "an int",
            ValueType::Double => "a double",
            ValueType::String => "a string",
            ValueType::Bytes => "bytes",
            ValueType::Timestamp => "a timestamp",
            ValueType::Duration => "a duration",
            ValueType::List => "a list",
            ValueType::Map => "a map",
        })
    }
}

const _: () = assert!(size_of::<FilterError>() <= 32, "every step of an evaluation returns one, or a value");
