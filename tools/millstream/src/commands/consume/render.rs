//! A record as a line: an object with everything, or the value alone.
//!
//! A value that is JSON is embedded as it was sent, so that numbers keep all their digits; only line breaks between its
//! tokens become blanks, because a record is a line.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millstream_protocol::{Offset, PartitionId, Record, Timestamp};
use serde::de::IgnoredAny;

use crate::time::rfc3339;

/// A record and where it is.
#[derive(Debug, Clone, Copy)]
pub struct Placed<'a> {
    /// Named where records of several streams come together.
    pub stream: Option<&'a str>,
    pub partition: PartitionId,
    pub offset: Offset,
    pub append_time: Timestamp,
    pub record: &'a Record,
}

/// Appends the record as an object.
pub fn json(placed: &Placed<'_>, out: &mut Vec<u8>) {
    let record = placed.record;
    let timestamp = rfc3339(record.timestamp);
    let append_time = rfc3339(placed.append_time);
    out.push(b'{');
    if let Some(stream) = placed.stream {
        out.extend_from_slice(b"\"stream\":");
        string(out, stream);
        out.push(b',');
    }
    push(out, format_args!("\"partition\":{},\"offset\":{}", placed.partition, placed.offset));
    push(out, format_args!(",\"timestamp\":\"{timestamp}\",\"append_time\":\"{append_time}\""));
    match record.key.as_deref() {
        None => out.extend_from_slice(b",\"key\":null"),
        Some(key) => named(out, "key", key),
    }
    out.extend_from_slice(b",\"headers\":[");
    for (index, header) in record.headers.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"name\":");
        string(out, &header.name);
        match header.value.as_deref() {
            None => out.extend_from_slice(b",\"value\":null"),
            Some(value) => named(out, "value", value),
        }
        out.push(b'}');
    }
    out.push(b']');
    match record.value.as_deref() {
        None => out.extend_from_slice(b",\"value\":null,\"tombstone\":true"),
        Some(value) if is_json(value) => {
            out.extend_from_slice(b",\"value\":");
            // Line breaks inside of strings are escaped in JSON, so these are between tokens.
            out.extend(value.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
        }
        Some(value) => named(out, "value", value),
    }
    out.extend_from_slice(b"}\n");
}

/// The record as an object that begins with other members: `members` is an object without its closing bracket.
pub fn json_behind(members: impl Into<Vec<u8>>, placed: &Placed<'_>) -> Vec<u8> {
    let mut line = members.into();
    let open = line.len();
    json(placed, &mut line);
    // The record's own opening bracket.
    line[open] = b',';
    line
}

/// Appends the value and a line break; a tombstone is an empty line.
pub fn value(placed: &Placed<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(placed.record.value.as_deref().unwrap_or_default());
    out.push(b'\n');
}

fn is_json(bytes: &[u8]) -> bool {
    // serde_json passes over strings without looking at their encoding.
    std::str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// Text under `name`, other bytes under `name_base64`.
fn named(out: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            push(out, format_args!(",\"{name}\":"));
            string(out, text);
        }
        Err(_) => push(out, format_args!(",\"{name}_base64\":\"{}\"", STANDARD.encode(bytes))),
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("text is written into memory");
}

fn push(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("writing into memory succeeds");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(record: &Record) -> (String, serde_json::Value) {
        let mut out = Vec::new();
        let placed = Placed {
            stream: None,
            partition: PartitionId(2),
            offset: Offset(17),
            append_time: Timestamp(1_500),
            record,
        };
        json(&placed, &mut out);
        let line = String::from_utf8(out).expect("text");
        assert_eq!(line.find('\n'), Some(line.len() - 1), "a record is a line: {line:?}");
        let value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        (line, value)
    }

    #[test]
    fn json_stands_as_it_was_sent_with_every_digit() {
        let record =
            Record::new("{\"a\":1.2300,\n \"b\":123456789012345678901234567890}").key("k").timestamp(Timestamp(1));
        let (line, value) = shown(&record);
        assert!(line.contains("\"value\":{\"a\":1.2300,  \"b\":123456789012345678901234567890}}"), "{line}");
        assert_eq!(value["partition"], 2);
        assert_eq!(value["offset"], 17);
        assert_eq!(value["key"], "k");
        assert_eq!(value["timestamp"], "1970-01-01T00:00:00.001Z");
        assert_eq!(value["append_time"], "1970-01-01T00:00:01.500Z");
    }

    #[test]
    fn text_bytes_and_tombstones_are_told_apart() {
        let (_, text) = shown(&Record::new("plain \"text\"\n").header("h", "v"));
        assert_eq!(text["value"], "plain \"text\"\n");
        assert_eq!(text["key"], serde_json::Value::Null);
        assert_eq!(text["headers"], serde_json::json!([{ "name": "h", "value": "v" }]));
        let (_, bytes) = shown(&Record::new(&b"\"\xff\""[..]).key(&b"\xfe"[..]));
        assert_eq!((&bytes["value_base64"], &bytes["key_base64"]), (&"Iv8i".into(), &"/g==".into()));
        let (_, gone) = shown(&Record::tombstone("k"));
        assert_eq!((&gone["value"], &gone["tombstone"]), (&serde_json::Value::Null, &true.into()));
        let (_, empty) = shown(&Record::new(""));
        assert_eq!((&empty["value"], empty.get("tombstone")), (&"".into(), None));
    }

    #[test]
    fn the_value_alone_is_the_value_alone() {
        let mut out = Vec::new();
        let record = Record::new(&b"\xff{}"[..]);
        value(
            &Placed {
                stream: None,
                partition: PartitionId(0),
                offset: Offset(0),
                append_time: Timestamp(0),
                record: &record,
            },
            &mut out,
        );
        assert_eq!(out, b"\xff{}\n");
    }
}
