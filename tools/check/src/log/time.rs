//! By time: L6 real time, L8 watermark.

use super::{Outcome, Partition, Write};
use crate::verdict::{Check, Findings};

/// Leaves the writes sorted by the time of their invocation.
pub(super) fn check(partition: &Partition, writes: &mut [Write], start: u64, findings: &mut Findings<'_>) {
    real_time(partition, writes, start, findings);
    watermark(partition, findings);
}

/// What was sent after an acknowledgement stands behind it.
fn real_time(partition: &Partition, writes: &mut [Write], start: u64, findings: &mut Findings<'_>) {
    let ack = |completed: &super::Completed| match completed.outcome {
        Outcome::Ok { offset } => Some((completed.at_ns, offset, completed.value)),
        _ => None,
    };
    let mut acks: Vec<_> = partition.completed.iter().filter_map(ack).collect();
    acks.sort_unstable();
    writes.sort_unstable_by_key(|write| write.invoked_ns);
    let mut acks = acks.into_iter().peekable();
    let mut highest = None;
    for write in writes.iter().filter(|write| write.is_placed(start)) {
        while let Some((_, offset, value)) = acks.next_if(|(at_ns, ..)| *at_ns < write.invoked_ns) {
            highest = highest.max(Some((offset, value)));
        }
        if let Some((offset, value)) = highest.filter(|(offset, _)| *offset > write.first) {
            findings.add(Check::RealTime, Some(write.first), Some(write.value), || {
                format!("it was sent after {value} was acknowledged, which stands behind it at {offset}")
            });
        }
    }
}

/// Whoever asks after an answer has come, gets nothing below that answer: also after a restart.
fn watermark(partition: &Partition, findings: &mut Findings<'_>) {
    let mut seen: Vec<_> = partition.watermarks.iter().collect();
    seen.sort_unstable_by_key(|watermark| watermark.at_ns);
    let mut tails: Vec<_> = partition.tails.iter().collect();
    tails.sort_unstable_by_key(|tail| tail.invoked_ns);
    let mut seen = seen.into_iter().peekable();
    let mut highest: Option<&super::Watermark> = None;
    for tail in tails {
        while let Some(one) = seen.next_if(|one| one.at_ns < tail.invoked_ns) {
            if highest.is_none_or(|highest| highest.end < one.end) {
                highest = Some(one);
            }
        }
        if let Some(highest) = highest.filter(|highest| highest.end > tail.end) {
            findings.add(Check::Watermark, Some(tail.end), None, || {
                let (process, asker) = (highest.process, tail.process);
                let (end, low) = (highest.end, tail.end);
                format!("process {process} knew of everything below {end}; process {asker} asked later and got {low}")
            });
        }
    }
}
