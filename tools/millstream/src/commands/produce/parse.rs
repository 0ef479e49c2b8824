//! From a line to a record: is it JSON, is it small enough, what is its key, what its dedup id. No I/O.
//!
//! The check reads each line once and builds nothing; the record's value is the line's bytes as they came.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use millstream_protocol::limits::{DEDUP_ID_BYTES_MAX, KEY_BYTES_MAX};
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
    /// The field that is the dedup id.
    pub dedup_id: Option<String>,
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
        let Found { key, dedup_id } = match self.format {
            InputFormat::Lines => Found::default(),
            InputFormat::Ndjson => {
                find(&value, Fields { key: self.key.as_deref(), dedup_id: self.dedup_id.as_deref() })?
            }
        };
        if let Some(key) = &key
            && key.len() > KEY_BYTES_MAX
        {
            return Err(format!("has a key of {} bytes: the limit is {KEY_BYTES_MAX}", key.len()));
        }
        let record = Record { key, ..Record::new(value) };
        match dedup_id {
            None => Ok(record),
            Some(id) if (1..=DEDUP_ID_BYTES_MAX).contains(&id.len()) => Ok(record.dedup_id(id)),
            Some(id) => Err(format!("has a dedup id of {} bytes: use 1 to {DEDUP_ID_BYTES_MAX}", id.len())),
        }
    }
}

/// The fields that mean something.
#[derive(Clone, Copy)]
struct Fields<'a> {
    key: Option<&'a str>,
    dedup_id: Option<&'a str>,
}

/// What is in them.
#[derive(Default)]
struct Found {
    key: Option<Bytes>,
    dedup_id: Option<Bytes>,
}

/// Checks that the bytes are a JSON object, and finds the fields in it.
fn find(value: &[u8], fields: Fields<'_>) -> Result<Found, String> {
    // serde_json passes over strings without looking at their encoding.
    let text = std::str::from_utf8(value)
        .map_err(|error| format!("is not UTF-8: byte {} cannot be", error.valid_up_to() + 1))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let found = fields.deserialize(&mut deserializer).and_then(|found| deserializer.end().map(|()| found));
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

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = Found::default();
        if self.key.or(self.dedup_id).is_none() {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(found);
        }
        while let Some(meant) = map.next_key_seed(Meant(self))? {
            let Fields { key, dedup_id } = meant;
            if key.or(dedup_id).is_none() {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let raw: &RawValue = map.next_value()?;
            if let Some(field) = key {
                found.key = text_of(raw.get(), field, "key").map_err(A::Error::custom)?;
            }
            if let Some(field) = dedup_id {
                found.dedup_id = text_of(raw.get(), field, "dedup id").map_err(A::Error::custom)?;
            }
        }
        Ok(found)
    }
}

/// A string is its text, a number or boolean as it is written, null is nothing.
fn text_of(raw: &str, field: &str, what: &str) -> Result<Option<Bytes>, String> {
    match raw.as_bytes().first() {
        Some(b'"') => {
            let text: Cow<'_, str> = serde_json::from_str(raw).map_err(|error| error.to_string())?;
            Ok(Some(Bytes::copy_from_slice(text.as_bytes())))
        }
        Some(b'n') => Ok(None),
        Some(b'{' | b'[') => {
            Err(format!("{FIELD_MARK}has an object or array as '{field}': a {what} is text, a number or a boolean"))
        }
        _ => Ok(Some(Bytes::copy_from_slice(raw.as_bytes()))),
    }
}

/// Which of the fields a field's name means.
struct Meant<'a>(Fields<'a>);

impl<'de, 'a> DeserializeSeed<'de> for Meant<'a> {
    type Value = Fields<'a>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Fields<'a>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'_> for Meant<'a> {
    type Value = Fields<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Fields<'a>, E> {
        let Fields { key, dedup_id } = self.0;
        let is_it = |field: &&str| *field == name;
        Ok(Fields { key: key.filter(is_it), dedup_id: dedup_id.filter(is_it) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(format: InputFormat, key: Option<&str>) -> Rules {
        Rules { format, key: key.map(Into::into), dedup_id: None, record_bytes_max: 200 }
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
    fn the_dedup_id_is_a_fields_text_too_perhaps_the_keys() {
        let rules = |id: &str| Rules { dedup_id: Some(id.into()), ..rules(InputFormat::Ndjson, Some("k")) };
        let line = r#"{"k":"a","n":7,"long":"$","z":null,"o":{}}"#.replace('$', &"x".repeat(129));
        let of =
            |id: &str| match (Rules { record_bytes_max: 1_000, ..rules(id) }).parse(Line::Whole(line.clone().into())) {
                Parsed::Record(record) => Ok(record),
                Parsed::Bad(bad) => Err(bad.reason),
                Parsed::Blank => panic!("it is not blank"),
            };
        let plain = Record::new(line.clone()).key("a");
        assert_eq!(of("n"), Ok(plain.clone().dedup_id("7")));
        assert_eq!(of("k"), Ok(plain.clone().dedup_id("a")), "key and id");
        assert_eq!((of("z"), of("none")), (Ok(plain.clone()), Ok(plain)), "null is none");
        assert_eq!(of("long"), Err("has a dedup id of 129 bytes: use 1 to 128".into()));
        assert!(of("o").expect_err("no text").starts_with("has an object or array as 'o': a dedup id is"));
        assert!(matches!(parse(&rules("n"), r#"{"n":""}"#), Parsed::Bad(_)), "empty");
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
