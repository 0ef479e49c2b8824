//! Reads a record's value: strict JSON (RFC 8259) into values that borrow its strings where they have no escapes.
//!
//! A number without fraction and exponent that fits 64 signed bits is an `int`, any other a `double`; none is ever
//! unsigned. (`-0` is the `double` −0.0, equal to 0.) A number beyond the range of `double` is refused as not JSON. Of a
//! repeated name the last member counts. Depth and number of values are bounded, and so are memory and time.

use std::cell::Cell;
use std::fmt;

use millstream_protocol::limits::{FILTER_VALUE_DEPTH_MAX, FILTER_VALUE_PARTS_MAX};
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};

use crate::error::Reason;
use crate::value::{Map, Part, Value};

// serde_json gives up by itself at 128.
const _: () = assert!(FILTER_VALUE_DEPTH_MAX < 128, "ours must be the limit that is met");

/// Room for the members of most records, so that it is asked for once. (Objects within them may be very many.)
const MEMBERS_USUAL: usize = 16;

/// Reads one whole JSON text.
pub fn parse(bytes: &[u8]) -> Result<Value<'_>, Reason> {
    let limits = Limits { parts: Cell::new(FILTER_VALUE_PARTS_MAX), met: Cell::new(None) };
    // Checked as a whole first: faster than string by string.
    let text = std::str::from_utf8(bytes).map_err(|error| not_json_at(bytes, error.valid_up_to()))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Seed { depth: 0, limits: &limits }.deserialize(&mut deserializer);
    value.and_then(|value| deserializer.end().map(|()| value)).map_err(|error| {
        limits.met.get().unwrap_or(Reason::NotJson { line: narrow(error.line()), column: narrow(error.column()) })
    })
}

/// The place of a byte that is not UTF-8.
fn not_json_at(bytes: &[u8], at: usize) -> Reason {
    let before = &bytes[..at];
    let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
    let lines = before.iter().filter(|b| **b == b'\n').count();
    Reason::NotJson { line: narrow(lines + 1), column: narrow(at - line_start + 1) }
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

struct Limits {
    /// How many more values there may be.
    parts: Cell<usize>,
    /// The limit that ended the reading.
    met: Cell<Option<Reason>>,
}

impl Limits {
    fn refuse<E: Error>(&self, reason: Reason) -> E {
        self.met.set(Some(reason));
        E::custom("beyond a limit")
    }
}

#[derive(Clone, Copy)]
struct Seed<'l> {
    depth: usize,
    limits: &'l Limits,
}

impl Seed<'_> {
    fn inside<E: Error>(self) -> Result<Self, E> {
        if self.depth == FILTER_VALUE_DEPTH_MAX {
            return Err(self.limits.refuse(Reason::TooDeep));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value<'de>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        match self.limits.parts.get().checked_sub(1) {
            Some(left) => self.limits.parts.set(left),
            None => return Err(self.limits.refuse(Reason::TooManyParts)),
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value<'de>, E> {
        Ok(Value::Int(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value<'de>, E> {
        Ok(i64::try_from(number).map_or(Value::Double(number as f64), Value::Int))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value<'de>, E> {
        Ok(Value::Double(number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Part::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Part::Shared(text.into())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value<'de>, A::Error> {
        let seed = self.inside()?;
        let mut list = Vec::new();
        while let Some(element) = elements.next_element_seed(seed)? {
            list.push(element);
        }
        Ok(Value::list(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value<'de>, A::Error> {
        let seed = self.inside()?;
        let mut map = if self.depth == 0 { Vec::with_capacity(MEMBERS_USUAL) } else { Vec::new() };
        while let Some(name) = members.next_key_seed(Name)? {
            map.push((name, members.next_value_seed(seed)?));
        }
        Ok(Value::map(Map::new(map)))
    }
}

/// The name of a member.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Part<'de, str>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Part<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Part<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Part<'de, str>, E> {
        Ok(Part::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Part<'de, str>, E> {
        Ok(Part::Shared(name.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_get_the_type_that_holds_them() {
        for (text, expected) in [
            ("1", "Int(1)"),
            ("-9223372036854775808", "Int(-9223372036854775808)"),
            ("9223372036854775807", "Int(9223372036854775807)"),
            ("9223372036854775808", "Double(9.223372036854776e18)"),
            ("123456789012345678901234567890", "Double(1.2345678901234568e29)"),
            ("1.0", "Double(1.0)"),
            ("1e2", "Double(100.0)"),
        ] {
            assert_eq!(format!("{:?}", parse(text.as_bytes()).expect(text)), expected);
        }
    }

    #[test]
    fn what_is_no_json_says_where() {
        assert!(matches!(parse(b""), Err(Reason::NotJson { line: 1, column: 0 })));
        assert!(matches!(parse(b"{\"a\":1,}"), Err(Reason::NotJson { line: 1, column: 8 })));
        for text in [&b"{} {}"[..], b"NaN", b"\"\xff\"", b"[1,]", b"{1:2}", b"'a'", b"1e400"] {
            assert!(matches!(parse(text), Err(Reason::NotJson { .. })), "{text:?}");
        }
    }

    #[test]
    fn depth_and_number_of_values_are_bounded_exactly() {
        let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
        assert!(parse(&nested(FILTER_VALUE_DEPTH_MAX)).is_ok());
        assert_eq!(parse(&nested(FILTER_VALUE_DEPTH_MAX + 1)).map(|_| ()), Err(Reason::TooDeep));
        assert_eq!(parse(&nested(1 << 20)).map(|_| ()), Err(Reason::TooDeep));
        let many = |parts: usize| format!("[{}1]", "1,".repeat(parts - 2));
        assert!(parse(many(FILTER_VALUE_PARTS_MAX).as_bytes()).is_ok());
        assert_eq!(parse(many(FILTER_VALUE_PARTS_MAX + 1).as_bytes()).map(|_| ()), Err(Reason::TooManyParts));
    }

    #[test]
    fn the_last_of_a_repeated_name_counts_in_small_and_large_maps() {
        for extra in [0, 40] {
            let filler: String = (0..extra).map(|at| format!("\"f{at}\":{at},")).collect();
            let text = format!("{{\"a\":1,\"b\":2,{filler}\"\\u0061\":3}}");
            let Ok(Value::Map(map)) = parse(text.as_bytes()) else { panic!("a map") };
            assert_eq!(map.len(), 2 + extra);
            assert!(matches!(map.get("a"), Some(Value::Int(3))));
            assert!(matches!(map.get("b"), Some(Value::Int(2))));
            assert!(map.get("c").is_none());
            assert_eq!(map.iter().count(), map.len());
        }
    }
}
