//! What a queue cuts out of a batch says of its records what the batch said, for any records, codec, place and length.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use bytes::Bytes;
use millstream_protocol::batch::{BatchBuilder, BatchView, Codec, Cutter, HEADER_BYTES, Stamp, Thinned, stamp, thin};
use millstream_protocol::{Epoch, Incarnation, Offset, ProducerId, Record, Timestamp};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

const INCARNATION: Incarnation = Incarnation(0x1234_5678);

fn stored(codec: Codec, records: &[Record], base: u64) -> BatchView {
    let mut builder = BatchBuilder::new(codec);
    builder.producer(ProducerId(3), 5, 100);
    records.iter().for_each(|record| builder.push(record).unwrap());
    let mut batch = builder.finish().unwrap().to_vec();
    let (base_offset, append_time) = (Offset(base), Timestamp(77));
    let now = Stamp { base_offset, append_time, epoch: Epoch(3), synced_end: Offset(base / 2) };
    stamp(&mut batch[..HEADER_BYTES], &now, INCARNATION);
    view(batch.into())
}

fn view(mut bytes: Bytes) -> BatchView {
    let view = BatchView::split_stored(&mut bytes, INCARNATION).unwrap();
    assert!(bytes.is_empty());
    view
}

fn read(batch: &BatchView) -> Vec<(u64, Record)> {
    let mut records = batch.records().unwrap();
    std::iter::from_fn(|| records.next_with_offset())
        .map(|item| item.map(|(at, record)| (at.0, record)).unwrap())
        .collect()
}

fn record() -> impl Strategy<Value = Record> {
    (vec(any::<u8>(), 0..60), -(1i64 << 40)..1i64 << 40)
        .prop_map(|(value, at)| Record { timestamp: Timestamp(at), ..Record::new(value) })
}

proptest! {
    #[test]
    fn a_cut_holds_the_records_of_its_offsets_and_no_other(
        codec in select(vec![Codec::None, Codec::Lz4, Codec::Zstd]),
        records in vec(record(), 1..40),
        base in 0u64..1 << 40,
        removed in vec(any::<bool>(), 40),
        first in 0u64..60,
        count in 0u32..60,
    ) {
        let dense = stored(codec, &records, base);
        let keep = |offset: Offset| !removed[(offset.0 - base) as usize];
        let sparse = match thin(&dense, INCARNATION, |offset, _| keep(offset)).unwrap() {
            Thinned::Unchanged => dense.clone(),
            Thinned::Batches(batches) => view(batches[0].clone()),
        };
        for batch in [dense, sparse] {
            let (from, to) = ((base + first).saturating_sub(10), (base + first).saturating_sub(10) + u64::from(count));
            let wanted: Vec<(u64, Record)> =
                read(&batch).into_iter().filter(|(at, _)| (from..to).contains(at)).collect();
            let cutter = Cutter::new(&batch).unwrap();
            match cutter.cut(Offset(from), count, INCARNATION) {
                None => prop_assert!(wanted.is_empty()),
                Some(cut) => {
                    let cut = view(cut);
                    prop_assert_eq!(read(&cut), wanted);
                    let (header, whole) = (cut.header(), batch.header());
                    prop_assert_eq!(
                        (header.append_time, header.epoch, header.producer_id, header.flags),
                        (whole.append_time, whole.epoch, whole.producer_id, whole.flags)
                    );
                    let at = header.base_offset.0 - whole.base_offset.0;
                    prop_assert_eq!(header.base_sequence, whole.base_sequence + at);
                }
            }
        }
    }
}

#[test]
fn the_whole_of_a_batch_is_given_as_it_is_stored() {
    let records: Vec<Record> = (0..9).map(|n| Record::new(vec![n; 200])).collect();
    let batch = stored(Codec::Zstd, &records, 50);
    let cut = Cutter::new(&batch).unwrap().cut(Offset(40), 100, INCARNATION).unwrap();
    assert_eq!(cut.as_ptr(), batch.bytes().as_ptr());
}
