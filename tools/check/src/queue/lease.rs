//! From when to when a message was somebody's; and Q3 double lease.
//!
//! What happened at the server lies between what clients know, and both readings are wanted:
//!
//! | | earliest (`_lb`): what excuses | latest (`_ub`): what accuses |
//! | --- | --- | --- |
//! | a delivery was made | [`super::deliveries`] | when it arrived |
//! | its deadline | made earliest + the shortest visibility that may hold | arrived + the longest |
//! | after an extend | its *send* + what was asked for | its *answer* + what was asked for |
//! | an extend without an answer | as if it had not happened, or as if it had | never |
//! | ack, nack, release, reject | the *send*, answered or not | the *answer* ok |
//! | an earlier one of its run failed | the *send* of that | the *answer* ok |
//! | its receiver's connection ended | last known good + the shortest grace | never: it may have come back |
//! | the server's process ended | when that was seen (nothing is delivered before the next start, which is later) | next start |
//! | purge, seek, deletion | the *send* | the *answer* ok |
//! | something came after it | never | when that arrived |
//!
//! Q3 is: the next delivery of the message arrived before the earliest end of the lease, by more than a tick.

use super::promises::TICK_NS;
use super::receipts::{Kind, Op};
use super::{InPartition, OfMessage};
use crate::verdict::{Check, Findings};

impl InPartition<'_> {
    /// Shortest and longest visibility of a delivery.
    pub fn visibility(&self, index: u32) -> (u64, u64) {
        let delivery = self.delivery(index);
        match delivery.visibility_ns {
            u64::MAX => {
                self.context.intake.promises.bounds(delivery.made_ub, |all| super::promises::ms(all.visibility_ms))
            }
            asked => (asked, asked),
        }
    }

    /// The earliest that its deadline can be, as far as was asked for before that time.
    fn deadline_lb(&self, index: u32, before_ns: u64) -> u64 {
        let first = self.delivery(index).made_lb.saturating_add(self.visibility(index).0);
        self.extends(index, before_ns, first, |op| op.invoked_ns.saturating_add(op.by_ns)).min().unwrap_or(first)
    }

    /// The latest that its deadline can be, as far as was asked for before that time.
    pub fn deadline_ub(&self, index: u32, before_ns: u64) -> u64 {
        let first = self.delivery(index).made_ub.saturating_add(self.visibility(index).1);
        // What may happen at any time may end at any time: an addition to no end has none.
        self.extends(index, before_ns, first, |op| op.done_ns.saturating_add(op.by_ns)).max().unwrap_or(first)
    }

    /// The deadlines that may stand in the end: the `first` one, and one for each extend that no other surely followed.
    fn extends(
        &self,
        index: u32,
        before_ns: u64,
        first: u64,
        deadline: impl Fn(&Op) -> u64,
    ) -> impl Iterator<Item = u64> {
        let is_before = move |op: &&Op| op.kind == Kind::Extend && op.may_extend() && op.invoked_ns < before_ns;
        // One that is told of any of a run is of all of it.
        let extends = self.runs.mates(index).flat_map(|mate| self.ops(mate)).filter(is_before);
        let last_ns = extends.clone().filter(|op| op.is_ok()).map(|op| op.invoked_ns).max();
        let stands = move |op: &&Op| last_ns.is_none_or(|last_ns| op.done_ns >= last_ns);
        extends.filter(stands).map(deadline).chain(last_ns.is_none().then_some(first))
    }

    /// The earliest that its lease can have ended; nothing from `next_ns` on has to do with it.
    pub fn lease_end_lb(&self, index: u32, next_ns: u64) -> u64 {
        let (delivery, intake) = (self.delivery(index), &self.context.intake);
        let made = delivery.made_lb;
        let mut end = self.deadline_lb(index, next_ns);
        for op in self.ops(index).iter().filter(|op| op.may_end()) {
            // A nack that may not have happened is not an excuse for what comes before the time it asked for.
            let wait = if op.kind == Kind::Nack && !op.is_ok() { self.nack_wait(index, op).0 } else { 0 };
            end = end.min(op.invoked_ns.saturating_add(wait));
        }
        end = end.min(self.run_may_fail_from(index));
        if let Some((since_ns, _)) = intake.receiver[delivery.receiver as usize].gone {
            let grace =
                |of: &crate::history::queue::Settings| of.disconnect_grace_ms.map_or(u64::MAX, super::promises::ms);
            let (grace, _) = intake.promises.bounds(u64::MAX - 1, grace);
            end = end.min(since_ns.max(made).saturating_add(grace));
        }
        if let Some(outage) = self.context.outages.first_from(made) {
            end = end.min(outage.down_ns.max(made));
        }
        for reset in intake.resets.iter().filter(|reset| reset.done_ns >= made) {
            end = end.min(reset.invoked_ns.max(made));
        }
        end.min(intake.deleted_ns.unwrap_or(u64::MAX).max(made))
    }

    /// The latest that its lease can have ended.
    pub fn lease_end_ub(&self, index: u32) -> u64 {
        let mut end = self.deadline_ub(index, u64::MAX).saturating_add(self.context.late_ns);
        for op in self.ops(index).iter().filter(|op| op.kind != Kind::Extend && op.is_ok()) {
            end = end.min(op.done_ns);
        }
        end = end.min(self.run_failed_by(index).unwrap_or(u64::MAX));
        let outage = self.context.outages.surely_after(self.delivery(index).made_ub);
        end.min(outage.map_or(u64::MAX, |outage| outage.up_ns))
    }

    /// How long a nack asks for, at least and at most.
    pub fn nack_wait(&self, index: u32, op: &Op) -> (u64, u64) {
        match op.by_ns {
            u64::MAX => {
                let until = op.done_ns.min(u64::MAX - 1);
                self.context.intake.promises.backoff_ns(until, self.delivery(index).receives)
            }
            asked => (asked, asked.saturating_add(TICK_NS)),
        }
    }
}

impl Op {
    fn may_extend(&self) -> bool {
        use super::receipts::Answered;
        matches!(self.answered, Answered::Ok | Answered::Unknown)
    }
}

pub(super) fn check(message: &OfMessage<'_>, findings: &mut Findings<'_>) {
    let of = message.of;
    for (index, next) in message.pairs() {
        let (first, second) = (of.delivery(index), of.delivery(next));
        let end = of.lease_end_lb(index, second.made_ub);
        if first.fence != second.fence && second.made_ub.saturating_add(TICK_NS) < end {
            findings.add(Check::DoubleLease, Some(message.offset), message.value(), || {
                format!(
                    "queue {}: delivered at {} ns with receipt {}, while the lease of receipt {}, which came at {} ns, \
                     stood until {end} ns at least",
                    of.context.number, second.received_ns, second.fence, first.fence, first.received_ns
                )
            });
        }
    }
}
