//! Q12: the ack floor. It never falls, but for a seek back; it does not pass a message that is not settled; and what is kept
//! by interest alone is not released before it is settled.
//!
//! An answer's floor is from some time between the call and the answer; a log that begins at an offset when that was heard has
//! let go of everything below. Settled at the earliest after that: wrong.

use super::InPartition;
use super::settled::Fate;
use crate::verdict::{Check, Findings};

pub(super) fn check(of: &InPartition<'_>, fates: &[Fate], starts: &[(u64, u64)], findings: &mut Findings<'_>) {
    let (queue, intake) = (of.context.number, &of.context.intake);
    // The one that was settled last of all up to each.
    let mut latest: Vec<(u64, u64)> = Vec::with_capacity(fates.len());
    for fate in fates {
        // What may have been brought back was perhaps let go before.
        let is_revived = of.may_be_revived(fate.offset);
        let this = if is_revived { (0, 0) } else { (fate.settled_lb, fate.offset) };
        latest.push(latest.last().map_or(this, |before| this.max(*before)));
    }
    let unsettled = |below: u64, at_ns: u64| {
        let count = fates.partition_point(|fate| fate.offset < below);
        count.checked_sub(1).map(|last| latest[last]).filter(|(settled_ns, _)| *settled_ns > at_ns)
    };

    let mut floors: Vec<_> = intake.floors.iter().filter(|floor| floor.partition == of.partition).collect();
    floors.sort_by_key(|floor| floor.invoked_ns);
    let mut by_answer = floors.clone();
    by_answer.sort_by_key(|floor| floor.at_ns);
    let mut answered = by_answer.into_iter().peekable();
    let mut highest: Option<&super::intake::Floor> = None;
    for floor in floors {
        while let Some(before) = answered.next_if(|before| before.at_ns < floor.invoked_ns) {
            highest = Some(highest.filter(|highest| highest.floor >= before.floor).unwrap_or(before));
        }
        if let Some(before) = highest.filter(|before| before.floor > floor.floor) {
            let seeks = |reset: &&super::Reset| {
                reset.kind == super::timeline::ResetKind::Seek && reset.may_be_between(before.invoked_ns, floor.at_ns)
            };
            if intake.resets.iter().find(seeks).is_none() {
                findings.add(Check::Floor, Some(floor.floor), None, || {
                    format!(
                        "queue {queue}: the floor was {} by {} ns, and {} at {} ns",
                        before.floor, before.at_ns, floor.floor, floor.at_ns
                    )
                });
            }
        }
        if let Some((_, offset)) = unsettled(floor.floor, floor.at_ns) {
            findings.add(Check::Floor, Some(offset), None, || {
                format!(
                    "queue {queue}: the floor was {} by {} ns, and it was not settled then",
                    floor.floor, floor.at_ns
                )
            });
        }
    }

    let deleted_ns = intake.deleted_ns.unwrap_or(u64::MAX);
    if intake.promises.all().any(|settings| !settings.interest) {
        return;
    }
    for (at_ns, start) in starts.iter().copied().filter(|(at_ns, _)| *at_ns < deleted_ns) {
        if let Some((_, offset)) = unsettled(start, at_ns) {
            findings.add(Check::Floor, Some(offset), None, || {
                format!("queue {queue}: the log began at {start} by {at_ns} ns, and it was not settled then")
            });
        }
    }
}
