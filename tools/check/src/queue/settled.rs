//! What becomes of each message: Q1 lost message, Q2 ghost delivery, Q8 filter.
//!
//! - Q2: an ack that is answered ok means that no later delivery had begun, and that none will: any delivery with a higher
//!   fencing number is wrong, whenever it came. If it had come *before* the ack was *sent*, the ack is (Q4, `receipts`).
//!   `already settled` says the same as of its *answer*, for what was made (at the earliest) after it; so do a purge and a
//!   seek past it. An ack without an answer proves nothing. A seek back that may lie between excuses, and a redrive does.
//! - Q1: in the end nothing is on record that may have settled it: no ack or reject that was taken or may have been, no dead
//!   letter, no purge, no seek past it, after the last seek that surely brought it back; and the queue does not have it: the
//!   final state says that it holds nothing (or less than is missing, which then cannot be named). Without a final state
//!   nothing proves that it is held. Messages that were acknowledged to their producer, or delivered, count; those that
//!   nobody knows of do not. Where it can be dead and the dead-letter stream was not read late enough, nothing is said.
//! - Q8: delivered though the reference says no, or from below the queue's start; or it says yes, and a queue with a filter
//!   has never delivered it (which else would be Q1).
//! - A dead letter that was surely redriven and is lost again before anybody gets it is Q5b.

use super::promises::ms;
use super::receipts::{Answered, Kind};
use super::{Context, InPartition, OfMessage};
use crate::history::Place;
use crate::value::ValueId;
use crate::verdict::{Check, Findings, Verdict};

/// What becomes of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fate {
    pub offset: u64,
    pub value: ValueId,
    /// The earliest that it can have been settled for the first time; `u64::MAX`: it was not. 0 where it is not known to be
    /// the queue's.
    pub settled_lb: u64,
    /// The latest that it can have been settled for the last time; `u64::MAX`: it may not be.
    pub settled_ub: u64,
    /// The queue must have it in the end.
    pub is_owed: bool,
    pub is_delivered: bool,
    pub is_redriven: bool,
}

pub(super) fn check(message: &OfMessage<'_>, findings: &mut Findings<'_>) {
    let Some(first) = message.deliveries.first() else { return };
    let (of, intake) = (message.of, &message.of.context.intake);
    let (queue, receiver) = (of.context.number, of.delivery(*first).receiver);
    if intake.should_match(message.message.value) == Some(false) {
        findings.add(Check::Filter, Some(message.offset), message.value(), || {
            format!("queue {queue}: it was delivered (to receiver {receiver}), but the filter does not match it")
        });
    } else if message.offset < intake.start(of.partition) && !message.may_be_revived() {
        let start = intake.start(of.partition);
        findings.add(Check::Filter, Some(message.offset), message.value(), || {
            format!("queue {queue}: it was delivered (to receiver {receiver}), but the queue begins at {start}")
        });
    }
    for index in message.deliveries.iter().copied() {
        if let Some(why) = ghost(message, index) {
            let delivery = of.delivery(index);
            findings.add(Check::Ghost, Some(message.offset), message.value(), || {
                format!(
                    "queue {queue}: delivered at {} ns as receive {} with receipt {}, but {why}",
                    delivery.received_ns, delivery.receives, delivery.fence
                )
            });
        }
    }
}

/// Why that delivery should not have been.
fn ghost(message: &OfMessage<'_>, index: u32) -> Option<String> {
    let of = message.of;
    let delivery = of.delivery(index);
    let same_life = |other: u32| of.delivery(other).redriven == delivery.redriven;
    for (acked, op) in message.all_ops().filter(|(other, _)| *other < index && same_life(*other)) {
        let is_revived = || message.may_be_revived_between(op.invoked_ns, delivery.made_ub);
        let (done, fence) = (op.done_ns, of.delivery(acked).fence);
        match op.answered {
            Answered::Ok if op.kind == Kind::Ack && op.invoked_ns <= delivery.made_ub && !is_revived() => {
                return Some(format!("it was acked with receipt {fence} by {done} ns"));
            }
            Answered::Already if op.done_ns < delivery.made_lb && !is_revived() => {
                return Some(format!("it was settled already, as receipt {fence} was told at {done} ns"));
            }
            _ => {}
        }
    }
    let settles = |reset: &&super::Reset| {
        reset.is_sure()
            && reset.settles(of.partition, message.offset)
            && reset.done_ns < delivery.made_lb
            && !message.may_be_revived_between(reset.invoked_ns, delivery.made_ub)
    };
    let reset = of.context.resets().iter().find(settles).filter(|_| delivery.redriven == 0)?;
    Some(format!("the queue was purged or sought past it by {} ns", reset.done_ns))
}

impl OfMessage<'_> {
    pub(super) fn fate(&self) -> Fate {
        Fate {
            offset: self.offset,
            value: self.message.value,
            settled_lb: self.settled_lb(),
            settled_ub: self.settled_ub(),
            is_owed: self.is_owed(),
            is_delivered: !self.deliveries.is_empty(),
            is_redriven: self.returns() > 0
                && self.deliveries.iter().all(|d| self.of.delivery(*d).redriven < self.returns()),
        }
    }

    fn is_the_queues(&self) -> bool {
        let (of, intake) = (self.of, &self.of.context.intake);
        let mut revived = of.context.resets().iter().filter(|reset| reset.is_sure());
        (self.offset >= intake.start(of.partition) || revived.any(|reset| reset.revives(of.partition, self.offset)))
            && intake.should_match(self.message.value) == Some(true)
    }

    fn settled_lb(&self) -> u64 {
        if !self.is_the_queues() {
            return 0;
        }
        let of = self.of;
        let first_life = |index: &u32| of.delivery(*index).redriven == 0;
        let ops = self.all_ops().filter(|(index, op)| first_life(index) && op.may_settle());
        let resets = of.context.resets().iter().filter(|reset| reset.settles(of.partition, self.offset));
        let settled = ops.map(|(_, op)| op.invoked_ns).chain(resets.map(|reset| reset.invoked_ns)).min();
        let last = self.deliveries.iter().copied().rfind(first_life);
        let over = last.map_or(0, |last| of.end_lb[last as usize]);
        let dead = match self.letters.is_empty() {
            false => over,
            true if self.may_have_died(last) => over.max(of.context.intake.letters.read_to_end_ns.unwrap_or(0)),
            true => u64::MAX,
        };
        settled.unwrap_or(u64::MAX).min(dead)
    }

    fn settled_ub(&self) -> u64 {
        let of = self.of;
        let last_life = self.deliveries.last().map_or(0, |last| of.delivery(*last).redriven);
        let acks = self
            .all_ops()
            .filter(|(index, op)| op.kind == Kind::Ack && op.is_ok() && of.delivery(*index).redriven == last_life);
        let acked = acks.map(|(_, op)| op.done_ns).min();
        let letter = self.letters.get(last_life as usize).map(|letter| letter.read_ns);
        if self.may_be_revived() {
            return u64::MAX;
        }
        let resets = of.context.resets().iter().filter(|reset| reset.settles(of.partition, self.offset));
        let reset = resets.map(|reset| reset.done_ns).min();
        [acked, letter, reset].into_iter().flatten().min().unwrap_or(u64::MAX)
    }

    /// Whether it may be dead although no letter tells of it, after that delivery.
    fn may_have_died(&self, last: Option<u32>) -> bool {
        let (of, intake) = (self.of, &self.of.context.intake);
        let Some(fewest) = intake.promises.min_receives() else { return false };
        let Some(last) = last else { return true };
        of.delivery(last).receives >= fewest || self.may_have_unseen(of.delivery(last).made_lb, u64::MAX)
    }

    /// How often it surely went back from the dead-letter stream.
    fn returns(&self) -> u32 {
        let whole = self.of.context.intake.redrives.iter().filter(|redrive| redrive.is_whole);
        let last = whole.map(|redrive| redrive.invoked_ns).max().unwrap_or(0);
        match self.letters.last() {
            Some(letter) if letter.read_ns < last => self.letters.len() as u32,
            _ => 0,
        }
    }

    /// Whether a full read of the dead-letter stream was begun late enough to have it, if its last delivery killed it.
    pub(super) fn is_read_after_the_last(&self) -> bool {
        let (of, intake) = (self.of, &self.of.context.intake);
        let Some(read_ns) = intake.letters.read_to_end_ns else { return false };
        let (_, visibility) = intake.promises.bounds(u64::MAX - 1, |settings| ms(settings.visibility_ms));
        let over = self.deliveries.last().map_or(self.message.acked_ns, |last| of.lease_end_ub(*last));
        let since = over.max(of.context.outages.ready_before(read_ns));
        since.saturating_add(visibility.saturating_mul(2)).saturating_add(of.context.late_ns) < read_ns
    }

    /// Whether the queue must have it in the end.
    fn is_owed(&self) -> bool {
        let (of, intake) = (self.of, &self.of.context.intake);
        let asked_ns = intake.state.map_or(u64::MAX, |state| state.invoked_ns);
        let is_known = self.message.acked_ns < asked_ns
            || self.deliveries.iter().any(|index| of.delivery(*index).made_ub < asked_ns);
        let by_interest = intake.promises.all().all(|settings| settings.interest);
        let is_expired = !by_interest && self.offset < of.log_start;
        if !is_known || !self.is_the_queues() || is_expired || intake.deleted_ns.is_some() {
            return false;
        }
        let resets = of.context.resets();
        let revives = resets.iter().filter(|reset| reset.is_sure() && reset.revives(of.partition, self.offset));
        let since_ns = revives.map(|reset| reset.invoked_ns).max().unwrap_or(0);
        if resets.iter().any(|reset| reset.settles(of.partition, self.offset) && reset.done_ns >= since_ns) {
            return false;
        }
        let returns = self.returns();
        if returns == 0 && self.letters.iter().any(|letter| letter.read_ns >= since_ns) {
            return false;
        }
        let mut ops = self.all_ops().filter(|(index, op)| op.may_settle() && of.delivery(*index).redriven >= returns);
        if ops.any(|(_, op)| op.done_ns >= since_ns) || self.should_be_dead().is_some() {
            return false;
        }
        !self.may_have_died(self.deliveries.last().copied()) || self.is_read_after_the_last()
    }
}

/// What is owed, against what the queue says that it has.
pub(super) fn all(context: &Context<'_>, partitions: &[InPartition<'_>], owed: &[(u32, Fate)], verdict: &mut Verdict) {
    let (queue, intake) = (context.number, &context.intake);
    let held = intake.state.map_or(0, |state| state.held);
    let at = |partition| Place { stream: intake.stream, partition };
    if held > 0 {
        let missing = (owed.len() as u64).saturating_sub(held);
        let first = partitions.first().map_or(0, |of| of.partition);
        if missing > 0 {
            Findings { verdict, at: at(first) }.add(Check::LostMessage, None, None, || {
                format!(
                    "queue {queue}: it says that it has {held} messages in all partitions together, but {} are neither \
                     acked nor dead nor purged",
                    owed.len()
                )
            });
        }
        return;
    }
    let is_filtered = intake.promises.all().any(|settings| settings.filtered);
    let says =
        if intake.state.is_some() { "the queue says that it has none" } else { "no final state says that it is there" };
    for (partition, fate) in owed.iter().copied() {
        let (check, what) = match fate {
            Fate { is_redriven: true, .. } => (Check::DeadLetter, "redriven, it never came back"),
            Fate { is_delivered: false, .. } if is_filtered => {
                (Check::Filter, "the filter matches it, it was never delivered")
            }
            Fate { is_delivered: false, .. } => (Check::LostMessage, "it was never delivered"),
            _ => (Check::LostMessage, "it was delivered and is neither acked nor dead"),
        };
        let findings = &mut Findings { verdict, at: at(partition) };
        findings.add(check, Some(fate.offset), Some(fate.value), || format!("queue {queue}: {what}, and {says}"));
    }
}
