//! What the steps work on: records, and batches of them.

use bytes::Bytes;
use millstream_benches::memory;
use millstream_protocol::batch::{BatchBuilder, BatchView, Codec};
use millstream_protocol::{Record, Timestamp};

/// Sizes of records that are measured, with their names.
pub const SIZES: [(&str, usize); 2] = [("100B", 100), ("1KiB", 1 << 10)];

/// JSON as sensors send it: the same fields, other figures, each record of exactly so many bytes.
pub fn json(count: usize, record_bytes: usize) -> Vec<Record> {
    let noise = memory::noise(count * record_bytes);
    let record = |index: usize, noise: &[u8]| {
        let mut json = format!("{{\"ride\":\"ride-{index}\",\"time\":{}", 1_700_000_000_000u64 + index as u64);
        for (field, bytes) in noise.chunks_exact(4).enumerate() {
            if json.len() + 32 >= record_bytes {
                break;
            }
            let figure = u32::from_le_bytes(*bytes.first_chunk().expect("chunks of 4"));
            json.push_str(&format!(",\"sensor_{field}\":{}.{}", figure % 1_000, figure % 97));
        }
        json.push('}');
        json.extend(std::iter::repeat_n(' ', record_bytes.saturating_sub(json.len())));
        assert_eq!(json.len(), record_bytes);
        Record::new(json).key(format!("ride-{}", index % 16)).timestamp(Timestamp(1_700_000_000_000 + index as i64))
    };
    noise.chunks(record_bytes).enumerate().map(|(index, noise)| record(index, noise)).collect()
}

/// A batch of them.
pub fn build(codec: Codec, records: &[Record]) -> Bytes {
    let bytes = records.iter().map(|record| record.value.as_ref().map_or(0, Bytes::len) + 64).sum();
    let mut builder = BatchBuilder::with_capacity(codec, bytes);
    for record in records {
        builder.push(record).expect("legal");
    }
    builder.finish().expect("not empty")
}

/// A batch of about so many bytes, of 1 KiB records; a smaller one has one record.
pub fn batch(bytes: usize) -> BatchView {
    let records = json((bytes >> 10).max(1), bytes.min(1 << 10));
    BatchView::parse(&build(Codec::None, &records)).expect("just built")
}
