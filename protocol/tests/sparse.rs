//! What compaction takes out of a batch, and what it must leave: for any records, any codec, any choice of what stays.
//! Batches are thinned, thinned again, and their empty rests joined; whatever stays is as it was sent, at its offset.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use bytes::Bytes;
use millstream_protocol::batch::{
    BatchBuilder, BatchHeader, BatchView, Codec, HEADER_BYTES, Stamp, Thinned, join_empty, stamp, thin,
};
use millstream_protocol::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX};
use millstream_protocol::{Epoch, Header, Incarnation, Offset, ProducerId, Record, Timestamp};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

const CODECS: [Codec; 3] = [Codec::None, Codec::Lz4, Codec::Zstd];
const INCARNATION: Incarnation = Incarnation(0x1234_5678);

fn bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![vec(any::<u8>(), 0..40).prop_map(Bytes::from), (0..300usize).prop_map(|n| Bytes::from(vec![7; n]))]
}

fn record() -> impl Strategy<Value = Record> {
    let header = ("[a-z]{1,9}", option::of(bytes())).prop_map(|(name, value)| Header { name, value });
    (option::of(bytes()), vec(header, 0..3), -(1i64 << 40)..1i64 << 40, option::of(bytes()))
        .prop_map(|(key, headers, timestamp, value)| Record { key, headers, timestamp: Timestamp(timestamp), value })
}

fn stored(codec: Codec, records: &[Record], base: u64, producer: (u64, u64)) -> BatchView {
    let mut builder = BatchBuilder::new(codec);
    builder.producer(ProducerId(producer.0), 5, producer.1);
    records.iter().for_each(|record| builder.push(record).unwrap());
    let mut batch = builder.finish().unwrap().to_vec();
    let now = Stamp {
        base_offset: Offset(base),
        append_time: Timestamp(base as i64 + 9),
        epoch: Epoch(3),
        synced_end: Offset(base / 2),
    };
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

/// The batches that come out, or the one that went in.
fn thinned(batch: &BatchView, keep: impl Fn(u64) -> bool) -> Vec<BatchView> {
    match thin(batch, INCARNATION, |offset, _| keep(offset.0)).unwrap() {
        Thinned::Unchanged => vec![batch.clone()],
        Thinned::Batches(batches) => batches.into_iter().map(view).collect(),
    }
}

/// That `after` spans what `before` spans and says the same of it.
fn assert_same_span(before: &BatchHeader, after: &[BatchView]) {
    let (mut offset, mut sequence) = (before.base_offset, before.base_sequence);
    for batch in after {
        let header = batch.header();
        assert_eq!((header.base_offset, header.base_sequence), (offset, sequence));
        assert_eq!(
            (header.producer_id, header.producer_epoch, header.append_time, header.epoch, header.synced_end),
            (before.producer_id, before.producer_epoch, before.append_time, before.epoch, before.synced_end)
        );
        assert_eq!((header.flags, header.first_timestamp), (before.flags, before.first_timestamp));
        sequence += u64::from(header.last_offset_delta) + 1;
        offset = header.end_offset();
    }
    assert_eq!(offset, before.end_offset());
}

proptest! {
    #[test]
    fn what_is_kept_stays_as_it_was_at_its_offset_and_the_rest_is_gone(
        records in vec((record(), any::<bool>(), any::<bool>()), 1..20),
        codec in select(&CODECS),
        base in 0..1u64 << 50,
        producer: (u32, u32),
    ) {
        let all: Vec<Record> = records.iter().map(|(record, ..)| record.clone()).collect();
        let batch = stored(codec, &all, base, (producer.0.into(), producer.1.into()));
        let first = |offset: u64| records[(offset - base) as usize].1;
        let second = |offset: u64| records[(offset - base) as usize].2;
        let expected = |keep: &dyn Fn(u64) -> bool| -> Vec<(u64, Record)> {
            (base..).zip(all.clone()).filter(|(offset, _)| keep(*offset)).collect()
        };
        let once = thinned(&batch, first);
        prop_assert_eq!(once.len(), 1);
        assert_same_span(batch.header(), &once);
        prop_assert_eq!(read(&once[0]), expected(&first));
        let header = once[0].header();
        prop_assert_eq!(header.sparse, header.record_count as usize != all.len());
        if let Some(latest) = expected(&first).iter().map(|(_, record)| record.timestamp).max() {
            prop_assert_eq!(header.max_timestamp, latest);
        }
        prop_assert!(header.codec == codec || header.codec == Codec::None);

        let twice = thinned(&once[0], second);
        assert_same_span(batch.header(), &twice);
        prop_assert_eq!(read(&twice[0]), expected(&|offset| first(offset) && second(offset)));
        prop_assert_eq!(thin(&twice[0], INCARNATION, |_, _| true), Ok(Thinned::Unchanged));
    }

    #[test]
    fn empty_neighbours_of_one_producer_become_one_that_says_the_same(counts in vec(1..5u64, 2..6), producer in 0..2u64) {
        let (mut next, mut joined): (u64, Option<BatchView>) = (100, None);
        for count in &counts {
            let records: Vec<Record> = (0..*count).map(|n| Record::new("x").key(n.to_string())).collect();
            let empty = thinned(&stored(Codec::None, &records, next, (producer, next - 100)), |_| false);
            next += count;
            joined = Some(match joined {
                None => empty[0].clone(),
                Some(before) => view(join_empty(before.header(), empty[0].header(), INCARNATION).unwrap()),
            });
        }
        let joined = joined.unwrap();
        let header = joined.header();
        prop_assert_eq!(read(&joined), vec![]);
        prop_assert_eq!((header.base_offset, header.end_offset()), (Offset(100), Offset(next)));
        prop_assert_eq!((header.producer_id, header.base_sequence), (ProducerId(producer), 0));
        prop_assert_eq!(joined.bytes().len(), HEADER_BYTES);
        let last = counts.last().unwrap();
        prop_assert_eq!(header.append_time, Timestamp((next - last) as i64 + 9));
    }
}

#[test]
fn batches_that_say_different_things_are_not_joined() {
    let record = [Record::new("x").key("k")];
    let empty = |base, producer| thinned(&stored(Codec::None, &record, base, producer), |_| false).remove(0);
    let joins =
        |first: &BatchView, second: &BatchView| join_empty(first.header(), second.header(), INCARNATION).is_some();
    let first = empty(10, (7, 3));
    assert!(joins(&first, &empty(11, (7, 4))));
    assert!(!joins(&first, &empty(12, (7, 4))), "offsets are missing between them");
    assert!(!joins(&first, &empty(11, (7, 5))), "sequences are missing between them");
    assert!(!joins(&first, &empty(11, (8, 4))), "two producers");
    assert!(!joins(&first, &stored(Codec::None, &record, 11, (7, 4))), "it has a record");
    assert!(joins(&empty(10, (0, 3)), &empty(11, (0, 3))), "without idempotence sequences say nothing");
}

#[test]
fn a_batch_that_would_grow_beyond_the_limit_is_cut_in_two() {
    let mut builder = BatchBuilder::new(Codec::None);
    for n in 0..BATCH_RECORDS_MAX {
        builder.push(&Record::tombstone(n.to_le_bytes()[..3].to_vec())).unwrap();
    }
    let mut batch = builder.finish().unwrap().to_vec();
    let now = Stamp { base_offset: Offset(1), append_time: Timestamp(1), epoch: Epoch(1), synced_end: Offset(0) };
    stamp(&mut batch[..HEADER_BYTES], &now, INCARNATION);
    let batch = view(batch.into());
    let after = thinned(&batch, |offset| offset != 500_000);
    assert!(after.len() > 1, "three bytes more for each of a million records");
    assert!(after.iter().all(|batch| batch.bytes().len() <= BATCH_BYTES_MAX));
    assert_same_span(batch.header(), &after);
    let offsets: Vec<u64> = after.iter().flat_map(read).map(|(offset, _)| offset).collect();
    assert!(offsets.iter().copied().eq((1..=u64::from(BATCH_RECORDS_MAX)).filter(|offset| *offset != 500_000)));
}
