//! Messages of an unordered queue that were never delivered: runs of offsets, by when they may be.

use std::collections::BTreeMap;
use std::ops::Range;

#[derive(Debug, Default)]
pub(super) struct Fresh {
    /// (due, first offset) → end.
    runs: BTreeMap<(u64, u64), u64>,
}

impl Fresh {
    /// Adds a run; it joins the one that it follows.
    pub fn push(&mut self, range: Range<u64>, due_ms: u64) {
        if range.is_empty() {
            return;
        }
        match self.runs.range_mut((due_ms, 0)..=(due_ms, range.start)).next_back() {
            Some((_, end)) if *end == range.start => *end = range.end,
            _ => drop(self.runs.insert((due_ms, range.start), range.end)),
        }
    }

    /// Whether one may be delivered.
    pub fn is_due(&self, now_ms: u64) -> bool {
        self.next_due().is_some_and(|due| due <= now_ms)
    }

    /// When the next may be delivered; it may have passed.
    pub fn next_due(&self) -> Option<u64> {
        self.runs.keys().next().map(|(due, _)| *due)
    }

    /// Takes the next one that may be delivered.
    pub fn pop(&mut self, now_ms: u64) -> Option<u64> {
        let entry = self.runs.first_entry().filter(|entry| entry.key().0 <= now_ms)?;
        let ((due, offset), end) = entry.remove_entry();
        if offset + 1 < end {
            self.runs.insert((due, offset + 1), end);
        }
        Some(offset)
    }

    /// How many may not be delivered yet.
    pub fn later(&self, now_ms: u64) -> u64 {
        self.runs.range((now_ms + 1, 0)..).map(|((_, start), end)| end - start).sum()
    }

    /// Forgets all below `start`.
    pub fn remove_below(&mut self, start: u64) {
        let across: Vec<((u64, u64), u64)> = self.runs.extract_if(.., |(_, first), _| *first < start).collect();
        for ((due, _), end) in across {
            self.push(start..end.max(start), due);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_come_by_their_time_and_then_by_offset() {
        let mut fresh = Fresh::default();
        for (range, due) in [(10..12, 5), (12..13, 5), (20..21, 5), (13..15, 4), (30..33, 9)] {
            fresh.push(range, due);
        }
        assert_eq!((fresh.is_due(3), fresh.is_due(4), fresh.later(5)), (false, true, 3));
        let taken: Vec<u64> = std::iter::from_fn(|| fresh.pop(5)).collect();
        assert_eq!((taken, fresh.next_due()), (vec![13, 14, 10, 11, 12, 20], Some(9)));
        fresh.remove_below(32);
        assert_eq!((fresh.pop(9), fresh.pop(9)), (Some(32), None));
    }
}
