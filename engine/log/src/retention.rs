//! Which segments go, and why: a plain function, asked every half minute.
//!
//! By age (the append time of a segment's last batch), by bytes (the oldest go while the partition holds at least the
//! limit without them), by interest (all who want the records are past them), by an explicit log start. Whole segments
//! only, oldest first, never the active one; one that grows no more, as far as can be seen, is rolled so that it can go.
//! A holder (a lake) keeps what it has not landed, until the partition holds `HELD_FACTOR` times its byte limit or its
//! age limit is over by `HELD_MS_MAX`: then the holder is overtaken, and that is said. By interest nobody is overtaken.
//!
//! Not here: who is interested, and how far each is (the broker's).

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

/// An active segment of which all is consumed is rolled from this size on: what a slow stream keeps is bounded by it.
const ROLL_CONSUMED_BYTES: u64 = 1 << 20;
/// Or when nothing was appended to it for so long.
const ROLL_CONSUMED_MS: u64 = 30_000;

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
    /// All who are interested are past it.
    Consumed,
}

/// Whether the active segment, if anything is in it, is to be sealed so that it can go: it is too old, or all of it is
/// consumed and little more is to be expected of it. `consumed` is not above any hold.
pub(crate) fn is_roll_due(
    now: Timestamp,
    active: SegmentFacts,
    policy: RetentionPolicy,
    consumed: Option<Offset>,
) -> bool {
    let age_ms = u64::try_from(now.0.saturating_sub(active.last_append_time.0)).unwrap_or(0);
    let is_consumed = consumed.is_some_and(|consumed| active.end <= consumed);
    policy.age_ms.is_some_and(|limit| age_ms > limit)
        || is_consumed && (active.bytes >= ROLL_CONSUMED_BYTES || age_ms >= ROLL_CONSUMED_MS)
}

/// Says for each of the oldest segments that go why it goes. `sealed` is in order; `active_bytes` counts for the size
/// limit; `hold` is the least offset a holder still wants; `consumed` the offset that all who are interested are past, if
/// records go by that.
pub fn plan_retention(
    now: Timestamp,
    sealed: &[SegmentFacts],
    active_bytes: u64,
    policy: RetentionPolicy,
    log_start: Offset,
    hold: Option<Offset>,
    consumed: Option<Offset>,
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
        let is_consumed = consumed.is_some_and(|consumed| segment.end <= consumed);
        let reason = if segment.end <= log_start {
            Reason::BelowLogStart
        } else if is_consumed && !wanted {
            Reason::Consumed
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
        plan_retention(Timestamp(10 * DAY), &sealed(), 500, policy, Offset(log_start), hold.map(Offset), None)
    }

    fn plan_consumed(policy: RetentionPolicy, hold: Option<u64>, consumed: u64) -> Vec<Reason> {
        let (hold, consumed) = (hold.map(Offset), Some(Offset(consumed)));
        plan_retention(Timestamp(10 * DAY), &sealed(), 500, policy, Offset(0), hold, consumed)
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

    #[test]
    fn what_is_consumed_goes_by_whole_segments_and_not_below_a_hold() {
        let none = RetentionPolicy::default();
        assert_eq!(plan_consumed(none, None, 0), vec![]);
        assert_eq!(
            plan_consumed(none, None, 199),
            vec![Reason::Consumed],
            "the second one has a message that is wanted"
        );
        assert_eq!(plan_consumed(none, None, 200), vec![Reason::Consumed; 2]);
        assert_eq!(plan_consumed(none, None, 5_000), vec![Reason::Consumed; 10]);
        assert_eq!(plan_consumed(none, Some(150), 5_000), vec![Reason::Consumed]);
    }

    #[test]
    fn age_and_bytes_go_on_behind_what_is_consumed() {
        let policy = RetentionPolicy { age_ms: Some(7 * DAY as u64), bytes: None };
        assert_eq!(plan_consumed(policy, None, 100), vec![Reason::Consumed, Reason::Age]);
        let policy = RetentionPolicy { age_ms: None, bytes: Some(8_000) };
        assert_eq!(plan_consumed(policy, None, 100), vec![Reason::Consumed, Reason::Bytes]);
    }

    #[test]
    fn an_active_segment_is_rolled_once_it_is_consumed_and_large_or_quiet() {
        let due = |bytes: u64, age_ms: i64, consumed: Option<u64>| {
            let active = SegmentFacts { end: Offset(100), bytes, last_append_time: Timestamp(DAY) };
            is_roll_due(Timestamp(DAY + age_ms), active, RetentionPolicy::default(), consumed.map(Offset))
        };
        assert!(!due(1 << 30, DAY, None), "nothing goes by interest");
        assert!(!due(1 << 30, DAY, Some(99)), "one record is wanted");
        assert!(!due(1_000, 29_999, Some(100)));
        assert!(due(1_000, 30_000, Some(100)) && due(1 << 20, 0, Some(100)));
        let active = SegmentFacts { end: Offset(100), bytes: 1, last_append_time: Timestamp(0) };
        let policy = RetentionPolicy { age_ms: Some(1_000), bytes: None };
        assert!(
            is_roll_due(Timestamp(1_001), active, policy, None) && !is_roll_due(Timestamp(1_000), active, policy, None)
        );
    }
}
