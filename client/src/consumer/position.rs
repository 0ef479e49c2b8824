//! How far a consumer is in each partition. Pure.
//!
//! A position is the next offset wanted and the epoch of the batch before it, so that a log that lost its tail is
//! noticed and never answers with other records under old numbers.
//! Invariants
//! - Positions only rise. What lies below one is skipped, wherever it comes from.
//! - A bounded partition ends where its high watermark stood when it was first opened, however often it is opened
//!   again.

use millstream_protocol::batch::BatchHeader;
use millstream_protocol::frame::control::{ConsumeMode, ConsumePosition, ConsumeStart, Start as WireStart};
use millstream_protocol::{Epoch, Incarnation, Offset, PartitionId, Timestamp};

use crate::error::{Error, Gap, Result};

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// At the first record kept.
    #[default]
    Earliest,
    /// At what comes later.
    Latest,
    /// At an offset, in each partition.
    Offset(Offset),
    /// At the first record appended at or after a time.
    Time(Timestamp),
}

impl Start {
    pub(crate) fn wire(self) -> WireStart {
        match self {
            Start::Earliest => WireStart::Earliest,
            Start::Latest => WireStart::Latest,
            Start::Offset(offset) => WireStart::Offset { offset: offset.0, epoch: None },
            Start::Time(time) => WireStart::Time(time.0),
        }
    }
}

/// How far a consumer is in a partition: what to keep in order to go on later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The partition.
    pub partition: PartitionId,
    /// The next offset wanted.
    pub next: Offset,
    /// The epoch of the batch before it, if there was one: finds out whether the log lost its tail since.
    pub epoch: Option<Epoch>,
}

/// The positions of one consumer, by partition number.
#[derive(Debug, Clone)]
pub(crate) struct Positions {
    mode: ConsumeMode,
    partitions: Vec<Place>,
}

#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub partition: PartitionId,
    pub incarnation: Incarnation,
    /// Where the application asked to begin; `next` counts once it is known.
    start: WireStart,
    next: Option<Offset>,
    epoch: Option<Epoch>,
    /// Where a bounded delivery ends.
    end: Option<Offset>,
    /// Where the server said it begins. Above `next` only if it says what is missing before anything comes.
    floor: Offset,
    done: bool,
}

/// The part of a batch that is wanted: offsets `from..until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub from: Offset,
    pub until: Offset,
}

impl Positions {
    /// `partitions` in rising order.
    pub fn new(mode: ConsumeMode, partitions: impl IntoIterator<Item = (PartitionId, Incarnation, WireStart)>) -> Self {
        let place = |(partition, incarnation, start)| Place::new(partition, incarnation, start);
        Self { mode, partitions: partitions.into_iter().map(place).collect() }
    }

    /// Makes these its partitions, in rising order: those that `keep` names go on where they stand, the others begin.
    pub fn adopt(
        &mut self,
        partitions: impl IntoIterator<Item = (PartitionId, Incarnation, WireStart)>,
        keep: impl Fn(PartitionId) -> bool,
    ) {
        let mut adopted = Self::new(self.mode, partitions);
        for place in &mut adopted.partitions {
            if keep(place.partition)
                && let Ok(kept) = self.get(place.partition)
            {
                *place = kept.clone();
            }
        }
        *self = adopted;
    }

    /// Begins a partition anew, also one that had ended.
    ///
    /// # Errors
    /// The partition was not asked for.
    pub fn restart(&mut self, partition: PartitionId, start: WireStart) -> Result<()> {
        let position = self.get(partition)?;
        *position = Place::new(partition, position.incarnation, start);
        Ok(())
    }

    /// A partition that had ended goes on where it stood.
    ///
    /// # Errors
    /// The partition was not asked for.
    pub fn revive(&mut self, partition: PartitionId) -> Result<()> {
        self.get(partition).map(|position| position.done = false)
    }

    /// What to ask of a server for the partitions that go on.
    pub fn starts(&self) -> Vec<ConsumeStart> {
        self.partitions.iter().filter(|position| !position.done).map(Place::start).collect()
    }

    /// All of them, ended or not.
    pub fn all(&self) -> impl Iterator<Item = &Place> {
        self.partitions.iter()
    }

    /// Whether nothing more will come.
    pub fn is_done(&self) -> bool {
        self.partitions.iter().all(|position| position.done)
    }

    /// The server has opened what [`starts`](Self::starts) asked for. Nothing is at its end yet, even if it looks so:
    /// what is odd about an opening is said by an event of its own, which must not be passed over.
    ///
    /// # Errors
    /// The answer is not to what was asked.
    pub fn opened(&mut self, opened: &[ConsumePosition]) -> Result<()> {
        let asked: Vec<u32> = self.starts().iter().map(|start| start.partition).collect();
        if !asked.iter().eq(opened.iter().map(|position| &position.partition)) {
            return Err(Error::protocol("the positions opened are not those asked for"));
        }
        for opened in opened {
            let mode = self.mode;
            let position = self.get(PartitionId(opened.partition))?;
            position.floor = Offset(opened.offset);
            if position.next.is_none() {
                let asked = match position.start {
                    WireStart::Offset { offset, .. } => offset,
                    _ => opened.offset,
                };
                position.next = Some(Offset(asked));
                position.end = (mode == ConsumeMode::Bounded).then_some(Offset(opened.high_watermark));
            }
        }
        Ok(())
    }

    /// A batch has come: which of its records are wanted, if any. Moves the position behind it. A hole before it is
    /// what compaction leaves, and no gap.
    ///
    /// # Errors
    /// The partition was not asked for; or the server left records out without a word.
    pub fn accept(&mut self, partition: PartitionId, header: &BatchHeader) -> Result<Option<Wanted>> {
        let position = self.get(partition)?;
        if position.done {
            return Ok(None);
        }
        let next = position.next.unwrap_or_default();
        if next < position.floor {
            let floor = position.floor;
            let text = format!("records {next}..{floor} of partition {partition} were left out without a word");
            return Err(Error::protocol(text));
        }
        let end = header.end_offset();
        let wanted =
            Wanted { from: next.max(header.base_offset), until: position.end.map_or(end, |bound| bound.min(end)) };
        if end > next {
            position.next = Some(end);
            position.epoch = Some(header.epoch);
        }
        position.end_if_reached();
        Ok((wanted.from < wanted.until).then_some(wanted))
    }

    /// Records are missing. Gives the part that was not known yet.
    ///
    /// # Errors
    /// The partition was not asked for.
    pub fn gap(&mut self, partition: PartitionId, from: Offset, resume: Offset) -> Result<Option<Gap>> {
        let position = self.get(partition)?;
        let next = position.next.unwrap_or_default();
        if position.done || resume <= next {
            return Ok(None);
        }
        position.next = Some(resume);
        let bound = position.end.unwrap_or(resume);
        position.end_if_reached();
        let from = from.max(next);
        Ok((from < bound).then_some(Gap { partition, from, resume }))
    }

    /// A partition's delivery is complete, or has failed for good. Says whether it was still going on.
    ///
    /// # Errors
    /// The partition was not asked for.
    pub fn end(&mut self, partition: PartitionId) -> Result<bool> {
        let position = self.get(partition)?;
        Ok(!std::mem::replace(&mut position.done, true))
    }

    pub fn incarnation(&mut self, partition: PartitionId) -> Result<Incarnation> {
        self.get(partition).map(|position| position.incarnation)
    }

    /// The next offset wanted of a partition.
    pub fn next(&mut self, partition: PartitionId) -> Result<Offset> {
        self.get(partition).map(|position| position.next.unwrap_or_default())
    }

    fn get(&mut self, partition: PartitionId) -> Result<&mut Place> {
        let found = self.partitions.binary_search_by_key(&partition, |position| position.partition);
        let index =
            found.map_err(|_| Error::protocol(format_args!("partition {partition}, which was not asked for")))?;
        Ok(&mut self.partitions[index])
    }
}

impl Place {
    fn new(partition: PartitionId, incarnation: Incarnation, start: WireStart) -> Self {
        let floor = Offset::ZERO;
        Self { partition, incarnation, start, next: None, epoch: None, end: None, floor, done: false }
    }

    /// Whether it was not opened yet: where it asked to begin is not known to be there.
    pub fn is_new(&self) -> bool {
        self.next.is_none()
    }

    /// What to ask of a server: the start at first, later where it stands.
    fn start(&self) -> ConsumeStart {
        let start = match self.next {
            None => self.start,
            Some(_) => {
                let Position { next, epoch, .. } = self.position();
                WireStart::Offset { offset: next.0, epoch: epoch.map(|epoch| epoch.0) }
            }
        };
        ConsumeStart { partition: self.partition.0, start }
    }

    /// Where it stands. The epoch that was asked with stands for what is before the first batch.
    pub fn position(&self) -> Position {
        let next = self.next.unwrap_or_default();
        let asked = match self.start {
            WireStart::Offset { offset, epoch } if offset == next.0 => epoch.map(Epoch),
            _ => None,
        };
        Position { partition: self.partition, next, epoch: self.epoch.or(asked) }
    }

    /// The application has everything below `next`, of a batch of this epoch.
    pub fn delivered(&mut self, next: Offset, epoch: Epoch) {
        self.next = Some(next);
        self.epoch = Some(epoch);
    }

    /// The application was told that everything below `next` is missing.
    pub fn skipped(&mut self, next: Offset) {
        self.next = Some(next);
    }

    fn end_if_reached(&mut self) {
        if let (Some(next), Some(end)) = (self.next, self.end)
            && next >= end
        {
            self.done = true;
        }
    }
}

#[cfg(test)]
mod tests;
