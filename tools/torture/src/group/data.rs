//! What is sent to a group: the lines of a file of real events, or made-up ones, each with its number.
//!
//! A line is no payload of ours, so its number goes into a header with a checksum over both:
//! ```text
//! header "torture": u64 LE value · u32 LE CRC-32 of the value's eight bytes and the line
//! ```

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use bytes::Bytes;
use millstream_check::value::ValueId;
use millstream_client::{Header, Record};

use crate::failure::Failure;
use crate::load::Source;

const HEADER: &str = "torture";
/// The producer's number, which is its process's too.
pub const NUMBER: u32 = 1;
/// Of made-up events: as many aircraft as there are in the real ones.
const MADE_UP: u64 = 50_000;
const KEYS: u64 = 4_000;

/// Events to send: lines, with the key of each.
pub struct Data {
    lines: Vec<(Option<Bytes>, Bytes)>,
}

impl Data {
    /// The lines of a file, JSON each, keyed by `tailnum` where there is one; `.zst` is unpacked.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::CannotBegin(format!("{}: {error}", path.display()));
        let file = File::open(path).map_err(failed)?;
        let input: Box<dyn Read> = match path.extension().is_some_and(|extension| extension == "zst") {
            true => Box::new(zstd::stream::read::Decoder::new(file).map_err(failed)?),
            false => Box::new(file),
        };
        let mut lines = Vec::new();
        for line in BufReader::new(input).lines() {
            let line = line.map_err(failed)?;
            let parsed: serde_json::Value = serde_json::from_str(&line).map_err(|error| {
                Failure::CannotBegin(format!("{}:{}: not JSON: {error}", path.display(), lines.len() + 1))
            })?;
            let key = parsed["tailnum"].as_str().map(|key| Bytes::copy_from_slice(key.as_bytes()));
            lines.push((key, line.into()));
        }
        if lines.is_empty() {
            return Err(Failure::CannotBegin(format!("{} has no lines", path.display())));
        }
        Ok(Self { lines })
    }

    /// Events that look like them.
    pub fn made_up() -> Self {
        let line = |n: u64| {
            let key = format!("N{:05}", n * 7_919 % KEYS);
            let line = format!("{{\"id\":{n},\"tailnum\":\"{key}\",\"origin\":\"EWR\",\"distance\":{}}}", n % 5_000);
            (Some(key.into()), line.into())
        };
        Self { lines: (0..MADE_UP).map(line).collect() }
    }
}

impl Source for Data {
    fn producer(&self) -> u32 {
        NUMBER
    }

    /// The lines begin anew where there are no more.
    fn record(&self, number: u64) -> (ValueId, Record) {
        let (key, line) = &self.lines[(number % self.lines.len() as u64) as usize];
        let value = ValueId::new(NUMBER, number);
        let mut record = Record::new(line.clone());
        record.key = key.clone();
        record.headers.push(Header { name: HEADER.to_owned(), value: Some(mark(value, line).into()) });
        (value, record)
    }
}

fn mark(value: ValueId, line: &[u8]) -> Vec<u8> {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&value.0.to_le_bytes());
    sum.update(line);
    [&value.0.to_le_bytes()[..], &sum.finalize().to_le_bytes()].concat()
}

/// The value of a record, if it is whole.
pub fn seen(record: &Record) -> Option<ValueId> {
    let header = record.headers.iter().find(|header| header.name == HEADER)?;
    let (marked, line) = (header.value.as_deref()?, record.value.as_deref()?);
    let value = ValueId(u64::from_le_bytes(*marked.first_chunk()?));
    (mark(value, line) == marked).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_and_its_number_come_back_and_nothing_else_does() {
        let (value, record) = Data::made_up().record(41);
        assert_eq!((value, seen(&record)), (ValueId::new(NUMBER, 41), Some(value)));
        let other = Data::made_up().record(42).1;
        assert_eq!(seen(&Record { value: other.value, ..record.clone() }), None, "another line");
        assert_eq!(seen(&Record { headers: other.headers, ..record.clone() }), None, "another number");
        assert_eq!(seen(&Record { headers: Vec::new(), ..record }), None);
    }

    #[test]
    fn a_file_is_read_packed_or_not_and_a_bad_line_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let (plain, packed) = (dir.path().join("f.ndjson"), dir.path().join("f.ndjson.zst"));
        let lines = "{\"id\":0,\"tailnum\":\"N1\"}\n{\"id\":1,\"tailnum\":null}\n";
        std::fs::write(&plain, lines).expect("written");
        std::fs::write(&packed, zstd::encode_all(lines.as_bytes(), 1).expect("packed")).expect("written");
        for path in [&plain, &packed] {
            let data = Data::read(path).expect("read");
            let keys: Vec<_> = (0..3).map(|number| data.record(number).1.key).collect();
            assert_eq!(keys, [Some("N1".into()), None, Some("N1".into())]);
        }
        std::fs::write(&plain, "{}\nno\n").expect("written");
        let Err(Failure::CannotBegin(text)) = Data::read(&plain) else { panic!("it is read") };
        assert!(text.contains("f.ndjson:2: not JSON"), "{text}");
    }
}
