//! A record that filters are asked about.

use std::cell::OnceCell;
use std::fmt;

use millstream_protocol::batch::RecordRef;

use crate::error::Reason;
use crate::json;
use crate::node::Root;
use crate::time;
use crate::value::{Map, Part, Value};

/// A record, and what filters have read of it so far: each part once, however many filters ask, and only if one does.
///
/// Made in a few nanoseconds. Memory, once a filter has named `value`: up to about 100 bytes for each JSON value in it (26 MiB
/// at their limit), freed with this.
pub struct Candidate<'a> {
    record: RecordRef<'a>,
    key: OnceCell<Value<'a>>,
    headers: OnceCell<Value<'a>>,
    timestamp: OnceCell<Result<Value<'a>, Reason>>,
    value: OnceCell<Result<Value<'a>, Reason>>,
}

impl<'a> Candidate<'a> {
    /// Reads nothing yet.
    pub fn new(record: &RecordRef<'a>) -> Self {
        Self {
            record: *record,
            key: OnceCell::new(),
            headers: OnceCell::new(),
            timestamp: OnceCell::new(),
            value: OnceCell::new(),
        }
    }

    /// The record.
    pub fn record(&self) -> &RecordRef<'a> {
        &self.record
    }

    /// Whether a filter has asked for the value, so that it was read as JSON.
    pub fn is_value_read(&self) -> bool {
        self.value.get().is_some()
    }

    pub(crate) fn root(&self, root: Root) -> Result<&Value<'a>, Reason> {
        match root {
            Root::Key => Ok(self.key.get_or_init(|| text_or_bytes(self.record.key))),
            Root::Headers => Ok(self.headers.get_or_init(|| {
                let members = self.record.headers().map(|(name, value)| (Part::Borrowed(name), text_or_bytes(value)));
                Value::map(Map::new(members.collect()))
            })),
            Root::Timestamp => self
                .timestamp
                .get_or_init(|| time::of_record(self.record.timestamp).map(Value::Time).ok_or(Reason::TimeOutOfRange))
                .as_ref()
                .map_err(|reason| *reason),
            Root::Value => self
                .value
                .get_or_init(|| self.record.value.map_or(Ok(Value::Null), json::parse))
                .as_ref()
                .map_err(|reason| *reason),
        }
    }
}

impl fmt::Debug for Candidate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate").field("record", &self.record).finish_non_exhaustive()
    }
}

fn text_or_bytes(bytes: Option<&[u8]>) -> Value<'_> {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => Value::Null,
        Some((_, Ok(text))) => Value::Text(Part::Borrowed(text)),
        Some((bytes, Err(_))) => Value::Bytes(Part::Borrowed(bytes)),
    }
}
