//! A payload that tells who sent it and whether it is whole.
//!
//! ```text
//! offset  size  what
//!      0     8  value: producer (24 bits), counter (40 bits); little-endian, as all of it
//!      8     4  length of the whole payload
//!     12     4  CRC-32 (IEEE) of everything but these four bytes
//!     16     n  padding, out of the value
//! ```
//! Invariant: a payload that is cut, grown, flipped or put together out of two does not decode. Held by the length and
//! the checksum; the padding differs from value to value, so that two halves do not fit.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::seeded::Seeded;

const COUNTER_BITS: u32 = 40;
const HEAD_BYTES: usize = 16;

/// What one record of a history is called: a producer and its counter. Unique within a history, and rising in the order
/// in which the producer sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ValueId(pub u64);

impl ValueId {
    /// What stands where a payload was not whole. No producer has it.
    pub(crate) const BROKEN: ValueId = ValueId(u64::MAX);

    /// The `counter`-th value of a producer.
    ///
    /// # Panics
    /// From 2²⁴ − 1 producers or 2⁴⁰ values on.
    pub const fn new(producer: u32, counter: u64) -> Self {
        assert!(producer < (1 << (u64::BITS - COUNTER_BITS)) - 1, "producers are numbered in 24 bits");
        assert!(counter < 1 << COUNTER_BITS, "values are numbered in 40 bits");
        Self((producer as u64) << COUNTER_BITS | counter)
    }

    /// Who sent it.
    pub const fn producer(self) -> u32 {
        (self.0 >> COUNTER_BITS) as u32
    }

    /// Which of its sender's.
    pub const fn counter(self) -> u64 {
        self.0 & ((1 << COUNTER_BITS) - 1)
    }
}

impl fmt::Display for ValueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::BROKEN {
            return f.write_str("(not whole)");
        }
        write!(f, "p{}#{}", self.producer(), self.counter())
    }
}

/// The payload of a value, with so many bytes of padding.
pub fn encode(value: ValueId, padding: usize) -> Vec<u8> {
    let length = HEAD_BYTES + padding;
    let mut bytes = Vec::with_capacity(length + 8);
    bytes.extend_from_slice(&value.0.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(length).expect("a record is below 4 GiB").to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    let mut fill = Seeded::new(value.0);
    while bytes.len() < length {
        bytes.extend_from_slice(&fill.any().to_le_bytes());
    }
    bytes.truncate(length);
    let sum = checksum(&bytes);
    bytes[12..HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The value of a payload; `None` if it is not one whole payload.
pub fn decode(bytes: &[u8]) -> Option<ValueId> {
    let (value, rest) = bytes.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (sum, _) = rest.split_first_chunk()?;
    let whole = u32::from_le_bytes(*length) as usize == bytes.len() && u32::from_le_bytes(*sum) == checksum(bytes);
    whole.then_some(ValueId(u64::from_le_bytes(*value)))
}

/// Of a payload with its head: everything but the sum itself.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..12]);
    hasher.update(&bytes[HEAD_BYTES..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_names_its_sender_and_its_place_among_the_senders_values() {
        let value = ValueId::new(3, 1_042);
        assert_eq!((value.producer(), value.counter(), value.to_string().as_str()), (3, 1_042, "p3#1042"));
        assert!(ValueId::new(3, (1 << 40) - 1) < ValueId::new(4, 0));
        assert!(ValueId::new((1 << 24) - 2, (1 << 40) - 1) < ValueId::BROKEN);
    }

    #[test]
    fn payloads_of_every_size_come_back() {
        for padding in [0, 1, 7, 8, 9, 1_000] {
            let bytes = encode(ValueId::new(5, 6), padding);
            assert_eq!((bytes.len(), decode(&bytes)), (HEAD_BYTES + padding, Some(ValueId::new(5, 6))));
        }
    }

    #[test]
    fn a_payload_that_is_cut_grown_flipped_or_mixed_is_noticed() {
        let (one, other) = (encode(ValueId::new(1, 1), 40), encode(ValueId::new(1, 2), 40));
        for cut in 0..one.len() {
            assert_eq!(decode(&one[..cut]), None, "cut at {cut}");
            let mixed = [&one[..cut], &other[cut..]].concat();
            assert!(mixed == other || decode(&mixed).is_none(), "mixed at {cut}");
            for bit in 0..8 {
                let mut flipped = one.clone();
                flipped[cut] ^= 1 << bit;
                assert_eq!(decode(&flipped), None, "bit {bit} of byte {cut}");
            }
        }
        assert_eq!(decode(&[one, vec![0]].concat()), None);
    }
}
