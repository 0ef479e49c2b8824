//! The batch: the unit of produce, storage and fetch.
//!
//! A producer's client encodes and compresses it once ([`BatchBuilder`]); the server checks it, stamps the few
//! fields only it knows ([`stamp`]) and writes those bytes; a consumer gets the same bytes ([`BatchView`]).
//! Compaction takes records out of it ([`thin`]), queues deliver parts of it ([`Cutter`]). The byte table is in [`header`], the record's in [`record`].
//!
//! Not here: which records share a batch (the client's accumulator), where a batch lies (the log's segments).
//! Proof: `tests/golden.rs` (the bytes), `tests/round_trip.rs`, `tests/sparse.rs`, `tests/hostile.rs`.

mod body_crc;
mod builder;
mod codec;
mod cut;
pub mod header;
pub mod record;
mod sparse;
pub mod varint;
mod view;

pub use body_crc::BodyCrcs;
pub use builder::BatchBuilder;
pub use codec::Codec;
pub use cut::Cutter;
pub use header::{BatchHeader, FLAG_CONTROL_HEADERS, HEADER_BYTES, Stamp, check_zero_stamp, renumber, stamp};
pub use record::{DEDUP_ID, RecordRef};
pub use sparse::{Thinned, join_empty, thin};
pub use view::{BatchView, Records};

/// Why bytes are not a batch, or records not a legal one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// Fewer bytes than the header, or the header's length, says.
    #[error("{have} bytes where {need} are needed")]
    Truncated {
        /// Bytes needed.
        need: usize,
        /// Bytes there.
        have: usize,
    },
    /// More bytes than the batch says it has.
    #[error("{extra} bytes follow the batch's end")]
    TrailingBytes {
        /// How many.
        extra: usize,
    },
    /// The first four bytes are not a batch's.
    #[error("not a batch: the magic is {0:#010x}")]
    BadMagic(u32),
    /// A header version, checksum kind, codec or flag this version does not know.
    #[error("unknown {what} {value}: it was written by a newer version")]
    Unknown {
        /// What is unknown.
        what: &'static str,
        /// Its value.
        value: u32,
    },
    /// A length, count or reserved field outside its range.
    #[error("{what} is {value}, outside {min}..={max}")]
    OutOfRange {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
        /// Smallest legal value.
        min: u64,
        /// Largest legal value.
        max: u64,
    },
    /// The header's checksum does not hold: damage, or bytes of another partition.
    #[error("header checksum {found:#010x}, expected {expected:#010x}")]
    HeaderChecksum {
        /// Computed from the bytes.
        found: u32,
        /// Stored in the header.
        expected: u32,
    },
    /// The body's checksum does not hold.
    #[error("body checksum {found:#010x}, expected {expected:#010x}")]
    BodyChecksum {
        /// Computed from the bytes.
        found: u32,
        /// Stored in the header.
        expected: u32,
    },
    /// The body does not decompress to what the header says.
    #[error("the body does not decompress: {0}")]
    Decompress(String),
    /// A record inside the body is malformed.
    #[error("record {index} of the batch: {what}")]
    Record {
        /// Its index in the batch, from 0.
        index: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// A record to be sent breaks a limit.
    #[error("{what} has {value} {unit}, the limit is {limit}")]
    RecordLimit {
        /// The part of the record.
        what: &'static str,
        /// How much it has.
        value: usize,
        /// The unit of both numbers.
        unit: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A header name that is kept for the system and not known, or not yet acted on.
    #[error("header name {0:?} is reserved: names beginning with 'ms-' are the system's")]
    ReservedHeader(String),
    /// A header on which the server acts does not have a number in decimal digits.
    #[error("header {name} has {value:?}: give a number of milliseconds, in decimal digits")]
    ControlHeader {
        /// The header.
        name: String,
        /// What it has.
        value: String,
    },
    /// A record's dedup id is too long or empty, or there are two.
    #[error("{}", dedup_text(*.length, *.twice))]
    DedupId {
        /// Its length in bytes.
        length: usize,
        /// It is the second one.
        twice: bool,
    },
}

fn dedup_text(length: usize, twice: bool) -> String {
    let limit = crate::limits::DEDUP_ID_BYTES_MAX;
    match twice {
        true => "the record has two headers 'ms-dedup-id': give it one".to_owned(),
        false => format!("a dedup id of {length} bytes: use 1 to {limit}"),
    }
}
