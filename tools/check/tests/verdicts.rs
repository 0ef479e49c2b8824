//! The checkers, each against the smallest history that breaks its promise and none other; and histories that look odd
//! and are legal, which must stay good.

use millstream_check::history::{CommitOutcome, Event, InGroup, Life, OfGroup, Place, What};
use millstream_check::log::{LogHistory, LostRanges, Rules};
use millstream_check::value::ValueId;
use millstream_check::verdict::{Check, Verdict};

const AT: Place = Place { stream: 0, partition: 0 };
const LOST: u16 = 402;
const REFUSED: u16 = 203;
const DAMAGED: u16 = 501;
const STALE: u16 = 307;

/// Who asks for the tail and reads at the end.
const HARNESS: u32 = 0;

fn v(producer: u32, counter: u64) -> ValueId {
    ValueId::new(producer, counter)
}

/// A history as it is told: each call is one event, by default a tick after the last one.
#[derive(Default)]
struct Story {
    log: LogHistory,
    now: u64,
}

impl Story {
    fn event(mut self, process: u32, what: What) -> Self {
        self.now += 10;
        self.log.push(Event { at_ns: self.now, process, what });
        self
    }

    fn sends(self, values: &[ValueId]) -> Self {
        self.event(values[0].producer(), What::Invoke { at: AT, values: values.into() })
    }

    fn acked(self, base_offset: u64, values: &[ValueId]) -> Self {
        self.acked_after_resends(base_offset, values, 0)
    }

    fn acked_after_resends(self, base_offset: u64, values: &[ValueId], resends: u16) -> Self {
        self.event(values[0].producer(), What::Ok { at: AT, base_offset, values: values.into(), resends })
    }

    fn fails(self, values: &[ValueId]) -> Self {
        self.event(values[0].producer(), What::Fail { at: AT, values: values.into(), code: REFUSED })
    }

    fn unknown(self, values: &[ValueId]) -> Self {
        self.event(values[0].producer(), What::Info { at: AT, values: values.into(), code: LOST, resends: 0 })
    }

    fn opens(self, process: u32, next: u64) -> Self {
        self.event(process, What::Open { at: AT, next })
    }

    fn gets(self, process: u32, from: u64, values: &[ValueId], high_watermark: u64) -> Self {
        let records = (from..).zip(values.iter().copied().map(Some)).collect();
        self.event(process, What::Fetch { at: AT, records, high_watermark })
    }

    fn learns_of_loss(self, process: u32, from: u64, resume: u64) -> Self {
        self.event(process, What::Gap { at: AT, from, resume, code: DAMAGED })
    }

    fn tail(self, high_watermark: u64) -> Self {
        let invoked_ns = self.now + 5;
        self.event(HARNESS, What::Tail { at: AT, invoked_ns, start: 0, high_watermark })
    }

    fn restarts(self) -> Self {
        self.event(HARNESS, What::Server(Life::KillUnderLoad))
            .event(HARNESS, What::Server(Life::Start))
            .event(HARNESS, What::Server(Life::Ready))
    }

    fn once(self, producer: u32) -> Self {
        self.event(HARNESS, What::Once { producer })
    }

    fn replaced(self, producer: u32, by: u32) -> Self {
        self.event(by, What::Replaced { producer, by })
    }

    fn member(self, member: u64, what: InGroup) -> Self {
        self.event(member as u32, What::Group(OfGroup { group: 0, member, what }))
    }

    fn joins(self, member: u64) -> Self {
        self.member(member, InGroup::Joined { streams: vec![AT.stream] })
    }

    fn holds(self, member: u64, epoch: u32) -> Self {
        self.member(member, InGroup::Assigned { at: AT, epoch })
    }

    fn lets_go(self, member: u64, epoch: u32) -> Self {
        self.member(member, InGroup::Revoked { at: AT, epoch })
    }

    fn works(self, member: u64, epoch: u32, from: u64, values: &[ValueId]) -> Self {
        let records = (from..).zip(values.iter().copied().map(Some)).collect();
        self.member(member, InGroup::Delivered { at: AT, epoch, records })
    }

    fn commits_at(self, member: u64, epoch: u32, offset: u64, at: Place, outcome: CommitOutcome) -> Self {
        let sent = self.member(member, InGroup::Commit { at, epoch, offset });
        let invoked_ns = sent.now;
        sent.member(member, InGroup::CommitDone { at, epoch, offset, invoked_ns, outcome })
    }

    fn commits(self, member: u64, epoch: u32, offset: u64) -> Self {
        self.commits_at(member, epoch, offset, AT, CommitOutcome::Ok)
    }

    fn refused(self, member: u64, epoch: u32, offset: u64) -> Self {
        self.commits_at(member, epoch, offset, AT, CommitOutcome::Refused { code: STALE })
    }

    fn committed(self, offset: Option<u64>) -> Self {
        let invoked_ns = self.now + 5;
        self.member(0, InGroup::Committed { at: AT, offset, invoked_ns })
    }

    /// The last read: everything from `start`.
    fn ends_with(self, start: u64, values: &[ValueId]) -> Self {
        let records: Vec<_> = (start..).zip(values.iter().copied().map(Some)).collect();
        let end = start + values.len() as u64;
        self.event(HARNESS, What::Final { at: AT, records }).event(HARNESS, What::FinalEnd { at: AT, start, end })
    }

    fn judged(self) -> Verdict {
        self.log.judge(Rules::default())
    }

    #[track_caller]
    fn passes(self) -> Verdict {
        let verdict = self.judged();
        assert!(verdict.is_good(), "{verdict}\n{:#?}", verdict.violations());
        verdict
    }

    /// Exactly one violation, of this check, at this offset.
    #[track_caller]
    fn breaks(self, check: Check, offset: impl Into<Option<u64>>) {
        let verdict = self.judged();
        let found: Vec<_> = verdict.violations().iter().map(|violation| (violation.check, violation.offset)).collect();
        assert_eq!(found, [(check, offset.into())], "{:#?}", verdict.violations());
        assert_eq!((verdict.count(check), verdict.count_all()), (1, 1));
    }
}

#[test]
fn l1_an_acknowledged_record_that_is_not_there_is_lost() {
    Story::default()
        .sends(&[v(1, 0), v(1, 1)])
        .acked(0, &[v(1, 0), v(1, 1)])
        .ends_with(0, &[v(1, 0)])
        .breaks(Check::LostWrite, 1);
}

#[test]
fn l1_without_a_last_read_nothing_is_proven() {
    Story::default().sends(&[v(1, 0)]).acked(0, &[v(1, 0)]).breaks(Check::LostWrite, 0);
}

#[test]
fn l2_a_record_that_nobody_sent_is_a_phantom() {
    Story::default().ends_with(0, &[v(1, 0)]).breaks(Check::Phantom, 0);
}

#[test]
fn l2_a_record_that_surely_failed_is_a_phantom() {
    Story::default().sends(&[v(1, 0)]).fails(&[v(1, 0)]).ends_with(0, &[v(1, 0)]).breaks(Check::Phantom, 0);
}

#[test]
fn l2_a_record_of_another_partition_is_a_phantom() {
    let elsewhere = Place { stream: 0, partition: 1 };
    let sent = What::Invoke { at: elsewhere, values: vec![v(1, 0)] };
    Story::default().event(1, sent).ends_with(0, &[v(1, 0)]).breaks(Check::Phantom, 0);
}

#[test]
fn l2_a_payload_that_is_not_whole_is_a_phantom() {
    let mixed = What::Fetch { at: AT, records: vec![(0, None)], high_watermark: 1 };
    Story::default()
        .sends(&[v(1, 0)])
        .acked(0, &[v(1, 0)])
        .event(9, mixed)
        .ends_with(0, &[v(1, 0)])
        .breaks(Check::Phantom, 0);
}

#[test]
fn l3_two_records_at_one_offset_diverge() {
    Story::default()
        .sends(&[v(1, 0)])
        .unknown(&[v(1, 0)])
        .sends(&[v(2, 0)])
        .unknown(&[v(2, 0)])
        .gets(9, 0, &[v(1, 0)], 1)
        .restarts()
        .ends_with(0, &[v(2, 0)])
        .breaks(Check::Divergence, 0);
}

#[test]
fn l3_an_acknowledgement_that_names_anothers_offset_diverges() {
    Story::default()
        .sends(&[v(1, 0)])
        .sends(&[v(2, 0)])
        .acked(0, &[v(1, 0)])
        .acked(0, &[v(2, 0)])
        .ends_with(0, &[v(1, 0)])
        .breaks(Check::Divergence, 0);
}

#[test]
fn l4_a_record_twice_without_a_resend_in_doubt_is_a_duplicate() {
    Story::default()
        .sends(&[v(1, 0)])
        .acked(0, &[v(1, 0)])
        .ends_with(0, &[v(1, 0), v(1, 0)])
        .breaks(Check::Duplicate, 1);
}

#[test]
fn l4_more_copies_than_resends_are_duplicates() {
    Story::default()
        .sends(&[v(1, 0)])
        .acked_after_resends(1, &[v(1, 0)], 1)
        .ends_with(0, &[v(1, 0); 3])
        .breaks(Check::Duplicate, 2);
}

#[test]
fn l5_a_producers_records_in_another_order_are_reordered() {
    Story::default()
        .sends(&[v(1, 0), v(1, 1)])
        .acked(1, &[v(1, 0)])
        .acked(0, &[v(1, 1)])
        .ends_with(0, &[v(1, 1), v(1, 0)])
        .breaks(Check::Reorder, 0);
}

#[test]
fn l5_also_of_those_whose_outcome_is_unknown() {
    Story::default()
        .sends(&[v(1, 0), v(1, 1)])
        .unknown(&[v(1, 0), v(1, 1)])
        .ends_with(0, &[v(1, 1), v(1, 0)])
        .breaks(Check::Reorder, 0);
}

#[test]
fn l6_what_was_sent_after_an_acknowledgement_stands_behind_it() {
    Story::default()
        .sends(&[v(1, 0)])
        .acked(1, &[v(1, 0)])
        .sends(&[v(2, 0)])
        .acked(0, &[v(2, 0)])
        .ends_with(0, &[v(2, 0), v(1, 0)])
        .breaks(Check::RealTime, 0);
}

fn three_records() -> Story {
    let values = [v(1, 0), v(1, 1), v(1, 2)];
    Story::default().sends(&values).acked(0, &values)
}

#[test]
fn l7_a_position_that_skips_a_record_has_a_gap() {
    three_records()
        .opens(9, 0)
        .gets(9, 0, &[v(1, 0)], 3)
        .gets(9, 2, &[v(1, 2)], 3)
        .ends_with(0, &[v(1, 0), v(1, 1), v(1, 2)])
        .breaks(Check::Position, 1);
}

#[test]
fn l7_a_position_that_begins_too_far_has_a_gap() {
    three_records()
        .opens(9, 1)
        .gets(9, 2, &[v(1, 2)], 3)
        .ends_with(0, &[v(1, 0), v(1, 1), v(1, 2)])
        .breaks(Check::Position, 1);
}

#[test]
fn l7_a_position_that_goes_back_gets_a_record_twice() {
    three_records()
        .gets(9, 0, &[v(1, 0), v(1, 1)], 3)
        .gets(9, 1, &[v(1, 1), v(1, 2)], 3)
        .ends_with(0, &[v(1, 0), v(1, 1), v(1, 2)])
        .breaks(Check::Position, 1);
}

#[test]
fn l7_a_reported_loss_is_one_where_nothing_may_be_lost() {
    three_records()
        .opens(9, 0)
        .gets(9, 0, &[v(1, 0)], 3)
        .learns_of_loss(9, 1, 2)
        .gets(9, 2, &[v(1, 2)], 3)
        .ends_with(0, &[v(1, 0), v(1, 1), v(1, 2)])
        .breaks(Check::Position, 1);
}

#[test]
fn l8_a_watermark_that_falls_for_one_observer_is_noticed() {
    three_records()
        .gets(9, 0, &[v(1, 0)], 3)
        .gets(9, 1, &[v(1, 1)], 2)
        .ends_with(0, &[v(1, 0), v(1, 1), v(1, 2)])
        .breaks(Check::Watermark, 2);
}

#[test]
fn l8_a_record_above_the_watermark_of_its_answer_is_noticed() {
    three_records()
        .gets(9, 0, &[v(1, 0), v(1, 1)], 1)
        .ends_with(0, &[v(1, 0), v(1, 1), v(1, 2)])
        .breaks(Check::Watermark, 1);
}

#[test]
fn l8_a_watermark_below_what_was_known_before_a_restart_is_noticed() {
    three_records()
        .gets(9, 0, &[v(1, 0)], 3)
        .restarts()
        .tail(2)
        .ends_with(0, &[v(1, 0), v(1, 1), v(1, 2)])
        .breaks(Check::Watermark, 2);
}

#[test]
fn l9_a_record_that_was_served_and_is_gone_is_noticed() {
    Story::default()
        .sends(&[v(1, 0)])
        .unknown(&[v(1, 0)])
        .gets(9, 0, &[v(1, 0)], 1)
        .restarts()
        .ends_with(0, &[])
        .breaks(Check::ReadThenGone, 0);
}

#[test]
fn good_unknown_sends_that_happened_and_that_did_not() {
    let verdict = Story::default()
        .sends(&[v(1, 0), v(1, 1), v(1, 2)])
        .sends(&[v(2, 0)])
        .restarts()
        .unknown(&[v(1, 0)])
        .unknown(&[v(1, 2)])
        // The middle one has no answer at all, and the other producer was refused.
        .fails(&[v(2, 0)])
        .sends(&[v(3, 0)])
        .acked(0, &[v(3, 0)])
        // A late one of before: it was under way when the other was sent.
        .ends_with(0, &[v(3, 0), v(1, 0)])
        .passes();
    let counts = verdict.counts();
    assert_eq!((counts.sent, counts.acked, counts.failed, counts.unknown, counts.unknown_stored), (5, 1, 1, 3, 1));
}

#[test]
fn good_all_that_was_in_flight_stands_twice_after_a_restart() {
    let (a, b) = (v(1, 0), v(1, 1));
    let verdict = Story::default()
        .sends(&[a, b])
        .opens(9, 0)
        .gets(9, 0, &[a, b], 2)
        .restarts()
        .acked_after_resends(2, &[a, b], 1)
        .gets(9, 2, &[a, b], 4)
        // And one that the application itself sent again, with a copy stored each time.
        .sends(&[v(2, 0)])
        .unknown(&[v(2, 0)])
        .sends(&[v(2, 0)])
        .acked(5, &[v(2, 0)])
        .ends_with(0, &[a, b, a, b, v(2, 0), v(2, 0)])
        .passes();
    assert_eq!((verdict.counts().duplicates, verdict.counts().resent), (3, 3));
}

#[test]
fn good_consumers_that_seek_and_read_again_after_a_restart() {
    let (early, late) = ([v(1, 0), v(1, 1)], [v(2, 0), v(1, 2)]);
    Story::default()
        .sends(&early)
        .sends(&late[..1])
        .sends(&late[1..])
        // Answers may come in another order than offsets.
        .acked(3, &late[1..])
        .acked(2, &late[..1])
        .acked(0, &early)
        .opens(9, 0)
        .gets(9, 0, &early, 2)
        .restarts()
        .tail(4)
        .gets(9, 2, &late[..1], 4)
        .opens(9, 1)
        .gets(9, 1, &[early[1], late[0], late[1]], 4)
        // One that was asked before the last records came may answer late.
        .event(HARNESS, What::Tail { at: AT, invoked_ns: 15, start: 0, high_watermark: 0 })
        .ends_with(0, &[early[0], early[1], late[0], late[1]])
        .passes();
}

#[test]
fn good_the_logs_beginning_was_deleted() {
    let values = [v(1, 0), v(1, 1), v(1, 2)];
    three_records()
        .gets(8, 0, &values, 3)
        .opens(9, 0)
        .learns_of_loss(9, 0, 2)
        .gets(9, 2, &values[2..], 3)
        .ends_with(2, &values[2..])
        .passes();
}

#[test]
fn good_what_the_server_reported_lost_where_disks_are_damaged() {
    let story = || {
        three_records()
            .opens(9, 0)
            .gets(9, 0, &[v(1, 0)], 3)
            .learns_of_loss(9, 1, 2)
            .gets(9, 2, &[v(1, 2)], 3)
            .event(HARNESS, What::Final { at: AT, records: vec![(0, Some(v(1, 0))), (2, Some(v(1, 2)))] })
            .event(HARNESS, What::FinalEnd { at: AT, start: 0, end: 3 })
    };
    assert!(story().log.judge(Rules { lost: LostRanges::AsReported, ..Rules::default() }).is_good());
    assert!(!story().log.judge(Rules::default()).is_good());
}

#[test]
fn a_violation_says_where_and_what_contradicts_what() {
    let verdict = Story::default().sends(&[v(1, 7)]).acked(4, &[v(1, 7)]).ends_with(0, &[]).judged();
    assert_eq!(
        verdict.violations()[0].to_string(),
        "L1 lost write: stream 0 partition 0 offset 4 value p1#7: process 1 had p1#7 acknowledged at 4, but the last read \
         has nothing at that offset"
    );
    assert!(verdict.to_string().ends_with("; L1 lost write × 1"), "{verdict}");
}

#[test]
fn l4_a_repeated_send_of_a_producer_whose_values_stand_once_stands_once() {
    let (a, b) = (v(1, 0), v(1, 1));
    let sent_again = |story: Story| {
        story.once(1).sends(&[a, b]).restarts().acked_after_resends(0, &[a, b], 2).sends(&[v(1, 2)]).unknown(&[v(1, 2)])
    };
    let good = sent_again(Story::default()).ends_with(0, &[a, b]).passes();
    assert_eq!((good.counts().resent, good.counts().duplicates), (2, 0));
    sent_again(Story::default()).ends_with(0, &[a, b, b]).breaks(Check::Duplicate, 2);
}

#[test]
fn l4_what_an_application_sends_again_under_a_dedup_id_stands_once() {
    let a = v(1, 0);
    let sent_again = || Story::default().once(1).sends(&[a]).unknown(&[a]).restarts().sends(&[a]).acked(0, &[a]);
    sent_again().ends_with(0, &[a]).passes();
    sent_again().ends_with(0, &[a, a]).breaks(Check::Duplicate, 1);
}

#[test]
fn l5_resends_of_a_producer_whose_values_stand_once_stay_in_order() {
    let (a, b) = (v(1, 0), v(1, 1));
    // Behind a log start that was raised, a plain producer's order cannot be judged; this one's can.
    Story::default()
        .once(1)
        .sends(&[a])
        .sends(&[b])
        .restarts()
        .acked_after_resends(8, &[a], 1)
        .acked_after_resends(7, &[b], 1)
        .ends_with(7, &[b, a])
        .breaks(Check::Reorder, 7);
}

#[test]
fn l5_a_record_that_turns_up_behind_a_later_one_of_its_producer_is_a_reorder() {
    let (a, b) = (v(1, 0), v(1, 1));
    Story::default()
        .once(1)
        .sends(&[a])
        .sends(&[b])
        .unknown(&[a])
        .acked(0, &[b])
        .ends_with(0, &[b, a])
        .breaks(Check::Reorder, 0);
}

#[test]
fn l15_what_a_fenced_producer_stores_behind_its_successor_is_noticed() {
    let (old, new) = (v(1, 0), v(2, 0));
    Story::default()
        .sends(&[old])
        .replaced(1, 2)
        .sends(&[new])
        .acked(0, &[new])
        .unknown(&[old])
        .ends_with(0, &[new, old])
        .breaks(Check::Fenced, 1);
}

#[test]
fn l15_what_a_fenced_producer_sends_afterwards_is_not_stored() {
    let story = || Story::default().sends(&[v(1, 0)]).acked(0, &[v(1, 0)]).replaced(1, 2).sends(&[v(1, 1)]);
    story().acked(1, &[v(1, 1)]).ends_with(0, &[v(1, 0), v(1, 1)]).breaks(Check::Fenced, 1);
    story().fails(&[v(1, 1)]).ends_with(0, &[v(1, 0)]).passes();
}

#[test]
fn good_what_was_under_way_when_its_producer_was_fenced_may_stand_before_its_successor() {
    let (old, new) = (v(1, 0), v(2, 0));
    Story::default()
        .sends(&[old])
        .replaced(1, 2)
        .sends(&[new])
        .acked(1, &[new])
        .unknown(&[old])
        .ends_with(0, &[old, new])
        .passes();
}

/// Three records, and a member that has the first two of them done.
fn two_of_three_done() -> Story {
    three_records().joins(21).holds(21, 1).works(21, 1, 0, &[v(1, 0), v(1, 1)]).commits(21, 1, 2)
}

fn all_three(story: Story) -> Story {
    story.ends_with(0, &[v(1, 0), v(1, 1), v(1, 2)])
}

#[test]
fn good_a_member_takes_over_from_one_that_was_killed_and_from_one_that_let_go() {
    let story = three_records()
        .joins(21)
        .holds(21, 1)
        .works(21, 1, 0, &[v(1, 0), v(1, 1)])
        // It may have been taken or not; it was, and then the member was killed with a record in hand.
        .commits_at(21, 1, 1, AT, CommitOutcome::Unknown { code: LOST })
        .restarts()
        .committed(Some(1))
        .joins(22)
        .holds(22, 4)
        .refused(21, 1, 2)
        .works(22, 4, 1, &[v(1, 1)])
        .commits(22, 4, 2)
        .lets_go(22, 4)
        .holds(23, 6)
        .works(23, 6, 2, &[v(1, 2)])
        .commits(23, 6, 3)
        .committed(Some(3));
    let verdict = all_three(story).passes();
    let counts = verdict.counts();
    assert_eq!((counts.delivered, counts.redelivered, counts.commits, counts.commits_refused), (4, 1, 2, 1));
    // The two of the first member: whether its commit was taken is not known.
    assert_eq!(counts.uncommitted, 2);
}

#[test]
fn l11_one_epoch_of_two_members_is_noticed() {
    all_three(two_of_three_done().works(21, 1, 2, &[v(1, 2)]).holds(22, 1)).breaks(Check::Group, None);
}

#[test]
fn l11_a_partition_given_away_under_a_member_that_lives_is_noticed() {
    let elsewhere = Place { stream: 0, partition: 1 };
    let given_away = || {
        let story = three_records().joins(21).holds(21, 1).works(21, 1, 0, &[v(1, 0), v(1, 1)]);
        story.commits(21, 1, 2).holds(22, 4).works(22, 4, 2, &[v(1, 2)])
    };
    // It was taken for dead meanwhile, or was not: a later commit of it says so.
    all_three(given_away()).passes();
    let lives = given_away().commits_at(21, 1, 0, elsewhere, CommitOutcome::Ok);
    all_three(lives).breaks(Check::Group, None);
}

#[test]
fn l11_a_commit_under_an_old_epoch_that_is_taken_after_the_newer_holder_was_told_is_noticed() {
    let story = two_of_three_done().holds(22, 4).works(22, 4, 2, &[v(1, 2)]).commits(21, 1, 2);
    all_three(story).breaks(Check::Group, 2);
}

#[test]
fn l11_a_committed_offset_that_goes_back_is_noticed_also_across_a_crash() {
    let back = two_of_three_done().works(21, 1, 2, &[v(1, 2)]).restarts().committed(Some(1));
    all_three(back).breaks(Check::Group, 2);
    let gone = two_of_three_done().works(21, 1, 2, &[v(1, 2)]).restarts().committed(None);
    all_three(gone).breaks(Check::Group, 2);
    let story = three_records().joins(21).holds(21, 1).works(21, 1, 0, &[v(1, 0), v(1, 1), v(1, 2)]);
    let unknown = CommitOutcome::Unknown { code: LOST };
    let read_then_gone = story.commits_at(21, 1, 2, AT, unknown).committed(Some(2)).restarts().committed(Some(1));
    all_three(read_then_gone).breaks(Check::Group, 2);
}

#[test]
fn l11_an_answer_that_nobody_committed_is_noticed() {
    let story = two_of_three_done().works(21, 1, 2, &[v(1, 2)]).refused(21, 1, 3).committed(Some(3));
    all_three(story).breaks(Check::Group, 3);
}

#[test]
fn l11_a_member_that_begins_below_what_was_committed_is_noticed() {
    let story = two_of_three_done().holds(22, 4).works(22, 4, 1, &[v(1, 1), v(1, 2)]);
    all_three(story).breaks(Check::Group, 1);
}

#[test]
fn l11_a_member_that_begins_above_what_was_committed_is_noticed() {
    let story = three_records().joins(21).holds(21, 1).works(21, 1, 0, &[v(1, 0), v(1, 1)]).commits(21, 1, 1);
    all_three(story.holds(22, 4).works(22, 4, 2, &[v(1, 2)])).breaks(Check::Group, 1);
}

#[test]
fn l11_a_record_that_was_not_done_and_that_nobody_gets_is_noticed() {
    all_three(two_of_three_done()).breaks(Check::Group, 2);
    // Also where nobody of the group was ever given the partition.
    Story::default().sends(&[v(1, 0)]).acked(0, &[v(1, 0)]).joins(21).ends_with(0, &[v(1, 0)]).breaks(Check::Group, 0);
}

#[test]
fn l13_a_record_that_counts_as_done_and_that_nobody_got_is_noticed() {
    let story = three_records().joins(21).holds(21, 1).works(21, 1, 0, &[v(1, 0), v(1, 1)]);
    all_three(story.commits(21, 1, 3)).breaks(Check::Unseen, 2);
}

#[test]
fn l7_a_member_that_skips_a_record_or_goes_back_is_noticed() {
    let skips = three_records().joins(21).holds(21, 1).works(21, 1, 0, &[v(1, 0)]).works(21, 1, 2, &[v(1, 2)]);
    let made_up_for = skips.commits(21, 1, 1).lets_go(21, 1).holds(22, 4).works(22, 4, 1, &[v(1, 1)]);
    all_three(made_up_for).breaks(Check::Position, 1);
    let back = two_of_three_done().works(21, 1, 1, &[v(1, 1), v(1, 2)]);
    all_three(back).breaks(Check::Position, 1);
}

#[test]
fn good_a_group_without_members_is_moved_by_hand() {
    let reset = |offset| InGroup::Reset { at: AT, offset, invoked_ns: 0 };
    let back = two_of_three_done().lets_go(21, 1).member(0, reset(0)).committed(Some(0)).holds(22, 4);
    all_three(back.works(22, 4, 0, &[v(1, 0), v(1, 1), v(1, 2)]).commits(22, 4, 1).committed(Some(1))).passes();
    let forward = two_of_three_done().lets_go(21, 1).member(0, reset(3)).committed(Some(3)).holds(22, 4);
    all_three(forward).passes();
}
