//! How receipts were used; and Q4 stale receipt.
//!
//! | verb | is stale once | proven by |
//! | --- | --- | --- |
//! | all | a later delivery had begun, and no crash followed so soon that it may be forgotten | it had *arrived* somewhere before the verb was *sent* |
//! | all | its own nack, release or reject was taken | the *answer* to that came before the verb was *sent* |
//! | all | the message was dead, or purged, or the queue was sought | the dead letter was *read*, the *answer* had come |
//! | all but ack | its own ack was taken, or an earlier one of its run was nacked, released or rejected | as above |
//! | all but ack | its deadline was over | the latest it can be ([`super::lease`]), and what the server may be late |
//! | all but ack | a server that was killed after it *arrived* was gone before the verb was sent | |
//!
//! An ack with a receipt whose deadline is over is good while nothing has overtaken it, also over a restart; the same receipt
//! may be acked again. Not judged: refusals, because nobody can prove that a delivery was not overtaken by one that was lost
//! on its way; the end of a lease by a lost connection, because the receiver may have come back in time.

use super::OfMessage;
use super::promises::ms;
use super::timeline::Outages;
use crate::history::queue::{Receipt, Verb};
use crate::verdict::{Check, Findings};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Ack,
    Nack,
    Release,
    Reject,
    Extend,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Nack => "nack",
            Self::Release => "release",
            Self::Reject => "reject",
            Self::Extend => "extend",
        }
    }
}

/// What is known of a use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Answered {
    Ok,
    /// The message is settled.
    Already,
    Unknown,
    Refused,
    /// It was sent; if no answer is on record, it is unknown.
    NotYet,
}

/// One use of a receipt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Op {
    pub fence: u64,
    pub offset: u64,
    /// When it was sent.
    pub invoked_ns: u64,
    /// When its answer came; `u64::MAX`: it may still happen.
    pub done_ns: u64,
    /// Of an extend how far, of a nack how late; `u64::MAX`: as the queue says.
    pub by_ns: u64,
    pub kind: Kind,
    pub answered: Answered,
}

impl Op {
    pub fn of(receipt: Receipt, verb: Verb, invoked_ns: u64, done_ns: u64, answered: Answered) -> Self {
        let Receipt { offset, fence, .. } = receipt;
        let (kind, by_ns) = Kind::of(verb);
        Self { fence, offset, invoked_ns, done_ns, by_ns, kind, answered }
    }

    pub fn is_ok(&self) -> bool {
        self.answered == Answered::Ok
    }

    /// Whether it is an end of its delivery, or may be.
    pub fn may_end(&self) -> bool {
        self.kind != Kind::Extend && matches!(self.answered, Answered::Ok | Answered::Unknown)
    }

    /// Whether it settles its message, or may.
    pub fn may_settle(&self) -> bool {
        matches!(self.kind, Kind::Ack | Kind::Reject) && self.may_end()
    }

    /// Whether it ends the run behind it, too.
    pub fn may_fail(&self) -> bool {
        self.kind != Kind::Ack && self.may_end()
    }
}

/// Puts sends and answers together: what has no answer is unknown, what was refused did not happen. Leaves them by fence.
/// Where the server was away meanwhile, a refusal and an `already settled` may answer a second copy of what the first one
/// did: then that is unknown.
pub(super) fn paired(mut ops: Vec<Op>, outages: &Outages) -> Vec<Op> {
    let mut first_copies = Vec::new();
    for op in ops.iter().filter(|op| matches!(op.answered, Answered::Refused | Answered::Already)) {
        if outages.may_be_between(op.invoked_ns, op.done_ns) {
            first_copies.push(Op { answered: Answered::Unknown, done_ns: u64::MAX, ..*op });
        }
    }
    ops.sort_unstable_by_key(|op| (op.fence, op.offset, op.kind, op.by_ns, op.invoked_ns, op.answered));
    let mut paired = Vec::with_capacity(ops.len() / 2);
    for of_one in ops.chunk_by(|a, b| (a.fence, a.offset, a.kind, a.by_ns) == (b.fence, b.offset, b.kind, b.by_ns)) {
        // Answers take the sends from the last one back: the earliest ones stay open, which is the widest reading.
        let answers = of_one.iter().filter(|op| op.answered != Answered::NotYet).count();
        let sends = of_one.iter().filter(|op| op.answered == Answered::NotYet);
        let open = sends.clone().count().saturating_sub(answers);
        paired.extend(sends.take(open).map(|op| Op { answered: Answered::Unknown, ..*op }));
        let happened = |op: &&Op| !matches!(op.answered, Answered::NotYet | Answered::Refused);
        paired.extend(of_one.iter().filter(happened));
    }
    if !first_copies.is_empty() {
        paired.append(&mut first_copies);
        paired.sort_by_key(|op| (op.fence, op.offset));
    }
    paired
}

pub(super) fn check(message: &OfMessage<'_>, findings: &mut Findings<'_>) {
    for (place, index) in message.deliveries.iter().copied().enumerate() {
        for op in message.of.ops(index).iter().filter(|op| op.is_ok()) {
            if let Some(why) = stale(message, place, op) {
                let (queue, word, sent, fence) = (message.of.context.number, op.kind.word(), op.invoked_ns, op.fence);
                findings.add(Check::StaleReceipt, Some(message.offset), message.value(), || {
                    format!("queue {queue}: a {word} with receipt {fence}, sent at {sent} ns, was taken, but {why}")
                });
            }
        }
    }
}

/// Why the receipt of that delivery was good for nothing any more when this was sent.
fn stale(message: &OfMessage<'_>, place: usize, op: &Op) -> Option<String> {
    let (of, index) = (message.of, message.deliveries[place]);
    let (context, delivery) = (of.context, of.delivery(index));
    let sent = op.invoked_ns;
    let later = message.deliveries.get(place + 1).map(|next| of.delivery(*next)).filter(|d| d.made_ub < sent);
    if let Some(later) = later.filter(|later| !may_be_forgotten(context, later, op)) {
        return Some(format!(
            "the message had been delivered again at {} ns with receipt {}",
            later.made_ub, later.fence
        ));
    }
    let ends = |other: &&Op| other.is_ok() && other.kind != Kind::Extend && other.done_ns < sent;
    if let Some(end) = of.ops(index).iter().filter(ends).find(|end| op.kind != Kind::Ack || end.kind != Kind::Ack) {
        return Some(format!("that delivery had ended by its {} at {} ns", end.kind.word(), end.done_ns));
    }
    let letter = message.letters.get(delivery.redriven as usize).filter(|letter| letter.read_ns < sent);
    if let Some(letter) = letter.filter(|_| !message.may_be_revived()) {
        return Some(format!("it had been read as a dead letter at {} ns", letter.read_ns));
    }
    let voids = |reset: &&super::timeline::Reset| {
        reset.invoked_ns > delivery.made_ub
            && reset.done_ns < sent
            && (reset.kind == super::timeline::ResetKind::Seek || reset.settles(of.partition, message.offset))
    };
    if let Some(reset) = context.intake.resets.iter().find(voids) {
        return Some(format!("the queue had been purged or sought by {} ns", reset.done_ns));
    }
    if op.kind == Kind::Ack {
        return None;
    }
    if let Some(failed_ns) = of.run_failed_by(index).filter(|failed_ns| *failed_ns < sent) {
        return Some(format!("an earlier message of its run had failed at {failed_ns} ns"));
    }
    if let Some(outage) = context.outages.surely_after(delivery.made_ub).filter(|outage| outage.up_ns < sent) {
        return Some(format!("the server had been started anew at {} ns", outage.up_ns));
    }
    let deadline = of.deadline_ub(index, sent);
    (deadline.saturating_add(context.late_ns) < sent)
        .then(|| format!("its deadline was {} ms before", sent.saturating_sub(deadline) / ms(1)))
}

/// Whether a server that died soon after that delivery may not have stored it, and know nothing of it when the verb comes.
fn may_be_forgotten(context: &super::Context<'_>, later: &super::Delivery, op: &Op) -> bool {
    let outage = context.outages.first_from(later.made_lb);
    outage.is_some_and(|outage| {
        outage.down_ns <= later.made_ub.saturating_add(context.late_ns) && outage.down_ns <= op.done_ns
    })
}

/// Receipts that nobody has got.
pub(super) fn unknown(of: &super::InPartition<'_>, findings: &mut Findings<'_>) {
    for op in of.ops.iter().filter(|op| op.is_ok() && of.by_fence(op.fence, op.offset).is_none()) {
        let (queue, word, fence) = (of.context.number, op.kind.word(), op.fence);
        findings.add(Check::StaleReceipt, Some(op.offset), None, || {
            format!(
                "queue {queue}: a {word} with receipt {fence} was taken, but nobody has got a delivery with that number"
            )
        });
    }
}
