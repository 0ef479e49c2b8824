//! Times and durations: reading them, and the bounds within which CEL keeps them.

use chrono::{DateTime, TimeDelta, Utc};
use millstream_protocol::Timestamp;

/// 0001-01-01T00:00:00Z.
const FIRST_SECOND: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z.
const LAST_SECOND: i64 = 253_402_300_799;

/// The time if CEL has it.
pub fn within_range(time: DateTime<Utc>) -> Option<DateTime<Utc>> {
    (FIRST_SECOND..=LAST_SECOND).contains(&time.timestamp()).then_some(time)
}

/// The time of a record.
pub fn of_record(timestamp: Timestamp) -> Option<DateTime<Utc>> {
    within_range(DateTime::from_timestamp_millis(timestamp.0)?)
}

/// `timestamp(1767225600)`
pub fn timestamp_of_seconds(seconds: i64) -> Option<DateTime<Utc>> {
    within_range(DateTime::from_timestamp(seconds, 0)?)
}

/// `timestamp("2026-01-01T00:00:00Z")`: RFC 3339, any offset.
pub fn parse_timestamp(text: &str) -> Option<DateTime<Utc>> {
    within_range(DateTime::parse_from_rfc3339(text).ok()?.to_utc())
}

/// A duration if it fits 64 bits of nanoseconds, as CEL's do.
pub fn span_of_nanos(nanos: i128) -> Option<TimeDelta> {
    Some(TimeDelta::nanoseconds(i64::try_from(nanos).ok()?))
}

/// The nanoseconds of a duration.
pub fn nanos_of_span(span: &TimeDelta) -> i128 {
    i128::from(span.num_seconds()) * 1_000_000_000 + i128::from(span.subsec_nanos())
}

/// `duration("1h30m")`: a sign, then numbers with their units h, m, s, ms, us, ns; or `0`.
pub fn parse_duration(text: &str) -> Option<TimeDelta> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if rest == "0" {
        return Some(TimeDelta::zero());
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos = 0_i128;
    while !rest.is_empty() {
        let whole = take_digits(&mut rest)?;
        let fraction = match rest.strip_prefix('.') {
            None => "",
            Some(after) => {
                rest = after;
                take_digits(&mut rest)?
            }
        };
        let unit = take_unit(&mut rest)?;
        let number = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<i128>().ok() };
        let shift = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        nanos = nanos.checked_add(number(whole)?.checked_mul(unit)?)?;
        nanos = nanos.checked_add(number(fraction)?.checked_mul(unit)? / shift)?;
    }
    span_of_nanos(if negative { -nanos } else { nanos })
}

fn take_digits<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let end = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, after) = rest.split_at(end);
    *rest = after;
    (!digits.is_empty()).then_some(digits)
}

fn take_unit(rest: &mut &str) -> Option<i128> {
    // The long ones first: `m` begins `ms`.
    let units = [
        ("ms", 1_000_000),
        ("us", 1_000),
        ("ns", 1),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
    ];
    let (after, nanos) = units.into_iter().find_map(|(unit, nanos)| Some((rest.strip_prefix(unit)?, nanos)))?;
    *rest = after;
    Some(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_exactly_or_not_at_all() {
        let millis = |text| parse_duration(text).map(|span| span.num_milliseconds());
        assert_eq!(millis("1h30m"), Some(5_400_000));
        assert_eq!(millis("-1.5s"), Some(-1_500));
        assert_eq!(millis("1h1m1s1ms"), Some(3_661_001));
        assert_eq!(millis("0"), Some(0));
        assert_eq!(parse_duration("1.5us"), Some(TimeDelta::nanoseconds(1_500)));
        let digits = "9".repeat(500);
        for text in ["", "-", "1", "1x", "h", "1h ", "1 h", "+1h", "1.h", ".5h", "--1h", "3000000h", &digits] {
            assert_eq!(millis(text), None, "{text}");
        }
    }

    #[test]
    fn times_outside_the_years_1_to_9999_are_none() {
        for seconds in [FIRST_SECOND - 1, LAST_SECOND + 1, i64::MIN, i64::MAX] {
            assert_eq!(timestamp_of_seconds(seconds), None);
            assert_eq!(of_record(Timestamp(seconds.saturating_mul(1_000))), None);
        }
        assert!(timestamp_of_seconds(FIRST_SECOND).is_some());
        assert!(of_record(Timestamp(LAST_SECOND * 1_000 + 999)).is_some());
        assert_eq!(parse_timestamp("2026-01-01T02:00:00+02:00"), timestamp_of_seconds(1_767_225_600));
        assert_eq!(parse_timestamp("0000-12-31T23:59:59Z"), None);
        assert_eq!(parse_timestamp("2026-01-01"), None);
    }
}
