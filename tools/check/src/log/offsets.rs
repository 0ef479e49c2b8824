//! By offset: L1 lost write, L3 divergence, L9 read then gone; and payloads that were not whole (L2).

use super::{Ranges, Sighting, Source};
use crate::value::ValueId;
use crate::verdict::{Check, Findings};

/// Leaves the sightings sorted by offset.
pub(super) fn check(sightings: &mut [Sighting], start: u64, lost: &Ranges, findings: &mut Findings<'_>) {
    sightings.sort_unstable_by_key(|sighting| (sighting.offset, sighting.source, sighting.value));
    for at_offset in sightings.chunk_by(|a, b| a.offset == b.offset) {
        broken(at_offset, findings);
        diverged(at_offset, findings);
        let offset = at_offset[0].offset;
        let in_last_read = at_offset.iter().any(|sighting| sighting.source == Source::Final);
        if !in_last_read && offset >= start && !lost.contain(offset) {
            gone(at_offset, findings);
        }
    }
}

fn broken(at_offset: &[Sighting], findings: &mut Findings<'_>) {
    if let Some(broken) = at_offset.iter().find(|sighting| sighting.value == ValueId::BROKEN) {
        let process = broken.process;
        findings.add(Check::Phantom, Some(broken.offset), None, || {
            format!("process {process} got a payload that is not whole: its length or checksum is wrong")
        });
    }
}

fn diverged(at_offset: &[Sighting], findings: &mut Findings<'_>) {
    let mut whole = at_offset.iter().filter(|sighting| sighting.value != ValueId::BROKEN);
    let Some(one) = whole.next() else { return };
    if let Some(other) = whole.find(|sighting| sighting.value != one.value) {
        findings.add(Check::Divergence, Some(one.offset), Some(one.value), || {
            format!("{}, but {}", one.told(), other.told())
        });
    }
}

/// Nothing is there in the last read.
fn gone(at_offset: &[Sighting], findings: &mut Findings<'_>) {
    for (source, check) in [(Source::Ack, Check::LostWrite), (Source::Fetch, Check::ReadThenGone)] {
        if let Some(seen) = at_offset.iter().find(|sighting| sighting.source == source) {
            findings.add(check, Some(seen.offset), Some(seen.value), || {
                format!("{}, but the last read has nothing at that offset", seen.told())
            });
        }
    }
}
