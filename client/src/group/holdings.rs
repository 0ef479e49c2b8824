//! The partitions that the application works on, and how far it is in each. Pure.
//!
//! ```text
//! committed ≤ processed ≤ delivered
//! ```
//! *Delivered* is behind what a call has returned. *Processed* follows when the application asks for the next one or commits:
//! what was returned last may still be in its hands. A *generation* is one run of reading a partition: a seek, a pause, a
//! revocation ends it, and what was read ahead under it is dropped unseen.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_protocol::frame::control::Start as WireStart;
use millstream_protocol::frame::group::{OffsetCommit, StreamPartition};
use millstream_protocol::{Epoch, Offset, PartitionId, StreamId};

use super::event::{GroupPosition, NamedPartition};
use super::reader::Wanted;
use crate::consumer::shelf::Reached;

/// A place in a partition: what to commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    pub next: Offset,
    pub epoch: Option<Epoch>,
}

#[derive(Debug)]
struct Holding {
    stream: Arc<str>,
    epoch: u32,
    generation: u64,
    /// Where to begin, while nothing of this generation was delivered.
    start: WireStart,
    delivered: Option<Spot>,
    processed: Option<Spot>,
    committed: Option<Spot>,
    high_watermark: Option<Offset>,
    is_paused: bool,
    /// It is about to go: nothing more of it is delivered.
    is_stopped: bool,
}

impl Holding {
    fn wanted(&self, partition: PartitionId) -> Option<Wanted> {
        let is_wanted = !self.is_paused && !self.is_stopped;
        is_wanted.then_some(Wanted { partition, generation: self.generation, start: self.start })
    }

    fn named(&self, at: StreamPartition) -> NamedPartition {
        NamedPartition { stream: Arc::clone(&self.stream), partition: PartitionId(at.partition) }
    }

    /// The start that goes on where the application is.
    fn restart(&mut self, generation: u64) {
        self.generation = generation;
        if let Some(Spot { next, epoch }) = self.delivered {
            self.start = WireStart::Offset { offset: next.0, epoch: epoch.map(|epoch| epoch.0) };
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Holdings {
    held: BTreeMap<StreamPartition, Holding>,
    /// The one whose delivered is ahead of processed, if any.
    in_hand: Option<StreamPartition>,
    generations: u64,
}

impl Holdings {
    /// A partition has come, from its committed offset or else from `start`.
    pub fn take_up(
        &mut self,
        at: StreamPartition,
        stream: Arc<str>,
        epoch: u32,
        committed: Option<Spot>,
        start: WireStart,
    ) {
        let mut holding = Holding {
            stream,
            epoch,
            generation: 0,
            start,
            delivered: committed,
            processed: committed,
            committed,
            high_watermark: None,
            is_paused: false,
            is_stopped: false,
        };
        holding.restart(self.generation());
        self.held.insert(at, holding);
    }

    /// Nothing more of these is delivered; they can still be committed.
    pub fn stop(&mut self, partitions: &[StreamPartition]) {
        for at in partitions {
            let generation = self.generation();
            if let Some(holding) = self.held.get_mut(at) {
                holding.is_stopped = true;
                holding.generation = generation;
            }
        }
    }

    /// They are gone. Gives the names of those that were there.
    pub fn remove(&mut self, partitions: &[StreamPartition]) -> Vec<NamedPartition> {
        let names = self.names(partitions);
        self.held.retain(|at, _| !partitions.contains(at));
        names
    }

    /// The names of those that are there.
    pub fn names(&self, partitions: &[StreamPartition]) -> Vec<NamedPartition> {
        partitions.iter().filter_map(|at| self.held.get(at).map(|holding| holding.named(*at))).collect()
    }

    /// All of them that are not about to go.
    pub fn all(&self) -> Vec<NamedPartition> {
        let held = self.held.iter().filter(|(_, holding)| !holding.is_stopped);
        held.map(|(at, holding)| holding.named(*at)).collect()
    }

    /// The assignment epoch under which a partition is held.
    pub fn epoch(&self, at: StreamPartition) -> Option<u32> {
        self.held.get(&at).map(|holding| holding.epoch)
    }

    /// The one of that name.
    pub fn find(&self, wanted: &NamedPartition) -> Option<StreamPartition> {
        let is_it = |(at, holding): &(&StreamPartition, &Holding)| {
            holding.stream == wanted.stream && at.partition == wanted.partition.0
        };
        self.held.iter().find(is_it).map(|(at, _)| *at)
    }

    pub fn stream(&self, at: StreamPartition) -> Option<&Arc<str>> {
        self.held.get(&at).map(|holding| &holding.stream)
    }

    /// Whether what was read under that generation is still to be delivered.
    pub fn is_current(&self, at: StreamPartition, generation: u64) -> bool {
        self.held.get(&at).is_some_and(|holding| holding.generation == generation)
    }

    /// What to read: by stream, in rising order, with the stream's name.
    pub fn wanted(&self) -> BTreeMap<StreamId, (Arc<str>, Vec<Wanted>)> {
        let mut streams: BTreeMap<StreamId, (Arc<str>, Vec<Wanted>)> = BTreeMap::new();
        for (at, holding) in &self.held {
            if let Some(wanted) = holding.wanted(PartitionId(at.partition)) {
                let name = || (Arc::clone(&holding.stream), Vec::new());
                streams.entry(StreamId(at.stream)).or_insert_with(name).1.push(wanted);
            }
        }
        streams
    }

    /// Reading has begun: where nothing was known of the position it is there now, and may be committed.
    pub fn began(&mut self, at: StreamPartition, next: Offset) {
        if let Some(holding) = self.held.get_mut(&at)
            && holding.delivered.is_none()
        {
            let spot = Some(Spot { next, epoch: None });
            (holding.delivered, holding.processed) = (spot, spot);
        }
    }

    /// The position is of no use any more: where it goes on is said by [`began`](Self::began).
    pub fn reset(&mut self, at: StreamPartition, start: WireStart) {
        if let Some(holding) = self.held.get_mut(&at) {
            (holding.delivered, holding.processed) = (None, None);
            holding.start = start;
        }
    }

    pub fn saw(&mut self, at: StreamPartition, high_watermark: Offset) {
        if let Some(holding) = self.held.get_mut(&at) {
            holding.high_watermark = Some(high_watermark);
        }
    }

    /// Something was returned.
    pub fn reached(&mut self, at: StreamPartition, reached: Reached) {
        if let Some(holding) = self.held.get_mut(&at) {
            holding.delivered = Some(Spot { next: reached.next, epoch: Some(reached.epoch) });
            self.in_hand = Some(at);
        }
    }

    /// It was told that records are missing.
    pub fn skipped(&mut self, at: StreamPartition, next: Offset) {
        if let Some(holding) = self.held.get_mut(&at) {
            let epoch = holding.delivered.and_then(|spot| spot.epoch);
            holding.delivered = Some(Spot { next, epoch });
            self.in_hand = Some(at);
        }
    }

    /// What was returned is processed.
    pub fn settle(&mut self) {
        if let Some(at) = self.in_hand.take()
            && let Some(holding) = self.held.get_mut(&at)
        {
            holding.processed = holding.delivered;
        }
    }

    /// What is processed and not committed.
    pub fn due(&self) -> Vec<OffsetCommit> {
        let due = |(at, holding): (&StreamPartition, &Holding)| {
            let spot = holding.processed.filter(|spot| holding.committed != Some(*spot))?;
            Some(commit(*at, holding.epoch, spot))
        };
        self.held.iter().filter_map(due).collect()
    }

    /// The commit of that position, if the partition is held.
    pub fn commit_of(&self, position: &GroupPosition) -> Option<OffsetCommit> {
        let at = self.find(&position.name())?;
        let spot = Spot { next: position.next, epoch: position.epoch };
        Some(commit(at, self.held[&at].epoch, spot))
    }

    /// A commit is durable.
    pub fn committed(&mut self, commit: &OffsetCommit) {
        if let Some(holding) = self.held.get_mut(&commit.at)
            && holding.epoch == commit.epoch
        {
            holding.committed = Some(Spot { next: Offset(commit.offset), epoch: commit.batch_epoch.map(Epoch) });
        }
    }

    pub fn pause(&mut self, at: StreamPartition) {
        let generation = self.generation();
        if let Some(holding) = self.held.get_mut(&at)
            && !holding.is_paused
        {
            holding.is_paused = true;
            holding.restart(generation);
        }
    }

    pub fn resume(&mut self, at: StreamPartition) {
        let generation = self.generation();
        if let Some(holding) = self.held.get_mut(&at)
            && holding.is_paused
        {
            holding.is_paused = false;
            holding.restart(generation);
        }
    }

    /// Goes on elsewhere.
    pub fn seek(&mut self, at: StreamPartition, start: WireStart) {
        let generation = self.generation();
        if let Some(holding) = self.held.get_mut(&at) {
            let spot = match start {
                WireStart::Offset { offset, epoch } => Some(Spot { next: Offset(offset), epoch: epoch.map(Epoch) }),
                _ => None,
            };
            (holding.delivered, holding.processed) = (spot, spot);
            (holding.generation, holding.start) = (generation, start);
        }
    }

    pub fn positions(&self) -> Vec<GroupPosition> {
        let position = |(at, holding): (&StreamPartition, &Holding)| {
            let Spot { next, epoch } = holding.delivered?;
            let NamedPartition { stream, partition } = holding.named(*at);
            Some(GroupPosition { stream, partition, next, epoch })
        };
        self.held.iter().filter_map(position).collect()
    }

    pub fn high_watermark(&self, at: StreamPartition) -> Option<Offset> {
        self.held.get(&at)?.high_watermark
    }

    fn generation(&mut self) -> u64 {
        self.generations += 1;
        self.generations
    }
}

fn commit(at: StreamPartition, epoch: u32, spot: Spot) -> OffsetCommit {
    let batch_epoch = spot.epoch.map(|epoch| epoch.0);
    OffsetCommit { at, epoch, offset: spot.next.0, batch_epoch, metadata: String::new() }
}

#[cfg(test)]
mod tests;
