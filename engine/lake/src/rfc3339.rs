//! Which strings are times: strict RFC 3339 in UTC, to the microsecond, and nothing else.
//!
//! `2013-01-01T10:15:00Z`, `2013-01-01T10:15:00.25+00:00`. A string with another zone, a space instead of the `T`, small
//! letters, a leap second or more than six digits of fraction stays text, because as a timestamp it would not come
//! back as it was.

/// Microseconds since the Unix epoch.
pub fn micros(text: &[u8]) -> Option<i64> {
    let (date_time, rest) = text.split_first_chunk::<19>()?;
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, separator)| date_time[*at] != *separator) {
        return None;
    }
    let number = |at: usize, digits: usize| -> Option<i64> {
        date_time[at..at + digits]
            .iter()
            .try_fold(0, |sum, b| b.is_ascii_digit().then(|| sum * 10 + i64::from(b - b'0')))
    };
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    let in_range = year >= 1
        && (1..=12).contains(&month)
        && (1..=days_of_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !in_range {
        return None;
    }
    let (fraction, zone) = match rest.split_first() {
        Some((b'.', after)) => {
            let digits = after.iter().take_while(|b| b.is_ascii_digit()).count();
            if !(1..=6).contains(&digits) {
                return None;
            }
            let value = after[..digits].iter().fold(0, |sum, b| sum * 10 + i64::from(b - b'0'));
            (value * 10_i64.pow(6 - digits as u32), &after[digits..])
        }
        _ => (0, rest),
    };
    if zone != b"Z" && zone != b"+00:00" {
        return None;
    }
    let seconds = ((days_since_epoch(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    Some(seconds * 1_000_000 + fraction)
}

/// Microseconds since the Unix epoch of a time in any zone: all of RFC 3339, to the microsecond.
pub fn micros_of_any_zone(text: &str) -> Option<i64> {
    let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    (time.timestamp_subsec_nanos() % 1_000 == 0).then(|| time.timestamp_micros())
}

/// Days since the Unix epoch of a date, `2013-01-31`.
pub fn days(text: &str) -> Option<i32> {
    let midnight = micros(format!("{}T00:00:00Z", text.get(..10).filter(|_| text.len() == 10)?).as_bytes())?;
    i32::try_from(midnight.div_euclid(86_400_000_000)).ok()
}

fn days_of_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar (H. Hinnant, "chrono-Compatible Low-Level
/// Date Algorithms", `days_from_civil`).
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_strict_utc_times_to_the_microsecond_are_times() {
        assert_eq!(micros(b"1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(micros(b"2013-01-01T10:15:00Z"), Some(1_357_035_300_000_000));
        assert_eq!(micros(b"2013-01-01T10:15:00.25+00:00"), Some(1_357_035_300_250_000));
        assert_eq!(micros(b"1969-12-31T23:59:59.999999Z"), Some(-1));
        assert_eq!(micros(b"2000-02-29T00:00:00Z"), Some(951_782_400_000_000));
        for text in [
            "",
            "2013-01-01",
            "2013-01-01T10:15:00",
            "2013-01-01 10:15:00Z",
            "2013-01-01t10:15:00z",
            "2013-01-01T10:15:00.1234567Z",
            "2013-01-01T10:15:00.Z",
            "2013-01-01T10:15:00+01:00",
            "2013-01-01T10:15:00-00:00",
            "2013-01-01T24:00:00Z",
            "2013-01-01T10:15:60Z",
            "2013-02-29T10:15:00Z",
            "1900-02-29T10:15:00Z",
            "0000-01-01T00:00:00Z",
            "2013-13-01T10:15:00Z",
            "2013-01-01T10:15:00Z ",
            "2013-01-01T10:15:0éZ",
        ] {
            assert_eq!(micros(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn arrow_reads_the_same_time() {
        for text in [
            "0001-01-01T00:00:00Z",
            "1583-10-15T01:02:03.000004Z",
            "2024-02-29T23:59:59.9+00:00",
            "9999-12-31T23:59:59.999999Z",
        ] {
            let theirs = arrow_cast::parse::string_to_datetime(&chrono_utc(), text).map(|time| time.timestamp_micros());
            assert_eq!(theirs.ok(), micros(text.as_bytes()), "{text}");
        }
    }

    fn chrono_utc() -> arrow_array::timezone::Tz {
        "+00:00".parse().expect("a zone")
    }
}
