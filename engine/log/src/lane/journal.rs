//! The seam between a lane and what makes its batches durable.
//!
//! A lane hands over groups of stamped batches, in order, and learns later what became of them. Offsets and epochs are
//! assigned before durability and never changed by it. [`FileJournal`] is the one built now: it writes to the partitions'
//! own segment files and syncs those. A round journal file for many partitions, or numbered objects in a store, would
//! stand here too; hence [`Outcome::Fenced`].

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;
use millstream_protocol::batch::HEADER_BYTES;
use millstream_protocol::{Epoch, Offset};

use crate::partition::Partition;
use crate::segment::Segment;

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

/// What became of a group.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The partition's records below this offset have the durability asked for.
    Durable(Offset),
    /// There was no room; what had been written was cut off again, durably.
    NoRoom,
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

/// Writes each group to its partition's segment and syncs the files touched, once per pass.
#[derive(Default)]
pub(crate) struct FileJournal {
    written: Vec<(Group, Result<(), Outcome>)>,
}

impl Journal for FileJournal {
    fn submit(&mut self, groups: Vec<Group>) {
        for group in groups {
            let result = write(&group);
            self.written.push((group, result));
        }
    }

    fn poll(&mut self, outcomes: &mut Vec<(GroupSeq, Outcome)>) {
        // Each group touches its own file: a pass has at most one group per partition.
        for (group, written) in self.written.drain(..) {
            let outcome = match written {
                Err(outcome) => outcome,
                Ok(()) if !group.sync => Outcome::Durable(group.end),
                Ok(()) => match group.segment.file().sync_data() {
                    Ok(()) => Outcome::Durable(group.end),
                    Err(error) => Outcome::Failed(format!("cannot sync {}: {error}", group.segment.path().display())),
                },
            };
            outcomes.push((group.seq, outcome));
        }
    }
}

fn write(group: &Group) -> Result<(), Outcome> {
    let mut slices = Vec::with_capacity(group.batches.len() * 2);
    for stamped in &group.batches {
        slices.push(IoSlice::new(&stamped.header));
        slices.push(IoSlice::new(&stamped.batch[HEADER_BYTES..]));
    }
    let file = group.segment.file();
    let error = match file.write_all_at(&slices, group.position) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let failed = |error: &io::Error| {
        Outcome::Failed(format!("cannot write {} at {}: {error}", group.segment.path().display(), group.position))
    };
    if error.kind() != io::ErrorKind::StorageFull {
        return Err(failed(&error));
    }
    match file.set_len(group.position).and_then(|()| file.sync_data()) {
        Ok(()) => Err(Outcome::NoRoom),
        Err(_) => Err(failed(&error)),
    }
}
