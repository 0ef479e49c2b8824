//! The queue machine against a simple model, over random histories with time: what is promised of every message.
//!
//! The model keeps each message's state by itself and forgets nothing. The harness plays the shell: it judges records,
//! makes passes durable late, appends dead letters, and crashes, whereupon all that was not durable is lost.
//! `MILLSTREAM_HISTORIES` sets how many histories are run for each ordering.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use millstream_broker::queue::{
    Adopted, Adoption, Backoff, Delivery, Dying, Ledger, Now, Ordering, PartitionQueue, Pass, Receipt, Refusal,
    Settings, Verdict,
};
use millstream_log::Machine;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// All times are multiples of the machine's tick, so that there is one right moment for each.
const TICK: u64 = 64;
const WALL: u64 = 1_000_000 * TICK;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unseen,
    Filtered,
    Waiting { due: u64 },
    Leased { fence: u64, deadline: u64, receiver: u32, began: u64 },
    Dying,
    Parked,
    Acked,
    Dead,
    Gone,
}

#[derive(Debug, Clone)]
struct Message {
    group: u64,
    matches: bool,
    due: u64,
    is_own_delay: bool,
    state: State,
    receives: u16,
    releases: u16,
    first: u64,
    fence: u64,
    is_void: bool,
    is_new: bool,
    /// Whether a letter has brought it back, and which time that is by the letter.
    redriven: u16,
    is_adopted: bool,
    /// Letters that have brought it back, ever.
    adoptions: u32,
}

impl Message {
    /// What its receipts say.
    fn redriven_now(&self) -> u16 {
        if self.is_adopted { self.redriven } else { 0 }
    }

    fn is_settled(&self) -> bool {
        matches!(self.state, State::Filtered | State::Acked | State::Dead | State::Gone)
    }
}

#[derive(Debug, Clone)]
enum Op {
    Produce {
        group: u64,
        matches: bool,
        delay: u64,
    },
    Judge {
        all: bool,
    },
    Receive {
        receiver: u32,
        max: usize,
        visibility: u64,
    },
    Ack {
        pick: usize,
    },
    Nack {
        pick: usize,
        delay: Option<u64>,
    },
    Release {
        pick: usize,
    },
    Extend {
        pick: usize,
        visibility: u64,
    },
    Reject {
        pick: usize,
    },
    Expire {
        pick: usize,
    },
    Pass {
        ticks: u64,
    },
    Lost {
        receiver: u32,
    },
    Back {
        receiver: u32,
    },
    Flush,
    Durable {
        lag: usize,
    },
    Moves {
        finish: bool,
    },
    Unpark {
        pick: usize,
        retry: bool,
    },
    /// A letter is to bring its message back, again perhaps.
    Redrive {
        pick: usize,
    },
    Purge,
    Seek {
        pick: usize,
    },
    Retain {
        pick: usize,
    },
    Snapshot,
    Crash {
        lost: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let delay = prop_oneof![4 => Just(0_u64), 1 => 1..40_u64];
    prop_oneof![
        12 => (0..4_u64, prop::bool::weighted(0.8), delay).prop_map(|(group, matches, delay)| Op::Produce { group, matches, delay }),
        6 => any::<bool>().prop_map(|all| Op::Judge { all }),
        12 => (0..3_u32, 0..5_usize, 0..20_u64).prop_map(|(receiver, max, visibility)| Op::Receive { receiver, max, visibility }),
        10 => any::<usize>().prop_map(|pick| Op::Ack { pick }),
        6 => (any::<usize>(), prop::option::of(0..20_u64)).prop_map(|(pick, delay)| Op::Nack { pick, delay }),
        3 => any::<usize>().prop_map(|pick| Op::Release { pick }),
        3 => (any::<usize>(), 0..30_u64).prop_map(|(pick, visibility)| Op::Extend { pick, visibility }),
        1 => any::<usize>().prop_map(|pick| Op::Reject { pick }),
        1 => any::<usize>().prop_map(|pick| Op::Expire { pick }),
        8 => (0..30_u64).prop_map(|ticks| Op::Pass { ticks }),
        1 => (0..3_u32).prop_map(|receiver| Op::Lost { receiver }),
        1 => (0..3_u32).prop_map(|receiver| Op::Back { receiver }),
        8 => Just(Op::Flush),
        6 => (0..3_usize).prop_map(|lag| Op::Durable { lag }),
        4 => any::<bool>().prop_map(|finish| Op::Moves { finish }),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(pick, retry)| Op::Unpark { pick, retry }),
        4 => any::<usize>().prop_map(|pick| Op::Redrive { pick }),
        1 => Just(Op::Purge),
        1 => any::<usize>().prop_map(|pick| Op::Seek { pick }),
        1 => any::<usize>().prop_map(|pick| Op::Retain { pick }),
        2 => Just(Op::Snapshot),
        4 => (0..4_usize).prop_map(|lost| Op::Crash { lost }),
    ]
}

/// The world at a flush: what a crash goes back to.
#[derive(Clone)]
struct World {
    messages: Vec<Message>,
    epoch: u32,
    /// Letters that have brought their message back, by sequence.
    used: BTreeSet<u64>,
}

struct Run {
    settings: Settings,
    queue_delay: u64,
    machine: PartitionQueue,
    world: World,
    now: u64,
    starts: u32,
    log_start: u64,
    /// What each flush stored, and the world then.
    flushed: Vec<(Vec<Pass>, World)>,
    /// Of `flushed`, those that are durable.
    durable: usize,
    durable_fence: u64,
    /// Deliveries that the last crash has made the queue forget, whose receivers have them still.
    untold: Range<u64>,
    fence_at: Vec<u64>,
    snapshot: (usize, Vec<u8>),
    receipts: Vec<Receipt>,
    highest_fence: u64,
    /// The dead-letter stream, by sequence: which message, and how often it had been redriven.
    dead: BTreeMap<u64, (u64, u16)>,
    /// Appended to it, and the machine does not know yet.
    in_hand: Vec<Dying>,
    lost: BTreeMap<u32, u64>,
    /// Acks answered as durable, with the queue epoch, and how many letters had brought the message back.
    promised: BTreeSet<(u32, u64, u32)>,
    olds_in_a_row: u32,
}

impl Run {
    fn new(settings: Settings, queue_delay: u64) -> Self {
        let ledger = Ledger::starting(1, 0);
        let snapshot = (0, ledger.encode_snapshot());
        let now = Now { mono_ms: 0, wall_ms: WALL };
        Self {
            settings,
            queue_delay,
            machine: PartitionQueue::recover(ledger, settings, 1, 0, now),
            world: World { messages: Vec::new(), epoch: 1, used: BTreeSet::new() },
            now: 0,
            starts: 1,
            log_start: 0,
            flushed: Vec::new(),
            durable: 0,
            durable_fence: 0,
            untold: 0..0,
            fence_at: Vec::new(),
            snapshot,
            receipts: Vec::new(),
            highest_fence: 0,
            dead: BTreeMap::new(),
            in_hand: Vec::new(),
            lost: BTreeMap::new(),
            promised: BTreeSet::new(),
            olds_in_a_row: 0,
        }
    }

    fn at(&self) -> Now {
        Now { mono_ms: self.now, wall_ms: WALL + self.now }
    }

    fn is_fifo(&self) -> bool {
        self.settings.ordering != Ordering::Unordered
    }

    fn parks(&self) -> bool {
        matches!(self.settings.ordering, Ordering::Fifo { parks: true, .. })
    }

    fn message(&mut self, offset: u64) -> &mut Message {
        &mut self.world.messages[offset as usize]
    }

    /// The group's unsettled messages that were looked at, in order.
    fn group(&self, group: u64) -> Vec<u64> {
        let all = self.world.messages.iter().enumerate();
        let open = all.filter(|(_, m)| m.group == group && !m.is_settled() && m.state != State::Unseen);
        open.map(|(offset, _)| offset as u64).collect()
    }

    fn step(&mut self, op: &Op) {
        let now = self.at();
        match *op {
            Op::Produce { group, matches, delay } => {
                let is_own_delay = delay > 0;
                let wait = if is_own_delay { delay * TICK } else { self.queue_delay };
                let due = if wait == 0 { 0 } else { now.wall_ms + wait };
                self.world.messages.push(Message {
                    group,
                    matches,
                    due,
                    is_own_delay,
                    state: State::Unseen,
                    receives: 0,
                    releases: 0,
                    first: 0,
                    fence: 0,
                    is_void: false,
                    is_new: true,
                    redriven: 0,
                    is_adopted: false,
                    adoptions: 0,
                });
            }
            Op::Judge { all } => self.judge(all),
            Op::Receive { receiver, max, visibility } => self.receive(receiver, max, visibility * TICK),
            Op::Ack { pick } => self.with_receipt(pick, Self::ack),
            Op::Nack { pick, delay } => {
                let delay = delay.map(|ticks| ticks * TICK);
                self.with_receipt(pick, |run, receipt| {
                    let expected = run.live(receipt);
                    assert_eq!(run.machine.nack(receipt, delay, "no", now).is_ok(), expected, "nack {receipt:?}");
                    if expected {
                        let delay = delay.unwrap_or(if run.settings.backoff.min_ms == 0 { 0 } else { TICK });
                        let due = if delay == 0 { 0 } else { now.wall_ms + delay };
                        run.end(receipt.offset, true, |message| {
                            message.is_void = true;
                            message.state = State::Waiting { due };
                        });
                    }
                });
            }
            Op::Release { pick } => self.with_receipt(pick, |run, receipt| {
                let expected = run.live(receipt);
                assert_eq!(run.machine.release(receipt, now).is_ok(), expected, "release {receipt:?}");
                if expected {
                    run.end(receipt.offset, false, |message| {
                        message.is_void = true;
                        message.receives -= 1;
                        message.releases += 1;
                        message.state = State::Waiting { due: 0 };
                    });
                }
            }),
            Op::Extend { pick, visibility } => self.with_receipt(pick, |run, receipt| {
                let expected = run.live(receipt);
                let visibility = visibility * TICK;
                assert_eq!(run.machine.extend(receipt, visibility, now).is_ok(), expected, "extend {receipt:?}");
                if expected {
                    let run_of = if run.is_fifo() { run.out(receipt.offset) } else { vec![receipt.offset] };
                    for offset in run_of {
                        if let State::Leased { deadline, .. } = &mut run.message(offset).state {
                            *deadline = now.mono_ms + visibility;
                        }
                    }
                }
            }),
            Op::Reject { pick } => self.with_receipt(pick, |run, receipt| {
                let expected = run.live(receipt) && run.settings.dead_letter.is_some();
                assert_eq!(run.machine.reject(receipt, "never", now).is_ok(), expected, "reject {receipt:?}");
                if expected {
                    let state = if run.parks() { State::Parked } else { State::Dying };
                    run.end(receipt.offset, false, |message| {
                        message.state = state;
                        message.is_void = true;
                    });
                }
            }),
            Op::Expire { pick } => self.with_receipt(pick, |run, receipt| {
                let expected = run.live(receipt);
                run.machine.expired(receipt, now);
                if expected {
                    run.message(receipt.offset).state = State::Gone;
                    run.message(receipt.offset).is_adopted = false;
                }
            }),
            Op::Pass { ticks } => {
                self.now += ticks * TICK;
                self.tick();
            }
            Op::Lost { receiver } => {
                self.machine.receiver_lost(receiver, now);
                if let Some(grace) = self.settings.disconnect_grace_ms {
                    self.lost.insert(receiver, now.mono_ms + grace);
                }
            }
            Op::Back { receiver } => {
                self.machine.receiver_back(receiver);
                self.lost.remove(&receiver);
            }
            Op::Flush => self.flush(),
            Op::Durable { lag } => {
                let durable = self.flushed.len().saturating_sub(lag);
                self.make_durable(durable);
            }
            Op::Moves { finish } => self.moves(finish),
            Op::Unpark { pick, retry } => {
                let retry = retry || self.settings.dead_letter.is_none();
                let parked: Vec<usize> = (0..self.world.messages.len())
                    .filter(|at| self.world.messages[*at].state == State::Parked)
                    .collect();
                if !parked.is_empty() {
                    let offset = parked[pick % parked.len()];
                    assert!(self.machine.unpark(offset as u64, retry, now));
                    let message = &mut self.world.messages[offset];
                    if retry {
                        message.receives = 0;
                    }
                    message.state = if retry { State::Waiting { due: 0 } } else { State::Dying };
                }
            }
            Op::Redrive { pick } => self.redrive(pick),
            Op::Purge => {
                self.world.epoch += 1;
                let end = self.world.messages.len() as u64;
                self.machine.reset(self.world.epoch, end, true, now);
                for message in self.world.messages.iter_mut().filter(|message| !message.is_settled()) {
                    message.state = State::Gone;
                    message.is_adopted = false;
                }
            }
            Op::Seek { pick } => {
                self.world.epoch += 1;
                let open = self.world.messages.len() as u64 - self.log_start;
                let to = self.log_start + pick as u64 % (open + 1);
                self.machine.reset(self.world.epoch, to, false, now);
                for (offset, message) in self.world.messages.iter_mut().enumerate() {
                    if (offset as u64) < to {
                        if !message.is_settled() {
                            message.state = State::Gone;
                            message.is_adopted = false;
                        }
                    } else {
                        *message = Message {
                            state: State::Unseen,
                            receives: 0,
                            releases: 0,
                            first: 0,
                            is_void: true,
                            is_new: true,
                            fence: 0,
                            redriven: 0,
                            is_adopted: false,
                            ..message.clone()
                        };
                    }
                }
            }
            Op::Retain { pick } => {
                let open = self.world.messages.len() as u64 - self.log_start;
                self.log_start += pick as u64 % (open.min(3) + 1);
                self.machine.deleted_below(self.log_start, now);
                let start = self.log_start as usize;
                // What came back lies elsewhere.
                for message in self.world.messages[..start].iter_mut().filter(|m| !m.is_settled() && !m.is_adopted) {
                    message.state = State::Gone;
                }
            }
            Op::Snapshot => self.take_snapshot(),
            Op::Crash { lost } => self.crash(lost),
        }
    }

    fn judge(&mut self, all: bool) {
        let now = self.at();
        let from = self.machine.scan_from();
        assert!(from >= self.log_start);
        let end = self.world.messages.len() as u64;
        let to = if all { end } else { end.min(from + 3) };
        if to <= from {
            return;
        }
        let range = from as usize..to as usize;
        let is_plain = self.world.messages[range.clone()].iter().all(|m| m.matches && !m.is_own_delay);
        let same_due = |ms: &[Message]| ms.windows(2).all(|two| two[0].due == two[1].due);
        if is_plain && !self.is_fifo() && same_due(&self.world.messages[range.clone()]) {
            self.machine.judge_all(from..to, self.world.messages[range.start].due);
        } else {
            let verdicts = range.clone().map(|offset| {
                let message = &self.world.messages[offset];
                let (due_ms, is_own_delay, group) = (message.due, message.is_own_delay, message.group);
                let matches = Verdict::Matches { due_ms, is_own_delay, group };
                (offset as u64, if message.matches { matches } else { Verdict::Filtered })
            });
            self.machine.judge(to, verdicts.collect::<Vec<_>>(), now);
        }
        for offset in range {
            let message = self.message(offset as u64);
            if message.state == State::Unseen {
                message.state = if message.matches { State::Waiting { due: message.due } } else { State::Filtered };
                // What waited for its own time takes its turn among those that come again.
                message.is_new = !(message.is_own_delay && message.due > now.wall_ms);
            }
        }
    }

    /// Whether the model would let the message go out now, were it asked for by itself.
    fn may_go(&self, offset: u64) -> bool {
        let message = &self.world.messages[offset as usize];
        let is_due = matches!(message.state, State::Waiting { due } if due <= WALL + self.now);
        // After a restart the log is read again: what was not reached yet is not known to be there.
        is_due && message.fence <= self.durable_fence && offset < self.scanned()
    }

    fn scanned(&self) -> u64 {
        self.machine.scan_from()
    }

    fn receive(&mut self, receiver: u32, max: usize, visibility: u64) {
        let now = self.at();
        let deliveries = self.machine.receive(receiver, max, visibility, now).expect("the visibility is in range");
        assert!(deliveries.len() <= max);
        for delivery in &deliveries {
            self.check_delivery(delivery, &deliveries);
            let (offset, fence) = (delivery.receipt.offset, delivery.receipt.fence);
            let deadline = now.mono_ms + visibility;
            let message = self.message(offset);
            message.state = State::Leased { fence, deadline, receiver, began: now.mono_ms };
            message.receives += 1;
            message.fence = fence;
            message.is_void = false;
            message.is_new = false;
            if message.first == 0 {
                message.first = now.wall_ms;
            }
            assert_eq!((delivery.receives, delivery.first_ms), (message.receives, message.first), "{delivery:?}");
            let redriven = self.world.messages[offset as usize].redriven_now();
            assert_eq!(delivery.receipt.redriven, redriven, "{delivery:?}");
            self.receipts.push(delivery.receipt);
        }
        if deliveries.len() < max {
            // It ran dry: what was new had gone otherwise.
            self.olds_in_a_row = 0;
            let left: Vec<u64> = (0..self.world.messages.len() as u64)
                .filter(|offset| self.may_go(*offset))
                .filter(|offset| {
                    // One that came back waits until what is out of its group is at its end.
                    let group = self.world.messages[*offset as usize].group;
                    !self.is_fifo() || (self.group(group)[0] == *offset && self.out(*offset).is_empty())
                })
                .collect();
            assert!(left.is_empty(), "left behind: {left:?} of {:?}", self.world.messages);
        }
    }

    fn check_delivery(&mut self, delivery: &Delivery, together: &[Delivery]) {
        let offset = delivery.receipt.offset;
        assert!(self.may_go(offset), "{delivery:?} of {:?}", self.world.messages[offset as usize]);
        assert!(delivery.receipt.fence > self.highest_fence, "fences rise");
        self.highest_fence = delivery.receipt.fence;
        let adoptions = self.world.messages[offset as usize].adoptions;
        assert!(!self.promised.contains(&(self.world.epoch, offset, adoptions)), "delivered after its ack: {offset}");
        if self.is_fifo() {
            let before =
                self.group(self.world.messages[offset as usize].group).into_iter().take_while(|at| *at < offset);
            for earlier in before {
                let is_same_run = together.iter().any(|other| other.receipt.offset == earlier);
                assert!(is_same_run, "{offset} before {earlier}");
            }
            return;
        }
        // One in four is new while there are any.
        let has_new = (0..self.world.messages.len() as u64)
            .any(|at| at != offset && self.may_go(at) && self.world.messages[at as usize].is_new);
        let is_new = self.world.messages[offset as usize].is_new;
        self.olds_in_a_row = if is_new || !has_new { 0 } else { self.olds_in_a_row + 1 };
        assert!(self.olds_in_a_row < 4, "new ones starve");
    }

    fn with_receipt(&mut self, pick: usize, verb: impl FnOnce(&mut Self, Receipt)) {
        if !self.receipts.is_empty() {
            // Mostly new ones.
            let newest = self.receipts.len().min(if pick.is_multiple_of(5) { usize::MAX } else { 6 });
            let receipt = self.receipts[self.receipts.len() - 1 - (pick / 5) % newest];
            verb(self, receipt);
        }
    }

    fn live(&self, receipt: Receipt) -> bool {
        let state = self.world.messages[receipt.offset as usize].state;
        receipt.epoch == self.world.epoch && matches!(state, State::Leased { fence, .. } if fence == receipt.fence)
    }

    fn ack(&mut self, receipt: Receipt) {
        let now = self.at();
        let message = self.world.messages[receipt.offset as usize].clone();
        let is_untold = self.untold.contains(&receipt.fence) && message.fence < self.untold.start;
        let is_current = match message.state {
            State::Leased { fence, .. } => fence == receipt.fence,
            State::Waiting { .. } if message.fence == receipt.fence => !message.is_void,
            State::Waiting { .. } | State::Unseen => is_untold && message.redriven == receipt.redriven,
            _ => false,
        };
        // Read again after a restart, and not reached yet: order cannot be judged.
        let must_look = self.machine.must_look_up_to(receipt.offset);
        let is_current = is_current && receipt.epoch == self.world.epoch && !must_look;
        let answer = self.machine.ack(receipt, now);
        let first = self.out(receipt.offset).first().or(self.group(message.group).first()).copied();
        let is_first = !self.is_fifo() || first == Some(receipt.offset);
        match answer {
            Ok(()) if message.state == State::Acked => assert_eq!(message.fence, receipt.fence, "{receipt:?}"),
            Ok(()) => {
                assert!(is_current && is_first, "{receipt:?} was taken: {message:?}");
                let message = self.message(receipt.offset);
                (message.state, message.fence) = (State::Acked, receipt.fence);
            }
            Err(Refusal::OutOfGroupOrder) => assert!(is_current && !is_first, "{receipt:?}: {message:?}"),
            Err(Refusal::AlreadySettled) => assert!(message.is_settled(), "{receipt:?}: {message:?}"),
            // Of a message that was never delivered, as far as it knows, a FIFO queue may not know the group.
            Err(Refusal::ReceiptExpired) if is_untold && self.is_fifo() && message.fence == 0 => {}
            Err(Refusal::ReceiptExpired) => assert!(!is_current, "{receipt:?} was refused: {message:?}"),
            Err(other) => panic!("{other:?}"),
        }
    }

    /// The messages of the same group that are out.
    fn out(&self, offset: u64) -> Vec<u64> {
        let group = self.group(self.world.messages[offset as usize].group);
        group.into_iter().filter(|at| matches!(self.world.messages[*at as usize].state, State::Leased { .. })).collect()
    }

    /// A delivery ended without an ack; `dies` if it was an attempt.
    fn end(&mut self, offset: u64, dies: bool, change: impl FnOnce(&mut Message)) {
        let followers: Vec<u64> =
            if self.is_fifo() { self.out(offset).into_iter().filter(|at| *at > offset).collect() } else { Vec::new() };
        let has_limit = self.settings.dead_letter.is_some() || self.parks();
        let is_last =
            self.settings.max_receives.is_some_and(|max| self.world.messages[offset as usize].receives >= max);
        if dies && is_last && has_limit {
            let state = if self.parks() { State::Parked } else { State::Dying };
            let message = self.message(offset);
            message.state = state;
            message.is_void = true;
        } else {
            change(self.message(offset));
        }
        for follower in followers {
            let message = self.message(follower);
            message.receives -= 1;
            message.state = State::Waiting { due: 0 };
        }
    }

    fn tick(&mut self) {
        let now = self.at();
        self.machine.tick(now);
        let lost: BTreeSet<u32> =
            self.lost.extract_if(.., |_, ends| *ends <= now.mono_ms).map(|(one, _)| one).collect();
        for offset in 0..self.world.messages.len() as u64 {
            if let State::Leased { deadline, receiver, .. } = self.message(offset).state
                && (deadline <= now.mono_ms || lost.contains(&receiver))
            {
                self.end(offset, true, |message| message.state = State::Waiting { due: 0 });
            }
        }
    }

    fn flush(&mut self) {
        let expected = self.machine.next_flush();
        if let Some((number, passes)) = self.machine.flush() {
            assert_eq!(number, expected);
            let passes = passes.iter().map(|pass| Ledger::decode_event(&Ledger::encode_event(pass)).expect("whole"));
            self.flushed.push((passes.collect(), self.world.clone()));
            self.fence_at.push(self.highest_fence);
        }
    }

    fn make_durable(&mut self, durable: usize) {
        if durable <= self.durable {
            return;
        }
        self.durable = durable;
        self.durable_fence = self.durable_fence.max(self.fence_at[durable - 1]);
        let flushes = self.machine.next_flush() - u64::from(self.machine.has_pending());
        let behind = (self.flushed.len() - durable) as u64;
        self.machine.durable(flushes - behind, self.at());
        let world = &self.flushed[durable - 1].1;
        let acked = world.messages.iter().enumerate().filter(|(_, message)| message.state == State::Acked);
        self.promised.extend(acked.map(|(offset, message)| (world.epoch, offset as u64, message.adoptions)));
    }

    fn moves(&mut self, finish: bool) {
        let now = self.at();
        while let Some(dying) = self.machine.next_move() {
            // As an idempotent producer does: what is there already is not stored again.
            let redriven = dying.adopted.map_or(0, |letter| letter.redriven);
            let stored = *self.dead.entry(dying.sequence).or_insert((dying.offset, redriven));
            assert_eq!(stored, (dying.offset, redriven), "one sequence, two messages");
            assert_eq!(self.dead.len() as u64, self.dead.keys().next_back().map_or(0, |last| last + 1), "no gap");
            self.in_hand.push(dying);
        }
        if finish {
            for dying in std::mem::take(&mut self.in_hand) {
                self.machine.moved(&dying, now);
                let epoch = self.world.epoch;
                let message = self.message(dying.offset);
                if message.state == State::Dying && dying.epoch == epoch {
                    message.state = State::Dead;
                    message.is_adopted = false;
                }
            }
        }
    }

    fn redrive(&mut self, pick: usize) {
        if self.dead.is_empty() {
            return;
        }
        let now = self.at();
        let sequence = *self.dead.keys().nth(pick % self.dead.len()).expect("one of them");
        let (offset, redriven) = self.dead[&sequence];
        let group = if self.is_fifo() { self.world.messages[offset as usize].group } else { 0 };
        let letter = Adopted { redriven: redriven + 1, incarnation: 77, at: sequence, group };
        let message = self.world.messages[offset as usize].clone();
        let expected = match message.state {
            _ if self.world.used.contains(&sequence) => Adoption::Repeated,
            State::Dying => Adoption::Later,
            _ if message.is_settled() => Adoption::Done,
            _ => Adoption::Open,
        };
        assert_eq!(self.machine.adopt(offset, letter, now), expected, "{sequence} of {message:?}");
        if expected == Adoption::Done {
            self.world.used.insert(sequence);
            *self.message(offset) = Message {
                state: State::Waiting { due: 0 },
                receives: 0,
                releases: 0,
                first: 0,
                fence: 0,
                is_void: true,
                is_new: false,
                redriven: redriven + 1,
                is_adopted: true,
                adoptions: message.adoptions + 1,
                ..message
            };
        }
    }

    fn take_snapshot(&mut self) {
        // Of what is durable, rebuilt from the one before: as the shell has it.
        let mut ledger = Ledger::decode_snapshot(&self.snapshot.1).expect("whole");
        for (passes, _) in &self.flushed[self.snapshot.0..self.durable] {
            passes.iter().for_each(|pass| ledger.apply(pass));
        }
        self.snapshot = (self.durable, ledger.encode_snapshot());
    }

    fn crash(&mut self, lost: usize) {
        let kept = self.flushed.len().saturating_sub(lost).max(self.durable);
        let mut ledger = Ledger::decode_snapshot(&self.snapshot.1).expect("whole");
        for (passes, _) in &self.flushed[self.snapshot.0..kept] {
            passes.iter().for_each(|pass| ledger.apply(pass));
        }
        let (produced, epoch) = (self.world.messages.clone(), self.world.epoch);
        self.world = match kept {
            0 => World { messages: Vec::new(), epoch: 1, used: BTreeSet::new() },
            kept => self.flushed[kept - 1].1.clone(),
        };
        // A purge or a seek is in the catalog before the queue hears of it.
        let had = self.world.messages.len();
        self.world.messages.extend(produced[had..].iter().map(|message| Message {
            state: State::Unseen,
            receives: 0,
            releases: 0,
            first: 0,
            fence: 0,
            is_void: true,
            is_new: true,
            redriven: 0,
            is_adopted: false,
            ..message.clone()
        }));
        for message in self.world.messages.iter_mut().filter(|message| matches!(message.state, State::Leased { .. })) {
            message.state = State::Waiting { due: 0 };
        }
        self.starts += 1;
        let now = self.at();
        let end = self.world.messages.len() as u64;
        self.machine = PartitionQueue::recover(ledger, self.settings, self.starts, end, now);
        let told = kept.checked_sub(1).map_or(0, |last| self.fence_at[last]);
        let last_life = u64::from(self.starts - 1) << 40;
        self.untold = last_life.max(told) + 1..(last_life + (1 << 40));
        self.flushed.truncate(kept);
        self.fence_at.truncate(kept);
        // What this process starts from is on the disk.
        self.durable = kept;
        self.durable_fence = u64::MAX;
        self.lost.clear();
        self.in_hand.clear();
        self.olds_in_a_row = 0;
        self.sync_dying();
        if epoch > self.world.epoch {
            self.world.epoch = epoch;
            let end = self.world.messages.len() as u64;
            self.machine.reset(epoch, end, true, now);
            for message in self.world.messages.iter_mut().filter(|message| !message.is_settled()) {
                message.state = State::Gone;
                message.is_adopted = false;
            }
        }
        self.machine.deleted_below(self.log_start, now);
        let start = self.log_start as usize;
        for message in self.world.messages[..start].iter_mut().filter(|m| !m.is_settled() && !m.is_adopted) {
            message.state = State::Gone;
        }
        self.judge(true);
        self.durable_fence = self.highest_fence;
    }

    /// After a restart: a delivery that was its last one's end.
    fn sync_dying(&mut self) {
        let has_limit = self.settings.dead_letter.is_some() || self.parks();
        let Some(max) = self.settings.max_receives.filter(|_| has_limit) else { return };
        let state = if self.parks() { State::Parked } else { State::Dying };
        for message in &mut self.world.messages {
            if matches!(message.state, State::Waiting { .. }) && message.receives >= max {
                message.state = state;
                message.is_void = true;
            }
        }
    }

    /// Everything unsettled comes to an end: delivered and acknowledged, or in the dead letters, once.
    fn finish(&mut self) {
        for _ in 0..10_000 {
            self.judge(true);
            self.flush();
            self.make_durable(self.flushed.len());
            self.moves(true);
            for at in 0..self.world.messages.len() {
                if self.world.messages[at].state == State::Parked {
                    self.step(&Op::Unpark { pick: 0, retry: true });
                }
            }
            self.receive(0, 100, 0);
            let receipts = self.receipts.clone();
            for receipt in receipts.into_iter().rev().take(100).rev() {
                if self.live(receipt) {
                    self.ack(receipt);
                }
            }
            self.now += 8 * TICK;
            self.tick();
            if self.world.messages.iter().all(Message::is_settled) {
                break;
            }
        }
        self.flush();
        self.make_durable(self.flushed.len());
        let open: Vec<&Message> = self.world.messages.iter().filter(|message| !message.is_settled()).collect();
        assert!(open.is_empty(), "never ended: {open:?}");
        assert_eq!(self.machine.ledger().floor(), self.world.messages.len() as u64);
        assert_eq!(self.machine.ledger().entries(), 0, "{:?}", self.machine.ledger());
        let counts = self.machine.counts(self.at());
        assert_eq!((counts.available, counts.in_flight, counts.delayed, counts.dying), (0, 0, 0, 0));
        let dead = self.world.messages.iter().enumerate().filter(|(_, message)| message.state == State::Dead);
        for (offset, _) in dead {
            assert!(self.dead.values().any(|(at, _)| *at == offset as u64), "{offset} is not in the dead letters");
        }
        // What was stored comes back as what it was.
        let mut ledger = Ledger::decode_snapshot(&self.snapshot.1).expect("whole");
        for (passes, _) in &self.flushed[self.snapshot.0..] {
            passes.iter().for_each(|pass| ledger.apply(pass));
        }
        assert_eq!(ledger.floor(), self.machine.ledger().floor());
        assert_eq!(ledger.tally(), self.machine.ledger().tally());
    }
}

fn histories() -> u32 {
    std::env::var("MILLSTREAM_HISTORIES").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000)
}

fn settings(ordering: Ordering) -> impl Strategy<Value = (Settings, u64)> {
    let limit = prop_oneof![Just(None), (1..4_u16).prop_map(Some)];
    let grace = prop_oneof![Just(None), (0..10_u64).prop_map(|ticks| Some(ticks * TICK))];
    (limit, any::<bool>(), grace, any::<bool>(), prop_oneof![2 => Just(0_u64), 1 => 1..20_u64]).prop_map(
        move |(max_receives, has_dead_letter, grace, backs_off, delay)| {
            let settings = Settings {
                ordering,
                max_receives,
                dead_letter: has_dead_letter.then_some(0),
                // Too short to be spread, and due at the next tick: the model need not know more.
                backoff: Backoff { min_ms: if backs_off { 9 } else { 0 }, max_ms: 9, factor_percent: 100 },
                disconnect_grace_ms: grace,
                is_delayed: delay > 0,
                keeps_expired: false,
            };
            (settings, delay * TICK)
        },
    )
}

fn run_histories(ordering: impl Strategy<Value = Ordering>) {
    let config = Config { cases: histories(), failure_persistence: None, ..Config::default() };
    let cases = ordering.prop_flat_map(settings);
    let result =
        TestRunner::new(config).run(&(cases, prop::collection::vec(op(), 1..120)), |((settings, delay), ops)| {
            let mut run = Run::new(settings, delay);
            ops.iter().for_each(|op| run.step(op));
            run.finish();
            Ok(())
        });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn unordered_queues_keep_what_is_promised_of_every_message() {
    run_histories(Just(Ordering::Unordered));
}

#[test]
fn fifo_queues_keep_it_too_and_the_order_of_each_group() {
    run_histories((1..4_u16, any::<bool>()).prop_map(|(group_batch, parks)| Ordering::Fifo { group_batch, parks }));
}

/// Retention deletes a message that is on its way to the dead letters, a redrive brings it back by the letter, and only
/// then the queue hears that the letter has arrived: a restart in between changes nothing.
#[test]
fn a_letter_that_is_back_before_its_arrival_is_known_is_not_settled_by_it() {
    let settings = Settings { dead_letter: Some(0), max_receives: Some(1), ..Settings::default() };
    let now = Now { mono_ms: 0, wall_ms: WALL };
    let mut queue = PartitionQueue::recover(Ledger::starting(1, 0), settings, 1, 1, now);
    queue.judge_all(0..1, 0);
    let delivery = queue.receive(1, 1, 1_000, now).expect("in range")[0];
    queue.reject(delivery.receipt, "never", now).expect("rejected");
    let (flush, _) = queue.flush().expect("something was decided");
    queue.durable(flush, now);
    let dying = queue.next_move().expect("it is on its way");
    queue.deleted_below(1, now);
    let letter = Adopted { redriven: 1, incarnation: 77, at: 0, group: 0 };
    assert_eq!(queue.adopt(0, letter, now), Adoption::Done);
    let snapshot = queue.ledger().encode_snapshot();
    let ledger = Ledger::decode_snapshot(&snapshot).expect("whole");
    let mut queue = PartitionQueue::recover(ledger, settings, 2, 1, now);
    queue.moved(&dying, now);
    let again = queue.receive(1, 10, 1_000, now).expect("in range");
    assert_eq!(again.iter().map(|delivery| delivery.receipt.offset).collect::<Vec<_>>(), [0], "lost");
}
