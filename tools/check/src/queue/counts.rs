//! Q5: receive counts. 1, 2, 3 and so on; a delivery that was released, or that ended because an earlier one of its run
//! failed, does not count: the next one has its number again.
//!
//! What excuses another number: a delivery between that nobody saw may have counted, so that the next number is higher; after
//! a crash the last number may come again, or numbers that nobody saw are skipped, but none falls; a purge, seek or redrive
//! begins anew at 1 (of a purge and seek nobody can say when, so that all is legal around them). A thousand releases are
//! free, further ones may count.
//! What is above the limit is judged by the highest limit that may hold.

use super::OfMessage;
use super::receipts::Kind;
use crate::verdict::{Check, Findings};

/// So many releases of a message count nothing.
const FREE_RELEASES: usize = 1_000;

pub(super) fn check(message: &OfMessage<'_>, findings: &mut Findings<'_>) {
    let of = message.of;
    let queue = of.context.number;
    let mut releases = 0;
    for (place, index) in message.deliveries.iter().copied().enumerate() {
        let delivery = of.delivery(index);
        let receives = delivery.receives;
        let before = place.checked_sub(1).map(|before| message.deliveries[before]);
        let goes_on = before.filter(|before| of.delivery(*before).redriven == delivery.redriven);
        let (least, most) = match goes_on {
            Some(before) => after(message, before, index, releases),
            None => first(message, before, index),
        };
        releases += of.ops(index).iter().filter(|op| op.kind == Kind::Release && op.may_end()).count();
        if (receives < least || receives > most) && delivery.redriven >= before.map_or(0, |b| of.delivery(b).redriven) {
            findings.add(Check::ReceiveLimit, Some(message.offset), message.value(), || {
                let wanted = if least == most { least.to_string() } else { format!("{least} or more") };
                format!(
                    "queue {queue}: the delivery with receipt {} is its receive {receives}, but should be {wanted}",
                    delivery.fence
                )
            });
        }
        if let Some(limit) = of.context.intake.promises.max_receives(delivery.made_ub).filter(|limit| receives > *limit)
        {
            findings.add(Check::ReceiveLimit, Some(message.offset), message.value(), || {
                format!(
                    "queue {queue}: the delivery with receipt {} is its receive {receives} of {limit}",
                    delivery.fence
                )
            });
        }
    }
}

/// Which numbers the first delivery may have, of all or since a redrive.
fn first(message: &OfMessage<'_>, before: Option<u32>, index: u32) -> (u32, u32) {
    let of = message.of;
    let from_ns = before.map_or(message.message.invoked_ns, |before| of.delivery(before).made_lb);
    let to_ns = of.delivery(index).made_ub;
    let is_excused = message.may_have_unseen(from_ns, to_ns) || message.may_be_reset_between(from_ns, to_ns);
    (1, if is_excused { u32::MAX } else { 1 })
}

/// Which numbers may follow that delivery.
fn after(message: &OfMessage<'_>, before: u32, index: u32, releases: usize) -> (u32, u32) {
    let of = message.of;
    let delivery = of.delivery(before);
    let (from_ns, to_ns, last) = (delivery.made_lb, of.delivery(index).made_ub, delivery.receives);
    if message.may_be_reset_between(from_ns, to_ns) {
        return (1, u32::MAX);
    }
    let next = last.saturating_add(1);
    let has = |kind: Kind, is_sure: bool| {
        of.ops(before).iter().any(|op| op.kind == kind && op.may_end() && (op.is_ok() || !is_sure))
    };
    let is_free = releases < FREE_RELEASES;
    // Its own end comes before what happens to its run.
    let counted = has(Kind::Nack, true);
    let uncounted = !counted && (has(Kind::Release, true) && is_free || of.run_failed_by(before).is_some());
    let may_be_uncounted = !counted && (has(Kind::Release, false) || of.runs.is_behind(before));
    let crashed = of.context.outages.may_be_between(from_ns, to_ns);
    let least = if crashed || may_be_uncounted { last } else { next };
    let most = match uncounted {
        _ if crashed || message.unseen.touch(from_ns, to_ns) => u32::MAX,
        true => last,
        false => next,
    };
    (least, most)
}
