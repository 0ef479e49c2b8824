//! How far a group is in a partition: the value that the partition's state table has under `group/<number>`.
//!
//! ```text
//! u8 version (1) · rkyv archive of `Committed`
//! ```
//! It lies beside the records, so that it goes with them, and so that a commit is durable by one sync of one log. The
//! decision that takes a commit looks at the groups while it holds the table: a hand-over comes before it, and the
//! commit is refused, or after it, and the next holder's fetch sees the commit.
#![allow(missing_docs, reason = "rkyv derives undocumented resolver types; every item written here is documented")]

use millstream_log::StateTable;
use millstream_protocol::Offset;
use millstream_protocol::frame::group::ResetTo;
use rkyv::{Archive, Deserialize, Serialize, rancor};

/// What the keys of all groups begin with.
const KEYS: &str = "group/";
const VERSION: u8 = 1;

/// A committed offset.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The next offset to read.
    pub offset: u64,
    /// Epoch of the batch before it, if the member knew it.
    pub batch_epoch: Option<u32>,
    /// For the application.
    pub metadata: String,
    /// When, Unix ms.
    pub committed_ms: i64,
    /// The assignment epoch under which it was committed; 0: by no member.
    pub epoch: u32,
}

impl Committed {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let archive = rkyv::to_bytes::<rancor::Error>(self).expect("flat types always archive");
        [&[VERSION], archive.as_slice()].concat()
    }

    /// Reads it back.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        match bytes.split_first() {
            Some((&VERSION, archive)) => {
                rkyv::from_bytes::<Self, rancor::Error>(archive).map_err(|error| error.to_string())
            }
            other => Err(format!("unknown version {:?}", other.map(|(version, _)| version))),
        }
    }
}

/// The key of a group.
pub fn key(group: u64) -> String {
    format!("{KEYS}{group:020}")
}

/// What a table has of one group.
///
/// # Errors
/// What is wrong with the bytes.
pub fn committed(table: &StateTable, group: u64) -> Result<Option<Committed>, String> {
    table.get(&key(group)).map(|bytes| Committed::decode(&bytes)).transpose()
}

/// What a table has of all groups, by their numbers.
pub fn all(table: &StateTable) -> Vec<(u64, Result<Committed, String>)> {
    let group = |key: &str| key.strip_prefix(KEYS)?.parse::<u64>().ok();
    let entries = table.below(KEYS).filter_map(|(key, bytes)| Some((group(key)?, Committed::decode(bytes))));
    entries.collect()
}

/// Records that a group has not committed: those from its offset on, without one all that there are.
pub fn lag(committed: Option<u64>, log_start: Offset, high_watermark: Offset) -> u64 {
    high_watermark.0.saturating_sub(committed.unwrap_or(0).max(log_start.0))
}

/// Where a reset goes in a log that holds `start..end`; a time was turned into the offset `at_time`. `None`: outside.
pub fn reset(to: ResetTo, committed: Option<u64>, start: Offset, end: Offset, at_time: Offset) -> Option<u64> {
    match to {
        ResetTo::Earliest => Some(start.0),
        ResetTo::Latest => Some(end.0),
        ResetTo::Offset(offset) => (start.0..=end.0).contains(&offset).then_some(offset),
        ResetTo::Time(_) => Some(at_time.0),
        ResetTo::Shift(by) => {
            let from = committed.unwrap_or(start.0);
            Some(from.saturating_add_signed(by).clamp(start.0, end.0.max(start.0)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_committed_offset_comes_back_and_damaged_ones_are_refused() {
        let committed = Committed {
            offset: 42,
            batch_epoch: Some(7),
            metadata: "ä".into(),
            committed_ms: 1_700_000_000_000,
            epoch: 3,
        };
        let bytes = committed.encode();
        assert_eq!(Committed::decode(&bytes), Ok(committed));
        for cut in 0..bytes.len() {
            assert!(Committed::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let newer = [&[VERSION + 1], &bytes[1..]].concat();
        assert!(Committed::decode(&newer).is_err());
    }

    #[test]
    fn lag_counts_what_is_there_and_not_committed() {
        assert_eq!(lag(None, Offset(10), Offset(30)), 20);
        assert_eq!(lag(Some(25), Offset(10), Offset(30)), 5);
        assert_eq!(lag(Some(5), Offset(10), Offset(30)), 20, "records that are gone are not waited for");
        assert_eq!(lag(Some(40), Offset(10), Offset(30)), 0);
    }

    #[test]
    fn a_reset_stays_within_the_log() {
        let to = |to, committed| reset(to, committed, Offset(10), Offset(30), Offset(17));
        assert_eq!(to(ResetTo::Earliest, Some(20)), Some(10));
        assert_eq!(to(ResetTo::Latest, None), Some(30));
        assert_eq!(to(ResetTo::Time(5), None), Some(17));
        for (offset, legal) in [(9, false), (10, true), (30, true), (31, false)] {
            assert_eq!(to(ResetTo::Offset(offset), None), legal.then_some(offset));
        }
        assert_eq!(to(ResetTo::Shift(-3), Some(20)), Some(17));
        assert_eq!(to(ResetTo::Shift(3), None), Some(13));
        assert_eq!(to(ResetTo::Shift(i64::MIN), Some(20)), Some(10));
        assert_eq!(to(ResetTo::Shift(i64::MAX), Some(20)), Some(30));
    }
}
