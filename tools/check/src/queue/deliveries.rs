//! The deliveries of a partition in the order in which the server made them, each with the times between which it did.
//!
//! The fencing number rises with every delivery of a queue and partition, also over restarts: it *is* their order. A
//! delivery was made
//! - not before its receive was sent, its value was sent, anything with a lower number was made, and the earliest end of the
//!   lease before it (`lease`);
//! - not after it arrived, nor after anything with a higher number arrived.
//!
//! Q5, as far as it is about fencing numbers: one number of two deliveries, or numbers that contradict the times. Where
//! numbers do, they are no evidence any more: each delivery is judged by its own times alone.
//! The same message with the same number again, for the same receiver, is an answer that was repeated (MESSAGING 1.10); for
//! another receiver it is a second holder of one lease, Q3.

use super::Message;
use crate::value::ValueId;
use crate::verdict::{Check, Findings};

/// Where no group was recorded.
pub(super) const NO_GROUP: u64 = u64::MAX;

#[derive(Debug, Clone, Copy)]
pub(super) struct Delivery {
    pub offset: u64,
    pub fence: u64,
    pub value: ValueId,
    pub group: u64,
    /// The server made it at this time or later,
    pub made_lb: u64,
    /// and at this time or before.
    pub made_ub: u64,
    pub received_ns: u64,
    /// What the receive asked for; `u64::MAX`: what the queue has.
    pub visibility_ns: u64,
    pub receives: u32,
    pub redriven: u32,
    pub receiver: u32,
    /// Which answer it came with.
    pub batch: u32,
}

/// Whether the order of the fencing numbers can be gone by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fences {
    Sound,
    Contradicted,
}

/// Sorts them, leaves each once, and bounds when each was made.
pub(super) fn in_order(
    queue: u32,
    deliveries: &mut Vec<Delivery>,
    messages: &[Message],
    findings: &mut Findings<'_>,
) -> Fences {
    deliveries.sort_unstable_by_key(|delivery| (delivery.fence, delivery.offset, delivery.received_ns));
    let mut fences = Fences::Sound;
    deliveries.dedup_by(|again, first| {
        if again.fence != first.fence {
            return false;
        }
        let (offset, value, fence) = (again.offset, Some(again.value), first.fence);
        if again.offset != first.offset || again.receives != first.receives {
            fences = Fences::Contradicted;
            let (other, count) = (first.offset, first.receives);
            findings.add(Check::ReceiveLimit, Some(offset), value, || {
                format!(
                    "queue {queue}: receive {} of it has fencing number {fence}, as receive {count} of offset {other} has",
                    again.receives
                )
            });
            // Two deliveries: both stay.
            return again.offset == first.offset;
        }
        if again.receiver != first.receiver {
            findings.add(Check::DoubleLease, Some(offset), value, || {
                format!("queue {queue}: two receivers got the delivery with fencing number {fence}")
            });
        }
        first.made_lb = first.made_lb.min(again.made_lb);
        true
    });
    for delivery in deliveries.iter_mut() {
        let sent = messages.binary_search_by_key(&delivery.offset, |message| message.offset);
        let sent_ns = sent.map_or(0, |at| messages[at].invoked_ns);
        // A value that came before it was sent is the log's concern (L2).
        delivery.made_lb = delivery.made_lb.max(sent_ns).min(delivery.made_ub);
    }
    let mut latest: Option<Delivery> = None;
    for delivery in deliveries.iter() {
        match latest.filter(|latest| latest.made_lb > delivery.made_ub) {
            Some(before) => {
                fences = Fences::Contradicted;
                findings.add(Check::ReceiveLimit, Some(delivery.offset), Some(delivery.value), || {
                    format!(
                        "queue {queue}: it came at {} ns with fencing number {}, but the delivery of offset {} with the \
                         lower number {} was made at {} ns or later",
                        delivery.received_ns, delivery.fence, before.offset, before.fence, before.made_lb
                    )
                });
            }
            None if latest.is_none_or(|latest| latest.made_lb <= delivery.made_lb) => latest = Some(*delivery),
            None => {}
        }
    }
    if fences == Fences::Sound {
        spread(deliveries);
    }
    fences
}

/// Carries bounds along the order.
pub(super) fn spread(deliveries: &mut [Delivery]) {
    let mut latest = 0;
    for delivery in deliveries.iter_mut() {
        latest = latest.max(delivery.made_lb);
        delivery.made_lb = latest;
    }
    let mut earliest = u64::MAX;
    for delivery in deliveries.iter_mut().rev() {
        earliest = earliest.min(delivery.made_ub);
        delivery.made_ub = earliest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(fence: u64, made_lb: u64, made_ub: u64) -> Delivery {
        Delivery {
            offset: fence,
            fence,
            value: ValueId(fence),
            group: NO_GROUP,
            made_lb,
            made_ub,
            received_ns: made_ub,
            visibility_ns: u64::MAX,
            receives: 1,
            redriven: 0,
            receiver: 0,
            batch: fence as u32,
        }
    }

    #[test]
    fn what_lies_between_two_deliveries_was_made_between_them() {
        let mut deliveries = [delivery(1, 50, 60), delivery(2, 0, 90), delivery(3, 0, 80)];
        spread(&mut deliveries);
        assert_eq!(deliveries.map(|d| (d.made_lb, d.made_ub)), [(50, 60), (50, 80), (50, 80)]);
    }
}
