//! From a line to a record: is it JSON, is it small enough, what is its key. No I/O.
//!
//! The check reads each line once and builds nothing; the record's value is the line's bytes as they came.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use millstream_protocol::limits::KEY_BYTES_MAX;
use millstream_protocol::{ByteSize, Code, Record};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::cli::InputFormat;
use crate::input::Line;

/// What a line must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    pub format: InputFormat,
    /// The field that is the key.
    pub key: Option<String>,
    /// The stream's limit.
    pub record_bytes_max: usize,
}

/// What a line is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// A record.
    Record(Record),
    /// Nothing: a blank line between JSON objects.
    Blank,
    /// No record, and why not.
    Bad(Bad),
}

/// Why a line is no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    pub code: Code,
    pub reason: String,
}

impl Rules {
    /// Judges a line.
    pub fn parse(&self, line: Line) -> Parsed {
        let limit = self.record_bytes_max;
        let too_large = |bytes: u64| {
            let reason = format!(
                "has {}, above the stream's limit of {}: split it, or make a stream with a larger --record-bytes-max",
                ByteSize(bytes),
                ByteSize(limit as u64)
            );
            Parsed::Bad(Bad { code: Code::RecordTooLarge, reason })
        };
        let value = match line {
            Line::Whole(bytes) => bytes,
            Line::TooLong(bytes) => return too_large(bytes),
        };
        if self.format == InputFormat::Ndjson && value.trim_ascii().is_empty() {
            return Parsed::Blank;
        }
        let record = match self.record(value) {
            Ok(record) => record,
            Err(reason) => return Parsed::Bad(Bad { code: Code::IllegalRecord, reason }),
        };
        if record.size() > limit { too_large(record.size() as u64) } else { Parsed::Record(record) }
    }

    fn record(&self, value: Bytes) -> Result<Record, String> {
        let key = match self.format {
            InputFormat::Lines => None,
            InputFormat::Ndjson => find_key(&value, self.key.as_deref())?,
        };
        if let Some(key) = &key
            && key.len() > KEY_BYTES_MAX
        {
            return Err(format!("has a key of {} bytes: the limit is {KEY_BYTES_MAX}", key.len()));
        }
        Ok(Record { key, ..Record::new(value) })
    }
}

/// Checks that the bytes are a JSON object, and finds the key in it.
fn find_key(value: &[u8], field: Option<&str>) -> Result<Option<Bytes>, String> {
    // serde_json passes over strings without looking at their encoding.
    let text = std::str::from_utf8(value)
        .map_err(|error| format!("is not UTF-8: byte {} cannot be", error.valid_up_to() + 1))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let found = Object { field }.deserialize(&mut deserializer).and_then(|key| deserializer.end().map(|()| key));
    found.map_err(|error| reason(&error))
}

/// serde_json's words, for one line.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let column = error.column();
    let what = text.strip_suffix(&format!(" at line 1 column {column}")).unwrap_or(&text);
    match what.strip_prefix(FIELD_MARK) {
        Some(field) => field.to_owned(),
        None => format!("is not a JSON object: {what} (column {column})"),
    }
}

/// Marks our own errors among serde_json's.
const FIELD_MARK: &str = "\u{1}";

struct Object<'a> {
    field: Option<&'a str>,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = Option<Bytes>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Option<Bytes>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut key = None;
        let Some(field) = self.field else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(None);
        };
        while let Some(is_key) = map.next_key_seed(Is(field))? {
            if is_key {
                let raw: &RawValue = map.next_value()?;
                key = key_bytes(raw.get(), field).map_err(A::Error::custom)?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(key)
    }
}

/// A string is its text, a number or boolean as it is written, null is no key.
fn key_bytes(raw: &str, field: &str) -> Result<Option<Bytes>, String> {
    match raw.as_bytes().first() {
        Some(b'"') => {
            let text: Cow<'_, str> = serde_json::from_str(raw).map_err(|error| error.to_string())?;
            Ok(Some(Bytes::copy_from_slice(text.as_bytes())))
        }
        Some(b'n') => Ok(None),
        Some(b'{' | b'[') => {
            Err(format!("{FIELD_MARK}has an object or array as '{field}': a key is text, a number or a boolean"))
        }
        _ => Ok(Some(Bytes::copy_from_slice(raw.as_bytes()))),
    }
}

/// Whether a field's name is this one.
struct Is<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(format: InputFormat, key: Option<&str>) -> Rules {
        Rules { format, key: key.map(Into::into), record_bytes_max: 200 }
    }

    fn parse(rules: &Rules, line: &str) -> Parsed {
        rules.parse(Line::Whole(Bytes::copy_from_slice(line.as_bytes())))
    }

    fn key(line: &str) -> Option<String> {
        match parse(&rules(InputFormat::Ndjson, Some("k")), line) {
            Parsed::Record(record) => {
                assert_eq!(record.value.as_deref(), Some(line.as_bytes()), "the value is the line");
                record.key.map(|key| String::from_utf8(key.to_vec()).expect("text"))
            }
            other => panic!("{line}: {other:?}"),
        }
    }

    fn bad(rules: &Rules, line: &str) -> String {
        match parse(rules, line) {
            Parsed::Bad(bad) => bad.reason,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_key_is_the_top_level_fields_text() {
        assert_eq!(key(r#"{"k":"a"}"#).as_deref(), Some("a"));
        assert_eq!(key(r#"{"x":{"k":"inner"},"k":"\u00fc\n"}"#).as_deref(), Some("ü\n"));
        assert_eq!(key(r#"{"\u006b":12345678901234567890123}"#).as_deref(), Some("12345678901234567890123"));
        assert_eq!(key(r#" {"k" : true , "z":[1,{"k":2}]} "#).as_deref(), Some("true"));
        assert_eq!(key(r#"{"k":1,"k":2}"#).as_deref(), Some("2"), "the last one counts, as for any reader of JSON");
        assert_eq!(key(r#"{"k":""}"#).as_deref(), Some(""), "empty is a key");
        assert_eq!(key(r#"{"k":null}"#), None);
        assert_eq!(key(r#"{"x":1}"#), None);
    }

    #[test]
    fn what_is_no_object_is_refused_with_the_place() {
        let rules = rules(InputFormat::Ndjson, None);
        assert_eq!(bad(&rules, r#"{"a":1,}"#), "is not a JSON object: trailing comma (column 8)");
        assert_eq!(bad(&rules, r#"{"a":1"#), "is not a JSON object: EOF while parsing an object (column 6)");
        assert_eq!(bad(&rules, "{} x"), "is not a JSON object: trailing characters (column 4)");
        assert!(bad(&rules, "42").contains("expected an object"));
        assert!(bad(&rules, "hello").contains("expected value (column 1)"));
        assert!(parse(&rules, "[1]") != Parsed::Blank);
        let not_utf8 = rules.parse(Line::Whole(Bytes::from_static(b"{\"a\":\"\xff\"}")));
        assert!(matches!(not_utf8, Parsed::Bad(bad) if bad.reason == "is not UTF-8: byte 7 cannot be"));
        let keyed = Rules { key: Some("k".into()), ..rules };
        assert!(bad(&keyed, r#"{"k":[1]}"#).starts_with("has an object or array as 'k'"));
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        let deep = format!("{{\"k\":1,\"a\":{}{}}}", "[".repeat(90_000), "]".repeat(90_000));
        for key in [None, Some("k"), Some("a")] {
            let rules = Rules { record_bytes_max: 1 << 20, ..rules(InputFormat::Ndjson, key) };
            let _ = parse(&rules, &deep);
        }
    }

    #[test]
    fn lines_are_taken_as_they_are_and_blank_ones_only_between_objects() {
        let lines = rules(InputFormat::Lines, None);
        assert_eq!(parse(&lines, "any \u{0} thing"), Parsed::Record(Record::new("any \u{0} thing")));
        assert_eq!(parse(&lines, ""), Parsed::Record(Record::new("")));
        assert_eq!(parse(&rules(InputFormat::Ndjson, None), " \t"), Parsed::Blank);
    }

    #[test]
    fn a_record_above_the_limit_is_refused_with_both_sizes() {
        let lines = rules(InputFormat::Lines, None);
        assert!(matches!(parse(&lines, &"x".repeat(200)), Parsed::Record(_)));
        for line in [Line::Whole("x".repeat(201).into()), Line::TooLong(9 << 20)] {
            let Parsed::Bad(bad) = lines.parse(line) else { panic!("it is too large") };
            assert_eq!(bad.code, Code::RecordTooLarge);
            assert!(bad.reason.contains("200 B"), "{}", bad.reason);
        }
    }
}
