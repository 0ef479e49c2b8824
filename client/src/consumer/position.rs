//! Where a consumer is in each partition: a pure machine. It decides what of a batch is new, when a bounded consumer is
//! done, and where a lost connection is taken up again.

use std::collections::BTreeMap;

use millstream_protocol::batch::BatchHeader;
use millstream_protocol::frame::control::{ConsumeOpened, ConsumeStart, Start as WireStart};
use millstream_protocol::{Epoch, Offset, PartitionId, Timestamp};

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
    fn wire(self) -> WireStart {
        match self {
            Start::Earliest => WireStart::Earliest,
            Start::Latest => WireStart::Latest,
            Start::Offset(offset) => WireStart::Offset { offset: offset.0, epoch: None },
            Start::Time(time) => WireStart::Time(time.0),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Position {
    next: Offset,
    /// Epoch of the batch before `next`.
    epoch: Option<Epoch>,
    /// Where a bounded consumer ends.
    end: Option<Offset>,
    failed: bool,
}

/// The positions of all partitions, once they are known.
#[derive(Debug)]
pub(super) struct Positions {
    start: Start,
    bounded: bool,
    partitions: Vec<PartitionId>,
    known: BTreeMap<PartitionId, Position>,
}

impl Positions {
    pub(super) fn new(start: Start, bounded: bool, partitions: Vec<PartitionId>) -> Self {
        Self { start, bounded, partitions, known: BTreeMap::new() }
    }

    /// What to ask for: the start at first, later where it was; not what is done.
    pub(super) fn starts(&self) -> Vec<ConsumeStart> {
        let open = self.partitions.iter().filter(|partition| !self.is_done(**partition));
        open.map(|partition| {
            let start = match self.known.get(partition) {
                None => self.start.wire(),
                Some(position) => {
                    WireStart::Offset { offset: position.next.0, epoch: position.epoch.map(|epoch| epoch.0) }
                }
            };
            ConsumeStart { partition: partition.0, start }
        })
        .collect()
    }

    /// Learns where delivery begins. The end of a bounded consumer is that of the first time.
    pub(super) fn opened(&mut self, opened: &ConsumeOpened) {
        for at in &opened.positions {
            let partition = PartitionId(at.partition);
            if !self.partitions.contains(&partition) {
                continue;
            }
            let end = self.bounded.then_some(Offset(at.high_watermark));
            self.known.entry(partition).or_insert(Position {
                next: Offset(at.offset),
                epoch: None,
                end,
                failed: false,
            });
        }
    }

    /// Takes a batch: `Some(first..end)` of its offsets are new; `None` if none is.
    pub(super) fn take(&mut self, partition: PartitionId, header: &BatchHeader) -> Option<(Offset, Offset)> {
        let position = self.known.get_mut(&partition).filter(|position| !position.failed)?;
        let end = position.end.map_or(header.end_offset(), |end| end.min(header.end_offset()));
        let first = position.next.max(header.base_offset);
        if first >= end {
            return None;
        }
        position.next = end;
        position.epoch = Some(header.epoch);
        Some((first, end))
    }

    /// Goes on behind a gap.
    pub(super) fn skip(&mut self, partition: PartitionId, resume: Offset) {
        if let Some(position) = self.known.get_mut(&partition) {
            position.next = position.next.max(resume);
        }
    }

    /// A partition has ended for good.
    pub(super) fn fail(&mut self, partition: PartitionId) {
        if let Some(position) = self.known.get_mut(&partition) {
            position.failed = true;
        }
    }

    fn is_done(&self, partition: PartitionId) -> bool {
        let done = |position: &Position| position.failed || position.end.is_some_and(|end| position.next >= end);
        self.known.get(&partition).is_some_and(done)
    }

    /// Whether every partition is done.
    pub(super) fn all_done(&self) -> bool {
        self.partitions.iter().all(|partition| self.is_done(*partition))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_protocol::batch::{BatchBuilder, BatchView, Codec, Stamp, stamp};
    use millstream_protocol::frame::control::ConsumePosition;
    use millstream_protocol::{Incarnation, Record};

    fn header(base: u64, count: u64) -> BatchHeader {
        let mut builder = BatchBuilder::new(Codec::None);
        (0..count).for_each(|_| builder.push(&Record::new("x")).unwrap());
        let mut bytes = builder.finish().unwrap().to_vec();
        let stamped =
            Stamp { base_offset: Offset(base), append_time: Timestamp(1), epoch: Epoch(3), synced_end: Offset(0) };
        stamp(&mut bytes, &stamped, Incarnation(1));
        BatchView::parse(&bytes.into()).unwrap().header().clone()
    }

    fn opened(offset: u64, high_watermark: u64) -> ConsumeOpened {
        ConsumeOpened { positions: vec![ConsumePosition { partition: 0, offset, high_watermark, log_start: 0 }] }
    }

    const P: PartitionId = PartitionId(0);

    #[test]
    fn a_bounded_consumer_gets_what_was_there_and_is_done() {
        let mut positions = Positions::new(Start::Offset(Offset(3)), true, vec![P]);
        assert!(!positions.all_done());
        positions.opened(&opened(3, 15));
        assert_eq!(positions.take(P, &header(0, 10)), Some((Offset(3), Offset(10))), "trimmed in front");
        assert_eq!(positions.take(P, &header(0, 10)), None, "known already");
        assert_eq!(positions.take(P, &header(10, 10)), Some((Offset(10), Offset(15))), "trimmed behind");
        assert!(positions.all_done());
        assert!(positions.starts().is_empty());
    }

    #[test]
    fn a_lost_connection_is_taken_up_where_it_was_and_with_the_first_end() {
        let mut positions = Positions::new(Start::Earliest, true, vec![P]);
        positions.opened(&opened(0, 15));
        positions.take(P, &header(0, 10));
        let again = positions.starts();
        assert_eq!(again[0].start, WireStart::Offset { offset: 10, epoch: Some(3) });
        positions.opened(&opened(10, 99));
        assert_eq!(positions.take(P, &header(10, 10)), Some((Offset(10), Offset(15))));
        assert!(positions.all_done());
    }

    #[test]
    fn gaps_move_on_and_failures_end() {
        let mut positions = Positions::new(Start::Earliest, false, vec![P]);
        positions.opened(&opened(0, 15));
        positions.skip(P, Offset(40));
        assert_eq!(positions.starts()[0].start, WireStart::Offset { offset: 40, epoch: None });
        assert!(!positions.all_done());
        positions.fail(P);
        assert!(positions.all_done());
        assert_eq!(positions.take(P, &header(40, 1)), None);
    }
}
