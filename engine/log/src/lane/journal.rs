//! The seam between a lane and what makes its batches durable.
//!
//! A lane hands over groups of stamped batches, in order, and learns later what became of them. Offsets and epochs are
//! assigned before durability and never changed by it. [`LocalJournal`] is the one built now: it writes to the partitions'
//! own segment files, and then either syncs those or, since the cost is the number of syncs and hardly the bytes, writes
//! the batches of many partitions once more into one file, the [`ring`](super::ring), and syncs that. Numbered objects
//! in a store would stand here too; hence [`Outcome::Fenced`].
//!
//! In one pass a partition goes one way only.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;
use millstream_protocol::batch::HEADER_BYTES;
use millstream_protocol::{Epoch, Offset};

use super::flush::{Flusher, Safety, Written};
use super::ring::{Entry, Ring, RingError};
use crate::partition::Partition;
use crate::segment::Segment;
use crate::storage::descriptors::is_out_of_descriptors;

/// Names a group within its journal; rises with each one handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GroupSeq(pub u64);

/// A batch with its stamped header: the producer's bytes are shared, never copied.
pub(crate) struct StampedBatch {
    pub header: [u8; HEADER_BYTES],
    /// The whole batch as it came; its first [`HEADER_BYTES`] are replaced by `header`.
    pub batch: Bytes,
}

/// Batches of one partition that become durable, or fail, together.
pub(crate) struct Group {
    pub seq: GroupSeq,
    pub partition: Arc<Partition>,
    pub segment: Arc<Segment>,
    /// Where the first batch goes in the segment's file.
    pub position: u64,
    pub batches: Vec<StampedBatch>,
    /// The offset after the last record.
    pub end: Offset,
    /// Whether it must be on disk before it is answered.
    pub sync: bool,
}

impl Group {
    /// The bytes of its batches.
    pub(crate) fn bytes(&self) -> u64 {
        self.batches.iter().map(|stamped| stamped.batch.len() as u64).sum()
    }

    /// Its bytes, in order.
    fn slices<'a>(&'a self, slices: &mut Vec<IoSlice<'a>>) {
        for stamped in &self.batches {
            slices.push(IoSlice::new(&stamped.header));
            slices.push(IoSlice::new(&stamped.batch[HEADER_BYTES..]));
        }
    }
}

/// What became of a group.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The partition's records below this offset have the durability asked for.
    Durable(Offset),
    /// There was no room; what had been written was cut off again, durably.
    NoRoom,
    /// No descriptor was free; nothing was written.
    NotNow,
    /// Anything may be on disk.
    Failed(String),
    /// Another owner, of this epoch, has taken the partition over. No local journal says this.
    #[expect(dead_code, reason = "the seam's third answer; journals that outlive the machine give it")]
    Fenced(Epoch),
}

/// Makes groups durable. Order is kept per partition.
pub(crate) trait Journal: Send {
    /// Hands groups over. Never waits for durability.
    fn submit(&mut self, groups: Vec<Group>);

    /// What has become known. Waits for at least one outcome while any group is out.
    fn poll(&mut self, outcomes: &mut Vec<(GroupSeq, Outcome)>);
}

/// Writes each group to its partition's segment; makes it durable there, or in the lane's ring of journal files.
pub(crate) struct LocalJournal {
    lane: usize,
    flusher: Arc<Flusher>,
    ring: Ring,
    written: Vec<(Group, Result<(), Outcome>)>,
}

/// A group of this many bytes is cheaper to sync in its segment than to write twice: writing them costs about what a sync
/// does.
const DIRECT_BYTES: u64 = 512 << 10;
/// So is a pass of so few smaller ones: writing and syncing one more file costs a sync.
const DIRECT_GROUPS: usize = 1;

impl LocalJournal {
    pub(crate) fn new(lane: usize, flusher: Arc<Flusher>, ring: Ring) -> Self {
        Self { lane, flusher, ring, written: Vec::new() }
    }

    /// Which of the groups go through the ring.
    fn is_ringed(&self) -> Vec<bool> {
        let small = |(group, written): &(Group, Result<(), Outcome>)| {
            group.sync && written.is_ok() && group.bytes() < DIRECT_BYTES
        };
        let count = self.written.iter().filter(|one| small(one)).count();
        let bytes = self.written.iter().filter(|one| small(one)).map(|(group, _)| group.bytes()).sum();
        let pays = count > DIRECT_GROUPS && self.ring.can_hold(bytes, count);
        self.written.iter().map(|one| pays && small(one)).collect()
    }

    /// Writes the groups into the ring as one frame; `None` if they must be synced in their segments after all.
    fn write_frame(&mut self, ringed: &[bool]) -> Option<Result<u64, String>> {
        let mut entries = Vec::new();
        let mut body = Vec::new();
        for ((group, _), _) in self.written.iter().zip(ringed).filter(|(_, ringed)| **ringed) {
            entries.push(Entry {
                identity: group.partition.identity(),
                base: group.segment.base(),
                position: group.position,
                end: group.end,
                length: group.bytes(),
            });
            group.slices(&mut body);
        }
        if entries.is_empty() {
            return None;
        }
        loop {
            match self.ring.write(&entries, &body, &self.flusher.owed(self.lane)) {
                Ok(sequence) => return Some(Ok(sequence)),
                Err(RingError::Failed(reason)) => return Some(Err(reason)),
                Err(RingError::Unusable) => return None,
                // The flusher has not kept up: its work is done here.
                Err(RingError::Full(oldest)) => self.flusher.flush_frames(self.lane, oldest),
            }
        }
    }
}

impl Journal for LocalJournal {
    fn submit(&mut self, groups: Vec<Group>) {
        for group in groups {
            let result = write(&group);
            self.written.push((group, result));
        }
    }

    fn poll(&mut self, outcomes: &mut Vec<(GroupSeq, Outcome)>) {
        let ringed = self.is_ringed();
        let frame = self.write_frame(&ringed);
        let mut noted = Vec::with_capacity(self.written.len());
        // Each group touches its own file: a pass has at most one group per partition.
        for ((group, written), ringed) in self.written.drain(..).zip(ringed) {
            let result = match (written, &frame) {
                (Err(outcome), _) => Err(outcome),
                (Ok(()), _) if !group.sync => Ok(Safety::Cache),
                (Ok(()), Some(Ok(sequence))) if ringed => Ok(Safety::Journal(*sequence)),
                (Ok(()), Some(Err(reason))) if ringed => Err(Outcome::Failed(reason.clone())),
                (Ok(()), _) => match group.segment.file().sync_data() {
                    Ok(()) => Ok(Safety::Segment),
                    Err(error) => {
                        Err(Outcome::Failed(format!("cannot sync {}: {error}", group.segment.path().display())))
                    }
                },
            };
            let (seq, end) = (group.seq, group.end);
            outcomes.push(match result {
                Err(outcome) => (seq, outcome),
                Ok(safety) => {
                    let bytes = group.bytes();
                    noted.push(Written { partition: group.partition, segment: group.segment, bytes, safety, end });
                    (seq, Outcome::Durable(end))
                }
            });
        }
        self.flusher.note(self.lane, noted, self.ring.behind_turn());
        if self.flusher.is_over() {
            self.flusher.tick(false);
        }
    }
}

fn write(group: &Group) -> Result<(), Outcome> {
    let mut slices = Vec::with_capacity(group.batches.len() * 2);
    group.slices(&mut slices);
    let file = group.segment.file();
    let error = match file.write_all_at(&slices, group.position) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let failed = |error: &io::Error| {
        Outcome::Failed(format!("cannot write {} at {}: {error}", group.segment.path().display(), group.position))
    };
    if is_out_of_descriptors(&error) {
        return Err(Outcome::NotNow);
    }
    if error.kind() != io::ErrorKind::StorageFull {
        return Err(failed(&error));
    }
    match file.set_len(group.position).and_then(|()| file.sync_data()) {
        Ok(()) => Err(Outcome::NoRoom),
        Err(_) => Err(failed(&error)),
    }
}
