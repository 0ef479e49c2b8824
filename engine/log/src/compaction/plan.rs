//! Which segments a run is about: a plain function, asked every half minute.
//!
//! Worth while is what frees much for its cost: a run reads and mostly writes all there is, so at least half of the bytes
//! must be dirty. Tombstones whose time is over are worth a run by themselves: no append may ever come to start one.

use millstream_protocol::{Offset, Timestamp};

/// How a partition is compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionPolicy {
    /// How long a tombstone stays, in milliseconds from when its segment was first cleaned.
    pub delete_retention_ms: u64,
    /// How long every record stays, in milliseconds from the last append to its segment.
    pub min_lag_ms: u64,
    /// Bytes of memory for keys in a run; default 64 MiB. At the bound a run goes on in rounds, each of which reads
    /// the partition again.
    pub key_map_bytes: usize,
}

impl Default for CompactionPolicy {
    /// Tombstones stay a day, no lag.
    fn default() -> Self {
        Self { delete_retention_ms: 24 * 60 * 60 * 1_000, min_lag_ms: 0, key_map_bytes: 64 << 20 }
    }
}

/// What compaction knows of a sealed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionFacts {
    /// The offset after its last record.
    pub end: Offset,
    /// Its bytes on disk.
    pub bytes: u64,
    /// The append time of its last batch.
    pub last_append_time: Timestamp,
    /// When it was first cleaned; `None`: it is dirty.
    pub cleaned: Option<Timestamp>,
    /// Whether it holds tombstones; known of cleaned segments only.
    pub has_tombstones: bool,
    /// Whether it is damaged: it is left as it is.
    pub is_damaged: bool,
}

/// What a run is about, by index into the sealed segments.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CompactionPlan {
    /// How many of the oldest may be touched; the others are too young.
    pub eligible: usize,
    /// To be cleaned.
    pub dirty: Vec<usize>,
    /// To be freed of their tombstones.
    pub expiring: Vec<usize>,
}

impl CompactionPlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.dirty.is_empty() && self.expiring.is_empty()
    }
}

/// Says what a run now would be about; nothing if it is not worth while. `sealed` is in order.
pub fn plan_compaction(now: Timestamp, sealed: &[CompactionFacts], policy: &CompactionPolicy) -> CompactionPlan {
    let since = |time: Timestamp| u64::try_from(now.0.saturating_sub(time.0)).unwrap_or(0);
    let is_young = |facts: &CompactionFacts| since(facts.last_append_time) < policy.min_lag_ms;
    let eligible = sealed.iter().position(is_young).unwrap_or(sealed.len());
    let mut plan = CompactionPlan { eligible, ..CompactionPlan::default() };
    let (mut dirty_bytes, mut clean_bytes, mut damaged_below) = (0u64, 0u64, false);
    for (index, facts) in sealed[..eligible].iter().enumerate() {
        if facts.is_damaged {
            damaged_below = true;
            continue;
        }
        match facts.cleaned {
            None => {
                plan.dirty.push(index);
                dirty_bytes += facts.bytes;
            }
            Some(cleaned) => {
                clean_bytes += facts.bytes;
                if facts.has_tombstones && !damaged_below && since(cleaned) >= policy.delete_retention_ms {
                    plan.expiring.push(index);
                }
            }
        }
    }
    // A dirty ratio of one half.
    if dirty_bytes < clean_bytes {
        plan.dirty.clear();
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(end: u64, cleaned: Option<i64>) -> CompactionFacts {
        CompactionFacts {
            end: Offset(end),
            bytes: 1_000,
            last_append_time: Timestamp(end as i64),
            cleaned: cleaned.map(Timestamp),
            has_tombstones: false,
            is_damaged: false,
        }
    }

    fn plan(now: i64, sealed: &[CompactionFacts], policy: CompactionPolicy) -> (usize, Vec<usize>, Vec<usize>) {
        let CompactionPlan { eligible, dirty, expiring } = plan_compaction(Timestamp(now), sealed, &policy);
        (eligible, dirty, expiring)
    }

    const POLICY: CompactionPolicy =
        CompactionPolicy { delete_retention_ms: 50, min_lag_ms: 0, key_map_bytes: 1 << 20 };

    #[test]
    fn half_of_the_sealed_bytes_must_be_dirty() {
        let clean = segment(10, Some(500));
        assert_eq!(plan(1_000, &[], POLICY), (0, vec![], vec![]));
        assert_eq!(plan(1_000, &[segment(10, None)], POLICY), (1, vec![0], vec![]));
        assert_eq!(plan(1_000, &[clean, segment(20, None)], POLICY).1, vec![1], "exactly half");
        assert_eq!(plan(1_000, &[clean, clean, segment(30, None)], POLICY), (3, vec![], vec![]));
        let half = CompactionFacts { bytes: 500, ..clean };
        assert_eq!(plan(1_000, &[half, half, segment(30, None)], POLICY).1, vec![2]);
    }

    #[test]
    fn what_is_younger_than_the_lag_is_not_touched_and_not_counted() {
        let policy = CompactionPolicy { min_lag_ms: 100, ..POLICY };
        let sealed = [segment(10, None), segment(20, None), segment(30, None)];
        assert_eq!(plan(119, &sealed, policy), (1, vec![0], vec![]));
        assert_eq!(plan(120, &sealed, policy), (2, vec![0, 1], vec![]));
        assert_eq!(plan(5, &sealed, policy), (0, vec![], vec![]), "a clock behind the appends");
    }

    #[test]
    fn tombstones_that_are_over_are_worth_a_run_by_themselves_unless_damage_lies_below() {
        let with = CompactionFacts { has_tombstones: true, ..segment(20, Some(500)) };
        let without = segment(10, Some(500));
        assert_eq!(plan(549, &[without, with], POLICY), (2, vec![], vec![]));
        assert_eq!(plan(550, &[without, with], POLICY), (2, vec![], vec![1]));
        let damaged = CompactionFacts { is_damaged: true, ..without };
        assert_eq!(plan(550, &[damaged, with], POLICY), (2, vec![], vec![]));
        assert_eq!(plan(550, &[with, damaged], POLICY), (2, vec![], vec![0]));
        let dirty = CompactionFacts { is_damaged: true, ..segment(10, None) };
        assert_eq!(plan(550, &[dirty], POLICY), (1, vec![], vec![]), "a damaged one is not tried again");
    }
}
