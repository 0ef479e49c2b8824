//! What one partition knows of the producers that wrote into it: for each the epoch and its last batches, so that a batch that
//! comes again is known, and one that is missing is noticed.
//!
//! A pure machine. Live it is fed with what has become durable ([`Producers::note`]), after a start with the batches of the log
//! again, segment by segment: the same machine, fed with one segment's batches only, is that segment's *summary*, and
//! [`Producers::fold`] adds it to what is known of those before. What is not remembered any more is never taken for new:
//! [`Producers::may_have_forgotten`].
//!
//! Bounds: [`PRODUCERS_MAX`] producers (the one that was idle longest goes), [`PRODUCER_BATCHES_MAX`] batches of each, and
//! [`BATCHES_MAX`] in all: beyond that the producers that were idle longest keep [`IDLE_BATCHES`], then one.
//!
//! ```text
//! encoded:  u32 producer count · u32 zero · 2 × u64 the greatest forgotten id (plain, named; 0: none)
//!           for each, by rising id: u64 id · u32 epoch · u32 batch count, ≥ 1; for each batch:
//!             u64 base sequence · u64 base offset · i64 append time · u32 records
//! ```

use std::collections::{HashMap, VecDeque};

use millstream_protocol::batch::BatchHeader;
use millstream_protocol::limits::{BATCH_RECORDS_MAX, PRODUCER_BATCHES_MAX, PRODUCERS_MAX};
use millstream_protocol::{Offset, ProducerId, Timestamp};

use crate::lane::Appended;
use crate::little_endian::{u32_at, u64_at};

/// Batches remembered of all producers together.
const BATCHES_MAX: usize = 65_536;
/// Beyond it so many are kept at once, and the rest as new ones come.
const BATCHES_TRIMMED: usize = BATCHES_MAX / 4 * 3;
/// What an idle producer keeps at first.
const IDLE_BATCHES: usize = 8;
/// Producers that are looked out at once as the next to be forgotten.
const LEAVING: usize = PRODUCERS_MAX / 16;

const HEADER_BYTES: usize = 24;
const PRODUCER_BYTES: usize = 16;
const BATCH_BYTES: usize = 28;

/// Set in the ids of named producers.
const NAMED: u64 = 1 << 63;
/// Set as well in those of the server's own.
const OWN: u64 = 1 << 62;

/// What a batch says of its producer, and where it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sequenced {
    pub producer: ProducerId,
    pub epoch: u32,
    pub base_sequence: u64,
    /// Sequences, and offsets, that it takes.
    pub count: u32,
    pub base_offset: Offset,
    pub append_time: Timestamp,
}

impl Sequenced {
    /// A stored batch; `None` without a producer.
    pub(crate) fn of(header: &BatchHeader) -> Option<Self> {
        (header.producer_id.0 != 0).then_some(Self {
            producer: header.producer_id,
            epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            count: header.last_offset_delta + 1,
            base_offset: header.base_offset,
            append_time: header.append_time,
        })
    }

    /// The sequence after its last record.
    pub(crate) fn next(&self) -> u64 {
        self.base_sequence.saturating_add(self.count.into())
    }

    /// Where `count` records from `base` on lie, if it holds them all.
    pub(crate) fn find(&self, base: u64, count: u32) -> Option<Appended> {
        let whole = Remembered::of(self);
        (whole.base_sequence <= base && base.saturating_add(count.into()) <= whole.next()).then(|| whole.at(base))
    }
}

/// Where a producer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub epoch: u32,
    /// The sequence that is stored next.
    pub next: u64,
}

/// A batch that is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Remembered {
    base_sequence: u64,
    base_offset: Offset,
    append_time: Timestamp,
    count: u32,
}

impl Remembered {
    fn of(batch: &Sequenced) -> Self {
        let Sequenced { base_sequence, base_offset, append_time, count, .. } = *batch;
        Self { base_sequence, base_offset, append_time, count }
    }

    fn next(&self) -> u64 {
        self.base_sequence.saturating_add(self.count.into())
    }

    fn end(&self) -> u64 {
        self.base_offset.0.saturating_add(self.count.into())
    }

    /// Where its record of a sequence is.
    fn at(&self, sequence: u64) -> Appended {
        let base_offset = Offset(self.base_offset.0.saturating_add(sequence - self.base_sequence));
        Appended { base_offset, append_time: self.append_time }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Producer {
    epoch: u32,
    /// Rising in offset and, but for gaps, in sequence; never empty.
    batches: VecDeque<Remembered>,
}

impl Producer {
    fn last(&self) -> &Remembered {
        self.batches.back().expect("a producer is known by its last batch")
    }

    fn note(&mut self, epoch: u32, batch: Remembered) {
        self.epoch = self.epoch.max(epoch);
        if batch.base_sequence < self.last().next() {
            // It has begun anew after it was forgotten: old sequences say nothing of new ones.
            self.batches.clear();
        } else if self.batches.len() >= PRODUCER_BATCHES_MAX {
            self.batches.pop_front();
        }
        self.batches.push_back(batch);
    }

    /// Forgets all but the last `kept` batches; says how many went.
    fn cut(&mut self, kept: usize) -> usize {
        let surplus = self.batches.len().saturating_sub(kept);
        self.batches.drain(..surplus);
        if surplus > 0 {
            self.batches.shrink_to_fit();
        }
        surplus
    }

    /// Where the records `base..base + count` lie, if they are all remembered, one behind the other. Compaction may have
    /// joined or divided what once was one batch.
    fn find(&self, base: u64, count: u32) -> Option<Appended> {
        let after = self.batches.partition_point(|batch| batch.base_sequence <= base);
        let first = after.checked_sub(1)?;
        let wanted = base.checked_add(count.into())?;
        let (mut next, mut end) = (base, self.batches[first].end());
        for (index, batch) in self.batches.range(first..).enumerate() {
            let follows = index == 0 || batch.base_sequence == next && batch.base_offset.0 == end;
            if !follows || batch.next() <= base {
                return None;
            }
            (next, end) = (batch.next(), batch.end());
            if next >= wanted {
                return Some(self.batches[first].at(base));
            }
        }
        None
    }
}

/// The producers of one partition, or of one segment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Producers {
    known: HashMap<ProducerId, Producer>,
    /// Batches remembered, in all.
    batches: usize,
    /// The greatest id ever forgotten, of plain and of named ones; 0: none.
    forgotten: [u64; 2],
    /// Producers that go next and the offset of the batch they were last seen with, the longest idle last. One that was seen
    /// since is passed over.
    leaving: Vec<(Offset, ProducerId)>,
}

impl Producers {
    /// Whether there is nothing to be remembered.
    pub(crate) fn is_blank(&self) -> bool {
        self.known.is_empty() && self.forgotten == [0; 2]
    }

    /// Where a producer stands; `None` if no batch of it is known.
    pub(crate) fn standing(&self, id: ProducerId) -> Option<Standing> {
        let producer = self.known.get(&id)?;
        Some(Standing { epoch: producer.epoch, next: producer.last().next() })
    }

    /// Where records were stored that are remembered.
    pub(crate) fn find(&self, id: ProducerId, base_sequence: u64, count: u32) -> Option<Appended> {
        self.known.get(&id)?.find(base_sequence, count)
    }

    /// Whether a producer that is not known may have been once.
    pub(crate) fn may_have_forgotten(&self, id: ProducerId) -> bool {
        id.0 <= self.forgotten[kind(id)]
    }

    /// What was known before is lost: any producer may have been known once.
    pub(crate) fn forget_earlier(&mut self) {
        self.forgotten = [u64::MAX; 2];
    }

    /// Adds a batch, whatever it says: it is stored.
    pub(crate) fn note(&mut self, batch: &Sequenced) {
        self.add(batch);
        self.keep_bounds();
    }

    /// Adds what a later segment says. Batches below `end` are known already.
    pub(crate) fn fold(&mut self, later: &Producers, end: Offset) {
        for (id, producer) in &later.known {
            for batch in producer.batches.iter().filter(|batch| batch.end() > end.0) {
                // Compaction may have joined one that is known with one that is not.
                let known = batch.base_offset.records_until(end);
                self.add(&Sequenced {
                    producer: *id,
                    epoch: producer.epoch,
                    base_sequence: batch.base_sequence.saturating_add(known),
                    count: batch.count - known as u32,
                    base_offset: batch.base_offset.max(end),
                    append_time: batch.append_time,
                });
            }
        }
        for (greatest, other) in self.forgotten.iter_mut().zip(later.forgotten) {
            *greatest = (*greatest).max(other);
        }
        self.keep_bounds();
    }

    /// What it knows of batches at or above an offset: the summary of the segment that begins there and is the last.
    pub(crate) fn since(&self, offset: Offset) -> Producers {
        let mut since = Producers { forgotten: self.forgotten, ..Producers::default() };
        for (id, producer) in &self.known {
            let from = producer.batches.partition_point(|batch| batch.base_offset < offset);
            if from < producer.batches.len() {
                let batches: VecDeque<Remembered> = producer.batches.range(from..).copied().collect();
                since.batches += batches.len();
                since.known.insert(*id, Producer { epoch: producer.epoch, batches });
            }
        }
        since
    }

    /// About how many bytes [`encode`](Self::encode) gives.
    pub(crate) fn encoded_len(&self) -> usize {
        HEADER_BYTES + self.known.len() * PRODUCER_BYTES + self.batches * BATCH_BYTES
    }

    /// Its bytes.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.encoded_len());
        out.extend_from_slice(&(self.known.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        self.forgotten.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
        let mut known: Vec<(&ProducerId, &Producer)> = self.known.iter().collect();
        known.sort_unstable_by_key(|(id, _)| **id);
        for (id, producer) in known {
            out.extend_from_slice(&id.0.to_le_bytes());
            out.extend_from_slice(&producer.epoch.to_le_bytes());
            out.extend_from_slice(&(producer.batches.len() as u32).to_le_bytes());
            for batch in &producer.batches {
                out.extend_from_slice(&batch.base_sequence.to_le_bytes());
                out.extend_from_slice(&batch.base_offset.0.to_le_bytes());
                out.extend_from_slice(&batch.append_time.0.to_le_bytes());
                out.extend_from_slice(&batch.count.to_le_bytes());
            }
        }
    }

    /// Reads it back; `None` if the bytes are not what [`encode`](Self::encode) gives.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let count = u32_at(bytes, 0)? as usize;
        if count > PRODUCERS_MAX || u32_at(bytes, 4)? != 0 {
            return None;
        }
        let mut producers = Producers { forgotten: [u64_at(bytes, 8)?, u64_at(bytes, 16)?], ..Producers::default() };
        let (mut at, mut last_id) = (HEADER_BYTES, 0);
        for _ in 0..count {
            let (id, epoch, batches) = (u64_at(bytes, at)?, u32_at(bytes, at + 8)?, u32_at(bytes, at + 12)? as usize);
            at += PRODUCER_BYTES;
            let is_bounded =
                (1..=PRODUCER_BATCHES_MAX).contains(&batches) && producers.batches + batches <= BATCHES_MAX;
            if id <= last_id || !is_bounded {
                return None;
            }
            last_id = id;
            let batches = bytes.get(at..at + batches * BATCH_BYTES)?.chunks_exact(BATCH_BYTES).map(decode_batch);
            let batches: VecDeque<Remembered> = batches.collect::<Option<_>>()?;
            let pairs = batches.iter().zip(batches.iter().skip(1));
            if !pairs.clone().all(|(a, b)| a.next() <= b.base_sequence && a.end() <= b.base_offset.0) {
                return None;
            }
            at += batches.len() * BATCH_BYTES;
            producers.batches += batches.len();
            producers.known.insert(ProducerId(id), Producer { epoch, batches });
        }
        (at == bytes.len()).then_some(producers)
    }

    fn add(&mut self, batch: &Sequenced) {
        let remembered = Remembered::of(batch);
        match self.known.get_mut(&batch.producer) {
            Some(producer) => {
                let before = producer.batches.len();
                producer.note(batch.epoch, remembered);
                self.batches = self.batches + producer.batches.len() - before;
            }
            None => {
                let batches = VecDeque::from([remembered]);
                self.known.insert(batch.producer, Producer { epoch: batch.epoch, batches });
                self.batches += 1;
            }
        }
    }

    fn keep_bounds(&mut self) {
        while self.known.len() > PRODUCERS_MAX {
            self.forget_longest_idle();
        }
        if self.batches > BATCHES_MAX {
            self.trim(IDLE_BATCHES);
            if self.batches > BATCHES_TRIMMED {
                self.trim(1);
            }
        }
    }

    fn forget_longest_idle(&mut self) {
        if self.leaving.is_empty() {
            // The server's own are let go last: what they have sent must stand once for as long as what they belong to is there.
            let candidate = |(id, producer): (&ProducerId, &Producer)| (is_own(*id), producer.last().base_offset, *id);
            let mut all: Vec<_> = self.known.iter().map(candidate).collect();
            all.select_nth_unstable(LEAVING);
            all.truncate(LEAVING);
            all.sort_unstable_by(|a, b| b.cmp(a));
            self.leaving = all.into_iter().map(|(_, seen, id)| (seen, id)).collect();
        }
        let Some((seen, id)) = self.leaving.pop() else { return };
        if self.known.get(&id).is_some_and(|producer| producer.last().base_offset == seen)
            && let Some(gone) = self.known.remove(&id)
        {
            self.batches -= gone.batches.len();
            let greatest = &mut self.forgotten[kind(id)];
            *greatest = (*greatest).max(id.0);
        }
    }

    /// Lets the producers that were idle longest keep `kept` batches each, until few enough are remembered.
    fn trim(&mut self, kept: usize) {
        let mut all: Vec<(Offset, &mut Producer)> =
            self.known.values_mut().map(|producer| (producer.last().base_offset, producer)).collect();
        all.sort_unstable_by_key(|(seen, _)| *seen);
        for (_, producer) in all {
            if self.batches <= BATCHES_TRIMMED {
                break;
            }
            self.batches -= producer.cut(kept);
        }
    }
}

fn decode_batch(bytes: &[u8]) -> Option<Remembered> {
    let batch = Remembered {
        base_sequence: u64_at(bytes, 0)?,
        base_offset: Offset(u64_at(bytes, 8)?),
        append_time: Timestamp(u64_at(bytes, 16)? as i64),
        count: u32_at(bytes, 24)?,
    };
    (1..=BATCH_RECORDS_MAX).contains(&batch.count).then_some(batch)
}

/// Whether the id is one of the server's own producers.
fn is_own(id: ProducerId) -> bool {
    id.0 & (NAMED | OWN) == NAMED | OWN
}

/// Which of the two greatest forgotten ids is meant.
fn kind(id: ProducerId) -> usize {
    usize::from(id.0 & NAMED != 0)
}

#[cfg(test)]
mod tests;
