//! Times and spans as people write them: `2013-01-01T10:15:00Z`, `7d`, `1h30m`, `-10m`; and the tool's clock.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use millstream_protocol::Timestamp;

const UNITS: [(&str, u64); 8] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("min", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("day", 86_400_000),
    ("w", 604_800_000),
];

/// The time of this machine's clock.
#[expect(clippy::disallowed_methods, reason = "the tool is the edge: this is its one door to the clock")]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Reads a span: numbers with units, for example `500ms`, `60s`, `1h30m`, `7d`.
///
/// # Errors
/// What to write instead.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is not a span: write for example 500ms, 60s, 10m, 1h30m or 7d");
    let mut rest = text.trim();
    let mut total_ms: u64 = 0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let factor = UNITS.into_iter().find_map(|(name, factor)| (name == unit.trim()).then_some(factor));
        let part = number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
        total_ms = part.and_then(|part| total_ms.checked_add(part)).ok_or_else(wrong)?;
        rest = after;
    }
    Ok(Duration::from_millis(total_ms))
}

/// A span in its largest whole units: `7d`, `1h30m`, `500ms`.
pub fn span(time: Duration) -> String {
    let mut rest = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut out = String::new();
    for (unit, factor) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if rest >= factor {
            write!(out, "{}{unit}", rest / factor).expect("writing to a string succeeds");
            rest %= factor;
        }
    }
    if out.is_empty() { "0s".into() } else { out }
}

/// Reads an RFC 3339 time (`2013-01-01T10:15:00Z`, `2013-01-01T12:15:00.5+02:00`) or a day in UTC (`2013-01-01`).
pub fn parse_time(text: &str) -> Option<Timestamp> {
    let (date, rest) = text.split_at_checked(10)?;
    let days = parse_date(date)?;
    if rest.is_empty() {
        return Some(Timestamp(days * 86_400_000));
    }
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (clock, rest) = rest.split_at_checked(8)?;
    let parts: Vec<&str> = clock.split(':').collect();
    let [hour, minute, second] = parts.as_slice() else { return None };
    let (hour, minute, second) = (number(hour, 2)?, number(minute, 2)?, number(second, 2)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction_ms, zone) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(after) => {
            let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            let digits = &after[..end];
            if digits.is_empty() || digits.len() > 9 {
                return None;
            }
            (format!("{digits:0<3}")[..3].parse::<i64>().ok()?, &after[end..])
        }
    };
    let zone_minutes = match zone {
        "Z" | "z" => 0,
        zone => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let (hours, minutes) = zone.strip_prefix(['+', '-'])?.split_once(':')?;
            let (hours, minutes) = (number(hours, 2)?, number(minutes, 2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            sign * (hours * 60 + minutes)
        }
    };
    let seconds = days * 86_400 + hour * 3_600 + (minute - zone_minutes) * 60 + second;
    Some(Timestamp(seconds * 1_000 + fraction_ms))
}

/// A time as RFC 3339 with milliseconds, UTC.
pub fn rfc3339(time: Timestamp) -> String {
    let ms = time.0.rem_euclid(1_000);
    let seconds = time.0.div_euclid(1_000);
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

fn number(text: &str, digits: usize) -> Option<i64> {
    (text.len() == digits && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

fn parse_date(text: &str) -> Option<i64> {
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts.as_slice() else { return None };
    let (year, month, day) = (number(year, 4)?, number(month, 2)?, number(day, 2)?);
    let days = days_from_civil(year, month, day);
    // A day that does not exist comes back as another one.
    (civil_from_days(days) == (year, month, day)).then_some(days)
}

/// Days since 1970-01-01 of a date. Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The inverse, from the same source.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_they_are_written() {
        for text in ["7d", "1h30m", "500ms", "10m", "1d2h3m4s5ms"] {
            assert_eq!(span(parse_span(text).expect(text)), text);
        }
        assert_eq!(parse_span("2 min"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_span("0s").map(span), Ok("0s".into()));
        for bad in ["", "10", "m", "10 parsecs", "-5m", "99999999999999999999d", "99999999999999d"] {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_read_in_every_zone_and_written_in_utc() {
        for (text, written) in [
            ("2013-01-01T10:15:00Z", "2013-01-01T10:15:00.000Z"),
            ("2013-01-01T12:15:00.5+02:00", "2013-01-01T10:15:00.500Z"),
            ("2024-02-29 23:59:59.123456-00:30", "2024-03-01T00:29:59.123Z"),
            ("1969-12-31", "1969-12-31T00:00:00.000Z"),
        ] {
            assert_eq!(parse_time(text).map(rfc3339).as_deref(), Some(written), "{text}");
        }
        for bad in [
            "",
            "2013",
            "2013-02-30",
            "2013-01-01T",
            "2013-01-01T10:15",
            "2013-01-01T10:15:00",
            "2013-01-01T24:00:00Z",
            "2013-01-01T10:15:00.Z",
            "ä013-01-01",
        ] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_goes_there_and_back() {
        for days in -10_000..140_000 {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
    }
}
