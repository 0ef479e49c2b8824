//! A record inside a batch's body.
//!
//! ```text
//! varint   length of all that follows
//! u8       attributes: bit 0 has a key, bit 1 has a value; others refused
//! signed   timestamp − the header's first timestamp
//! varint   offset − base offset                      (sparse batches only)
//! varint   key length, key                           (if bit 0)
//! varint   value length, value                       (if bit 1)
//! varint   header count; for each:
//!   varint   name length, name (UTF-8)
//!   varint   0: no value, n + 1: n bytes follow
//! ```
//! Varints are [`super::varint`]'s, in their shortest form.

use bytes::Bytes;

use super::BatchError;
use super::varint::{self, VARINT_BYTES_MAX};
use crate::limits::{DEDUP_ID_BYTES_MAX, HEADER_NAME_BYTES_MAX, KEY_BYTES_MAX, RECORD_BYTES_MAX, RECORD_HEADERS_MAX};
use crate::{Header, Record, Timestamp};

/// The shortest record: length, attributes, timestamp, header count.
pub const RECORD_BYTES_MIN: usize = 4;

const HAS_KEY: u8 = 1 << 0;
const HAS_VALUE: u8 = 1 << 1;

/// The id under which a record is stored once within the stream's dedup window: 1 to 128 bytes. The server acts on it.
pub const DEDUP_ID: &str = "ms-dedup-id";

/// How long after its append a message is delivered, in milliseconds as decimal text. Queues act on it.
pub const DELAY: &str = "ms-delay";
/// Before when a message is not delivered, Unix ms as decimal text. Queues act on it.
pub const NOT_BEFORE: &str = "ms-not-before";
/// From when on a message is not delivered, Unix ms as decimal text. Queues act on it.
pub const EXPIRES_AT: &str = "ms-expires-at";

/// Reserved names that the server only carries. A batch with one on which it acts is flagged
/// ([`FLAG_CONTROL_HEADERS`](super::FLAG_CONTROL_HEADERS)).
const CARRIED_RESERVED: &[&str] =
    &["ms-reply-to", "ms-inbox", "ms-correlation-id", "ms-status", "ms-responder", "ms-claim"];

/// A record, borrowed from a decoded body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// Offset − the batch's base offset.
    pub offset_delta: u32,
    /// The producer's time.
    pub timestamp: Timestamp,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    headers: &'a [u8],
    header_count: usize,
}

impl<'a> RecordRef<'a> {
    /// The headers in order: name and value. They were checked when the record was decoded.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + use<'a> {
        let mut rest = self.headers;
        (0..self.header_count).map_while(move |_| take_header(&mut rest).ok())
    }

    /// The record's dedup id.
    pub fn dedup_id(&self) -> Option<&'a [u8]> {
        self.headers().find(|(name, _)| *name == DEDUP_ID).and_then(|(_, value)| value)
    }

    /// The number in a header on which the server acts.
    pub fn control_number(&self, name: &str) -> Option<u64> {
        number(self.headers().find(|(header, _)| *header == name)?.1?)
    }

    /// Checks the reserved headers: what a server asks of a flagged batch's records.
    ///
    /// # Errors
    /// [`BatchError::ReservedHeader`], [`BatchError::DedupId`].
    pub fn check_reserved(&self) -> Result<(), BatchError> {
        check_reserved(self.headers()).map(|_| ())
    }

    /// An owned record whose parts share `body`, the allocation this was decoded from.
    pub fn to_record(&self, body: &Bytes) -> Record {
        let share = |part: &'a [u8]| body.slice_ref(part);
        Record {
            key: self.key.map(share),
            headers: self
                .headers()
                .map(|(name, value)| Header { name: name.to_owned(), value: value.map(share) })
                .collect(),
            timestamp: self.timestamp,
            value: self.value.map(share),
        }
    }
}

/// How long queues withhold what has these headers, from `now` on, in milliseconds; 0: not at all. `numbers` gives the number
/// in a header.
pub fn asked_delay_ms(now: Timestamp, numbers: impl Fn(&str) -> Option<u64>) -> u64 {
    let until = numbers(NOT_BEFORE).map_or(0, |until| until.saturating_sub(u64::try_from(now.0).unwrap_or(0)));
    numbers(DELAY).unwrap_or(0).max(until)
}

/// The number in a record's header on which the server acts.
pub fn control_number(headers: &[Header], name: &str) -> Option<u64> {
    number(headers.iter().find(|header| header.name == name)?.value.as_deref()?)
}

/// Checks names that begin with `ms-`; says whether the server acts on one of them.
fn check_reserved<'a>(headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>) -> Result<bool, BatchError> {
    let (mut has_id, mut has_time) = (false, false);
    for (name, value) in headers.filter(|(name, _)| name.starts_with("ms-")) {
        if name == DEDUP_ID {
            let length = value.map_or(0, <[u8]>::len);
            if has_id || !(1..=DEDUP_ID_BYTES_MAX).contains(&length) {
                return Err(BatchError::DedupId { length, twice: has_id });
            }
            has_id = true;
        } else if [DELAY, NOT_BEFORE, EXPIRES_AT].contains(&name) {
            let is_number = value.is_some_and(|value| number(value).is_some());
            if !is_number {
                let value = String::from_utf8_lossy(value.unwrap_or_default()).chars().take(40).collect();
                return Err(BatchError::ControlHeader { name: name.to_owned(), value });
            }
            has_time = true;
        } else if !CARRIED_RESERVED.contains(&name) {
            return Err(BatchError::ReservedHeader(name.to_owned()));
        }
    }
    Ok(has_id || has_time)
}

fn number(text: &[u8]) -> Option<u64> {
    let is_decimal = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_decimal)?.parse().ok()
}

/// Checks that a record may be sent: sizes, header count and names. Says whether the server acts on one of its headers.
pub(super) fn check(record: &Record) -> Result<bool, BatchError> {
    check_sizes(record)?;
    check_reserved(record.headers.iter().map(|header| (&*header.name, header.value.as_deref())))
}

/// The same, whatever its reserved names are.
pub(super) fn check_sizes(record: &Record) -> Result<(), BatchError> {
    let limit = |what, value, unit, limit| {
        if value <= limit { Ok(()) } else { Err(BatchError::RecordLimit { what, value, unit, limit }) }
    };
    limit("the record", record.size(), "bytes", RECORD_BYTES_MAX)?;
    limit("the key", record.key.as_ref().map_or(0, Bytes::len), "bytes", KEY_BYTES_MAX)?;
    limit("the record", record.headers.len(), "headers", RECORD_HEADERS_MAX)?;
    for header in &record.headers {
        limit("a header name", header.name.len(), "bytes", HEADER_NAME_BYTES_MAX)?;
        if header.name.is_empty() {
            return Err(BatchError::ReservedHeader(header.name.clone()));
        }
    }
    Ok(())
}

/// Appends `record`; `timestamp_delta` is against the batch's first timestamp.
pub(super) fn encode(record: &Record, timestamp_delta: i64, out: &mut Vec<u8>) {
    let length = encoded_len(record, timestamp_delta);
    // Once for all that follows; what is short goes over a few bytes of its own, appended in one piece.
    out.reserve(VARINT_BYTES_MAX + length);
    let key_bit = if record.key.is_some() { HAS_KEY } else { 0 };
    let value_bit = if record.value.is_some() { HAS_VALUE } else { 0 };
    let mut short = varint::Short::default();
    short.put(length as u64);
    short.push(key_bit | value_bit);
    short.put(varint::zigzag(timestamp_delta));
    for part in [&record.key, &record.value].into_iter().flatten() {
        short.put(part.len() as u64);
        out.extend_from_slice(short.take());
        out.extend_from_slice(part);
    }
    short.put(record.headers.len() as u64);
    out.extend_from_slice(short.take());
    for header in &record.headers {
        varint::put(out, header.name.len() as u64);
        out.extend_from_slice(header.name.as_bytes());
        match &header.value {
            None => varint::put(out, 0),
            Some(value) => {
                varint::put(out, value.len() as u64 + 1);
                out.extend_from_slice(value);
            }
        }
    }
}

/// Appends a decoded record to a sparse batch with that first timestamp.
pub(super) fn encode_sparse(
    record: &RecordRef<'_>,
    first_timestamp: Timestamp,
    offset_delta: u32,
    out: &mut Vec<u8>,
) -> Result<(), BatchError> {
    let timestamp_delta = record.timestamp.0.checked_sub(first_timestamp.0).ok_or(BatchError::OutOfRange {
        what: "timestamp",
        value: record.timestamp.0 as u64,
        min: 0,
        max: i64::MAX as u64,
    })?;
    let counted = |length: usize| varint::length(length as u64) + length;
    let parts: usize = [record.key, record.value].into_iter().flatten().map(|part| counted(part.len())).sum();
    let length = 1
        + varint::length(varint::zigzag(timestamp_delta))
        + varint::length(u64::from(offset_delta))
        + parts
        + varint::length(record.header_count as u64)
        + record.headers.len();
    varint::put(out, length as u64);
    let key_bit = if record.key.is_some() { HAS_KEY } else { 0 };
    let value_bit = if record.value.is_some() { HAS_VALUE } else { 0 };
    out.push(key_bit | value_bit);
    varint::put_signed(out, timestamp_delta);
    varint::put(out, u64::from(offset_delta));
    for part in [record.key, record.value].into_iter().flatten() {
        varint::put(out, part.len() as u64);
        out.extend_from_slice(part);
    }
    varint::put(out, record.header_count as u64);
    out.extend_from_slice(record.headers);
    Ok(())
}

/// What follows the record's length field.
fn encoded_len(record: &Record, timestamp_delta: i64) -> usize {
    let counted = |length: usize| varint::length(length as u64) + length;
    let parts: usize = [&record.key, &record.value].into_iter().flatten().map(|part| counted(part.len())).sum();
    let headers: usize = record
        .headers
        .iter()
        .map(|header| {
            let value = header.value.as_ref().map_or(1, |v| varint::length(v.len() as u64 + 1) + v.len());
            counted(header.name.len()) + value
        })
        .sum();
    1 + varint::length(varint::zigzag(timestamp_delta)) + parts + varint::length(record.headers.len() as u64) + headers
}

/// What a record's position in the body does not say by itself.
pub(super) struct Context {
    pub index: u32,
    pub sparse: bool,
    pub first_timestamp: Timestamp,
}

/// Takes a record off the front of `input`.
pub(super) fn decode<'a>(input: &mut &'a [u8], context: &Context) -> Result<RecordRef<'a>, BatchError> {
    let bad = |what| BatchError::Record { index: context.index, what };
    let mut rest = take_counted(input).ok_or_else(|| bad("its length goes beyond the body"))?;
    let (&attributes, after) = rest.split_first().ok_or_else(|| bad("it is empty"))?;
    rest = after;
    if attributes & !(HAS_KEY | HAS_VALUE) != 0 {
        return Err(bad("unknown attribute bits"));
    }
    let delta = varint::take_signed(&mut rest).ok_or_else(|| bad("its timestamp is cut"))?;
    let timestamp =
        context.first_timestamp.0.checked_add(delta).map(Timestamp).ok_or_else(|| bad("its timestamp overflows"))?;
    let offset_delta = if context.sparse {
        let delta = varint::take(&mut rest).ok_or_else(|| bad("its offset delta is cut"))?;
        u32::try_from(delta).map_err(|_| bad("its offset delta is too large"))?
    } else {
        context.index
    };
    let mut part = |bit, what| {
        if attributes & bit == 0 { Ok(None) } else { take_counted(&mut rest).map(Some).ok_or_else(|| bad(what)) }
    };
    let key = part(HAS_KEY, "its key goes beyond it")?;
    let value = part(HAS_VALUE, "its value goes beyond it")?;
    let header_count = varint::take(&mut rest).ok_or_else(|| bad("its header count is cut"))?;
    if header_count > RECORD_HEADERS_MAX as u64 {
        return Err(bad("too many headers"));
    }
    let headers = rest;
    for _ in 0..header_count {
        take_header(&mut rest).map_err(bad)?;
    }
    if !rest.is_empty() {
        return Err(bad("bytes follow its end"));
    }
    Ok(RecordRef { offset_delta, timestamp, key, value, headers, header_count: header_count as usize })
}

fn take_header<'a>(rest: &mut &'a [u8]) -> Result<(&'a str, Option<&'a [u8]>), &'static str> {
    let name = take_counted(rest).ok_or("a header name goes beyond it")?;
    if name.is_empty() || name.len() > HEADER_NAME_BYTES_MAX {
        return Err("a header name of illegal length");
    }
    let name = std::str::from_utf8(name).map_err(|_| "a header name that is not UTF-8")?;
    let length = varint::take(rest).ok_or("a header value's length is cut")?;
    let value = match length.checked_sub(1) {
        None => None,
        Some(length) => Some(take(rest, length).ok_or("a header value goes beyond it")?),
    };
    Ok((name, value))
}

fn take_counted<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = varint::take(input)?;
    take(input, length)
}

fn take<'a>(input: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let length = usize::try_from(length).ok().filter(|length| *length <= input.len())?;
    let (taken, rest) = input.split_at(length);
    *input = rest;
    Some(taken)
}
