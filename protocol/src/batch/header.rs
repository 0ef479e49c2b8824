//! The batch header: 112 bytes, little-endian, in three blocks.
//!
//! ```text
//!       at  size  field              who sets it, what it means
//! prefix
//!        0     4  magic              "MSTB"
//!        4     1  header version     1
//!        5     1  checksum kind      1 = CRC-32 (IEEE 802.3, as in zlib)
//! stamped: zero from a client, overwritten by the server
//!        6     2  stamped flags      bit 0 sparse (compaction only); others refused
//!        8     8  base offset        offset of the first record
//!       16     8  append time        Unix ms, never going back within a partition
//!       24     4  partition epoch    rises at every start and change of owner
//!       28     4  header_crc         over bytes 0..112 with itself as zero, seeded with the incarnation id
//!       32     8  synced_end         offset below which all was known durable when this was stamped
//! producer's: covered by body_crc, unchanged to the consumer
//!       40     4  body length        as stored
//!       44     4  uncompressed       length of the body before compression
//!       48     4  record count       0 only in what compaction leaves
//!       52     4  last offset delta  offsets spanned − 1; count − 1 until compaction
//!       56     4  flags              low half: an unknown bit is refused; high half: carried
//!       60     1  codec              0 none, 1 lz4 (block), 2 zstd
//!       61     3  zero
//!       64     8  first timestamp    Unix ms, the first record's (as it was sent: compaction leaves it)
//!       72     8  max timestamp      Unix ms
//!       80     8  producer id        0: without idempotence
//!       88     4  producer epoch
//!       92     4  body_crc           over bytes 40..112 with itself as zero, then the body
//!       96     8  base sequence      counts records per producer and partition
//!      104     8  zero
//!      112        body
//! ```
//!
//! Two checksums, because two parties vouch: `body_crc` is the client's and reaches the consumer as it was
//! sent, unless compaction has taken records out (`sparse`): then it is the server's too; `header_crc` is the server's, and its seed makes bytes in the wrong place fail the check.

use bytes::Bytes;
use crc32fast::Hasher;

use super::{BatchError, Codec};
use crate::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, BATCH_UNCOMPRESSED_BYTES_MAX};
use crate::{Epoch, Incarnation, Offset, ProducerId, Timestamp};

/// The header's length.
pub const HEADER_BYTES: usize = 112;
/// "MSTB" as a little-endian number.
pub const MAGIC: u32 = u32::from_le_bytes(*b"MSTB");
/// The header version this code writes.
pub const HEADER_VERSION: u8 = 1;
/// The checksum kind this code writes: CRC-32 (IEEE).
pub const CHECKSUM_CRC32: u8 = 1;

/// Stamped flag: each record carries its own offset delta.
pub const STAMPED_SPARSE: u16 = 1 << 0;

/// Flag: records carry `ms-` headers on which the server acts: it reads the records before it stores them.
pub const FLAG_CONTROL_HEADERS: u32 = 1 << 0;
/// Flag: the body is encrypted by the client. Reserved: refused by this version.
pub const FLAG_ENCRYPTED: u32 = 1 << 1;
/// Flag: a 64-bit atomic group id precedes the body. Reserved: refused by this version.
pub const FLAG_ATOMIC_MEMBER: u32 = 1 << 2;
/// Flag: a server's marker batch, without records for consumers. Reserved: refused by this version.
pub const FLAG_MARKER: u32 = 1 << 3;
/// The low-half flags this version understands.
pub const FLAGS_KNOWN: u32 = FLAG_CONTROL_HEADERS;
/// The flags that may be carried without being understood.
pub const FLAGS_CARRIED: u32 = 0xffff_0000;

const PRODUCER_BLOCK: usize = 40;
const HEADER_CRC: usize = 28;
const BODY_CRC: usize = 92;

/// A header, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchHeader {
    /// Stamped: each record carries its own offset delta.
    pub sparse: bool,
    /// Stamped: offset of the first record.
    pub base_offset: Offset,
    /// Stamped: the server's time of append.
    pub append_time: Timestamp,
    /// Stamped: the partition's epoch.
    pub epoch: Epoch,
    /// Stamped: checksum of the header.
    pub header_crc: u32,
    /// Stamped: offset below which all was known durable.
    pub synced_end: Offset,
    /// Bytes of the body as stored.
    pub body_len: u32,
    /// Bytes of the body before compression.
    pub uncompressed_len: u32,
    /// Records in the body.
    pub record_count: u32,
    /// Offsets spanned − 1.
    pub last_offset_delta: u32,
    /// See the `FLAG_` constants.
    pub flags: u32,
    /// How the body is compressed.
    pub codec: Codec,
    /// The first record's timestamp.
    pub first_timestamp: Timestamp,
    /// The greatest timestamp.
    pub max_timestamp: Timestamp,
    /// The producer, 0 without idempotence.
    pub producer_id: ProducerId,
    /// The producer's epoch.
    pub producer_epoch: u32,
    /// Checksum of the producer's block and the body.
    pub body_crc: u32,
    /// The first record's sequence.
    pub base_sequence: u64,
}

/// The fields only the server knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// The server's time of append.
    pub append_time: Timestamp,
    /// The partition's epoch.
    pub epoch: Epoch,
    /// Offset below which all is known durable.
    pub synced_end: Offset,
}

impl BatchHeader {
    /// Decodes the first [`HEADER_BYTES`] of `bytes` and checks every field's range, but no checksum: the body
    /// may not be there yet.
    ///
    /// # Errors
    /// [`BatchError`] naming the field.
    pub fn decode(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(BatchError::Truncated { need: HEADER_BYTES, have: bytes.len() });
        };
        if u32_at(bytes, 0) != MAGIC {
            return Err(BatchError::BadMagic(u32_at(bytes, 0)));
        }
        known("header version", u32::from(bytes[4]), u32::from(HEADER_VERSION))?;
        known("checksum kind", u32::from(bytes[5]), u32::from(CHECKSUM_CRC32))?;
        let stamped_flags = u16_at(bytes, 6);
        if stamped_flags & !STAMPED_SPARSE != 0 {
            return Err(BatchError::Unknown { what: "stamped flag", value: u32::from(stamped_flags) });
        }
        let flags = u32_at(bytes, 56);
        let unknown_flags = flags & !FLAGS_CARRIED & !FLAGS_KNOWN;
        if unknown_flags != 0 {
            return Err(BatchError::Unknown { what: "flag", value: unknown_flags });
        }
        let codec =
            Codec::from_number(bytes[60]).ok_or(BatchError::Unknown { what: "codec", value: u32::from(bytes[60]) })?;
        range("reserved", bytes[61..64].iter().map(|b| u64::from(*b)).sum(), 0, 0)?;
        range("reserved", u64_at(bytes, 104), 0, 0)?;

        let header = Self {
            sparse: stamped_flags & STAMPED_SPARSE != 0,
            base_offset: Offset(u64_at(bytes, 8)),
            append_time: Timestamp(u64_at(bytes, 16) as i64),
            epoch: Epoch(u32_at(bytes, 24)),
            header_crc: u32_at(bytes, HEADER_CRC),
            synced_end: Offset(u64_at(bytes, 32)),
            body_len: u32_at(bytes, 40),
            uncompressed_len: u32_at(bytes, 44),
            record_count: u32_at(bytes, 48),
            last_offset_delta: u32_at(bytes, 52),
            flags,
            codec,
            first_timestamp: Timestamp(u64_at(bytes, 64) as i64),
            max_timestamp: Timestamp(u64_at(bytes, 72) as i64),
            producer_id: ProducerId(u64_at(bytes, 80)),
            producer_epoch: u32_at(bytes, 88),
            body_crc: u32_at(bytes, BODY_CRC),
            base_sequence: u64_at(bytes, 96),
        };
        range("body length", u64::from(header.body_len), 0, (BATCH_BYTES_MAX - HEADER_BYTES) as u64)?;
        range("uncompressed length", u64::from(header.uncompressed_len), 0, BATCH_UNCOMPRESSED_BYTES_MAX as u64)?;
        range("last offset delta", u64::from(header.last_offset_delta), 0, u64::from(BATCH_RECORDS_MAX) - 1)?;
        let spanned = u64::from(header.last_offset_delta) + 1;
        let fewest = if header.sparse { 0 } else { spanned };
        range("record count", u64::from(header.record_count), fewest, spanned)?;
        let fewest = if header.codec == Codec::None { u64::from(header.body_len) } else { 0 };
        let most = header.codec.inflated_bytes_max(header.body_len);
        range("uncompressed length for this body", u64::from(header.uncompressed_len), fewest, most)?;
        // A record takes at least four bytes: a count above that is a lie, found before anything is allocated.
        let most = u64::from(header.uncompressed_len) / super::record::RECORD_BYTES_MIN as u64;
        range("record count", u64::from(header.record_count), 0, most)?;
        if header.base_offset.checked_plus(spanned).is_none() {
            return range("base offset", header.base_offset.0, 0, u64::MAX - spanned).map(|()| header);
        }
        Ok(header)
    }

    /// Encodes the header as a client sends it: prefix, zero stamp, producer's block with `body_crc` as it stands.
    pub(super) fn encode_unstamped(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4] = HEADER_VERSION;
        out[5] = CHECKSUM_CRC32;
        out[40..44].copy_from_slice(&self.body_len.to_le_bytes());
        out[44..48].copy_from_slice(&self.uncompressed_len.to_le_bytes());
        out[48..52].copy_from_slice(&self.record_count.to_le_bytes());
        out[52..56].copy_from_slice(&self.last_offset_delta.to_le_bytes());
        out[56..60].copy_from_slice(&self.flags.to_le_bytes());
        out[60] = self.codec.number();
        out[64..72].copy_from_slice(&self.first_timestamp.0.to_le_bytes());
        out[72..80].copy_from_slice(&self.max_timestamp.0.to_le_bytes());
        out[80..88].copy_from_slice(&self.producer_id.0.to_le_bytes());
        out[88..92].copy_from_slice(&self.producer_epoch.to_le_bytes());
        out[BODY_CRC..BODY_CRC + 4].copy_from_slice(&self.body_crc.to_le_bytes());
        out[96..104].copy_from_slice(&self.base_sequence.to_le_bytes());
        out
    }

    /// Writes the sparse flag into the header's bytes; `header_crc` is then to be stamped.
    pub(super) fn mark_sparse(&self, bytes: &mut [u8; HEADER_BYTES]) {
        let flags = if self.sparse { STAMPED_SPARSE } else { 0 };
        bytes[6..8].copy_from_slice(&flags.to_le_bytes());
    }

    /// Bytes of the whole batch, header included.
    pub fn batch_len(&self) -> usize {
        HEADER_BYTES + self.body_len as usize
    }

    /// The offset of the last record position the batch spans.
    pub fn last_offset(&self) -> Offset {
        Offset(self.base_offset.0 + u64::from(self.last_offset_delta))
    }

    /// The offset after the batch. `decode` has checked that it exists.
    pub fn end_offset(&self) -> Offset {
        self.last_offset().next()
    }
}

/// Writes the stamp and `header_crc` into a batch's header, in place.
///
/// # Panics
/// If `header` is shorter than [`HEADER_BYTES`].
pub fn stamp(header: &mut [u8], stamp: &Stamp, incarnation: Incarnation) {
    let header = &mut header[..HEADER_BYTES];
    header[8..16].copy_from_slice(&stamp.base_offset.0.to_le_bytes());
    header[16..24].copy_from_slice(&stamp.append_time.0.to_le_bytes());
    header[24..28].copy_from_slice(&stamp.epoch.0.to_le_bytes());
    header[32..40].copy_from_slice(&stamp.synced_end.0.to_le_bytes());
    let crc = header_crc(header, incarnation);
    header[HEADER_CRC..HEADER_CRC + 4].copy_from_slice(&crc.to_le_bytes());
}

/// A batch as a client sends it, under another producer, epoch and sequence. Copies it.
///
/// # Panics
/// If `batch` is not a whole batch.
pub fn renumber(batch: &[u8], producer: ProducerId, epoch: u32, base_sequence: u64) -> Bytes {
    let mut out = batch.to_vec();
    out[80..88].copy_from_slice(&producer.0.to_le_bytes());
    out[88..92].copy_from_slice(&epoch.to_le_bytes());
    out[96..104].copy_from_slice(&base_sequence.to_le_bytes());
    let (header, body) = out.split_at(HEADER_BYTES);
    let crc = body_crc(header, body);
    out[BODY_CRC..BODY_CRC + 4].copy_from_slice(&crc.to_le_bytes());
    out.into()
}

/// Checks that a client left the stamped fields zero.
///
/// # Errors
/// [`BatchError::OutOfRange`] if one is not.
pub fn check_zero_stamp(bytes: &[u8]) -> Result<(), BatchError> {
    let Some(stamped) = bytes.get(6..PRODUCER_BLOCK) else {
        return Err(BatchError::Truncated { need: HEADER_BYTES, have: bytes.len() });
    };
    if stamped.iter().all(|byte| *byte == 0) { Ok(()) } else { range("stamped block", 1, 0, 0) }
}

/// Checks a stored header's checksum against the partition it was read from.
///
/// # Errors
/// [`BatchError::HeaderChecksum`]; [`BatchError::Truncated`].
pub fn check_header_crc(bytes: &[u8], incarnation: Incarnation) -> Result<(), BatchError> {
    if bytes.len() < HEADER_BYTES {
        return Err(BatchError::Truncated { need: HEADER_BYTES, have: bytes.len() });
    }
    let (expected, found) = (u32_at(bytes, HEADER_CRC), header_crc(&bytes[..HEADER_BYTES], incarnation));
    if expected == found { Ok(()) } else { Err(BatchError::HeaderChecksum { found, expected }) }
}

/// Checks a whole batch's `body_crc`. `batch` is header and body, no more.
///
/// # Errors
/// [`BatchError::BodyChecksum`]; [`BatchError::Truncated`].
pub fn check_body_crc(batch: &[u8]) -> Result<(), BatchError> {
    if batch.len() < HEADER_BYTES {
        return Err(BatchError::Truncated { need: HEADER_BYTES, have: batch.len() });
    }
    check_hashed(batch, body_crc(&batch[..HEADER_BYTES], &batch[HEADER_BYTES..]))
}

fn header_crc(header: &[u8], incarnation: Incarnation) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&incarnation.0.to_le_bytes());
    hasher.update(&header[..HEADER_CRC]);
    hasher.update(&[0; 4]);
    hasher.update(&header[HEADER_CRC + 4..HEADER_BYTES]);
    hasher.finalize()
}

fn body_crc(header: &[u8], body: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hash_header(&mut hasher, header);
    hasher.update(body);
    hasher.finalize()
}

/// The header's part of `body_crc`.
pub(super) fn hash_header(hasher: &mut Hasher, header: &[u8]) {
    hasher.update(&header[PRODUCER_BLOCK..BODY_CRC]);
    hasher.update(&[0; 4]);
    hasher.update(&header[BODY_CRC + 4..HEADER_BYTES]);
}

/// Checks a `body_crc` that was computed before.
pub(super) fn check_hashed(batch: &[u8], found: u32) -> Result<(), BatchError> {
    let expected = u32_at(batch, BODY_CRC);
    if expected == found { Ok(()) } else { Err(BatchError::BodyChecksum { found, expected }) }
}

/// Writes `body_crc` into a header that is complete but for it. `body` has hashed all of the body.
pub(super) fn set_body_crc(header: &mut [u8; HEADER_BYTES], body: &Hasher) {
    let mut hasher = Hasher::new();
    hash_header(&mut hasher, header);
    hasher.combine(body);
    let crc = hasher.finalize();
    header[BODY_CRC..BODY_CRC + 4].copy_from_slice(&crc.to_le_bytes());
}

fn known(what: &'static str, value: u32, expected: u32) -> Result<(), BatchError> {
    if value == expected { Ok(()) } else { Err(BatchError::Unknown { what, value }) }
}

fn range(what: &'static str, value: u64, min: u64, max: u64) -> Result<(), BatchError> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(BatchError::OutOfRange { what, value, min, max }) }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("the caller has checked the length"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("the caller has checked the length"))
}
