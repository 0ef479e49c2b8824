//! Which directory a record belongs to: a template like `carrier={carrier}/date={ts:%Y-%m-%d}`.
//!
//! | part | is |
//! | --- | --- |
//! | `{name}`, `{a.b}` | the JSON field's value: a string as it is, a number or bool as its text |
//! | `{name:FORMAT}` | the JSON field as a time: RFC 3339, a date, or a Unix time (seconds below 10¹¹, milliseconds below 10¹⁴, else microseconds) |
//! | `{ts:FORMAT}` | the record's timestamp |
//! | `{arrival:FORMAT}` | when the record was appended |
//! | `{$.ts}`, `{$.arrival}` | JSON fields of these names |
//!
//! `FORMAT` takes `%Y %m %d %H %M %j %F %G %V`, in UTC. A missing value, a null, an empty string, an object, an array and what is
//! no time give `__HIVE_DEFAULT_PARTITION__`, as in Hive; characters that mean something in paths are written `%XX`, as in Hive. A value
//! of more than 160 bytes is cut, with a checksum of all of it behind. The fields stay in the files as well.
//!
//! Pure: what a record gives depends on the record and the template alone, so that a redo finds it in the same file.

use std::fmt::Write;

use millstream_protocol::Timestamp;

use crate::json::{Json, TokenKind};
use crate::rfc3339;

/// Where records without a value go.
pub(crate) const DEFAULT_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";
/// The directory of what cannot land.
pub(crate) const ERRORS: &str = "errors";
/// The directory of what the lake itself writes down.
pub(crate) const INTERNAL: &str = "_millstream";

const VALUE_BYTES_MAX: usize = 160;
const VALUE_BYTES_KEPT: usize = 128;

/// A template that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct LayoutError(String);

/// A parsed template.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    segments: Vec<Vec<Part>>,
}

#[derive(Debug, Clone)]
enum Part {
    Literal(String),
    Value(Vec<String>),
    Time(Clock, String, Rendered),
}

#[derive(Debug, Clone)]
enum Clock {
    Record,
    Arrival,
    Field(Vec<String>),
}

/// The last time's text: times that follow each other mostly lie in one minute.
#[derive(Debug, Clone, Default)]
struct Rendered {
    minute: Option<i64>,
    text: String,
}

impl Layout {
    /// Reads a template; empty: no directories.
    pub fn parse(template: &str) -> Result<Layout, LayoutError> {
        let mut layout = Layout { segments: Vec::new() };
        let text = template.strip_suffix('/').unwrap_or(template);
        if text.is_empty() {
            return Ok(layout);
        }
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(next) = rest.chars().next() {
            match next {
                '{' => {
                    let end = rest.find('}').ok_or_else(|| wrong(template, "a '{' has no '}'"))?;
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal)));
                    }
                    parts.push(part(template, &rest[1..end])?);
                    rest = &rest[end + 1..];
                    continue;
                }
                '/' => {
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal)));
                    }
                    layout.segments.push(std::mem::take(&mut parts));
                }
                c if c.is_alphanumeric() || "_-=.,+@~ ".contains(c) => literal.push(c),
                c => return Err(wrong(template, &format!("the character {c:?} is not allowed in a directory's name"))),
            }
            rest = &rest[next.len_utf8()..];
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        layout.segments.push(parts);
        for (index, segment) in layout.segments.iter().enumerate() {
            match segment.first() {
                None => return Err(wrong(template, "a directory has no name: there is a '/' too much")),
                Some(Part::Literal(text)) if text.starts_with(['_', '.']) => {
                    return Err(wrong(template, "a directory's name begins with '_' or '.': readers pass over such"));
                }
                Some(Part::Literal(text)) if index == 0 && segment.len() == 1 && text == ERRORS => {
                    return Err(wrong(template, "the directory \"errors\" is for records that cannot land"));
                }
                _ => {}
            }
        }
        Ok(layout)
    }

    /// The top-level JSON fields that it names.
    pub fn fields(&self) -> Vec<&str> {
        let paths = self.segments.iter().flatten().filter_map(|part| match part {
            Part::Value(path) | Part::Time(Clock::Field(path), ..) => Some(path[0].as_str()),
            _ => None,
        });
        paths.collect()
    }

    /// Whether a record's JSON has a say.
    pub fn reads_json(&self) -> bool {
        let reads = |part: &Part| matches!(part, Part::Value(_) | Part::Time(Clock::Field(_), ..));
        self.segments.iter().flatten().any(reads)
    }

    /// Writes a record's directory to `out`, which is emptied; no `/` at either end.
    pub fn render(&mut self, json: Option<&Json<'_>>, timestamp: Timestamp, arrival: Timestamp, out: &mut String) {
        out.clear();
        for (index, segment) in self.segments.iter_mut().enumerate() {
            if index > 0 {
                out.push('/');
            }
            let start = out.len();
            let mut is_default = false;
            for part in segment {
                let before = out.len();
                match part {
                    Part::Literal(text) => out.push_str(text),
                    Part::Value(path) => {
                        if !value(json, path, out) {
                            out.push_str(DEFAULT_PARTITION);
                            is_default |= before == start;
                        }
                    }
                    Part::Time(clock, format, rendered) => {
                        let micros = match clock {
                            Clock::Record => timestamp.0.checked_mul(1_000),
                            Clock::Arrival => arrival.0.checked_mul(1_000),
                            Clock::Field(path) => json.and_then(|json| time(json, path)),
                        };
                        if !micros.is_some_and(|micros| rendered.write(micros, format, out)) {
                            out.push_str(DEFAULT_PARTITION);
                            is_default |= before == start;
                        }
                    }
                }
            }
            if !is_default {
                hide_no_more(out, start, index);
            }
        }
    }
}

/// A value must not make a name that readers pass over, a step upwards, or one of the lake's own directories.
fn hide_no_more(out: &mut String, start: usize, index: usize) {
    let segment = &out[start..];
    if segment.starts_with(['_', '.']) || (index == 0 && segment == ERRORS) {
        let first = out.as_bytes()[start];
        out.replace_range(start..=start, &format!("%{first:02X}"));
    }
}

fn wrong(template: &str, what: &str) -> LayoutError {
    LayoutError(format!("the layout {template:?} cannot be used: {what}"))
}

fn part(template: &str, text: &str) -> Result<Part, LayoutError> {
    let (name, format) = text.split_once(':').map_or((text, None), |(name, format)| (name, Some(format)));
    let name = name.trim();
    let path = |name: &str| -> Result<Vec<String>, LayoutError> {
        let path: Vec<String> = name.strip_prefix("$.").unwrap_or(name).split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) { Err(wrong(template, "{…} names no field")) } else { Ok(path) }
    };
    let clock = match (name, format) {
        ("ts" | "arrival", None) => {
            return Err(wrong(template, &format!("{{{name}}} needs a format, like {{{name}:%Y-%m-%d}}")));
        }
        ("ts", Some(_)) => Clock::Record,
        ("arrival", Some(_)) => Clock::Arrival,
        (name, Some(_)) => Clock::Field(path(name)?),
        (name, None) => return Ok(Part::Value(path(name)?)),
    };
    let format = format.unwrap_or_default();
    check_format(template, format)?;
    Ok(Part::Time(clock, format.to_owned(), Rendered::default()))
}

fn check_format(template: &str, format: &str) -> Result<(), LayoutError> {
    let mut chars = format.chars();
    let mut any = false;
    while let Some(c) = chars.next() {
        match c {
            '%' => match chars.next() {
                Some('Y' | 'm' | 'd' | 'H' | 'M' | 'j' | 'F' | 'G' | 'V') => any = true,
                Some(c) => {
                    let what = format!("%{c} is not one of %Y %m %d %H %M %j %F %G %V");
                    return Err(wrong(template, &what));
                }
                None => return Err(wrong(template, "a format ends in '%'")),
            },
            c if c.is_alphanumeric() || "_-=.+/".contains(c) => {}
            c => return Err(wrong(template, &format!("the character {c:?} is not allowed in a format"))),
        }
    }
    let segments: Vec<&str> = format.split('/').collect();
    if !any || segments.iter().any(|segment| segment.is_empty() || segment.starts_with(['.', '_'])) {
        return Err(wrong(template, &format!("{format:?} is no format for a time, like %Y-%m-%d or %Y/%m/%d")));
    }
    Ok(())
}

impl Rendered {
    /// `false` if the year is not one of four digits.
    fn write(&mut self, micros: i64, format: &str, out: &mut String) -> bool {
        let minute = micros.div_euclid(60_000_000);
        if self.minute != Some(minute) {
            let Some(time) = chrono::DateTime::from_timestamp(minute * 60, 0) else { return false };
            self.minute = None;
            self.text.clear();
            let year = chrono::Datelike::year(&time);
            if !(0..=9_999).contains(&year) || write!(self.text, "{}", time.format(format)).is_err() {
                return false;
            }
            self.minute = Some(minute);
        }
        out.push_str(&self.text);
        true
    }
}

/// The index of the value at that path.
fn find(json: &Json<'_>, path: &[String]) -> Option<u32> {
    let mut at = 0;
    for name in path {
        if json.token(at).kind != TokenKind::Object {
            return None;
        }
        let (_, value) = json.field_indexes(at).find(|(key, _)| json.string(json.token(*key)) == name.as_str())?;
        at = value;
    }
    Some(at)
}

fn value(json: Option<&Json<'_>>, path: &[String], out: &mut String) -> bool {
    let Some((json, at)) = json.and_then(|json| Some((json, find(json, path)?))) else { return false };
    let token = json.token(at);
    match token.kind {
        TokenKind::Plain | TokenKind::Escaped => {
            let text = json.string(token);
            escape(&text, out);
            !text.is_empty()
        }
        TokenKind::Integer | TokenKind::Float | TokenKind::Bool => {
            escape(json.raw(token), out);
            true
        }
        TokenKind::Null | TokenKind::Object | TokenKind::Array => false,
    }
}

/// Hive's escaping of partition values.
fn escape(text: &str, out: &mut String) {
    let start = out.len();
    for c in text.chars() {
        if c.is_ascii_control() || "\"#%'*/:=?\\{}[]^<>|~`".contains(c) {
            let _ = write!(out, "%{:02X}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    if out.len() - start > VALUE_BYTES_MAX {
        let mut end = start + VALUE_BYTES_KEPT;
        while !out.is_char_boundary(end) {
            end -= 1;
        }
        // Not in the middle of a %XX.
        if let Some(percent) = out[end - 2..end].find('%') {
            end = end - 2 + percent;
        }
        out.truncate(end);
        let _ = write!(out, "-{:08x}", crc32fast::hash(text.as_bytes()));
    }
}

fn time(json: &Json<'_>, path: &[String]) -> Option<i64> {
    let at = find(json, path)?;
    let token = json.token(at);
    match token.kind {
        TokenKind::Plain => {
            let text = json.string(token);
            let any = || rfc3339::micros_of_any_zone(&text);
            let date = || rfc3339::days(&text).map(|days| i64::from(days) * 86_400_000_000);
            rfc3339::micros(text.as_bytes()).or_else(any).or_else(date)
        }
        TokenKind::Integer => {
            let number = json.integer(token)?;
            match number.unsigned_abs() {
                0..100_000_000_000 => number.checked_mul(1_000_000),
                100_000_000_000..100_000_000_000_000 => number.checked_mul(1_000),
                _ => Some(number),
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Parser;

    fn render(template: &str, record: &str) -> String {
        let mut layout = Layout::parse(template).expect(template);
        let mut parser = Parser::default();
        let json = parser.parse(record.as_bytes()).ok();
        let mut out = "before".to_owned();
        layout.render(json.as_ref(), Timestamp(1_357_035_300_000), Timestamp(1_700_000_000_123), &mut out);
        out
    }

    #[test]
    fn directories_come_from_fields_and_times() {
        let record = r#"{"carrier":"UA","flight":1545,"at":"2013-02-03T04:05:06+02:00","unix":1357035300,"o":{"x":true},"d":"2013-01-31"}"#;
        for (template, expected) in [
            ("", ""),
            ("carrier={carrier}/date={ts:%Y-%m-%d}/", "carrier=UA/date=2013-01-01"),
            ("{ts:%Y/%m/%d/%H}", "2013/01/01/10"),
            ("a={arrival:%F}", "a=2023-11-14"),
            ("h={at:%FT%H-%M}", "h=2013-02-03T02-05"),
            ("m={unix:%Y-%m}/d={d:%j}", "m=2013-01/d=031"),
            ("f={flight}/x={o.x}/n={o.y}", "f=1545/x=true/n=__HIVE_DEFAULT_PARTITION__"),
            ("o={o}/at={carrier:%Y}", "o=__HIVE_DEFAULT_PARTITION__/at=__HIVE_DEFAULT_PARTITION__"),
        ] {
            assert_eq!(render(template, record), expected, "{template}");
        }
        assert_eq!(render("c={carrier}", "not json"), "c=__HIVE_DEFAULT_PARTITION__");
        assert_eq!(render("t={$.ts}", r#"{"ts":5}"#), "t=5");
    }

    #[test]
    fn no_value_leaves_its_directory() {
        for (value, expected) in [
            ("..", "%2E."),
            ("../../etc", "%2E.%2F..%2Fetc"),
            ("_millstream", "%5Fmillstream"),
            ("errors", "%65rrors"),
            ("a=b/c%d\n", "a%3Db%2Fc%25d%0A"),
            ("", "__HIVE_DEFAULT_PARTITION__"),
            ("Zürich 東京", "Zürich 東京"),
        ] {
            let record = serde_json::json!({ "v": value }).to_string();
            assert_eq!(render("{v}", &record), expected, "{value:?}");
        }
        let long = render("v={v}", &serde_json::json!({ "v": "/".repeat(300) }).to_string());
        assert!(long.len() < 255 && long.starts_with("v=%2F%2F") && !long.contains("%-"), "{long}");
        assert_ne!(long, render("v={v}", &serde_json::json!({ "v": "/".repeat(301) }).to_string()));
    }

    #[test]
    fn templates_that_cannot_be_used_say_why() {
        for (template, says) in [
            ("{carrier", "no '}'"),
            ("a//b", "too much"),
            ("/a", "too much"),
            ("../{a}", "begins with"),
            ("_x={a}", "begins with"),
            ("errors/{a}", "cannot land"),
            ("a={ts}", "needs a format"),
            ("a={ts:%Q}", "%Q is not one of"),
            ("a={ts:day}", "no format"),
            ("a={ts:%Y//%m}", "no format"),
            ("a={}", "names no field"),
            ("a={b..c}", "names no field"),
            ("a*={b}", "'*' is not allowed"),
        ] {
            let error = Layout::parse(template).expect_err(template).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
