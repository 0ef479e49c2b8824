//! The seam between a lane and what makes its batches durable.
//!
//! A lane hands over groups of stamped batches, in order, and learns later what became of them. Offsets and epochs are
//! assigned before durability and never changed by it. [`LocalJournal`] is the one built now: it writes to the partitions'
//! own segment files and syncs those or, since the cost is the number of calls and syncs and hardly the bytes, writes the
//! batches of many partitions into one file, the [`ring`](super::ring), and syncs that. They wait in memory, where readers
//! find them, until the flusher writes them to their segments, many passes' worth at once. Numbered objects in a store
//! would stand here too; hence [`Outcome::Fenced`].
//!
//! In one pass a partition goes one way only.

use std::io::{self, IoSlice};
use std::sync::Arc;

use millstream_protocol::{Epoch, Offset};

use super::flush::{Flusher, Safety, Written};
use super::ring::{Entry, Ring, RingError};
use crate::partition::Partition;
use crate::segment::{Segment, StampedBatch};
use crate::storage::descriptors::is_out_of_descriptors;

/// Names a group within its journal; rises with each one handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GroupSeq(pub u64);

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
        self.batches.iter().for_each(|batch| slices.extend(batch.slices()));
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

/// Writes each group to its partition's segment and syncs that; or, together with those of many partitions, to the lane's
/// ring, from where the flusher brings it to its segment later.
pub(crate) struct LocalJournal {
    lane: usize,
    flusher: Arc<Flusher>,
    ring: Ring,
    groups: Vec<Group>,
}

/// A group of this many bytes goes to its segment at once: its sync costs about what writing it twice does, and the disk is
/// what a stream of large batches waits for.
const DIRECT_BYTES: u64 = 128 << 10;
/// So is a pass of so few smaller ones: writing and syncing one more file costs a sync.
const DIRECT_GROUPS: usize = 1;

impl LocalJournal {
    pub(crate) fn new(lane: usize, flusher: Arc<Flusher>, ring: Ring) -> Self {
        Self { lane, flusher, ring, groups: Vec::new() }
    }

    /// Which of the groups go through the ring.
    fn choose_ringed(&self) -> Vec<bool> {
        let is_small = |group: &Group| group.sync && group.bytes() < DIRECT_BYTES;
        let small = self.groups.iter().filter(|group| is_small(group));
        let (count, bytes) = small.fold((0, 0), |(count, bytes), group| (count + 1, bytes + group.bytes()));
        let pays = count > DIRECT_GROUPS && self.ring.can_hold(bytes, count);
        self.groups.iter().map(|group| pays && is_small(group)).collect()
    }

    /// Writes the groups into the ring as one frame; `None` if they must go to their segments at once after all.
    fn write_frame(&mut self, ringed: &[bool]) -> Option<Result<u64, String>> {
        let mut entries = Vec::new();
        let mut body = Vec::new();
        for (group, _) in self.groups.iter().zip(ringed).filter(|(_, ringed)| **ringed) {
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
        let mut waited_for = None;
        loop {
            match self.ring.write(&entries, &body, || self.flusher.owed(self.lane)) {
                Ok(sequence) => return Some(Ok(sequence)),
                Err(RingError::Failed(reason)) => return Some(Err(reason)),
                Err(RingError::Unusable) => return None,
                // Flushing did not help: the disk is full.
                Err(RingError::Full(oldest)) if waited_for == Some(oldest) => return None,
                // The flusher has not kept up: its work is done here.
                Err(RingError::Full(oldest)) => {
                    self.flusher.flush_frames(self.lane, oldest);
                    waited_for = Some(oldest);
                }
            }
        }
    }
}

impl Journal for LocalJournal {
    fn submit(&mut self, groups: Vec<Group>) {
        self.groups.extend(groups);
    }

    fn poll(&mut self, outcomes: &mut Vec<(GroupSeq, Outcome)>) {
        let ringed = self.choose_ringed();
        let frame = self.write_frame(&ringed);
        let mut noted = Vec::with_capacity(self.groups.len());
        // Each group touches its own file: a pass has at most one group per partition.
        for (group, ringed) in self.groups.drain(..).zip(ringed) {
            let (seq, end, bytes) = (group.seq, group.end, group.bytes());
            let (partition, segment) = (group.partition.clone(), group.segment.clone());
            let done = match &frame {
                Some(Ok(sequence)) if ringed => {
                    segment.defer(group.position, group.batches);
                    Ok(Safety::Journal(*sequence))
                }
                Some(Err(reason)) if ringed => Err(Outcome::Failed(reason.clone())),
                _ => write_through(&group),
            };
            outcomes.push(match done {
                Err(outcome) => (seq, outcome),
                Ok(safety) => {
                    noted.push(Written { partition, segment, bytes, safety, end });
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

/// Writes a group to its segment, behind what waits there, and makes it durable if it must be.
fn write_through(group: &Group) -> Result<Safety, Outcome> {
    write(group)?;
    if !group.sync {
        return Ok(Safety::Cache);
    }
    match group.segment.file().sync_data() {
        Ok(()) => Ok(Safety::Segment),
        Err(error) => Err(Outcome::Failed(format!("cannot sync {}: {error}", group.segment.path().display()))),
    }
}

fn write(group: &Group) -> Result<(), Outcome> {
    let mut slices = Vec::with_capacity(group.batches.len() * 2);
    group.slices(&mut slices);
    let file = group.segment.file();
    let waiting = group.segment.write_deferred();
    let error = match waiting.and_then(|()| file.write_all_at(&slices, group.position)) {
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
    // What waits to be written stays in the ring; of the group nothing may stay.
    match file.len().and_then(|length| file.set_len(length.min(group.position))).and_then(|()| file.sync_data()) {
        Ok(()) => Err(Outcome::NoRoom),
        Err(_) => Err(failed(&error)),
    }
}
