//! A queue's part of a history, taken in event by event: some tens of bytes for each delivery and each use of a receipt.

use std::collections::{BTreeMap, HashMap};

use super::deliveries::{Delivery, NO_GROUP};
use super::letters::Letters;
use super::promises::{Promises, ms};
use super::receipts::{Answered, Kind, Op};
use super::timeline::{Reset, ResetKind};
use crate::history::queue::{Answer, InQueue, Settings, Verb};
use crate::value::ValueId;

/// All that is known of one queue.
#[derive(Debug, Default)]
pub(super) struct Intake {
    pub stream: u32,
    pub starts: Vec<u64>,
    /// When it was known to be there; none: nobody made it.
    pub created_ns: Option<u64>,
    pub promises: Promises,
    /// From then on it may be deleted.
    pub deleted_ns: Option<u64>,
    /// What the reference says, sorted once everything is taken in.
    pub matching: Vec<ValueId>,
    pub other: Vec<ValueId>,
    pub partitions: BTreeMap<u32, Taken>,
    pub receivers: HashMap<u64, u32>,
    /// By the number that `receivers` gives.
    pub receiver: Vec<Receiver>,
    batches: u32,
    pub resets: Vec<Reset>,
    pub redrives: Vec<Redrive>,
    pub letters: Letters,
    /// Calls that were answered, from the send to the answer.
    pub calls: Vec<(u64, u64)>,
    /// Calls that were not.
    pub unanswered: Vec<(u64, u64)>,
    /// From a pause to the next resumption.
    pub pauses: Vec<(u64, u64)>,
    pub floors: Vec<Floor>,
    pub state: Option<State>,
}

/// Of one partition.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub deliveries: Vec<Delivery>,
    pub ops: Vec<Op>,
}

/// One life of a receiver.
#[derive(Debug, Default)]
pub(super) struct Receiver {
    /// When it gave how much credit; whether messages alone limit it.
    pub credit: Vec<(u64, u32, bool)>,
    /// When it surely was there for the last time, and when it was known to be gone.
    pub gone: Option<(u64, u64)>,
    /// When it began, the last receive was sent that has an answer, or its stream was opened.
    pub last_invoked_ns: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Redrive {
    pub invoked_ns: u64,
    /// All that was there when it was asked for is back: it is known to have happened.
    pub is_whole: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Floor {
    pub partition: u32,
    pub floor: u64,
    pub invoked_ns: u64,
    pub at_ns: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct State {
    pub invoked_ns: u64,
    pub at_ns: u64,
    /// Everything that is not settled.
    pub held: u64,
    pub dead: u64,
}

impl Intake {
    pub fn push(&mut self, receiver: u64, at_ns: u64, what: InQueue) {
        match what {
            InQueue::Created { stream, starts, settings } => self.created(at_ns, stream, starts, settings),
            InQueue::Changed { settings, invoked_ns } => self.promises.add(invoked_ns, settings),
            InQueue::Deleted { invoked_ns } => self.deleted_ns = Some(invoked_ns),
            InQueue::Verdicts { matching, other } => {
                self.matching.extend(matching);
                self.other.extend(other);
            }
            InQueue::Opened => {
                let life = self.receiver(receiver);
                life.last_invoked_ns = life.last_invoked_ns.max(at_ns);
            }
            InQueue::Credit { messages, bytes } => {
                self.receiver(receiver).credit.push((at_ns, messages, bytes.is_none()));
            }
            InQueue::Received { invoked_ns, visibility_ms, deliveries, .. } => {
                self.received(receiver, at_ns, invoked_ns, visibility_ms, &deliveries);
            }
            InQueue::Unanswered { invoked_ns } => self.unanswered.push((invoked_ns, at_ns)),
            InQueue::Gone { since_ns } => self.receiver(receiver).gone = Some((since_ns, at_ns)),
            InQueue::Settle { verb, of } => {
                for receipt in of {
                    let op = Op::of(receipt, verb, at_ns, u64::MAX, Answered::NotYet);
                    self.partitions.entry(receipt.partition).or_default().ops.push(op);
                }
            }
            InQueue::Settled { verb, of, invoked_ns, answer } => {
                let (answered, done_ns) = match answer {
                    Answer::Ok => (Answered::Ok, at_ns),
                    Answer::AlreadySettled => (Answered::Already, at_ns),
                    Answer::Refused { .. } => (Answered::Refused, at_ns),
                    Answer::Unknown { .. } => (Answered::Unknown, u64::MAX),
                };
                for receipt in of {
                    let op = Op::of(receipt, verb, invoked_ns, done_ns, answered);
                    self.partitions.entry(receipt.partition).or_default().ops.push(op);
                }
            }
            InQueue::Purged { below, invoked_ns, answer } => {
                self.reset(ResetKind::Purge, below, invoked_ns, at_ns, answer);
            }
            InQueue::Sought { to, invoked_ns, answer } => self.reset(ResetKind::Seek, to, invoked_ns, at_ns, answer),
            InQueue::Paused { invoked_ns } => self.pauses.push((invoked_ns, u64::MAX)),
            InQueue::Resumed { .. } => {
                self.pauses.iter_mut().filter(|(_, end)| *end == u64::MAX).for_each(|(_, end)| *end = at_ns);
            }
            InQueue::DeadLetters { records } => records.iter().for_each(|record| self.letters.take(at_ns, record)),
            InQueue::DeadLettersEnd { invoked_ns } => self.letters.read_to_the_end(invoked_ns),
            InQueue::Redriven { invoked_ns, all, answer } => {
                if !matches!(answer, Answer::Refused { .. }) {
                    self.redrives.push(Redrive { invoked_ns, is_whole: all && answer == Answer::Ok });
                }
            }
            InQueue::Floor { at, floor, invoked_ns } => {
                self.floors.push(Floor { partition: at.partition, floor, invoked_ns, at_ns });
            }
            InQueue::State { invoked_ns, available, in_flight, delayed, dying, unread, dead } => {
                let held = [available, in_flight, delayed, dying, unread].into_iter().fold(0, u64::saturating_add);
                if self.state.is_none_or(|state| state.at_ns <= at_ns) {
                    self.state = Some(State { invoked_ns, at_ns, held, dead });
                }
            }
        }
    }

    fn created(&mut self, at_ns: u64, stream: u32, starts: Vec<u64>, settings: Settings) {
        (self.stream, self.starts, self.created_ns) = (stream, starts, Some(at_ns));
        self.promises.add(0, settings);
    }

    fn received(
        &mut self,
        receiver: u64,
        at_ns: u64,
        invoked_ns: u64,
        visibility_ms: Option<u64>,
        deliveries: &[crate::history::queue::Delivery],
    ) {
        let life = self.receiver(receiver);
        let is_pushed = !life.credit.is_empty();
        life.last_invoked_ns = life.last_invoked_ns.max(invoked_ns);
        let receiver = self.receivers[&receiver];
        if !is_pushed {
            self.calls.push((invoked_ns, at_ns));
        }
        self.batches += 1;
        for delivery in deliveries {
            self.partitions.entry(delivery.partition).or_default().deliveries.push(Delivery {
                offset: delivery.offset,
                fence: delivery.fence,
                value: delivery.value.unwrap_or(ValueId::BROKEN),
                group: delivery.group.unwrap_or(NO_GROUP),
                made_lb: invoked_ns,
                made_ub: at_ns,
                received_ns: at_ns,
                visibility_ns: visibility_ms.map_or(u64::MAX, ms),
                receives: delivery.receives,
                redriven: delivery.redriven,
                receiver,
                batch: self.batches,
            });
        }
    }

    fn reset(&mut self, kind: ResetKind, points: Vec<u64>, invoked_ns: u64, at_ns: u64, answer: Answer) {
        let done_ns = if answer == Answer::Ok { at_ns } else { u64::MAX };
        if !matches!(answer, Answer::Refused { .. }) {
            self.resets.push(Reset { kind, points, invoked_ns, done_ns });
        }
    }

    fn receiver(&mut self, receiver: u64) -> &mut Receiver {
        let next = self.receiver.len() as u32;
        let number = *self.receivers.entry(receiver).or_insert(next);
        if number == next {
            self.receiver.push(Receiver::default());
        }
        &mut self.receiver[number as usize]
    }

    /// What the filter should say of a value, if anybody knows.
    pub fn should_match(&self, value: ValueId) -> Option<bool> {
        if !self.promises.all().any(|settings| settings.filtered) {
            return Some(true);
        }
        let is_in = |list: &[ValueId]| list.binary_search(&value).is_ok();
        match (is_in(&self.matching), is_in(&self.other)) {
            (true, false) => Some(true),
            (false, true) => Some(false),
            _ => None,
        }
    }

    /// Where it begins in a partition.
    pub fn start(&self, partition: u32) -> u64 {
        self.starts.get(partition as usize).copied().unwrap_or(0)
    }
}

impl Kind {
    pub(super) fn of(verb: Verb) -> (Self, u64) {
        match verb {
            Verb::Ack => (Self::Ack, 0),
            Verb::Nack { delay_ms } => (Self::Nack, delay_ms.map_or(u64::MAX, ms)),
            Verb::Release => (Self::Release, 0),
            Verb::Reject => (Self::Reject, 0),
            Verb::Extend { by_ms } => (Self::Extend, ms(by_ms)),
        }
    }
}
