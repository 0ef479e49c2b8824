//! As each consumer went: L7 gap or step back.
//!
//! Positions are followed while events are taken in, so that nothing is kept per record. A jump is judged at the end,
//! when it is known what it jumped over.

use std::collections::HashMap;

use super::{Ranges, Sighting};
use crate::verdict::{Check, Findings};

/// Jumps and steps back that are kept for each partition.
const KEPT: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Positions {
    of: HashMap<u32, Position>,
    moves: Vec<Move>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Position {
    /// The next offset wanted; unknown before it said so.
    next: Option<u64>,
    watermark: Option<u64>,
}

/// A consumer got another offset than the next one.
#[derive(Debug, Clone, Copy)]
struct Move {
    process: u32,
    wanted: u64,
    got: u64,
}

impl Positions {
    /// A seek.
    pub fn open(&mut self, process: u32, next: u64) {
        self.of.entry(process).or_default().next = Some(next);
    }

    /// It was told that everything below `resume` is missing.
    pub fn skip(&mut self, process: u32, resume: u64) {
        let position = self.of.entry(process).or_default();
        position.next = position.next.max(Some(resume));
    }

    pub fn take(&mut self, process: u32, got: u64) {
        let position = self.of.entry(process).or_default();
        if let Some(wanted) = position.next.filter(|wanted| *wanted != got)
            && self.moves.len() < KEPT
        {
            self.moves.push(Move { process, wanted, got });
        }
        position.next = Some(got.saturating_add(1));
    }

    /// Keeps the highest watermark that a process got; gives the one before.
    pub fn watermark(&mut self, process: u32, end: u64) -> Option<u64> {
        let position = self.of.entry(process).or_default();
        let before = position.watermark;
        position.watermark = before.max(Some(end));
        before
    }
}

/// `sightings` sorted by offset.
pub(super) fn check(positions: &Positions, sightings: &[Sighting], lost: &Ranges, findings: &mut Findings<'_>) {
    for Move { process, wanted, got } in positions.moves.iter().copied() {
        if got < wanted {
            findings.add(Check::Position, Some(got), None, || {
                format!("process {process} got it, but had everything below {wanted} already")
            });
            continue;
        }
        let from = sightings.partition_point(|sighting| sighting.offset < wanted);
        let skipped = sightings[from..].iter().take_while(|sighting| sighting.offset < got);
        if let Some(record) = skipped.into_iter().find(|sighting| !lost.contain(sighting.offset)) {
            findings.add(Check::Position, Some(record.offset), Some(record.value), || {
                format!("process {process} wanted {wanted} and got {got}, but {}", record.told())
            });
        }
    }
}
