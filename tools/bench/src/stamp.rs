//! What every record carries, so that who reads it can tell whether it is the one that was sent, and how old it is.
//!
//! ```text
//! 0   4  "MSB1"
//! 4   4  CRC-32 of all behind it, to the end of the value
//! 8   4  the run, a random number
//! 12  4  the producer
//! 16  8  its sequence, from 0
//! 24  8  the intended time of sending, Unix ns
//! ```
//! Little-endian. It is the beginning of the value; where values are lines of a file it is a header of the record, and the
//! CRC covers the rest of the header, and then the value. Values below 32 bytes carry none: they are counted only.

/// Its size.
pub const STAMP_BYTES: usize = 32;
/// The header that carries it where the value cannot.
pub const STAMP_HEADER: &str = "bench";

const MAGIC: [u8; 4] = *b"MSB1";

/// Who sent a record, as which, and when it was to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The run.
    pub run: u32,
    /// The producer in it.
    pub producer: u32,
    /// Counts up from 0.
    pub sequence: u64,
    /// Unix ns.
    pub intended_ns: u64,
}

/// What was found where a stamp may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A record of ours, whole.
    Intact(Stamp),
    /// A record of ours of which a byte has changed; the stamp may be wrong itself.
    Damaged(Stamp),
    /// Not ours.
    Foreign,
}

impl Stamp {
    /// The stamp of that value, or of what follows it in the value.
    pub fn encode(&self, body: &[u8]) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.run.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.producer.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.intended_ns.to_le_bytes());
        let crc = crc(&bytes[8..], body);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the stamp at the beginning of a value.
    pub fn of_value(value: &[u8]) -> Found {
        match value.split_at_checked(STAMP_BYTES) {
            Some((stamp, body)) => Self::decode(stamp, body),
            None => Found::Foreign,
        }
    }

    /// Reads a stamp that lies beside the value.
    pub fn of_header(stamp: &[u8], value: &[u8]) -> Found {
        if stamp.len() == STAMP_BYTES { Self::decode(stamp, value) } else { Found::Foreign }
    }

    /// When the record was to be sent, if it is one of ours; nothing is checked.
    pub fn intended_ns(stamp: &[u8]) -> Option<u64> {
        let bytes = stamp.get(24..STAMP_BYTES)?.try_into().ok()?;
        (stamp[0..4] == MAGIC).then(|| u64::from_le_bytes(bytes))
    }

    fn decode(stamp: &[u8], body: &[u8]) -> Found {
        if stamp[0..4] != MAGIC {
            return Found::Foreign;
        }
        let u32_at = |at: usize| u32::from_le_bytes(stamp[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(stamp[at..at + 8].try_into().expect("eight bytes"));
        let read = Self { run: u32_at(8), producer: u32_at(12), sequence: u64_at(16), intended_ns: u64_at(24) };
        if u32_at(4) == crc(&stamp[8..], body) { Found::Intact(read) } else { Found::Damaged(read) }
    }
}

fn crc(rest: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(rest);
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { run: 7, producer: 3, sequence: 1 << 40, intended_ns: 1_700_000_000_000_000_000 };

    #[test]
    fn a_stamp_reads_back_and_each_flipped_bit_is_noticed() {
        let mut value = STAMP.encode(b"the rest").to_vec();
        value.extend_from_slice(b"the rest");
        assert_eq!(Stamp::of_value(&value), Found::Intact(STAMP));
        for bit in 0..value.len() * 8 {
            value[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(Stamp::of_value(&value), Found::Intact(_)), "bit {bit}");
            value[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_stamp_beside_the_value_covers_the_value() {
        let stamp = STAMP.encode(b"{\"n\":1}");
        assert_eq!(Stamp::of_header(&stamp, b"{\"n\":1}"), Found::Intact(STAMP));
        assert_eq!(Stamp::of_header(&stamp, b"{\"n\":2}"), Found::Damaged(STAMP));
        assert_eq!(Stamp::of_header(b"short", b""), Found::Foreign);
        assert_eq!(Stamp::of_value(b"{\"n\":1}"), Found::Foreign);
    }
}
