//! The records: made of their numbers, so that whoever finds one knows all that it must be.
//!
//! A producer stays with one `c` for some records, and its time goes on by a day every few thousand; some records come
//! days late. Of a hundred some cannot land (no JSON, no object, no value at all), and the field `x` drifts through
//! types that no column holds together.

use bytes::Bytes;
use millstream_check::seeded::Seeded;
use millstream_check::value::ValueId;
use millstream_client::{Record, Timestamp};
use serde_json::{Map, Value, json};

use super::Layout;

/// 2016-02-27 12:00 UTC: the leap day comes.
const FIRST_MS: i64 = 1_456_574_400_000;
const RECORD_MS: i64 = 15_000;
/// So many records in a row have the same `c`.
const SAME_C: u64 = 64;
/// So many in a row come late together, if they do.
const SAME_LATENESS: u64 = 32;
const LATE_PERCENT: u64 = 8;
const LATE_DAYS: std::ops::RangeInclusive<u64> = 1..=2;
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
const REJECTED_PERCENT: u64 = 4;
/// So many in a row have an `x` of the same type.
const SAME_TYPE: u64 = 700;

/// A record and its fate.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    pub record: Record,
    pub fate: Fate,
}

/// Where a record must be found.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// As a row of that directory.
    Row { directory: String, fields: Map<String, Value> },
    /// In the error prefix.
    Rejected,
}

/// Makes records.
#[derive(Debug, Clone)]
pub struct Maker {
    seeded: Seeded,
    layout: Layout,
}

impl Maker {
    pub fn new(seeded: Seeded, layout: Layout) -> Self {
        Self { seeded, layout }
    }

    /// The record of that number.
    pub fn make(&self, id: ValueId) -> Made {
        let (producer, counter) = (u64::from(id.producer()), id.counter());
        // Choices that some records in a row share, and the record's own.
        let shared = |kind: u64, run: u64| self.seeded.fork(producer).fork(kind).fork(counter / run);
        let mut own = self.seeded.fork(id.0);
        let mut lateness = shared(1, SAME_LATENESS);
        let late_days = if lateness.percent(LATE_PERCENT) { lateness.of(LATE_DAYS) } else { 0 };
        let timestamp_ms = FIRST_MS + counter as i64 * RECORD_MS - late_days as i64 * DAY_MS;
        let timestamp = Timestamp(timestamp_ms);
        // Some go where their key belongs, the others to one partition for a while.
        let key = own.percent(30).then(|| Bytes::from(own.of(0..=999).to_string()));
        let n = id.0;
        if own.percent(REJECTED_PERCENT) {
            let value = match own.index(5) {
                0 => Some(format!("{{\"n\":{n},\"cut\":").into_bytes()),
                1 => Some(format!("[{n}]").into_bytes()),
                2 => Some(format!("{n} is not all").into_bytes()),
                3 => Some([&b"\xff\xfe "[..], n.to_string().as_bytes()].concat()),
                _ => None,
            };
            let key = if value.is_none() { Some(Bytes::from(n.to_string())) } else { key };
            let record = Record { key, timestamp, value: value.map(Bytes::from), ..Record::default() };
            return Made { record, fate: Fate::Rejected };
        }
        let mut fields = Map::new();
        fields.insert("n".into(), n.into());
        let (c, in_path) = c_of(&mut shared(2, SAME_C));
        if let Some(c) = c {
            fields.insert("c".into(), c);
        }
        fields.insert("at".into(), own.of(0..=1_000_000).into());
        if let Some(x) = x_of(&mut shared(3, SAME_TYPE), &mut own) {
            fields.insert("x".into(), x);
        }
        // Columns that come late.
        if counter > 2_000 && own.percent(10) {
            fields.insert(
                format!("late_{}", (counter / 5_000).min(9)),
                json!({ "deep": [own.of(0..=9), own.of(0..=9)] }),
            );
        }
        fields.insert("pad".into(), padding(&mut shared(4, SAME_TYPE), &mut own).into());
        let value = Value::Object(fields.clone()).to_string();
        let record = Record { key, timestamp, value: Some(value.into()), ..Record::default() };
        Made { record, fate: Fate::Row { directory: self.layout.directory(in_path, timestamp_ms), fields } }
    }
}

/// The number that a record's value (or, of one without, its key) names.
pub fn number_in(bytes: &[u8]) -> Option<ValueId> {
    let start = bytes.iter().position(u8::is_ascii_digit)?;
    let digits = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&bytes[start..start + digits]).ok()?.parse().ok().map(ValueId)
}

/// A value of the field `c`, and what stands for it in a path.
fn c_of(seeded: &mut Seeded) -> (Option<Value>, &'static str) {
    match seeded.index(5) {
        0 => (Some(json!("ua")), "ua"),
        1 => (Some(json!("b/2")), "b%2F2"),
        2 => (Some(json!(7)), "7"),
        3 => (Some(Value::Null), "__HIVE_DEFAULT_PARTITION__"),
        _ => (None, "__HIVE_DEFAULT_PARTITION__"),
    }
}

/// A value of the field that drifts.
fn x_of(shared: &mut Seeded, own: &mut Seeded) -> Option<Value> {
    let number = own.of(0..=1_000);
    Some(match shared.index(7) {
        0 => json!(number),
        1 => json!(number as f64 / 8.0),
        2 => json!(format!("é{number}")),
        3 => json!(own.percent(50)),
        4 => json!({ "a": number, "b": [number, null] }),
        5 => json!([number.to_string(), "z"]),
        _ => return None,
    })
}

/// Mostly little; much, and nothing that compresses well, for a while now and then: files are to end by their size too.
fn padding(shared: &mut Seeded, own: &mut Seeded) -> String {
    let words = if shared.percent(4) { 200 } else { own.of(0..=6) };
    (0..words).map(|_| format!("{:016x}", own.any())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_makes_the_same_record_each_time_and_is_found_in_it() {
        let maker = Maker::new(Seeded::new(3), Layout::parse("c={c}/d={ts:%F}").expect("known"));
        let (mut rejected, mut directories) = (0, std::collections::BTreeSet::new());
        for counter in 0..20_000 {
            let id = ValueId::new(2, counter);
            let made = maker.make(id);
            assert_eq!(made, maker.make(id));
            let named_in = made.record.value.as_ref().or(made.record.key.as_ref()).expect("one of them");
            // A row's number is its field `n`; the other digits in it may stand before that.
            match &made.fate {
                Fate::Rejected => {
                    rejected += 1;
                    assert_eq!(number_in(named_in), Some(id));
                }
                Fate::Row { directory, fields } => {
                    directories.insert(directory.clone());
                    assert_eq!(fields["n"], json!(id.0));
                }
            }
        }
        assert!((500..1_100).contains(&rejected), "{rejected}");
        assert!(directories.contains("c=b%2F2/d=2016-02-29"), "{directories:?}");
    }
}
