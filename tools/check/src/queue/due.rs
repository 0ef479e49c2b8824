//! Q9 not when due, Q10 starvation.
//!
//! - Early (Q9): a first delivery before the message's delay (or the shortest that its queue may have had) after it was sent;
//!   a later one before what the nack had asked for, counted from when that was sent. What may have ended the delivery
//!   otherwise, and a purge or seek between, excuse. A deadline that was not waited for is Q3.
//! - Late: from a time on a message could surely be received, and up to another it was surely not delivered (the next
//!   delivery was made then at the earliest; or there is none, though the queue must have the message), while one receiver
//!   was there for it all the time: a call that had been sent and was not answered, or one with pushed messages and room. Of a
//!   message that had been told to wait it is Q9, else Q10.
//! - What nobody knows of excuses all lateness: outages, deliveries that were lost, pauses, purges, seeks, redrives.

use super::promises::{TICK_NS, ms};
use super::receipts::Kind;
use super::timeline::Spans;
use super::{Context, InPartition, OfMessage};
use crate::history::Place;
use crate::value::ValueId;
use crate::verdict::{Check, Findings, Verdict};

/// A message that could be received, and was not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Late {
    pub partition: u32,
    pub offset: u64,
    value: ValueId,
    /// From then on, surely;
    pub since_ns: u64,
    /// up to then, surely.
    pub until_ns: u64,
    /// It had been told to wait before.
    is_due: bool,
}

pub(super) fn check(message: &OfMessage<'_>, is_owed: bool, late: &mut Vec<Late>, findings: &mut Findings<'_>) {
    early(message, findings);
    let (of, intake) = (message.of, &message.of.context.intake);
    if message.offset < intake.start(of.partition)
        || intake.should_match(message.message.value) != Some(true)
        || message.may_be_revived()
    {
        return;
    }
    let (delay, max_delay) = delay(message);
    let created_ns = intake.created_ns.unwrap_or(u64::MAX);
    let appended_ns = message.message.acked_ns.max(created_ns);
    let mut ready = (appended_ns.saturating_add(max_delay).saturating_add(TICK_NS), delay > 0);
    for index in message.deliveries.iter().copied() {
        let delivery = of.delivery(index);
        if delivery.redriven > 0 {
            return;
        }
        add(message, ready, delivery.made_lb, late);
        ready = again(of, index);
    }
    if is_owed {
        add(message, ready, u64::MAX, late);
    }
}

fn add(message: &OfMessage<'_>, (since_ns, is_due): (u64, bool), until_ns: u64, late: &mut Vec<Late>) {
    let (of, context) = (message.of, message.of.context);
    let outage = context.outages.first_from(since_ns).map_or(u64::MAX, |outage| outage.down_ns);
    let until_ns = until_ns.min(outage).min(context.intake.deleted_ns.unwrap_or(u64::MAX));
    if until_ns <= since_ns.saturating_add(context.late_ns)
        || message.unseen.touch(since_ns, until_ns)
        || message.may_be_reset_between(since_ns, until_ns)
        || context.outages.ready_before(since_ns) > since_ns
    {
        return;
    }
    let (partition, offset, value) = (of.partition, message.offset, message.message.value);
    late.push(Late { partition, offset, value, since_ns, until_ns, is_due });
}

/// The least and the most that it may be held back after its append.
fn delay(message: &OfMessage<'_>) -> (u64, u64) {
    let context = message.of.context;
    match context.delays.get(&message.message.value) {
        Some(own) => (*own, *own),
        None => context.intake.promises.bounds(u64::MAX - 1, |settings| ms(settings.delay_ms)),
    }
}

/// From when on it can surely be received after that delivery, and whether it was told to wait.
fn again(of: &InPartition<'_>, index: u32) -> (u64, bool) {
    let ended = of.lease_end_ub(index);
    let waits = of.ops(index).iter().filter(|op| op.kind == Kind::Nack && op.may_end());
    let wait = waits.map(|op| of.nack_wait(index, op).1).max();
    // A server that starts anew may first read what it has not held in memory.
    let ready = of.context.outages.ready_before(ended);
    (
        ended.max(ready).saturating_add(wait.unwrap_or(0)).saturating_add(TICK_NS),
        wait.is_some_and(|wait| wait > TICK_NS),
    )
}

fn early(message: &OfMessage<'_>, findings: &mut Findings<'_>) {
    let (of, queue) = (message.of, message.of.context.number);
    let mut add = |index: u32, due_ns: u64, why: &str| {
        let delivery = of.delivery(index);
        if delivery.made_ub.saturating_add(TICK_NS) < due_ns {
            findings.add(Check::Due, Some(message.offset), message.value(), || {
                format!(
                    "queue {queue}: delivered at {} ns with receipt {}, but {why} until {due_ns} ns at least",
                    delivery.received_ns, delivery.fence
                )
            });
        }
    };
    if let Some(first) = message.deliveries.first().filter(|first| of.delivery(**first).redriven == 0) {
        let sent_ns = message.message.invoked_ns;
        if sent_ns > 0 {
            add(*first, sent_ns.saturating_add(delay(message).0), "it was to be delayed");
        }
    }
    for (index, next) in message.pairs() {
        let ends = || of.ops(index).iter().filter(|op| op.may_end());
        let asked = ends().map(|op| op.invoked_ns.saturating_add(of.nack_wait(index, op).0)).min();
        let is_nacked = ends().any(|op| op.is_ok()) && ends().all(|op| op.kind == Kind::Nack);
        let (from_ns, to_ns) = (of.delivery(index).made_lb, of.delivery(next).made_ub);
        let is_redriven = of.delivery(index).redriven != of.delivery(next).redriven;
        if let Some(due_ns) =
            asked.filter(|_| is_nacked && !is_redriven && !message.may_be_reset_between(from_ns, to_ns))
        {
            add(next, due_ns, "its nack held it back");
        }
    }
}

/// When a receiver surely waited, each span as long as matters.
#[derive(Debug)]
pub(super) struct Waiting {
    spans: Spans,
    begins: Vec<u64>,
}

impl Waiting {
    pub fn of(context: &Context<'_>, partitions: &[InPartition<'_>]) -> Self {
        let mut spans = context.intake.calls.clone();
        let mut of_receiver: Vec<Vec<(u64, u64)>> = vec![Vec::new(); context.intake.receiver.len()];
        for of in partitions {
            for (index, delivery) in of.deliveries.iter().enumerate() {
                of_receiver[delivery.receiver as usize].push((delivery.made_lb, of.lease_end_ub(index as u32)));
            }
        }
        for (receiver, held) in context.intake.receiver.iter().zip(of_receiver) {
            with_room(receiver, held, &mut spans);
        }
        let mut cut = Vec::with_capacity(spans.len());
        for span in spans {
            without(&context.intake.pauses, span, &mut cut);
        }
        cut.retain(|(begin, end)| end.saturating_sub(*begin) > context.late_ns);
        let mut begins: Vec<u64> = cut.iter().map(|(begin, _)| *begin).collect();
        begins.sort_unstable();
        Self { spans: Spans::of(cut), begins }
    }

    /// Whether one waited for more than that long between.
    fn longer_than(&self, late_ns: u64, from_ns: u64, to_ns: u64) -> bool {
        let Some(last) = to_ns.checked_sub(late_ns).filter(|last| *last > from_ns) else { return false };
        let here = self.spans.latest_end(from_ns).is_some_and(|end| end.min(to_ns) > from_ns.saturating_add(late_ns));
        let next = self.begins.partition_point(|begin| *begin <= from_ns);
        here || self.begins.get(next).is_some_and(|begin| *begin < last)
    }
}

/// When a receiver with pushed messages surely had room, from its first credit to the last time that it surely was there.
fn with_room(receiver: &super::intake::Receiver, held: Vec<(u64, u64)>, spans: &mut Vec<(u64, u64)>) {
    let Some((first_ns, ..)) = receiver.credit.first().copied() else { return };
    // Nobody says when one that was never seen to go was there last: up to what it got.
    let seen_ns = held.iter().map(|(made, _)| *made).max().unwrap_or(first_ns);
    let end_ns = receiver.gone.map_or(seen_ns, |(since_ns, _)| since_ns);
    // Bytes may limit it, and nobody knows how many there are: then it has no room that is sure.
    if receiver.credit.iter().any(|(_, _, by_messages)| !by_messages) {
        return;
    }
    let mut changes: Vec<(u64, i64)> = held.iter().flat_map(|(made, over)| [(*made, 1), (*over, -1)]).collect();
    // What it gave least counts throughout: nobody knows when the server heard of more.
    let credit = i64::from(receiver.credit.iter().map(|(_, messages, _)| *messages).min().unwrap_or(0));
    changes.sort_unstable();
    let (mut out, mut since) = (0, (credit > 0).then_some(first_ns));
    for (at_ns, change) in changes {
        out += change;
        match since {
            Some(begin) if out >= credit => {
                spans.push((begin, at_ns.min(end_ns)));
                since = None;
            }
            None if out < credit => since = Some(at_ns),
            _ => {}
        }
    }
    spans.extend(since.map(|begin| (begin, end_ns)));
}

/// A span without the pauses in it.
fn without(pauses: &[(u64, u64)], (mut begin, end): (u64, u64), spans: &mut Vec<(u64, u64)>) {
    let mut pauses: Vec<(u64, u64)> = pauses.iter().copied().filter(|pause| pause.0 < end && pause.1 > begin).collect();
    pauses.sort_unstable();
    for (from, to) in pauses {
        if from > begin {
            spans.push((begin, from));
        }
        begin = begin.max(to);
    }
    if begin < end {
        spans.push((begin, end));
    }
}

pub(super) fn late(context: &Context<'_>, waiting: &Waiting, late: &[Late], verdict: &mut Verdict) {
    for late in late {
        let Late { partition, offset, value, since_ns, until_ns, is_due } = *late;
        if !waiting.longer_than(context.late_ns, since_ns, until_ns) {
            continue;
        }
        let check = if is_due { Check::Due } else { Check::Starvation };
        let at = Place { stream: context.intake.stream, partition };
        Findings { verdict, at }.add(check, Some(offset), Some(value), || {
            let until = if until_ns == u64::MAX { "never".to_owned() } else { format!("not before {until_ns} ns") };
            format!(
                "queue {}: it could be received from {since_ns} ns on, and was {until}, while a receiver waited",
                context.number
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_cuts_what_is_waited() {
        let mut spans = Vec::new();
        without(&[(20, 30), (90, u64::MAX)], (10, 100), &mut spans);
        assert_eq!(spans, [(10, 20), (30, 90)]);
    }

    #[test]
    fn only_one_receiver_that_waits_long_enough_within_counts() {
        let of = |spans: &[(u64, u64)]| {
            let begins = spans.iter().map(|(begin, _)| *begin).collect();
            Waiting { spans: Spans::of(spans.to_vec()), begins }
        };
        let waiting = of(&[(0, 30), (100, 150)]);
        assert!(waiting.longer_than(9, 20, 99) && !waiting.longer_than(10, 20, 99), "ten are left of the first");
        assert!(waiting.longer_than(20, 50, 130) && !waiting.longer_than(30, 50, 130), "thirty of the second");
    }

    #[test]
    fn a_receiver_waits_while_it_has_room() {
        let receiver =
            super::super::intake::Receiver { credit: vec![(5, 2, true)], gone: Some((100, 101)), last_invoked_ns: 5 };
        let mut spans = Vec::new();
        with_room(&receiver, vec![(10, 40), (20, 60)], &mut spans);
        assert_eq!(spans, [(5, 20), (40, 100)]);
    }
}
