//! Which keys records have.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::random::Random;
use super::zipf::Zipf;

/// How keys are distributed. Written as `none`, `uniform:N`, `zipf:N`, `zipf:N:EXPONENT`, `hot:N:SHARE`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Keys {
    /// Records have none.
    #[default]
    None,
    /// So many, each as often as the others.
    Uniform(u64),
    /// So many; the k-th in proportion to k^-exponent.
    Zipf(u64, f64),
    /// So many; the first has that share of all records, the others share the rest.
    Hot(u64, f64),
}

impl FromStr for Keys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let count = |text: &str| match text.replace('_', "").parse::<u64>() {
            Ok(n) if n >= 1 => Ok(n),
            _ => Err(format!("'{text}' is not a number of keys: use 1 or more")),
        };
        let number = |text: &str, legal: std::ops::RangeInclusive<f64>| match text.parse::<f64>() {
            Ok(number) if legal.contains(&number) => Ok(number),
            _ => Err(format!("'{text}' is out of range: use {} to {}", legal.start(), legal.end())),
        };
        match *parts.as_slice() {
            ["none"] => Ok(Keys::None),
            ["uniform", n] => Ok(Keys::Uniform(count(n)?)),
            ["zipf", n] => Ok(Keys::Zipf(count(n)?, 1.0)),
            ["zipf", n, exponent] => Ok(Keys::Zipf(count(n)?, number(exponent, 0.01..=10.0)?)),
            ["hot", n, share] => Ok(Keys::Hot(count(n)?, number(share, 0.0..=1.0)?)),
            _ => Err("use none, uniform:N, zipf:N, zipf:N:EXPONENT or hot:N:SHARE".to_owned()),
        }
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Keys::None => f.write_str("none"),
            Keys::Uniform(n) => write!(f, "uniform:{n}"),
            Keys::Zipf(n, exponent) => write!(f, "zipf:{n}:{exponent}"),
            Keys::Hot(n, share) => write!(f, "hot:{n}:{share}"),
        }
    }
}

impl From<Keys> for String {
    fn from(keys: Keys) -> Self {
        keys.to_string()
    }
}

impl TryFrom<String> for Keys {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Keys are eight bytes: cut out of one buffer while there are few, so that a record's key costs no allocation.
const TABLE_KEYS_MAX: u64 = 1 << 17;

/// Gives each record its key.
#[derive(Debug)]
pub struct KeySource {
    random: Random,
    draw: Draw,
    table: Option<Bytes>,
}

#[derive(Debug)]
enum Draw {
    None,
    Uniform(u64),
    Zipf(Zipf),
    Hot(u64, f64),
}

impl KeySource {
    /// A source of its own for each producer, by its seed.
    pub fn new(keys: Keys, seed: u64) -> Self {
        let (draw, count) = match keys {
            Keys::None => (Draw::None, 0),
            Keys::Uniform(n) => (Draw::Uniform(n), n),
            Keys::Zipf(n, exponent) => (Draw::Zipf(Zipf::new(n, exponent)), n),
            Keys::Hot(n, share) => (Draw::Hot(n, share), n),
        };
        let table = (1..=TABLE_KEYS_MAX).contains(&count).then(|| (0..count).flat_map(u64::to_le_bytes).collect());
        Self { random: Random::new(seed), draw, table }
    }

    /// The next record's key.
    pub fn next(&mut self) -> Option<Bytes> {
        let number = self.number()?;
        Some(match &self.table {
            Some(table) => table.slice(number as usize * 8..number as usize * 8 + 8),
            None => Bytes::copy_from_slice(&number.to_le_bytes()),
        })
    }

    /// Its number, from 0.
    fn number(&mut self) -> Option<u64> {
        let random = &mut self.random;
        match &self.draw {
            Draw::None => None,
            Draw::Uniform(n) => Some(random.below(*n)),
            Draw::Zipf(zipf) => Some(zipf.draw(random) - 1),
            Draw::Hot(1, _) => Some(0),
            Draw::Hot(n, share) => Some(if random.unit() < *share { 0 } else { 1 + random.below(n - 1) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_and_what_is_wrong_says_what_is_legal() {
        for text in ["none", "uniform:10", "zipf:1000:0.9", "hot:50:0.2"] {
            assert_eq!(text.parse::<Keys>().expect(text).to_string(), text);
        }
        assert_eq!("zipf:1_000".parse(), Ok(Keys::Zipf(1_000, 1.0)));
        for text in ["", "uniform", "uniform:0", "zipf:10:0", "hot:10:1.5", "hot:10", "zipf:x"] {
            let error = text.parse::<Keys>().expect_err(text);
            assert!(error.contains("use "), "{error}");
        }
    }

    #[test]
    fn a_hot_key_has_its_share_and_the_others_the_rest() {
        let mut source = KeySource::new(Keys::Hot(5, 0.6), 3);
        let mut counts = [0_u32; 5];
        for _ in 0..50_000 {
            counts[source.number().expect("there are keys") as usize] += 1;
        }
        assert!((29_000..31_000).contains(&counts[0]), "{counts:?}");
        assert!(counts[1..].iter().all(|count| (4_500..5_500).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_key_is_the_same_bytes_out_of_the_table_and_without_it() {
        let (mut few, mut many) = (KeySource::new(Keys::Uniform(7), 1), KeySource::new(Keys::Uniform(1 << 40), 1));
        assert!((0..100).all(|_| few.next().is_some_and(|key| key.len() == 8 && key[0] < 7 && key[7] == 0)));
        assert_eq!(many.next().map(|key| key.len()), Some(8));
        assert_eq!(KeySource::new(Keys::None, 1).next(), None);
    }
}
