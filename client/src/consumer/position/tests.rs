//! Positions by example, and against the promise that every record comes once, whatever is sent again.

use millstream_protocol::batch::{BatchBuilder, BatchView, Codec, Stamp, stamp};
use millstream_protocol::{Code, Record};
use proptest::prelude::*;

use super::*;

const P: PartitionId = PartitionId(0);

fn header(base: u64, count: u64) -> BatchHeader {
    let mut builder = BatchBuilder::new(Codec::None);
    (0..count).for_each(|_| builder.push(&Record::new("x")).expect("a legal record"));
    let mut bytes = builder.finish().expect("it has records").to_vec();
    let stamped =
        Stamp { base_offset: Offset(base), append_time: Timestamp(1), epoch: Epoch(3), synced_end: Offset(0) };
    stamp(&mut bytes, &stamped, Incarnation(1));
    BatchView::parse(&bytes.into()).expect("our own batch").header().clone()
}

fn positions(mode: ConsumeMode, start: WireStart) -> Positions {
    Positions::new(mode, [(P, Incarnation(1), start)])
}

fn opened(offset: u64, high_watermark: u64) -> [ConsumePosition; 1] {
    [ConsumePosition { partition: 0, offset, high_watermark, log_start: 0 }]
}

fn at(offset: u64) -> WireStart {
    WireStart::Offset { offset, epoch: None }
}

fn accept(positions: &mut Positions, base: u64, count: u64) -> Option<(u64, u64)> {
    let wanted = positions.accept(P, &header(base, count)).expect("it was asked for");
    wanted.map(|wanted| (wanted.from.0, wanted.until.0))
}

#[test]
fn a_bounded_delivery_is_what_was_there_at_the_first_opening() {
    let mut positions = positions(ConsumeMode::Bounded, at(3));
    positions.opened(&opened(3, 15)).expect("as asked");
    assert_eq!(accept(&mut positions, 0, 10), Some((3, 10)), "trimmed in front");
    assert_eq!(accept(&mut positions, 0, 10), None, "known already");
    let again = WireStart::Offset { offset: 10, epoch: Some(3) };
    assert_eq!(positions.starts(), [ConsumeStart { partition: 0, start: again }]);
    positions.opened(&opened(10, 99)).expect("as asked");
    assert_eq!(accept(&mut positions, 10, 10), Some((10, 15)), "trimmed behind, where it ended at first");
    assert!(positions.is_done() && positions.starts().is_empty());
}

#[test]
fn latest_stays_where_it_was_when_it_was_opened() {
    let mut positions = positions(ConsumeMode::Follow, WireStart::Latest);
    positions.opened(&opened(40, 40)).expect("as asked");
    assert_eq!(positions.starts()[0].start, at(40));
    assert!(!positions.is_done());
}

#[test]
fn an_opening_elsewhere_is_explained_by_an_event_or_is_a_violation() {
    let mut explained = positions(ConsumeMode::Bounded, at(5));
    explained.opened(&opened(20, 20)).expect("as asked");
    assert!(!explained.is_done(), "the gap is not said yet");
    let gap = explained.gap(P, Offset(5), Offset(20)).expect("it was asked for");
    assert_eq!(gap, Some(Gap { partition: P, from: Offset(5), resume: Offset(20) }));
    assert!(explained.is_done());

    let mut silent = positions(ConsumeMode::Follow, at(5));
    silent.opened(&opened(20, 30)).expect("as asked");
    let error = silent.accept(P, &header(20, 5)).expect_err("5..20 are missing without a word");
    assert_eq!(error.code(), Code::ProtocolViolation);
}

#[test]
fn a_partition_that_cannot_be_opened_waits_for_the_reason() {
    let mut positions = positions(ConsumeMode::Bounded, WireStart::Earliest);
    positions.opened(&opened(0, 0)).expect("as asked");
    assert!(!positions.is_done(), "empty, or failed: the server will say");
    assert!(positions.end(P).expect("it was asked for"), "it is news");
    assert!(positions.is_done());
    assert!(!positions.end(P).expect("it was asked for"), "it is not news any more");
}

#[test]
fn a_gap_is_said_once_and_moves_on() {
    let mut positions = positions(ConsumeMode::Follow, WireStart::Earliest);
    positions.opened(&opened(0, 50)).expect("as asked");
    assert_eq!(accept(&mut positions, 0, 10), Some((0, 10)));
    let gap = positions.gap(P, Offset(5), Offset(20)).expect("it was asked for");
    assert_eq!(gap.map(|gap| (gap.from.0, gap.resume.0)), Some((10, 20)), "5..10 did come");
    assert_eq!(positions.gap(P, Offset(5), Offset(20)).expect("it was asked for"), None);
    assert_eq!(accept(&mut positions, 30, 5), Some((30, 35)), "what compaction removed is no gap");
}

#[test]
fn what_was_not_asked_for_is_a_violation() {
    let mut positions = positions(ConsumeMode::Follow, WireStart::Earliest);
    assert!(positions.opened(&[]).is_err());
    positions.opened(&opened(0, 50)).expect("as asked");
    assert!(positions.accept(PartitionId(7), &header(0, 1)).is_err());
    assert!(positions.gap(PartitionId(7), Offset(0), Offset(1)).is_err());
}

#[test]
fn a_position_kept_by_the_application_goes_on_with_its_epoch() {
    let start = WireStart::Offset { offset: 8, epoch: Some(2) };
    let mut positions = positions(ConsumeMode::Follow, start);
    positions.opened(&opened(8, 50)).expect("as asked");
    let place = positions.all().next().expect("one partition").clone();
    assert_eq!(place.position(), Position { partition: P, next: Offset(8), epoch: Some(Epoch(2)) });
    assert_eq!(accept(&mut positions, 8, 2), Some((8, 10)));
    let place = positions.all().next().expect("one partition");
    assert_eq!(place.position(), Position { partition: P, next: Offset(10), epoch: Some(Epoch(3)) });
}

proptest! {
    /// A log of batches, sent from wherever the consumer asks, cut off anywhere.
    #[test]
    fn every_record_comes_once(
        lengths in prop::collection::vec(1..6_u64, 1..20),
        cuts in prop::collection::vec(0..8_usize, 0..8),
        start in 0..10_u64,
        bounded in any::<bool>(),
    ) {
        let mut end = 0;
        let log: Vec<(u64, u64)> = lengths.iter().map(|length| { end += length; (end - length, *length) }).collect();
        let start = start.min(end);
        let mode = if bounded { ConsumeMode::Bounded } else { ConsumeMode::Follow };
        let mut positions = positions(mode, at(start));
        let mut seen = Vec::new();
        for cut in cuts.into_iter().chain([usize::MAX]) {
            let Some(asked) = positions.starts().first().copied() else { break };
            let WireStart::Offset { offset, .. } = asked.start else { panic!("it is an offset") };
            positions.opened(&opened(offset, end)).expect("as asked");
            for (base, length) in log.iter().filter(|(base, length)| base + length > offset).take(cut) {
                if let Some((from, until)) = accept(&mut positions, *base, *length) {
                    seen.extend(from..until);
                }
            }
        }
        prop_assert_eq!(seen, (start..end).collect::<Vec<_>>());
        prop_assert!(!bounded || start == end || positions.is_done());
    }
}
