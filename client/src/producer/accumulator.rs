//! Gathers records into batches, one open batch for each partition. Pure: the time comes in with each call, and what
//! is due is asked for.
//!
//! Invariants
//! - A record is in exactly one batch; a partition's batches leave in the order in which they were begun.
//! - `buffered_bytes` counts every record from its arrival until its batch is settled: it bounds the memory.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_protocol::batch::{BatchBuilder, BatchError, Codec, HEADER_BYTES};
use millstream_protocol::{PartitionId, Record};

use super::batch::{Delivery, Outcome};
use super::partitioner::{Sticky, partition_of_key};

/// What a record takes in memory and on the wire beside its own bytes, about.
const RECORD_OVERHEAD_BYTES: usize = 24;

/// Settings of an accumulator.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub codec: Codec,
    pub batch_bytes: usize,
    pub linger: Duration,
    pub buffer_bytes: usize,
}

/// A batch that takes no more records.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub seq: u64,
    pub builder: BatchBuilder,
    pub outcome: Arc<Outcome>,
    pub since: Instant,
    pub bytes: usize,
}

struct Partition {
    open: Option<Gathered>,
    full: VecDeque<Gathered>,
}

/// The records that no batch on its way holds yet, and the count of all that are not settled.
pub(crate) struct Accumulator {
    limits: Limits,
    partitions: Vec<Partition>,
    sticky: Sticky,
    next_seq: u64,
    /// Batches begun and not settled.
    live: BTreeSet<u64>,
    buffered_bytes: usize,
    /// Batches begun before this one are wanted at once.
    flush_below: u64,
}

/// What became of a record offered.
#[derive(Debug)]
pub(crate) enum Offered {
    /// It is in a batch; `wake` if the sender should look: a batch is full, or the first record begins to linger.
    Taken { delivery: Delivery, wake: bool },
    /// The buffer is full.
    Full,
    /// The record breaks a limit.
    Refused(BatchError),
}

impl Accumulator {
    pub(crate) fn new(partitions: u32, limits: Limits) -> Self {
        let partition = || Partition { open: None, full: VecDeque::new() };
        Self {
            limits,
            partitions: (0..partitions.max(1)).map(|_| partition()).collect(),
            sticky: Sticky::new(partitions),
            next_seq: 0,
            live: BTreeSet::new(),
            buffered_bytes: 0,
            flush_below: 0,
        }
    }

    /// Takes a record in, if there is room. A record larger than the whole buffer has it for itself.
    pub(crate) fn offer(&mut self, record: &Record, now: Instant) -> Offered {
        let bytes = record.size() + RECORD_OVERHEAD_BYTES;
        if self.buffered_bytes > 0 && self.buffered_bytes + bytes > self.limits.buffer_bytes {
            return Offered::Full;
        }
        let partition = match &record.key {
            Some(key) => partition_of_key(key, self.partitions.len() as u32),
            None => self.sticky.current(),
        };
        let slot = &mut self.partitions[partition.0 as usize];
        let mut wake = false;
        let is_full = |open: &Gathered| open.builder.len() + bytes > self.limits.batch_bytes;
        if slot.open.as_ref().is_some_and(is_full) {
            slot.full.extend(slot.open.take());
            wake = true;
            if record.key.is_none() {
                self.sticky.turn();
                return match self.offer(record, now) {
                    Offered::Taken { delivery, .. } => Offered::Taken { delivery, wake },
                    other => other,
                };
            }
        }
        let open = match &mut slot.open {
            Some(open) => open,
            None => {
                wake = true;
                let room = self.limits.batch_bytes.min(bytes.max(4 << 10)) - HEADER_BYTES.min(bytes);
                let begun = Gathered {
                    seq: self.next_seq,
                    builder: BatchBuilder::with_capacity(self.limits.codec, room),
                    outcome: Arc::default(),
                    since: now,
                    bytes: 0,
                };
                self.next_seq += 1;
                slot.open.insert(begun)
            }
        };
        let index = open.builder.record_count();
        if let Err(error) = open.builder.push(record) {
            if open.builder.is_empty() {
                slot.open = None;
            }
            return Offered::Refused(error);
        }
        open.bytes += bytes;
        self.live.insert(open.seq);
        self.buffered_bytes += bytes;
        Offered::Taken { delivery: Delivery::new(open.outcome.clone(), index), wake }
    }

    /// The next batch of a partition that is full, has lingered, or is wanted by a flush.
    pub(crate) fn take_due(&mut self, partition: PartitionId, now: Instant) -> Option<Gathered> {
        let (linger, flush_below) = (self.limits.linger, self.flush_below);
        let slot = &mut self.partitions[partition.0 as usize];
        if let Some(full) = slot.full.pop_front() {
            return Some(full);
        }
        slot.open.take_if(|open| now >= open.since + linger || open.seq < flush_below)
    }

    /// Whether a partition has a batch that is due.
    pub(crate) fn is_due(&self, partition: PartitionId, now: Instant) -> bool {
        let slot = &self.partitions[partition.0 as usize];
        !slot.full.is_empty()
            || slot
                .open
                .as_ref()
                .is_some_and(|open| now >= open.since + self.limits.linger || open.seq < self.flush_below)
    }

    /// When a partition's open batch will have lingered.
    pub(crate) fn deadline(&self, partition: PartitionId) -> Option<Instant> {
        self.partitions[partition.0 as usize].open.as_ref().map(|open| open.since + self.limits.linger)
    }

    /// A batch is settled: its bytes are free.
    pub(crate) fn settled(&mut self, seq: u64, bytes: usize) {
        self.live.remove(&seq);
        self.buffered_bytes -= bytes;
    }

    /// Wants everything begun so far at once; returns the mark to ask [`is_flushed`](Self::is_flushed) with.
    pub(crate) fn flush(&mut self) -> u64 {
        self.flush_below = self.next_seq;
        self.next_seq
    }

    /// Whether every batch below the mark is settled.
    pub(crate) fn is_flushed(&self, mark: u64) -> bool {
        self.live.first().is_none_or(|oldest| *oldest >= mark)
    }

    /// Everything that has not left, for a producer that ends.
    pub(crate) fn drain(&mut self) -> Vec<Gathered> {
        self.partitions.iter_mut().flat_map(|slot| slot.full.drain(..).chain(slot.open.take())).collect()
    }

    /// Bytes of records that are not settled.
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.buffered_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits() -> Limits {
        Limits { codec: Codec::None, batch_bytes: 1_000, linger: Duration::from_millis(5), buffer_bytes: 20_000 }
    }

    fn take(accumulator: &mut Accumulator, record: &Record, now: Instant) -> bool {
        match accumulator.offer(record, now) {
            Offered::Taken { wake, .. } => wake,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_batch_leaves_when_it_is_full_has_lingered_or_is_flushed() {
        let (mut accumulator, start) = (Accumulator::new(1, limits()), Instant::now());
        let record = Record::new(vec![0; 300]);
        assert!(take(&mut accumulator, &record, start), "the first record begins to linger");
        assert!(!take(&mut accumulator, &record, start));
        assert!(accumulator.take_due(PartitionId(0), start).is_none());
        assert_eq!(accumulator.deadline(PartitionId(0)), Some(start + Duration::from_millis(5)));
        let lingered = accumulator.take_due(PartitionId(0), start + Duration::from_millis(5)).unwrap();
        assert_eq!(lingered.builder.record_count(), 2);

        for _ in 0..4 {
            take(&mut accumulator, &record, start);
        }
        let full = accumulator.take_due(PartitionId(0), start).unwrap();
        assert_eq!(full.builder.record_count(), 2, "a third would not fit");
        assert_eq!(accumulator.take_due(PartitionId(0), start).map(|batch| batch.builder.record_count()), None);
        let mark = accumulator.flush();
        assert!(!accumulator.is_flushed(mark));
        let flushed = accumulator.take_due(PartitionId(0), start).unwrap();
        for batch in [lingered, full, flushed] {
            accumulator.settled(batch.seq, batch.bytes);
        }
        assert!(accumulator.is_flushed(mark));
        assert_eq!(accumulator.buffered_bytes(), 0);
    }

    #[test]
    fn a_full_buffer_takes_nothing_until_a_batch_is_settled_but_one_record_always_fits() {
        let (mut accumulator, now) = (Accumulator::new(1, limits()), Instant::now());
        take(&mut accumulator, &Record::new(vec![0; 100_000]), now);
        assert!(matches!(accumulator.offer(&Record::new("x"), now), Offered::Full));
        accumulator.flush();
        let large = accumulator.take_due(PartitionId(0), now).unwrap();
        accumulator.settled(large.seq, large.bytes);
        take(&mut accumulator, &Record::new("x"), now);
    }

    #[test]
    fn a_refused_record_leaves_nothing_behind() {
        let (mut accumulator, now) = (Accumulator::new(1, limits()), Instant::now());
        let bad = Record::new("x").key(vec![0; 5_000]);
        assert!(matches!(accumulator.offer(&bad, now), Offered::Refused(_)));
        assert_eq!((accumulator.buffered_bytes(), accumulator.deadline(PartitionId(0))), (0, None));
        let mark = accumulator.flush();
        assert!(accumulator.is_flushed(mark));
    }

    proptest! {
        #[test]
        fn every_record_is_in_one_batch_and_a_keys_records_keep_their_order(
            records in prop::collection::vec((prop::option::of(0..20u8), 0..400usize), 1..200),
        ) {
            let (mut accumulator, now) = (Accumulator::new(3, Limits { buffer_bytes: 1 << 20, ..limits() }), Instant::now());
            for (index, (key, size)) in records.iter().enumerate() {
                let mut record = Record::new(format!("{index}:{}", "x".repeat(*size)));
                record.key = key.map(|key| vec![key].into());
                take(&mut accumulator, &record, now);
            }
            accumulator.flush();
            let mut seen = vec![Vec::new(); 3];
            for partition in 0..3u32 {
                while let Some(batch) = accumulator.take_due(PartitionId(partition), now) {
                    accumulator.settled(batch.seq, batch.bytes);
                    let batch = millstream_protocol::batch::BatchView::parse(&batch.builder.finish().unwrap()).unwrap();
                    for record in batch.records().unwrap() {
                        let value = record.unwrap().value.unwrap();
                        let text = std::str::from_utf8(&value).unwrap();
                        seen[partition as usize].push(text.split_once(':').unwrap().0.parse::<usize>().unwrap());
                    }
                }
            }
            prop_assert!(seen.iter().all(|indexes| indexes.is_sorted()), "{seen:?}");
            let mut all = seen.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..records.len()).collect::<Vec<_>>());
            prop_assert_eq!(accumulator.buffered_bytes(), 0);
        }
    }
}
