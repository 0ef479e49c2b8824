//! Runs, and Q6 order in a group.
//!
//! A *run* is what one answer has of one group: its members are worked on in order, one lease over all of them. Of anything
//! else in a group the earlier message must be done before the later one is delivered.
//! - A delivery is wrong if a message before it in its group, that is not in its run, was settled at the earliest after the
//!   delivery was at the latest made. That is also what two receivers at once would be, and first deliveries out of order.
//! - An ack is wrong if it was taken (at the latest) before the one in front of it in its run can have been settled.
//! - A message whose group nobody saw holds nobody; what was redriven, or may have been brought back by a seek, has no place
//!   in the order any more.
//!
//! Of a FIFO queue a message waits for the ones before it, too: `late` is told from when on it surely need not.

use std::collections::BTreeMap;

use super::InPartition;
use super::deliveries::NO_GROUP;
use super::due::Late;
use super::promises::TICK_NS;
use super::receipts::{Kind, Op};
use super::settled::Fate;
use crate::history::queue::Order;
use crate::verdict::{Check, Findings};

const NONE: u32 = u32::MAX;

/// Of each delivery the one before it in its run, and the one behind it. Empty for an unordered queue.
#[derive(Debug, Default)]
pub(super) struct Runs {
    before: Vec<u32>,
    behind: Vec<u32>,
}

impl Runs {
    pub fn of(of: &InPartition<'_>) -> Self {
        if !is_fifo(of) {
            return Self::default();
        }
        let count = of.deliveries.len();
        let mut runs = Self { before: vec![NONE; count], behind: vec![NONE; count] };
        let mut last: BTreeMap<(u32, u64), u32> = BTreeMap::new();
        for (index, delivery) in of.deliveries.iter().enumerate().filter(|(_, delivery)| delivery.group != NO_GROUP) {
            let index = index as u32;
            if let Some(before) = last.insert((delivery.batch, delivery.group), index) {
                runs.before[index as usize] = before;
                runs.behind[before as usize] = index;
            }
        }
        runs
    }

    fn next(links: &[u32], index: u32) -> Option<u32> {
        links.get(index as usize).copied().filter(|next| *next != NONE)
    }

    pub fn before(&self, index: u32) -> Option<u32> {
        Self::next(&self.before, index)
    }

    /// Whether it is not its run's first.
    pub fn is_behind(&self, index: u32) -> bool {
        self.before(index).is_some()
    }

    /// Those before it, the nearest first.
    fn all_before(&self, index: u32) -> impl Iterator<Item = u32> + Clone {
        std::iter::successors(self.before(index), |index| self.before(*index))
    }

    /// All of its run, itself first.
    pub fn mates(&self, index: u32) -> impl Iterator<Item = u32> + Clone {
        let behind = std::iter::successors(Some(index), |index| Self::next(&self.behind, *index));
        behind.chain(self.all_before(index))
    }
}

fn is_fifo(of: &InPartition<'_>) -> bool {
    of.context.intake.promises.all().any(|settings| settings.order == Order::Fifo)
}

impl InPartition<'_> {
    /// When an earlier one of its run had surely failed, which ended its lease.
    pub fn run_failed_by(&self, index: u32) -> Option<u64> {
        let failed =
            self.runs.all_before(index).flat_map(|before| self.ops(before)).filter(|op| op.is_ok() && op.may_fail());
        failed.map(|op| op.done_ns).min()
    }

    /// The earliest that an earlier one of its run can have failed.
    pub fn run_may_fail_from(&self, index: u32) -> u64 {
        let failed = self.runs.all_before(index).flat_map(|before| self.ops(before)).filter(|op| op.may_fail());
        failed.map(|op| op.invoked_ns).min().unwrap_or(u64::MAX)
    }
}

/// A message's place in its group.
#[derive(Clone, Copy)]
struct Member {
    offset: u64,
    settled_lb: u64,
    /// The highest of all up to this one, and whose it is.
    latest_lb: (u64, u64),
    latest_ub: u64,
}

pub(super) fn check(of: &InPartition<'_>, fates: &[Fate], late: &mut Vec<Late>, findings: &mut Findings<'_>) {
    if !is_fifo(of) {
        return;
    }
    let groups = members(of, fates);
    for (index, delivery) in of.deliveries.iter().enumerate().filter(|(_, delivery)| delivery.redriven == 0) {
        let index = index as u32;
        let Some(members) = groups.get(&delivery.group) else { continue };
        let below = members.partition_point(|member| member.offset < delivery.offset);
        let unsettled = match of.runs.before(index) {
            None => below.checked_sub(1).map(|last| members[last].latest_lb),
            Some(before) => {
                let from = members.partition_point(|member| member.offset <= of.delivery(before).offset).min(below);
                members[from..below].iter().map(|member| (member.settled_lb, member.offset)).max()
            }
        };
        let queue = of.context.number;
        if let Some((settled, earlier)) =
            unsettled.filter(|(settled, _)| delivery.made_ub.saturating_add(TICK_NS) < *settled)
        {
            findings.add(Check::GroupOrder, Some(delivery.offset), Some(delivery.value), || {
                format!(
                    "queue {queue}: delivered at {} ns with receipt {}, while offset {earlier} of its group was {}",
                    delivery.received_ns,
                    delivery.fence,
                    until(settled)
                )
            });
        }
        let Some(before) = of.runs.before(index) else { continue };
        let first = of.delivery(before).offset;
        let settled =
            members.binary_search_by_key(&first, |member| member.offset).map_or(0, |at| members[at].settled_lb);
        let is_early = |op: &&Op| op.kind == Kind::Ack && op.is_ok() && op.done_ns < settled;
        if let Some(op) = of.ops(index).iter().find(is_early) {
            findings.add(Check::GroupOrder, Some(delivery.offset), Some(delivery.value), || {
                format!(
                    "queue {queue}: its ack was taken by {} ns, but offset {first}, before it in its run, was {}",
                    op.done_ns,
                    until(settled)
                )
            });
        }
    }
    late.retain_mut(|late| late.partition != of.partition || is_free(of, &groups, late));
}

fn until(settled_ns: u64) -> String {
    match settled_ns {
        u64::MAX => "never settled".to_owned(),
        at => format!("not settled before {at} ns"),
    }
}

/// The messages of each group, by offset.
fn members(of: &InPartition<'_>, fates: &[Fate]) -> BTreeMap<u64, Vec<Member>> {
    let mut groups: BTreeMap<u64, Vec<Member>> = BTreeMap::new();
    for of_one in of.by_offset.chunk_by(|a, b| of.delivery(*a).offset == of.delivery(*b).offset) {
        let Some(first) = of_one.first().map(|index| of.delivery(*index)) else { continue };
        let Ok(at) = fates.binary_search_by_key(&first.offset, |fate| fate.offset) else { continue };
        let is_revived = of.may_be_revived(first.offset);
        if first.group == NO_GROUP {
            continue;
        }
        let Fate { offset, settled_lb, settled_ub, .. } = fates[at];
        // Whatever it was before the seek, it holds nobody now that could be named.
        let (settled_lb, settled_ub) = if is_revived { (0, u64::MAX) } else { (settled_lb, settled_ub) };
        let members = groups.entry(first.group).or_default();
        let before = members.last().map_or(((0, 0), 0), |last| (last.latest_lb, last.latest_ub));
        let latest_lb = before.0.max((settled_lb, offset));
        let latest_ub = before.1.max(settled_ub);
        members.push(Member { offset, settled_lb, latest_lb, latest_ub });
    }
    groups
}

/// Whether its group let it go at some time; it is late from then on only.
fn is_free(of: &InPartition<'_>, groups: &BTreeMap<u64, Vec<Member>>, late: &mut Late) -> bool {
    let at = of.by_offset.partition_point(|index| of.delivery(*index).offset < late.offset);
    let delivery = of.by_offset.get(at).map(|index| of.delivery(*index)).filter(|first| first.offset == late.offset);
    let Some(members) = delivery.and_then(|delivery| groups.get(&delivery.group)) else { return false };
    let below = members.partition_point(|member| member.offset < late.offset);
    late.since_ns = late.since_ns.max(below.checked_sub(1).map_or(0, |last| members[last].latest_ub));
    late.since_ns < late.until_ns
}
