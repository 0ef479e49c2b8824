//! Q11: a receiver that has messages pushed had more of them unsettled than it had given credit for.
//!
//! Counted at each delivery: those that came before it and whose lease can at the earliest have ended after this one was at
//! the latest made. Against it stands the most of the credit that may have been in force: the last that was given well before,
//! and all after it. Less credit takes back nothing that is out, so the deliveries made since are what is judged.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{Context, InPartition};
use crate::history::Place;
use crate::verdict::{Check, Findings, Verdict};

pub(super) fn check(context: &Context<'_>, partitions: &[InPartition<'_>], verdict: &mut Verdict) {
    let receivers = &context.intake.receiver;
    let mut of_receiver: Vec<Vec<(u32, u32)>> = vec![Vec::new(); receivers.len()];
    for (number, of) in partitions.iter().enumerate() {
        for (index, delivery) in of.deliveries.iter().enumerate() {
            if !receivers[delivery.receiver as usize].credit.is_empty() {
                of_receiver[delivery.receiver as usize].push((number as u32, index as u32));
            }
        }
    }
    for (receiver, mut deliveries) in receivers.iter().zip(of_receiver) {
        let delivery = |(of, index): (u32, u32)| partitions[of as usize].delivery(index);
        deliveries.sort_by_key(|at| (delivery(*at).received_ns, delivery(*at).made_ub));
        let mut out = BinaryHeap::new();
        for at in deliveries {
            let (of, one) = (&partitions[at.0 as usize], delivery(at));
            while out.peek().is_some_and(|Reverse(end)| *end <= one.made_ub) {
                out.pop();
            }
            // A nack makes room at once, whenever its message comes again.
            let said = of.ops(at.1).iter().filter(|op| op.may_end()).map(|op| op.invoked_ns);
            out.push(Reverse(said.fold(of.end_lb[at.1 as usize], u64::min)));
            let granted = granted(&receiver.credit, one.made_lb.saturating_sub(context.late_ns), one.made_ub);
            if out.len() as u64 > u64::from(granted) {
                let at = Place { stream: context.intake.stream, partition: of.partition };
                Findings { verdict, at }.add(Check::Credit, Some(one.offset), Some(one.value), || {
                    format!(
                        "queue {}: with receipt {}, which came at {} ns, its receiver had {} unsettled and had given \
                         credit for {granted}",
                        context.number,
                        one.fence,
                        one.received_ns,
                        out.len()
                    )
                });
            }
        }
    }
}

/// The most that may have been in force at some time between.
fn granted(credit: &[(u64, u32, bool)], from_ns: u64, to_ns: u64) -> u32 {
    let last = credit.iter().rposition(|(at_ns, ..)| *at_ns <= from_ns).unwrap_or(0);
    credit[last..].iter().filter(|(at_ns, ..)| *at_ns <= to_ns).map(|(_, messages, _)| *messages).max().unwrap_or(0)
}
