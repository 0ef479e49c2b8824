//! Builds a batch record by record, as a producer's client does.

use bytes::Bytes;
use crc32fast::Hasher;

use super::header::{BatchHeader, FLAG_CONTROL_HEADERS, HEADER_BYTES, set_body_crc};
use super::{BatchError, Codec, record};
use crate::buffers;
use crate::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, CONTROL_BATCH_RECORDS_MAX};
use crate::{Epoch, Offset, ProducerId, Record, Timestamp};

/// Encodes records into one batch. The body is written behind a gap for the header, so that an uncompressed
/// batch is never copied.
#[derive(Debug)]
pub struct BatchBuilder {
    codec: Codec,
    out: Vec<u8>,
    record_count: u32,
    first_timestamp: Timestamp,
    max_timestamp: Timestamp,
    producer: (ProducerId, u32, u64),
    flags: u32,
    /// Of the body so far, where it is sent as it is: hashed while it is still at hand.
    hasher: Hasher,
    hashed: usize,
}

/// How many bytes are hashed at a time: enough to be quick, few enough to be in the nearest cache still.
const HASH_STEP_BYTES: usize = 8 << 10;

impl BatchBuilder {
    /// An empty batch that [`finish`](Self::finish) will compress with `codec`.
    pub fn new(codec: Codec) -> Self {
        Self::with_capacity(codec, 0)
    }

    /// The same, with room for a body of `body_bytes`.
    pub fn with_capacity(codec: Codec, body_bytes: usize) -> Self {
        let mut out = buffers::buffer(HEADER_BYTES + body_bytes);
        out.resize(HEADER_BYTES, 0);
        Self {
            codec,
            out,
            record_count: 0,
            first_timestamp: Timestamp(0),
            max_timestamp: Timestamp(i64::MIN),
            producer: (ProducerId(0), 0, 0),
            flags: 0,
            hasher: Hasher::new(),
            hashed: HEADER_BYTES,
        }
    }

    /// Names the producer: its id, epoch, and the sequence of the first record.
    pub fn producer(&mut self, id: ProducerId, epoch: u32, base_sequence: u64) {
        self.producer = (id, epoch, base_sequence);
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`BatchError::RecordLimit`], [`BatchError::ReservedHeader`], [`BatchError::DedupId`]: the record is at fault;
    /// [`BatchError::OutOfRange`]: the batch is full. The batch is as before.
    pub fn push(&mut self, record: &Record) -> Result<(), BatchError> {
        let has_control = record::check(record)?;
        self.add(record, has_control)
    }

    /// Adds a record of the server's own, which may have reserved headers; nobody acts on them.
    ///
    /// # Errors
    /// As [`push`](Self::push), but for reserved headers.
    pub fn push_own(&mut self, record: &Record) -> Result<(), BatchError> {
        record::check_sizes(record)?;
        self.add(record, false)
    }

    fn add(&mut self, record: &Record, has_control: bool) -> Result<(), BatchError> {
        let full = |what, value: usize, max: usize| {
            if value <= max {
                Ok(())
            } else {
                Err(BatchError::OutOfRange { what, value: value as u64, min: 0, max: max as u64 })
            }
        };
        let flags = self.flags | if has_control { FLAG_CONTROL_HEADERS } else { 0 };
        let most = if flags & FLAG_CONTROL_HEADERS == 0 { BATCH_RECORDS_MAX } else { CONTROL_BATCH_RECORDS_MAX };
        full("record count", self.record_count as usize + 1, most as usize)?;
        if self.record_count == 0 {
            self.first_timestamp = record.timestamp;
        }
        let before = self.out.len();
        // Wrapping is undone by the decoder's checked addition only for deltas that fit; check here.
        let delta = record.timestamp.0.checked_sub(self.first_timestamp.0).ok_or(BatchError::OutOfRange {
            what: "timestamp",
            value: record.timestamp.0 as u64,
            min: 0,
            max: i64::MAX as u64,
        })?;
        record::encode(record, delta, &mut self.out);
        if let Err(error) = full("batch length", self.out.len(), BATCH_BYTES_MAX) {
            self.out.truncate(before);
            return Err(error);
        }
        self.flags = flags;
        self.record_count += 1;
        self.max_timestamp = self.max_timestamp.max(record.timestamp);
        if self.out.len() - self.hashed >= HASH_STEP_BYTES && self.codec == Codec::None {
            self.hasher.update(&self.out[self.hashed..]);
            self.hashed = self.out.len();
        }
        Ok(())
    }

    /// Records so far.
    pub fn record_count(&self) -> u32 {
        self.record_count
    }

    /// Bytes so far, header included, before compression.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether there is no record yet.
    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Compresses where that helps, fills in header and checksum.
    ///
    /// # Errors
    /// [`BatchError::OutOfRange`] if there is no record.
    pub fn finish(mut self) -> Result<Bytes, BatchError> {
        let Some(last_offset_delta) = self.record_count.checked_sub(1) else {
            return Err(BatchError::OutOfRange { what: "record count", value: 0, min: 1, max: u64::MAX });
        };
        let uncompressed_len = (self.out.len() - HEADER_BYTES) as u32;
        let packed = self.codec.compress(&self.out[HEADER_BYTES..]);
        let codec = if packed.is_some() { self.codec } else { Codec::None };
        if let Some(packed) = packed {
            self.out.truncate(HEADER_BYTES);
            self.out.extend_from_slice(&packed);
        }
        self.hasher.update(&self.out[self.hashed..]);
        let (producer_id, producer_epoch, base_sequence) = self.producer;
        let header = BatchHeader {
            sparse: false,
            base_offset: Offset(0),
            append_time: Timestamp(0),
            epoch: Epoch(0),
            header_crc: 0,
            synced_end: Offset(0),
            body_len: (self.out.len() - HEADER_BYTES) as u32,
            uncompressed_len,
            record_count: self.record_count,
            last_offset_delta,
            flags: self.flags,
            codec,
            first_timestamp: self.first_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id,
            producer_epoch,
            body_crc: 0,
            base_sequence,
        };
        let mut encoded = header.encode_unstamped();
        set_body_crc(&mut encoded, &self.hasher);
        self.out[..HEADER_BYTES].copy_from_slice(&encoded);
        Ok(buffers::share(self.out))
    }
}
