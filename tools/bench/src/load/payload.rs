//! What is sent: bytes that differ from record to record, made once, so that making them costs the run little.
//!
//! A record's value is written into a slab that many records share: the stamp, then its part of a pool. No allocation per
//! record. Lines of a file are sent as they are, out of the file's one buffer; their stamps are headers.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use bytes::{Bytes, BytesMut};
use millstream_client::Record;
use serde::{Deserialize, Serialize};

use super::random::Random;
use crate::failure::Failure;
use crate::stamp::{STAMP_BYTES, STAMP_HEADER, Stamp};

/// Far more than a batch, so that no two records of a batch are alike.
const POOL_BYTES: usize = 4 << 20;
/// What many values are cut from.
const SLAB_BYTES: usize = 1 << 20;

/// What values are made of. Written as `random`, `compressible`, `file:PATH`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Payload {
    /// Bytes that do not compress.
    Random,
    /// Letters that pack to about a half.
    #[default]
    Compressible,
    /// The lines of a file, one after the other, from the beginning again after the last.
    File(PathBuf),
}

impl FromStr for Payload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "random" => Ok(Payload::Random),
            None if text == "compressible" => Ok(Payload::Compressible),
            Some(("file", path)) if !path.is_empty() => Ok(Payload::File(path.into())),
            _ => Err("use random, compressible or file:PATH".to_owned()),
        }
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Payload::Random => f.write_str("random"),
            Payload::Compressible => f.write_str("compressible"),
            Payload::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl From<Payload> for String {
    fn from(payload: Payload) -> Self {
        payload.to_string()
    }
}

impl TryFrom<String> for Payload {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// What all producers share: made once.
#[derive(Debug, Clone)]
pub enum Pool {
    /// Values of one size are cut from it.
    Bytes(Bytes),
    /// A value each.
    Lines(std::sync::Arc<[Bytes]>),
}

impl Pool {
    /// Makes it. Blocks on the file, if there is one.
    pub fn make(payload: &Payload, record_size: usize, seed: u64) -> Result<Self, Failure> {
        let mut random = Random::new(seed);
        let length = POOL_BYTES + record_size;
        Ok(match payload {
            Payload::Random => {
                let words = std::iter::repeat_with(|| random.next()).take(length.div_ceil(8));
                Pool::Bytes(words.flat_map(u64::to_le_bytes).collect())
            }
            // Sixteen letters: 4 bits in a byte.
            Payload::Compressible => {
                let letters = std::iter::repeat_with(|| b'a' + (random.next() >> 60) as u8);
                Pool::Bytes(letters.take(length).collect())
            }
            Payload::File(path) => {
                let file = Bytes::from(std::fs::read(path).map_err(|error| Failure::file("read", path, &error))?);
                let lines = file.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                let lines: Vec<Bytes> = lines.map(|line| file.slice_ref(line)).collect();
                if lines.is_empty() {
                    return Err(Failure::usage(format!("{} has no lines to send", path.display())));
                }
                Pool::Lines(lines.into())
            }
        })
    }
}

/// One producer's values.
#[derive(Debug)]
pub struct Values {
    pool: Pool,
    size: usize,
    at: usize,
    slab: BytesMut,
}

impl Values {
    /// Those of one producer: each begins elsewhere.
    pub fn new(pool: Pool, size: usize, producer: u32) -> Self {
        let at = match &pool {
            Pool::Bytes(_) => producer as usize * 7_919 % POOL_BYTES,
            Pool::Lines(lines) => producer as usize * 7_919 % lines.len(),
        };
        Self { pool, size, at, slab: BytesMut::new() }
    }

    /// The next record, without its key.
    pub fn next(&mut self, stamp: &Stamp) -> Record {
        match &self.pool {
            Pool::Lines(lines) => {
                let value = lines[self.at].clone();
                self.at = (self.at + 1) % lines.len();
                let bytes = stamp.encode(&value);
                Record::new(value).header(STAMP_HEADER, Bytes::copy_from_slice(&bytes))
            }
            Pool::Bytes(pool) => {
                let from = self.at;
                // A step that shares no factor with the pool's size visits every place before it repeats.
                self.at = (self.at + self.size.max(1) + 1) % POOL_BYTES;
                let Some(body) = self.size.checked_sub(STAMP_BYTES) else {
                    return Record::new(pool.slice(from..from + self.size));
                };
                let body = &pool[from..from + body];
                if self.slab.capacity() < self.size {
                    self.slab = BytesMut::with_capacity(SLAB_BYTES.max(self.size));
                }
                self.slab.extend_from_slice(&stamp.encode(body));
                self.slab.extend_from_slice(body);
                Record::new(self.slab.split().freeze())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::Found;

    const STAMP: Stamp = Stamp { run: 1, producer: 2, sequence: 3, intended_ns: 4 };

    fn values(payload: &Payload, size: usize) -> Vec<Record> {
        let pool = Pool::make(payload, size, 1).expect("made");
        let mut values = Values::new(pool, size, 3);
        (0..100).map(|_| values.next(&STAMP)).collect()
    }

    #[test]
    fn values_have_their_size_and_their_stamp_and_neighbours_differ() {
        for payload in [Payload::Random, Payload::Compressible] {
            for size in [0, 1, 31, 32, 33, 1_024, 2 << 20] {
                let records = values(&payload, size);
                assert!(records.iter().all(|record| record.size() == size));
                assert!(size < 48 || records.windows(2).all(|pair| pair[0] != pair[1]));
                let stamped = |record: &Record| Stamp::of_value(record.value.as_deref().expect("a value"));
                assert!(size < 32 || records.iter().all(|record| stamped(record) == Found::Intact(STAMP)));
            }
        }
    }

    #[test]
    fn lines_of_a_file_are_sent_as_they_are_with_their_stamp_beside_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lines.ndjson");
        std::fs::write(&path, "{\"n\":1}\n\n{\"n\":2}\n").expect("written");
        let payload: Payload = format!("file:{}", path.display()).parse().expect("legal");
        for pair in values(&payload, 0).chunks(2) {
            let mut found: Vec<&[u8]> = pair.iter().map(|record| record.value.as_deref().expect("a value")).collect();
            found.sort_unstable();
            assert_eq!(found, [b"{\"n\":1}", b"{\"n\":2}"]);
            let header = pair[0].headers[0].value.as_deref().expect("a stamp");
            let value = pair[0].value.as_deref().expect("a value");
            assert_eq!(Stamp::of_header(header, value), Found::Intact(STAMP));
        }
        std::fs::write(&path, "\n\n").expect("written");
        let error = Pool::make(&payload, 0, 1).expect_err("no lines");
        assert!(error.exit == 2 && error.text.contains("lines.ndjson"), "{}", error.text);
    }
}
