//! Q5b: dead letters. Each is read somewhere, at a time that is not before its append; so `read_ns` is the latest that its
//! message died, and there is no earliest but the end of a delivery.
//!
//! - Twice: more letters of a message than it can have died: once, and once more for each redrive or seek; and never again
//!   once it was acked after its last redrive.
//! - Dead and delivered later: a delivery was made (at the earliest) after the letter was read, or has a higher receive
//!   count than the letter tells. Nothing of that where a seek may have brought the message back.
//! - Too early: fewer receives than any limit that was ever set; or rejected, and nobody has rejected it.
//! - Not the message's payload; no origin, count or reason.
//! - After a redrive of all that was there, exactly once back: it says how often it was redriven, which cannot be more often
//!   than it died or than somebody asked for it, and does not fall.
//!
//! What should be dead and is not is Q5, after its last receive, and Q5b, after a reject: a read from the beginning to the
//! end, which was begun twice the visibility after the latest end of that delivery, on a server that was there all the time,
//! has nothing of it.

use std::collections::HashMap;

use super::receipts::Kind;
use super::{Context, OfMessage};
use crate::history::Place;
use crate::history::queue::{DeadLetter, Reason};
use crate::value::ValueId;
use crate::verdict::{Check, Findings, Verdict};

/// A record of a dead-letter stream, as it was found first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Letter {
    /// The message.
    partition: u32,
    offset: u64,
    pub read_ns: u64,
    /// The record itself.
    place: (u32, u64),
    stream: u32,
    value: ValueId,
    /// 0: it does not say.
    receives: u32,
    reason: Option<Reason>,
}

/// Those of one queue.
#[derive(Debug, Default)]
pub(super) struct Letters {
    of: Vec<Letter>,
    /// Where each was read first.
    known: HashMap<(u32, u64), usize>,
    /// Records that do not say whose they are.
    strays: Vec<DeadLetter>,
    /// When the last full read was begun.
    pub read_to_end_ns: Option<u64>,
}

impl Letters {
    pub fn take(&mut self, at_ns: u64, record: &DeadLetter) {
        let place = (record.partition, record.offset);
        if let Some(index) = self.known.get(&place) {
            if let Some(letter) = self.of.get_mut(*index) {
                letter.read_ns = letter.read_ns.min(at_ns);
            }
            return;
        }
        let Some(origin) = record.origin else {
            self.known.insert(place, usize::MAX);
            return self.strays.push(*record);
        };
        self.known.insert(place, self.of.len());
        self.of.push(Letter {
            partition: origin.at.partition,
            offset: origin.offset,
            read_ns: at_ns,
            place,
            stream: origin.at.stream,
            value: record.value.unwrap_or(ValueId::BROKEN),
            receives: record.receives.unwrap_or(0),
            reason: record.reason,
        });
    }

    pub fn read_to_the_end(&mut self, invoked_ns: u64) {
        self.read_to_end_ns = self.read_to_end_ns.max(Some(invoked_ns));
    }

    pub fn sort(&mut self) {
        self.known = HashMap::new();
        self.of.sort_unstable_by_key(|letter| (letter.partition, letter.offset, letter.read_ns, letter.place));
    }

    /// Of a message; once they are sorted.
    pub fn of(&self, partition: u32, offset: u64) -> &[Letter] {
        let key = (partition, offset);
        let begin = self.of.partition_point(|letter| (letter.partition, letter.offset) < key);
        let count = self.of[begin..].partition_point(|letter| (letter.partition, letter.offset) == key);
        &self.of[begin..begin + count]
    }
}

/// What is about no message.
pub(super) fn all(context: &Context<'_>, verdict: &mut Verdict) {
    let (queue, intake) = (context.number, &context.intake);
    let letters = &intake.letters;
    verdict.counts_mut().dead_letters += letters.of.len() as u64;
    let stream = intake.promises.all().find_map(|settings| settings.dead_letter).map_or(intake.stream, |to| to.stream);
    for stray in &letters.strays {
        let findings = &mut Findings { verdict, at: Place { stream, partition: stray.partition } };
        findings.add(Check::DeadLetter, Some(stray.offset), stray.value, || {
            format!("queue {queue}: a record of its dead-letter stream does not say where it comes from")
        });
    }
    let Some((state, read_ns)) = intake.state.zip(letters.read_to_end_ns) else { return };
    let found = letters.of.len() as u64;
    if state.at_ns < read_ns && state.dead > found {
        let findings = &mut Findings { verdict, at: Place { stream, partition: 0 } };
        findings.add(Check::DeadLetter, None, None, || {
            format!(
                "queue {queue}: {} messages are said to have gone to the dead-letter stream, which has {found} of it",
                state.dead
            )
        });
    }
}

pub(super) fn check(message: &OfMessage<'_>, findings: &mut Findings<'_>) {
    if let Some(last) = message.letters.last() {
        message.letters.iter().for_each(|letter| one(message, letter, findings));
        twice(message, last, findings);
        delivered_later(message, findings);
    }
    redriven(message, findings);
    missing(message, findings);
}

fn add(message: &OfMessage<'_>, findings: &mut Findings<'_>, text: impl FnOnce() -> String) {
    let queue = message.of.context.number;
    findings.add(Check::DeadLetter, Some(message.offset), message.value(), || format!("queue {queue}: {}", text()));
}

fn one(message: &OfMessage<'_>, letter: &Letter, findings: &mut Findings<'_>) {
    let Letter { place: (partition, offset), receives, stream, .. } = *letter;
    let is_rejected = || message.all_ops().any(|(_, op)| op.kind == Kind::Reject && op.may_end());
    let fewest = message.of.context.intake.promises.min_receives().unwrap_or(0);
    let wrong = match letter.reason {
        _ if stream != message.of.context.intake.stream => Some(format!("says that it comes from stream {stream}")),
        _ if letter.value != message.message.value => Some("has another payload".to_owned()),
        None => Some("does not say why".to_owned()),
        Some(Reason::MaxReceives | Reason::Rejected) if receives == 0 => {
            Some("does not say after how many receives".to_owned())
        }
        Some(Reason::MaxReceives) if receives < fewest => {
            Some(format!("says that it had all its receives after {receives}, but no limit was below {fewest}"))
        }
        Some(Reason::Rejected) if !is_rejected() => Some("says that it was rejected, but nobody has".to_owned()),
        Some(_) => None,
    };
    if let Some(wrong) = wrong {
        add(message, findings, || format!("its dead letter (partition {partition}, offset {offset}) {wrong}"));
    }
}

fn twice(message: &OfMessage<'_>, last: &Letter, findings: &mut Findings<'_>) {
    let (of, found) = (message.of, message.letters.len());
    let seeks = of.context.resets().iter().filter(|reset| reset.revives(of.partition, message.offset)).count();
    let redrives = of.context.intake.redrives.iter().filter(|redrive| redrive.invoked_ns <= last.read_ns).count();
    let acks = message.all_ops().filter(|(_, op)| op.kind == Kind::Ack && op.is_ok());
    let acked_in = acks.map(|(index, _)| of.delivery(index).redriven as usize).max();
    let most = match acked_in.filter(|_| seeks == 0) {
        // It died once before each redrive, and was acked after the last.
        Some(acked_in) => acked_in.min(1 + redrives),
        None => 1 + redrives + seeks,
    };
    if found > most {
        add(message, findings, || {
            let acked = if acked_in.is_some() { ", and was acked" } else { "" };
            format!(
                "{found} dead letters of it are there, but it can have died {most} times at most ({redrives} redrives{acked})"
            )
        });
    }
}

fn delivered_later(message: &OfMessage<'_>, findings: &mut Findings<'_>) {
    if message.may_be_revived() {
        return;
    }
    for delivery in message.deliveries.iter().map(|index| message.of.delivery(*index)) {
        let Some(letter) = message.letters.get(delivery.redriven as usize) else { continue };
        let limit = message.of.context.intake.promises.max_receives(delivery.made_ub).unwrap_or(u32::MAX);
        // Above the limit it is Q5 already. Which letter is whose is certain only of one.
        let is_beyond = message.letters.len() == 1
            && letter.receives > 0
            && delivery.receives > letter.receives
            && delivery.receives <= limit;
        if letter.read_ns < delivery.made_lb || is_beyond {
            add(message, findings, || {
                format!(
                    "it was delivered at {} ns as receive {}, but was dead after receive {} (read at {} ns)",
                    delivery.received_ns, delivery.receives, letter.receives, letter.read_ns
                )
            });
        }
    }
}

fn redriven(message: &OfMessage<'_>, findings: &mut Findings<'_>) {
    let intake = &message.of.context.intake;
    let mut before = 0;
    for delivery in message.deliveries.iter().map(|index| message.of.delivery(*index)) {
        let asked = intake.redrives.iter().filter(|redrive| redrive.invoked_ns <= delivery.made_ub).count();
        let read_ns = intake.letters.read_to_end_ns.unwrap_or(0);
        let died = if read_ns > delivery.made_ub { message.letters.len() } else { usize::MAX };
        let times = delivery.redriven as usize;
        if times > asked || times > died {
            add(message, findings, || {
                let died = if died == usize::MAX { String::new() } else { format!(", and it died {died} times") };
                format!("it was delivered as redriven {times} times; there were {asked} redrives{died}")
            });
        } else if delivery.redriven < before {
            add(message, findings, || {
                format!("it was delivered as redriven {times} times, after it had been {before} times")
            });
        }
        before = delivery.redriven;
    }
}

/// It should be dead, and is not.
fn missing(message: &OfMessage<'_>, findings: &mut Findings<'_>) {
    let of = message.of;
    let Some(index) = message.should_be_dead() else { return };
    let is_rejected = of.ops(index).iter().any(|op| op.kind == Kind::Reject && op.is_ok());
    if !message.is_read_after_the_last() {
        return;
    }
    let since = of.lease_end_ub(index);
    let (receives, fence) = (of.delivery(index).receives, of.delivery(index).fence);
    if is_rejected {
        add(message, findings, || {
            format!("it was rejected with receipt {fence}, and is not in the dead-letter stream")
        });
    } else {
        findings.add(Check::ReceiveLimit, Some(message.offset), message.value(), || {
            format!(
                "queue {}: receive {receives}, with receipt {fence}, was its last and was over by {since} ns, but it is not \
                 in the dead-letter stream",
                of.context.number
            )
        });
    }
}

impl OfMessage<'_> {
    /// The delivery after which it surely should be dead, while no dead letter tells of it: its last one, rejected or as
    /// many as there may be, and not acked.
    pub(super) fn should_be_dead(&self) -> Option<u32> {
        let (of, intake) = (self.of, &self.of.context.intake);
        let index = self.deliveries.last().copied()?;
        let delivery = of.delivery(index);
        let limit = intake.promises.max_receives(u64::MAX - 1)?;
        let acked = self.all_ops().any(|(_, op)| op.kind == Kind::Ack && op.may_end());
        let is_rejected = of.ops(index).iter().any(|op| op.kind == Kind::Reject && op.is_ok());
        let released = of.ops(index).iter().any(|op| op.kind == Kind::Release && op.may_end());
        let is_over = is_rejected || (delivery.receives >= limit && !released && !of.runs.is_behind(index));
        let is_reset = self.may_be_reset_between(0, u64::MAX);
        (is_over && !acked && !is_reset && self.letters.len() <= delivery.redriven as usize).then_some(index)
    }
}
