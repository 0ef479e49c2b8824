//! Batches sealed by hand, from the byte table in `batch::header`, whatever they claim; and the reader that each of them
//! goes through.

use bytes::Bytes;
use millstream_protocol::batch::{BatchError, BatchView, Codec, HEADER_BYTES};
use millstream_protocol::limits::BATCH_UNCOMPRESSED_BYTES_MAX;

use crate::Shown;
use crate::allocations::peak_of;
use crate::support::INCARNATION;

/// What reading all records of a batch, one by one, may hold: the body as its codec can make it, up to the limit, and
/// one record. A body of 100 bytes: 90 KiB with LZ4; 3.2 MiB with zstd, where 100 bytes may well stand for that much.
fn records_bound(codec: Codec, body: usize) -> usize {
    let inflated = match codec {
        Codec::None => 0,
        Codec::Lz4 => body * 255,
        Codec::Zstd => body / 4 * (128 << 10),
    };
    inflated.min(BATCH_UNCOMPRESSED_BYTES_MAX) + (64 << 10)
}

/// Both checksums made right, as a hostile client, or a damaged server, would have them.
pub fn seal(batch: &mut [u8]) {
    let crc = |parts: &[&[u8]]| {
        let mut hasher = crc32fast::Hasher::new();
        parts.iter().for_each(|part| hasher.update(part));
        hasher.finalize().to_le_bytes()
    };
    let (head, body) = batch.split_at_mut(HEADER_BYTES);
    let body_crc = crc(&[&head[40..92], &[0; 4], &head[96..], body]);
    head[92..96].copy_from_slice(&body_crc);
    let header_crc = crc(&[&INCARNATION.0.to_le_bytes(), &head[..28], &[0; 4], &head[32..]]);
    head[28..32].copy_from_slice(&header_crc);
}

/// What a sealed batch claims.
pub struct Claim {
    pub codec: u8,
    pub uncompressed: u32,
    pub records: u32,
    pub last_offset_delta: u32,
    pub sparse: bool,
}

impl Claim {
    /// As many records as there are, in a body that is not compressed.
    pub fn of(records: u32, body: &[u8]) -> Self {
        let last_offset_delta = records.wrapping_sub(1);
        Self { codec: 0, uncompressed: body.len() as u32, records, last_offset_delta, sparse: false }
    }

    pub fn packed(codec: Codec, uncompressed: usize, records: u32) -> Self {
        Self { codec: codec.number(), uncompressed: uncompressed as u32, ..Self::of(records, &[]) }
    }

    pub fn seal(&self, body: &[u8]) -> Vec<u8> {
        let mut out = vec![0; HEADER_BYTES];
        out[..4].copy_from_slice(b"MSTB");
        (out[4], out[5], out[6]) = (1, 1, u8::from(self.sparse));
        out[40..44].copy_from_slice(&(body.len() as u32).to_le_bytes());
        out[44..48].copy_from_slice(&self.uncompressed.to_le_bytes());
        out[48..52].copy_from_slice(&self.records.to_le_bytes());
        out[52..56].copy_from_slice(&self.last_offset_delta.to_le_bytes());
        out[60] = self.codec;
        out.extend_from_slice(body);
        seal(&mut out);
        out
    }
}

/// Reads a batch both as from a client and as stored, with all its records; their number. Within the bounds.
pub fn read(bytes: &[u8]) -> Result<u64, BatchError> {
    let _shown = Shown("batch", bytes);
    let shared = Bytes::copy_from_slice(bytes);
    let (parsed, peak) = peak_of(|| BatchView::parse(&shared));
    assert!(peak < 1 << 10, "parsing held {peak} bytes");
    let mut rest = shared.clone();
    let (stored, peak) = peak_of(|| BatchView::split_stored(&mut rest, INCARNATION));
    assert!(peak < 1 << 10, "splitting held {peak} bytes");
    match &stored {
        Ok(view) => assert_eq!((view.bytes().len(), rest.len()), (bytes.len() - rest.len(), rest.len())),
        Err(_) => assert_eq!(rest, shared, "after an error nothing is taken"),
    }
    let view = parsed?;
    let bound = records_bound(view.header().codec, bytes.len() - HEADER_BYTES);
    let (result, peak) = peak_of(|| {
        let mut records = view.records()?;
        let mut count = 0u64;
        let mut last = None;
        while let Some(result) = records.next_with_offset() {
            let (offset, record) = result?;
            assert!(last < Some(offset) && offset <= view.header().last_offset(), "offsets rise within the batch");
            assert!(record.size() <= BATCH_UNCOMPRESSED_BYTES_MAX);
            last = Some(offset);
            count += 1;
        }
        Ok(count)
    });
    assert!(peak <= bound, "reading the records held {peak} bytes, the bound is {bound}");
    let valid = view.records().and_then(millstream_protocol::batch::Records::validate);
    assert_eq!(valid.clone().err(), result.clone().err(), "validating finds what reading finds");
    if let Ok(count) = result {
        assert_eq!(count, u64::from(view.header().record_count));
    }
    result
}
