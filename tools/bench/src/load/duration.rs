//! Times as people write them: `10s`, `250ms`, `2m`, `1h`; a bare number is seconds.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A duration that is written with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Time(Duration);

impl Time {
    /// Whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Milliseconds.
    pub const fn millis(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }

    /// As the standard library has it.
    pub fn get(self) -> Duration {
        self.0
    }
}

/// Longer than anyone waits; far below what the arithmetic bears.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3_600);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let factor = match text[split..].trim() {
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "" | "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3_600.0,
            other => return Err(format!("unknown unit '{other}': use us, ms, s, m or h")),
        };
        let wrong = || format!("'{text}' is not a time: write for example 10s or 250ms");
        let number: f64 = text[..split].parse().map_err(|_| wrong())?;
        let time = Duration::try_from_secs_f64(number * factor).map_err(|_| wrong())?;
        match time <= LONGEST {
            // What is less than a microsecond is what the factor's rounding left.
            true => Ok(Self(Duration::from_micros((time.as_secs_f64() * 1e6).round() as u64))),
            false => Err(format!("'{text}' is too long: use up to 720h")),
        }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.0.as_micros();
        match us {
            us if us.is_multiple_of(1_000_000) => write!(f, "{}s", us / 1_000_000),
            us if us.is_multiple_of(1_000) => write!(f, "{}ms", us / 1_000),
            us => write!(f, "{us}us"),
        }
    }
}

impl From<Time> for String {
    fn from(time: Time) -> Self {
        time.to_string()
    }
}

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_back_and_slips_are_named() {
        for (text, shown) in
            [("10s", "10s"), ("250ms", "250ms"), ("2m", "120s"), ("0.5", "500ms"), ("1h", "3600s"), ("70us", "70us")]
        {
            assert_eq!(text.parse::<Time>().expect(text).to_string(), shown);
        }
        for text in ["", "s", "10 parsec", "-1s", "1e9h", "100000h"] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
    }
}
