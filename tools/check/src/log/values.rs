//! By value: L2 phantom, L4 duplicate, L5 reorder, L15 fenced write.

use super::{Replaced, Sighting, Source, Write};
use crate::value::ValueId;
use crate::verdict::{Check, Findings};

/// Fills in where each write occurs first.
pub(super) fn check(sightings: &mut [Sighting], writes: &mut [Write], start: u64, findings: &mut Findings<'_>) {
    sightings.sort_unstable_by_key(|sighting| (sighting.value, sighting.offset, sighting.source));
    let mut rest = &mut *writes;
    for of_value in sightings.chunk_by(|a, b| a.value == b.value) {
        let value = of_value[0].value;
        if value == ValueId::BROKEN {
            continue;
        }
        let at = rest.partition_point(|write| write.value < value);
        rest = &mut rest[at..];
        match rest.first_mut().filter(|write| write.value == value) {
            None => phantom(&of_value[0], "nobody sent it there", findings),
            Some(write) if !write.possible => {
                let code = millstream_protocol::Code::from_number(write.code);
                phantom(&of_value[0], &format!("its sender was told that it surely failed ({code})"), findings);
            }
            Some(write) => {
                write.first = of_value[0].offset;
                duplicates(of_value, write, findings);
            }
        }
    }
    unknown_stored(writes, findings);
    reordered(writes, start, findings);
}

fn phantom(seen: &Sighting, why: &str, findings: &mut Findings<'_>) {
    findings.add(Check::Phantom, Some(seen.offset), Some(seen.value), || format!("{}, but {why}", seen.told()));
}

/// Copies are counted among what was served: an acknowledgement of another offset is a lost write or a divergence.
fn duplicates(of_value: &[Sighting], write: &Write, findings: &mut Findings<'_>) {
    let mut served = of_value.iter().filter(|sighting| sighting.source != Source::Ack);
    let Some(first) = served.next() else { return };
    let (mut copies, mut last) = (0_u32, first);
    for sighting in served {
        if sighting.offset == last.offset {
            continue;
        }
        (copies, last) = (copies + 1, sighting);
        if copies <= write.copies {
            findings.verdict.counts_mut().duplicates += 1;
            continue;
        }
        findings.add(Check::Duplicate, Some(sighting.offset), Some(sighting.value), || {
            let doubt = match (write.copies, write.repeats) {
                (0, 0) => "it was never sent again in doubt".to_owned(),
                (0, _) => "its producer's values stand once, however often they are sent".to_owned(),
                (n, _) => format!("it was sent again in doubt {n} times at most"),
            };
            format!("{}, and {}; {doubt}", first.told(), sighting.told())
        });
    }
}

fn unknown_stored(writes: &[Write], findings: &mut Findings<'_>) {
    let stored = writes.iter().filter(|write| write.possible && !write.acked && write.first != u64::MAX);
    findings.verdict.counts_mut().unknown_stored += stored.count() as u64;
}

/// Values rise in the order of their sends, so first occurrences must rise with them.
fn reordered(writes: &[Write], start: u64, findings: &mut Findings<'_>) {
    let mut highest: Option<&Write> = None;
    for write in writes.iter().filter(|write| write.is_placed(start)) {
        let same = highest.filter(|highest| highest.value.producer() == write.value.producer());
        match same {
            Some(highest) if write.first < highest.first => {
                findings.add(Check::Reorder, Some(write.first), Some(write.value), || {
                    let (earlier, at) = (highest.value, highest.first);
                    format!("it was sent after {earlier}, which stands behind it at {at}")
                });
            }
            _ => highest = Some(write),
        }
    }
}

/// What a fenced producer has in the log was there before its successor knew its own number.
pub(super) fn fenced(writes: &[Write], replaced: &[Replaced], findings: &mut Findings<'_>) {
    for Replaced { producer, by, at_ns } in replaced.iter().copied() {
        let of =
            |number| writes.iter().filter(move |write| write.value.producer() == number && write.first != u64::MAX);
        let successor = of(by).min_by_key(|write| write.first);
        for write in of(producer) {
            let why = match successor {
                Some(successor) if successor.first < write.first => {
                    format!("{} of its successor stands before it at {}", successor.value, successor.first)
                }
                _ if write.invoked_ns > at_ns => "it was sent after its successor had its number".to_owned(),
                _ => continue,
            };
            findings.add(Check::Fenced, Some(write.first), Some(write.value), || {
                format!("its producer was fenced by p{by}, and {why}")
            });
        }
    }
}

impl Write {
    /// Whether its first occurrence is known: where the log's beginning was deleted, a copy before may have been in it.
    pub(super) fn is_placed(&self, start: u64) -> bool {
        self.first != u64::MAX && (start == 0 || self.copies == 0)
    }
}
