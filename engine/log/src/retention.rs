//! Which segments go, and why: a plain function, asked every half minute.
//!
//! By age (the append time of a segment's last batch), by bytes (the oldest go while the partition holds at least the
//! limit without them), by an explicit log start. Whole segments only, oldest first, never the active one. A holder
//! (a lake) keeps what it has not landed, until the partition holds `HELD_FACTOR` times its byte limit or its age limit
//! is over by `HELD_MS_MAX`: then the holder is overtaken, and that is said.

use millstream_protocol::{Offset, Timestamp};

/// How far beyond its byte limit a partition may grow for a holder.
const HELD_FACTOR: u64 = 4;
/// How long beyond the age limit records are kept for a holder.
const HELD_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1_000;

/// A start at which the clock is this far ahead of the newest record is doubted: the machine was off for long, or its clock
/// is wrong.
const DOUBTED_MS: i64 = 24 * 60 * 60 * 1_000;
/// How long a doubted clock must stand before records are deleted by it.
const STANDS_MS: i64 = 60 * 60 * 1_000;

/// Whether records may be deleted by their age at `now`, in a process that began at `opened` with the newest record from
/// `newest`. A clock that is years ahead at a start would else delete everything at once.
pub(crate) fn trusts_age(opened: Timestamp, newest: Timestamp, now: Timestamp) -> bool {
    let is_doubted = newest.0 > 0 && opened.0.saturating_sub(newest.0) > DOUBTED_MS;
    !is_doubted || now.0.saturating_sub(opened.0) >= STANDS_MS
}

/// What retention knows of a sealed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentFacts {
    /// The offset after its last record.
    pub end: Offset,
    /// Its bytes on disk.
    pub bytes: u64,
    /// The append time of its last batch.
    pub last_append_time: Timestamp,
}

/// What a partition is to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetentionPolicy {
    /// Age limit in milliseconds.
    pub age_ms: Option<u64>,
    /// Size limit in bytes.
    pub bytes: Option<u64>,
}

/// Why a segment goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It lies below the log start.
    BelowLogStart,
    /// It is older than the age limit.
    Age,
    /// The partition is above its size limit.
    Bytes,
    /// As `Age` or `Bytes`, although a holder has not got past it.
    Overtaken,
}

/// Says for each of the oldest segments that go why it goes. `sealed` is in order; `active_bytes` counts for the size
/// limit; `hold` is the least offset a holder still wants.
pub fn plan_retention(
    now: Timestamp,
    sealed: &[SegmentFacts],
    active_bytes: u64,
    policy: RetentionPolicy,
    log_start: Offset,
    hold: Option<Offset>,
) -> Vec<Reason> {
    let mut held_bytes: u64 = active_bytes + sealed.iter().map(|segment| segment.bytes).sum::<u64>();
    let mut plan = Vec::new();
    for segment in sealed {
        let age_ms = u64::try_from(now.0.saturating_sub(segment.last_append_time.0)).unwrap_or(0);
        let without = held_bytes - segment.bytes;
        let by_age = policy.age_ms.is_some_and(|limit| age_ms > limit);
        let by_bytes = policy.bytes.is_some_and(|limit| without >= limit);
        let wanted = hold.is_some_and(|hold| hold < segment.end);
        let overtaken = policy.age_ms.is_some_and(|limit| age_ms > limit.saturating_add(HELD_MS_MAX))
            || policy.bytes.is_some_and(|limit| without >= limit.saturating_mul(HELD_FACTOR));
        let reason = if segment.end <= log_start {
            Reason::BelowLogStart
        } else if !(by_age || by_bytes) || (wanted && !overtaken) {
            break;
        } else if wanted {
            Reason::Overtaken
        } else if by_age {
            Reason::Age
        } else {
            Reason::Bytes
        };
        held_bytes = without;
        plan.push(reason);
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    /// Ten segments of 100 records and 1,000 bytes, a day apart; the newest is from day 10.
    fn sealed() -> Vec<SegmentFacts> {
        (1..=10)
            .map(|i| SegmentFacts { end: Offset(i * 100), bytes: 1_000, last_append_time: Timestamp(i as i64 * DAY) })
            .collect()
    }

    fn plan(policy: RetentionPolicy, log_start: u64, hold: Option<u64>) -> Vec<Reason> {
        plan_retention(Timestamp(10 * DAY), &sealed(), 500, policy, Offset(log_start), hold.map(Offset))
    }

    #[test]
    fn age_goes_by_the_last_append_of_a_segment() {
        let policy = RetentionPolicy { age_ms: Some(7 * DAY as u64), bytes: None };
        assert_eq!(plan(policy, 0, None), vec![Reason::Age; 2], "day 3 is exactly seven days old: kept");
        assert_eq!(plan(RetentionPolicy::default(), 0, None), vec![]);
    }

    #[test]
    fn a_clock_that_is_far_ahead_at_a_start_deletes_nothing_for_an_hour() {
        let (newest, hour) = (Timestamp(100 * DAY), DAY / 24);
        let trusts = |opened: i64, later: i64| trusts_age(Timestamp(opened), newest, Timestamp(opened + later));
        assert!(trusts(100 * DAY + hour, 0), "an hour off");
        assert!(!trusts(3_750 * DAY, 0) && !trusts(3_750 * DAY, hour - 1));
        assert!(trusts(3_750 * DAY, hour), "it stands");
        assert!(trusts(DAY, 0), "far behind, nothing is old");
        assert!(trusts_age(Timestamp(100 * DAY), Timestamp(0), Timestamp(100 * DAY)), "an empty log");
    }

    #[test]
    fn bytes_keep_the_limit_and_less_than_a_segment_more() {
        let policy = RetentionPolicy { age_ms: None, bytes: Some(4_000) };
        // 10,500 bytes; the oldest go while at least 4,000 stay without them.
        assert_eq!(plan(policy, 0, None), vec![Reason::Bytes; 6]);
    }

    #[test]
    fn what_lies_below_the_log_start_goes_whatever_the_policy() {
        assert_eq!(plan(RetentionPolicy::default(), 250, Some(0)), vec![Reason::BelowLogStart; 2]);
    }

    #[test]
    fn a_holder_keeps_its_records_up_to_a_limit_that_is_said() {
        let policy = RetentionPolicy { age_ms: Some(DAY as u64), bytes: None };
        assert_eq!(plan(policy, 0, Some(250)), vec![Reason::Age; 2]);
        let policy = RetentionPolicy { age_ms: None, bytes: Some(1_000) };
        let mut expected = vec![Reason::Bytes; 2];
        expected.extend(vec![Reason::Overtaken; 4]);
        assert_eq!(plan(policy, 0, Some(250)), expected, "up to four times the limit is held");
    }
}
