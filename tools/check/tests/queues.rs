//! The queues' checkers, each against a small history that breaks its promise and none other; and histories that look odd and
//! are legal, which must stay good.

use millstream_check::history::queue::{
    Answer, DeadLetter, DeadLetterLimit, Delivery, InQueue, OfQueue, Order, Origin, Reason, Receipt, Settings, Verb,
};
use millstream_check::history::{Event, Life, Place, What};
use millstream_check::log::{LogHistory, Rules};
use millstream_check::value::ValueId;
use millstream_check::verdict::{Check, Verdict};

const AT: Place = Place { stream: 0, partition: 0 };
const GRAVES: u32 = 9;
const MS: u64 = 1_000_000;
const RECEIPT_EXPIRED: u16 = 310;

fn v(offset: u64) -> ValueId {
    ValueId::new(1, offset)
}

fn receipt(offset: u64, fence: u64) -> Receipt {
    Receipt { partition: 0, offset, fence }
}

fn delivery(offset: u64, fence: u64, receives: u32) -> Delivery {
    Delivery { partition: 0, offset, value: Some(v(offset)), receives, fence, group: None, redriven: 0 }
}

fn settings() -> Settings {
    Settings { visibility_ms: 1_000, ..Settings::default() }
}

/// A history as it is told: each event is a millisecond after the last one, unless the clock is moved.
struct Story {
    log: LogHistory,
    now_ms: u64,
    /// The log has these in the end.
    kept: std::ops::Range<u64>,
}

/// A queue, and `count` messages that were acknowledged at offsets 0 and following.
fn story(settings: Settings, count: u64) -> Story {
    let story = Story { log: LogHistory::default(), now_ms: 10, kept: 0..count };
    let values: Vec<ValueId> = (0..count).map(v).collect();
    story
        .queue(0, InQueue::Created { stream: 0, starts: vec![0], settings })
        .event(1, What::Invoke { at: AT, values: values.clone() })
        .event(1, What::Ok { at: AT, base_offset: 0, values, resends: 0 })
}

impl Story {
    fn event(mut self, process: u32, what: What) -> Self {
        self.now_ms += 1;
        self.log.push(Event { at_ns: self.now_ms * MS, process, what });
        self
    }

    fn queue(self, receiver: u64, what: InQueue) -> Self {
        self.event(50, What::Queue(OfQueue { queue: 0, receiver, what }))
    }

    fn after(mut self, ms: u64) -> Self {
        self.now_ms += ms;
        self
    }

    fn now_ns(&self) -> u64 {
        self.now_ms * MS
    }

    fn gets_all(self, receiver: u64, deliveries: &[Delivery]) -> Self {
        let invoked_ns = self.now_ns();
        let deliveries = deliveries.to_vec();
        self.queue(receiver, InQueue::Received { stream: 0, invoked_ns, visibility_ms: None, deliveries })
    }

    fn gets(self, receiver: u64, offset: u64, fence: u64, receives: u32) -> Self {
        self.gets_all(receiver, &[delivery(offset, fence, receives)])
    }

    fn says(self, verb: Verb, offset: u64, fence: u64, answer: Answer) -> Self {
        let of = vec![receipt(offset, fence)];
        let story = self.queue(1, InQueue::Settle { verb, of: of.clone() });
        let invoked_ns = story.now_ns();
        story.queue(1, InQueue::Settled { verb, of, invoked_ns, answer })
    }

    fn acks(self, offset: u64, fence: u64) -> Self {
        self.says(Verb::Ack, offset, fence, Answer::Ok)
    }

    fn nacks(self, offset: u64, fence: u64, delay_ms: u64) -> Self {
        self.says(Verb::Nack { delay_ms: Some(delay_ms) }, offset, fence, Answer::Ok)
    }

    fn dead(self, offset: u64, receives: u32, at: u64) -> Self {
        let letter = DeadLetter {
            partition: 0,
            offset: at,
            value: Some(v(offset)),
            origin: Some(Origin { queue: 0, at: AT, offset }),
            receives: Some(receives),
            reason: Some(Reason::MaxReceives),
        };
        self.queue(0, InQueue::DeadLetters { records: vec![letter] })
    }

    fn graves_read(self) -> Self {
        let invoked_ns = self.now_ns();
        self.queue(0, InQueue::DeadLettersEnd { invoked_ns })
    }

    /// A receiver calls, and nothing comes in so long a time.
    fn waits(self, ms: u64) -> Self {
        let invoked_ns = self.now_ns();
        let empty = InQueue::Received { stream: 0, invoked_ns, visibility_ms: None, deliveries: Vec::new() };
        self.after(ms).queue(2, empty)
    }

    fn floor(self, floor: u64) -> Self {
        let invoked_ns = self.now_ns();
        self.queue(0, InQueue::Floor { at: AT, floor, invoked_ns })
    }

    /// The queue says in the end that it has so many.
    fn has(self, available: u64, dead: u64) -> Self {
        let invoked_ns = self.now_ns();
        let state = InQueue::State { invoked_ns, available, in_flight: 0, delayed: 0, dying: 0, unread: 0, dead };
        self.after(1).queue(0, state)
    }

    fn judged(self) -> Verdict {
        let (start, end) = (self.kept.start, self.kept.end);
        let records = (start..end).map(|offset| (offset, Some(v(offset)))).collect();
        let read = self.event(0, What::Final { at: AT, records });
        read.event(0, What::FinalEnd { at: AT, start, end }).log.judge(Rules::default())
    }

    fn passes(self) {
        let verdict = self.judged();
        assert!(verdict.is_good(), "{verdict}\n{:#?}", verdict.violations());
    }

    fn breaks(self, check: Check) {
        let verdict = self.judged();
        let broken: Vec<Check> = Check::ALL.into_iter().filter(|check| verdict.count(*check) > 0).collect();
        assert_eq!(broken, [check], "{verdict}\n{:#?}", verdict.violations());
    }
}

fn limited(max_receives: u32) -> Settings {
    Settings { dead_letter: Some(DeadLetterLimit { stream: GRAVES, max_receives }), ..settings() }
}

fn fifo(group_batch: u32) -> Settings {
    Settings { order: Order::Fifo, group_batch, ..settings() }
}

fn in_group(delivery: Delivery) -> Delivery {
    Delivery { group: Some(7), ..delivery }
}

#[test]
fn good_every_message_is_acked_or_held() {
    story(settings(), 3).gets(1, 0, 1, 1).acks(0, 1).gets(1, 1, 2, 1).acks(1, 2).has(1, 0).passes();
}

#[test]
fn q1_a_message_that_the_queue_has_no_more() {
    story(settings(), 2).gets(1, 0, 1, 1).acks(0, 1).has(0, 0).breaks(Check::LostMessage);
    story(settings(), 2).gets(1, 0, 1, 1).acks(0, 1).gets(1, 1, 2, 1).has(0, 0).breaks(Check::LostMessage);
    // An ack without an answer may have settled it.
    let unknown = Answer::Unknown { code: 402 };
    story(settings(), 1).gets(1, 0, 1, 1).says(Verb::Ack, 0, 1, unknown).has(0, 0).passes();
}

#[test]
fn q2_a_delivery_after_the_ack() {
    let acked = || story(settings(), 1).gets(1, 0, 1, 1).acks(0, 1).after(2_000);
    acked().gets(2, 0, 2, 2).has(0, 0).breaks(Check::Ghost);
    // After a crash likewise.
    let crash = |story: Story| {
        story
            .event(0, What::Server(Life::KillUnderLoad))
            .event(0, What::Server(Life::Start))
            .event(0, What::Server(Life::Ready))
    };
    crash(acked()).gets(2, 0, 2, 2).has(0, 0).breaks(Check::Ghost);
    // Not if the ack was refused.
    let refused = Answer::Refused { code: RECEIPT_EXPIRED };
    story(settings(), 1)
        .gets(1, 0, 1, 1)
        .after(2_000)
        .gets(2, 0, 2, 2)
        .says(Verb::Ack, 0, 1, refused)
        .acks(0, 2)
        .has(0, 0)
        .passes();
}

#[test]
fn q3_two_leases_at_once() {
    let out = || story(settings(), 1).gets(1, 0, 1, 1);
    out().after(500).gets(2, 0, 2, 2).acks(0, 2).has(0, 0).breaks(Check::DoubleLease);
    out().after(1_100).gets(2, 0, 2, 2).acks(0, 2).has(0, 0).passes();
    // An extension holds it.
    let extended = |story: Story| story.after(500).says(Verb::Extend { by_ms: 1_000 }, 0, 1, Answer::Ok).after(700);
    extended(out()).gets(2, 0, 2, 2).acks(0, 2).has(0, 0).breaks(Check::DoubleLease);
    // A restart ends all.
    out()
        .event(0, What::Server(Life::KillUnderLoad))
        .event(0, What::Server(Life::Start))
        .event(0, What::Server(Life::Ready))
        .gets(2, 0, 2, 2)
        .acks(0, 2)
        .has(0, 0)
        .passes();
    // A receiver that left gives up after the grace.
    let since_ns = 16 * MS;
    let left = |grace| {
        let settings = Settings { disconnect_grace_ms: Some(grace), visibility_ms: 30_000, ..settings() };
        story(settings, 1).gets(1, 0, 1, 1).queue(1, InQueue::Gone { since_ns }).after(200).gets(2, 0, 2, 2)
    };
    left(100).acks(0, 2).has(0, 0).passes();
    left(5_000).acks(0, 2).has(0, 0).breaks(Check::DoubleLease);
}

#[test]
fn q4_a_receipt_that_is_good_for_too_much() {
    let twice = || story(settings(), 1).gets(1, 0, 1, 1).after(1_100).gets(2, 0, 2, 2);
    twice().says(Verb::Extend { by_ms: 10 }, 0, 1, Answer::Ok).acks(0, 2).has(0, 0).breaks(Check::StaleReceipt);
    let nacked = || story(settings(), 1).gets(1, 0, 1, 1).nacks(0, 1, 0);
    nacked().acks(0, 1).has(0, 0).breaks(Check::StaleReceipt);
    // A late ack that nothing has overtaken.
    story(settings(), 1).gets(1, 0, 1, 1).after(60_000).acks(0, 1).has(0, 0).passes();
    // But not a late nack.
    let late = story(settings(), 1).gets(1, 0, 1, 1).after(60_000).nacks(0, 1, 0);
    late.gets(1, 0, 2, 2).acks(0, 2).has(0, 0).breaks(Check::StaleReceipt);
}

#[test]
fn q5_counts_that_are_wrong() {
    story(settings(), 1).gets(1, 0, 1, 2).acks(0, 1).has(0, 0).breaks(Check::ReceiveLimit);
    let again = |receives| story(settings(), 1).gets(1, 0, 1, 1).nacks(0, 1, 0).gets(1, 0, 2, receives);
    again(1).acks(0, 2).has(0, 0).breaks(Check::ReceiveLimit);
    again(3).acks(0, 2).has(0, 0).breaks(Check::ReceiveLimit);
    again(2).acks(0, 2).has(0, 0).passes();
    let released = |receives| {
        let story = story(settings(), 1).gets(1, 0, 1, 1).says(Verb::Release, 0, 1, Answer::Ok);
        story.gets(1, 0, 2, receives).acks(0, 2).has(0, 0)
    };
    released(1).passes();
    released(2).breaks(Check::ReceiveLimit);
    // One number twice.
    let both = [delivery(0, 1, 1), delivery(1, 1, 1)];
    story(settings(), 2).gets_all(1, &both).acks(0, 1).acks(1, 1).has(0, 0).breaks(Check::ReceiveLimit);
    // Above the limit, and never given up.
    let most = || story(limited(1), 1).gets(1, 0, 1, 1).nacks(0, 1, 0);
    most().gets(1, 0, 2, 2).acks(0, 2).has(0, 0).breaks(Check::ReceiveLimit);
    most().after(9_000).graves_read().has(0, 0).breaks(Check::ReceiveLimit);
}

#[test]
fn q5b_dead_letters() {
    let dead = || story(limited(1), 1).gets(1, 0, 1, 1).nacks(0, 1, 0).dead(0, 1, 0);
    dead().after(9_000).graves_read().has(0, 1).passes();
    dead().dead(0, 1, 1).after(9_000).graves_read().has(0, 1).breaks(Check::DeadLetter);
    story(limited(3), 1).gets(1, 0, 1, 1).nacks(0, 1, 0).dead(0, 1, 0).has(0, 1).breaks(Check::DeadLetter);
    // Redriven it comes once more, and says so.
    let redriven = |times| {
        let story = dead().graves_read().after(5);
        let invoked_ns = story.now_ns();
        story
            .queue(0, InQueue::Redriven { invoked_ns, all: true, answer: Answer::Ok })
            .gets_all(1, &[Delivery { redriven: times, ..delivery(0, 2, 1) }])
            .acks(0, 2)
            .has(0, 1)
    };
    redriven(1).passes();
    redriven(2).breaks(Check::DeadLetter);
}

#[test]
fn q6_order_in_a_group() {
    let first = || story(fifo(1), 2).gets_all(1, &[in_group(delivery(0, 1, 1))]);
    let second = [in_group(delivery(1, 2, 1))];
    first().acks(0, 1).gets_all(2, &second).acks(1, 2).has(0, 0).passes();
    first().gets_all(2, &second).after(10).acks(0, 1).acks(1, 2).has(0, 0).breaks(Check::GroupOrder);
    // A run is out together, and acked in order.
    let run = || story(fifo(2), 2).gets_all(1, &[in_group(delivery(0, 1, 1)), second[0]]);
    run().acks(0, 1).acks(1, 2).has(0, 0).passes();
    run().acks(1, 2).after(10).acks(0, 1).has(0, 0).breaks(Check::GroupOrder);
    // What fails takes back what is behind it, uncounted.
    let failed = run().nacks(0, 1, 0).gets_all(2, &[in_group(delivery(0, 3, 2))]).acks(0, 3);
    failed.gets_all(2, &[in_group(delivery(1, 4, 1))]).acks(1, 4).has(0, 0).passes();
}

#[test]
fn q8_a_filter() {
    let filtered = || {
        let verdicts = InQueue::Verdicts { matching: vec![v(0)], other: vec![v(1)] };
        story(Settings { filtered: true, ..settings() }, 2).queue(0, verdicts)
    };
    let first = || filtered().gets(1, 0, 1, 1).acks(0, 1);
    first().has(0, 0).passes();
    first().gets(1, 1, 2, 1).acks(1, 2).has(0, 0).breaks(Check::Filter);
    filtered().gets(1, 0, 1, 1).acks(0, 1).has(0, 0).passes();
    filtered().has(0, 0).breaks(Check::Filter);
}

#[test]
fn q9_not_when_due() {
    let delayed = || story(Settings { delay_ms: 500, ..settings() }, 1);
    delayed().gets(1, 0, 1, 1).acks(0, 1).has(0, 0).breaks(Check::Due);
    delayed().after(500).gets(1, 0, 1, 1).acks(0, 1).has(0, 0).passes();
    let nacked =
        |after| story(settings(), 1).gets(1, 0, 1, 1).nacks(0, 1, 300).after(after).gets(1, 0, 2, 2).acks(0, 2);
    nacked(100).has(0, 0).breaks(Check::Due);
    nacked(300).has(0, 0).passes();
    // Long after, while a call waited.
    delayed().waits(9_000).gets(1, 0, 1, 1).acks(0, 1).has(0, 0).breaks(Check::Due);
    delayed().waits(1_000).gets(1, 0, 1, 1).acks(0, 1).has(0, 0).passes();
}

#[test]
fn q10_a_message_that_waits_while_receivers_wait() {
    story(settings(), 1).waits(5_000).gets(1, 0, 1, 1).acks(0, 1).has(0, 0).breaks(Check::Starvation);
    story(settings(), 1).waits(500).gets(1, 0, 1, 1).acks(0, 1).has(0, 0).passes();
    // After a deadline likewise; a queue that is paused may keep it.
    let out = || story(settings(), 1).gets(1, 0, 1, 1).after(4_000);
    out().waits(5_000).gets(1, 0, 2, 2).acks(0, 2).has(0, 0).breaks(Check::Starvation);
    let paused = out().queue(0, InQueue::Paused { invoked_ns: 14 * MS });
    paused.waits(5_000).queue(0, InQueue::Resumed { invoked_ns: 0 }).gets(1, 0, 2, 2).acks(0, 2).has(0, 0).passes();
    // A receiver with room, that was there all the time, as a later message shows; one that left may have had it.
    let pushed = || story(settings(), 2).queue(3, InQueue::Credit { messages: 5, bytes: None }).after(5_000);
    let rest = |story: Story| story.gets(3, 1, 1, 1).acks(1, 1).gets(1, 0, 2, 1).acks(0, 2).has(0, 0);
    rest(pushed()).breaks(Check::Starvation);
    let left = pushed();
    let since_ns = left.now_ns();
    let left = left.queue(3, InQueue::Gone { since_ns });
    left.gets(1, 1, 1, 1).acks(1, 1).gets(1, 0, 2, 1).acks(0, 2).has(0, 0).passes();
}

#[test]
fn q11_more_than_there_was_credit_for() {
    let credit = |messages| story(settings(), 3).queue(1, InQueue::Credit { messages, bytes: None });
    let three = |story: Story| story.gets(1, 0, 1, 1).gets(1, 1, 2, 1).gets(1, 2, 3, 1);
    three(credit(3)).acks(0, 1).acks(1, 2).acks(2, 3).has(0, 0).passes();
    three(credit(2)).acks(0, 1).acks(1, 2).acks(2, 3).has(0, 0).breaks(Check::Credit);
    credit(2).gets(1, 0, 1, 1).gets(1, 1, 2, 1).acks(0, 1).gets(1, 2, 3, 1).acks(1, 2).acks(2, 3).has(0, 0).passes();
}

#[test]
fn q12_the_floor() {
    let first = || story(settings(), 2).gets(1, 0, 1, 1).acks(0, 1);
    first().floor(0).after(1).floor(1).has(1, 0).passes();
    first().floor(1).after(1).floor(0).has(1, 0).breaks(Check::Floor);
    first().floor(2).has(1, 0).breaks(Check::Floor);
    // A seek back.
    let sought = first().floor(1).after(1);
    let invoked_ns = sought.now_ns();
    sought
        .queue(0, InQueue::Sought { to: vec![0], invoked_ns, answer: Answer::Ok })
        .after(1)
        .floor(0)
        .has(2, 0)
        .passes();
    // What is kept by interest is released only once it is settled.
    let tail = |mut story: Story, start| {
        let invoked_ns = story.now_ns();
        story.kept.start = start;
        story.event(0, What::Tail { at: AT, invoked_ns, start, high_watermark: 2 })
    };
    let kept = || story(Settings { interest: true, ..settings() }, 2).gets(1, 0, 1, 1).acks(0, 1);
    tail(kept(), 1).has(1, 0).passes();
    tail(kept(), 2).has(1, 0).breaks(Check::Floor);
}
