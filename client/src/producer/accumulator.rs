//! Gathers records into one open batch per partition. Pure: `now` comes in, closed batches go out.
//!
//! A batch is closed when the next record would take it above the target or one more of the last one's size would, when
//! its oldest record has waited for the linger (asked for by [`Accumulator::close_due`], so that batches go on growing
//! while nothing can be sent), or by a flush. Records are encoded as they come, once; checksums and compression wait until
//! the batch leaves.
//! A server refuses a batch in which a key and dedup id stand twice: the second one opens the next batch.
//! Invariants
//! - An open batch has at least one record; a record that is refused leaves no trace.
//! - Batches of a partition leave in the order in which they were opened.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_protocol::batch::{BatchBuilder, BatchError, Codec, DEDUP_ID, HEADER_BYTES};
use millstream_protocol::{PartitionId, Record};

use super::delivery::Ticket;
use super::partitioner::Partitioner;

/// A batch with less room than this part of it is as good as full.
const FULL_PART: usize = 8;
/// Room for a partition's first batch; later ones get what the one before took.
const FIRST_BATCH_BYTES: usize = 4 << 10;

#[derive(Debug)]
pub(super) struct Accumulator {
    settings: Settings,
    partitioner: Partitioner,
    slots: Vec<Slot>,
    /// (when, partition, serial) of every opening, in order; entries of closed batches are skipped.
    openings: VecDeque<(Instant, usize, u64)>,
    closed: VecDeque<Closed>,
    next_serial: u64,
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub codec: Codec,
    pub batch_bytes_target: usize,
    pub linger: Duration,
}

#[derive(Debug, Default)]
struct Slot {
    open: Option<Closed>,
    last_len: usize,
}

/// A batch that takes no more records (or, inside its slot, still does).
#[derive(Debug)]
pub(super) struct Closed {
    pub partition: PartitionId,
    pub builder: BatchBuilder,
    pub ticket: Arc<Ticket>,
    pub opened: Instant,
    /// Rises by opening.
    pub serial: u64,
    /// Hashes of the keys and dedup ids in it: two that are equal only close it early.
    ids: HashSet<u64>,
}

impl Closed {
    /// Whether the record leaves it within the target.
    fn fits(&self, record: &Record, batch_bytes_target: usize) -> bool {
        self.builder.len() + record.size() <= batch_bytes_target
    }
}

/// What became of a record.
#[derive(Debug)]
pub(super) struct Pushed {
    pub partition: PartitionId,
    /// Its batch.
    pub serial: u64,
    /// Its index in its batch.
    pub index: u32,
    /// What it takes of the buffer.
    pub bytes: usize,
    /// Its batch was opened for it.
    pub opened: bool,
    /// A batch was closed for it, or by it.
    pub closed: bool,
}

impl Accumulator {
    pub fn new(settings: Settings, partitions: u32, seed: u64) -> Self {
        Self {
            settings,
            partitioner: Partitioner::new(partitions, seed),
            slots: (0..partitions).map(|_| Slot::default()).collect(),
            openings: VecDeque::new(),
            closed: VecDeque::new(),
            next_serial: 0,
            hasher: RandomState::new(),
        }
    }

    /// Adds a record to its partition's batch.
    ///
    /// # Errors
    /// The record breaks a limit of the format; nothing changed, but that a batch may have been closed.
    pub fn push(&mut self, record: &Record, now: Instant) -> Result<Pushed, BatchError> {
        let mut closed = false;
        let id = dedup_id(record);
        let id_hash = id.map(|id| self.hasher.hash_one((record.key.as_deref(), id)));
        loop {
            let partition = self.partitioner.pick(record.key.as_deref(), id);
            let Some(open) = &mut self.slots[partition.0 as usize].open else {
                return self.open(partition, record, id_hash, now, closed);
            };
            let before = open.builder.len();
            let is_twice = id_hash.is_some_and(|hash| open.ids.contains(&hash));
            if !is_twice && open.fits(record, self.settings.batch_bytes_target) {
                match open.builder.push(record) {
                    Ok(()) => {
                        if let Some(hash) = id_hash {
                            open.ids.insert(hash);
                        }
                        let (serial, index) = (open.serial, open.builder.record_count() - 1);
                        let bytes = open.builder.len() - before;
                        closed |= self.close_if_full(partition, bytes);
                        return Ok(Pushed { partition, serial, index, bytes, opened: false, closed });
                    }
                    // Full by the format's limits, or timestamps too far apart for one batch.
                    Err(BatchError::OutOfRange { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            self.close(partition);
            closed = true;
        }
    }

    /// Whether the record needs a batch of its own; the one that it does not fit into is closed.
    pub fn opens(&mut self, record: &Record) -> bool {
        let partition = self.partitioner.pick(record.key.as_deref(), dedup_id(record));
        let open = self.slots[partition.0 as usize].open.as_ref();
        let has_place = open.is_some_and(|open| open.fits(record, self.settings.batch_bytes_target));
        if !has_place {
            self.close(partition);
        }
        !has_place
    }

    /// When a batch is full.
    pub fn batch_bytes_target(&self) -> usize {
        self.settings.batch_bytes_target
    }

    fn open(
        &mut self,
        partition: PartitionId,
        record: &Record,
        id_hash: Option<u64>,
        now: Instant,
        mut closed: bool,
    ) -> Result<Pushed, BatchError> {
        let slot = &mut self.slots[partition.0 as usize];
        let room = slot.last_len.max(FIRST_BATCH_BYTES).min(self.settings.batch_bytes_target);
        let mut builder = BatchBuilder::with_capacity(self.settings.codec, room);
        builder.push(record)?;
        let serial = self.next_serial;
        self.next_serial += 1;
        let ticket = Arc::new(Ticket::new(partition));
        let bytes = builder.len();
        let ids = id_hash.into_iter().collect();
        slot.open = Some(Closed { partition, builder, ticket, opened: now, serial, ids });
        self.openings.push_back((now, partition.0 as usize, serial));
        closed |= self.close_if_full(partition, bytes - HEADER_BYTES);
        Ok(Pushed { partition, serial, index: 0, bytes, opened: true, closed })
    }

    /// The ticket of the record that was just pushed.
    pub fn ticket(&self, pushed: &Pushed) -> Arc<Ticket> {
        let open = self.slots[pushed.partition.0 as usize].open.iter();
        let batch = self.closed.iter().rev().take(1).chain(open).find(|batch| batch.serial == pushed.serial);
        Arc::clone(&batch.expect("the batch of the last push is open, or the last that was closed").ticket)
    }

    /// Closes the batch if another record like the last one would not fit: it need not wait for one to be turned away, which
    /// then opens a batch in its turn.
    fn close_if_full(&mut self, partition: PartitionId, last_record_bytes: usize) -> bool {
        let target = self.settings.batch_bytes_target;
        let reserve = last_record_bytes.min(target / FULL_PART);
        let open = self.slots[partition.0 as usize].open.as_ref();
        let full = open.is_some_and(|open| open.builder.len() + reserve >= target);
        if full {
            self.close(partition);
        }
        full
    }

    fn close(&mut self, partition: PartitionId) {
        let slot = &mut self.slots[partition.0 as usize];
        if let Some(open) = slot.open.take() {
            slot.last_len = open.builder.len();
            self.closed.push_back(open);
            self.partitioner.batch_closed(partition);
        }
    }

    /// Closes the batches whose linger is over.
    pub fn close_due(&mut self, now: Instant) {
        while let Some(opened) = self.oldest_open() {
            if opened + self.settings.linger > now {
                break;
            }
            self.close_oldest();
        }
    }

    /// Closes every batch.
    pub fn close_all(&mut self) {
        while self.oldest_open().is_some() {
            self.close_oldest();
        }
    }

    /// When [`close_due`](Self::close_due) next has something to do.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        self.oldest_open().map(|opened| opened + self.settings.linger)
    }

    /// Whether there is something to [`take`](Self::take).
    pub fn has_closed(&self) -> bool {
        !self.closed.is_empty()
    }

    /// The batch that was closed first.
    pub fn take(&mut self) -> Option<Closed> {
        self.closed.pop_front()
    }

    /// Takes out every batch that was opened at or before that time, open or closed.
    pub fn expire(&mut self, opened_before: Instant) -> Vec<Closed> {
        while self.oldest_open().is_some_and(|opened| opened <= opened_before) {
            self.close_oldest();
        }
        let (expired, kept) = self.closed.drain(..).partition(|batch| batch.opened <= opened_before);
        self.closed = kept;
        let expired: VecDeque<Closed> = expired;
        expired.into()
    }

    /// When the batch at the front of `openings` was opened, after entries of closed ones are dropped.
    fn oldest_open(&mut self) -> Option<Instant> {
        while let Some(&(opened, partition, serial)) = self.openings.front() {
            if self.slots[partition].open.as_ref().is_some_and(|open| open.serial == serial) {
                return Some(opened);
            }
            self.openings.pop_front();
        }
        None
    }

    fn close_oldest(&mut self) {
        if let Some((_, partition, _)) = self.openings.pop_front() {
            self.close(PartitionId(partition as u32));
        }
    }
}

fn dedup_id(record: &Record) -> Option<&[u8]> {
    record.headers.iter().find(|header| header.name == DEDUP_ID).and_then(|header| header.value.as_deref())
}

#[cfg(test)]
mod tests;
