//! Decides: when a file ends, what it is called, how long to wait after a failure. No clock, no I/O.

use std::time::{Duration, Instant};

use millstream_protocol::frame::lake::SMALL_FILE_BYTES;
use millstream_protocol::{Offset, PartitionId, Timestamp};

use crate::layout::ERRORS;

/// A file ends when so many bytes of the log were read since it began: it bounds what a restart reads again.
pub const REREAD_BYTES_MAX: u64 = 4 << 30;
/// So many directories may have landed above the floor; beyond that, the files that hold the floor end.
pub const ABOVE_MAX: usize = 2_000;

/// When a file ends by its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// If it is not small.
    pub age: Instant,
    /// In any case.
    pub patience: Instant,
}

impl Due {
    /// For a file whose first record was appended at `appended` and read at `now`, which is `at`. A record that had to wait
    /// because the lake was behind, or did not run, counts from when it was read: everything is late then, and a file for each
    /// chunk would help nobody.
    pub fn new(
        appended: Timestamp,
        now: Timestamp,
        at: Instant,
        is_behind: bool,
        age: Duration,
        max_age: Duration,
    ) -> Due {
        let waited = if is_behind {
            Duration::ZERO
        } else {
            Duration::from_millis(now.0.saturating_sub(appended.0).max(0).unsigned_abs())
        };
        Due { age: at + age.saturating_sub(waited), patience: at + max_age.saturating_sub(waited) }
    }

    /// Whether a file of that size ends now.
    pub fn is_over(&self, written: u64, now: Instant) -> bool {
        self.patience <= now || (self.age <= now && written >= SMALL_FILE_BYTES)
    }

    /// When to look again.
    pub fn next(&self, now: Instant) -> Instant {
        if self.age > now { self.age } else { self.patience }
    }
}

/// The name of the file that holds `first..=last` of a directory: a function of these and the partition.
pub fn file_name(directory: &str, partition: PartitionId, first: Offset, last: Offset, extension: &str) -> String {
    let slash = if directory.is_empty() { "" } else { "/" };
    format!("{directory}{slash}{:05}-{:020}-{:020}.{extension}", partition.0, first.0, last.0)
}

/// The beginning of the names of a partition's error files.
pub fn error_prefix(partition: PartitionId) -> String {
    format!("{ERRORS}/{:05}-", partition.0)
}

/// How long to wait before the `failures`-th attempt after a failure: doubling from 100 ms to 30 s.
pub fn backoff(failures: u32) -> Duration {
    let doubled = Duration::from_millis(100).saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(Duration::from_secs(30))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_secs(10);
    const MAX_AGE: Duration = Duration::from_secs(60);

    #[test]
    fn the_age_counts_from_the_append_unless_the_lake_is_behind() {
        let at = Instant::now();
        let due = |appended, now, is_behind| {
            let due = Due::new(Timestamp(appended), Timestamp(now), at, is_behind, AGE, MAX_AGE);
            ((due.age - at).as_secs(), (due.patience - at).as_secs())
        };
        assert_eq!(due(1_000, 4_000, false), (7, 57));
        assert_eq!(due(1_000, 60_000, false), (0, 1), "it waited while the lake did not run");
        assert_eq!(due(1_000, 60_000, true), (10, 60), "everything is late");
        assert_eq!(due(9_000, 4_000, false), (10, 60), "a clock that differs makes nobody wait longer than the age");
    }

    #[test]
    fn a_small_file_is_waited_for() {
        let at = Instant::now();
        let due = Due::new(Timestamp(0), Timestamp(0), at, false, AGE, MAX_AGE);
        assert!(!due.is_over(SMALL_FILE_BYTES, at + AGE - Duration::from_millis(1)));
        assert!(due.is_over(SMALL_FILE_BYTES, at + AGE));
        assert!(!due.is_over(SMALL_FILE_BYTES - 1, at + AGE));
        assert!(due.is_over(1, at + MAX_AGE));
        assert_eq!((due.next(at), due.next(at + AGE)), (due.age, due.patience));
    }

    #[test]
    fn names_sort_as_their_ranges() {
        let name = file_name("a=1/b=2", PartitionId(3), Offset(17), Offset(4_000), "parquet");
        assert_eq!(name, "a=1/b=2/00003-00000000000000000017-00000000000000004000.parquet");
        let name = file_name(ERRORS, PartitionId(3), Offset(17), Offset(17), "ndjson");
        assert!(name.starts_with(&error_prefix(PartitionId(3))), "{name}");
        assert!(file_name("", PartitionId(0), Offset(0), Offset(0), "ndjson.zst").starts_with("00000-"));
    }

    #[test]
    fn waiting_grows_to_thirty_seconds_and_no_further() {
        let seconds: Vec<f64> = [1, 2, 3, 8, 9, 10, 1_000].map(|n| backoff(n).as_secs_f64()).into();
        assert_eq!(seconds, [0.1, 0.2, 0.4, 12.8, 25.6, 30.0, 30.0]);
    }
}
