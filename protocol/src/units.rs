//! Sizes and times that carry their unit.

use std::fmt;
use std::str::FromStr;

/// A number of bytes. Written and read as `64 MiB`, `1.5 GiB`, `512 B`; a bare number is bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// `n` KiB.
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }
    /// `n` MiB.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
    /// `n` GiB.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }
    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
    /// The number of bytes as a `usize`, saturating.
    pub const fn as_usize(self) -> usize {
        if self.0 > usize::MAX as u64 { usize::MAX } else { self.0 as usize }
    }
}

const UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, size) = UNITS.into_iter().find(|(_, size)| self.0 >= *size).unwrap_or(("B", 1));
        if self.0.is_multiple_of(size) {
            write!(f, "{} {unit}", self.0 / size)
        } else {
            write!(f, "{:.1} {unit}", self.0 as f64 / size as f64)
        }
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = (&text[..split], text[split..].trim());
        let factor = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1.0,
            "k" | "kib" => 1024.0,
            "m" | "mib" => 1024.0 * 1024.0,
            "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
            "t" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
            "kb" => 1e3,
            "mb" => 1e6,
            "gb" => 1e9,
            "tb" => 1e12,
            other => return Err(format!("unknown unit '{other}': use B, KiB, MiB, GiB or TiB")),
        };
        let number: f64 = number.parse().map_err(|_| format!("'{text}' is not a size: write for example 64 MiB"))?;
        let bytes = number * factor;
        if bytes.is_finite() && bytes < 1e18 {
            Ok(Self(bytes as u64))
        } else {
            Err(format!("'{text}' is too large a size"))
        }
    }
}

/// A wall-clock time in milliseconds since the Unix epoch, UTC. Never subtracted from another host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for size in [ByteSize(0), ByteSize(17), ByteSize::kib(64), ByteSize::mib(256), ByteSize::gib(3)] {
            assert_eq!(size.to_string().parse(), Ok(size));
        }
        assert_eq!("1.5 MiB".parse(), Ok(ByteSize(1_572_864)));
        assert_eq!("10MB".parse(), Ok(ByteSize(10_000_000)));
        assert!("ten".parse::<ByteSize>().is_err());
        assert!("1 parsec".parse::<ByteSize>().is_err());
        assert!("99999999999 TiB".parse::<ByteSize>().is_err());
    }
}
