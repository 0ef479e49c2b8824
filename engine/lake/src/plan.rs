//! Decides: when a file ends, what range it holds, what it is called, how long to wait after a failure. No clock, no I/O.

use std::time::{Duration, Instant};

use millstream_protocol::frame::control::LakeFormat;
use millstream_protocol::{Offset, PartitionId, Timestamp};

/// A file ends here even if its records are tiny: it bounds what a redo costs and a footer holds.
pub const RECORDS_MAX: u64 = 4_000_000;

/// What has been scanned behind the last checkpoint and is in no file yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The first offset that has not landed.
    pub first: Offset,
    /// The next offset to be scanned.
    pub next: Offset,
    /// Records in `first..next`.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// When the oldest of them was appended.
    pub oldest: Option<Timestamp>,
    /// When it will have waited for the lake's roll age.
    pub due: Option<Instant>,
}

impl Open {
    /// Nothing is open; scanning goes on at `first`.
    pub fn at(first: Offset) -> Self {
        Self { first, next: first, records: 0, bytes: 0, oldest: None, due: None }
    }

    /// Whether there is anything to land: records, or a gap to report.
    pub fn is_empty(&self) -> bool {
        self.next <= self.first
    }

    /// Whether it is as large as a file may be.
    pub fn is_full(&self, roll_bytes: u64) -> bool {
        self.bytes >= roll_bytes || self.records >= RECORDS_MAX
    }

    /// Notes when the oldest record, appended at `appended`, will have waited for `age`. A record that has already waited
    /// longer, because the lake was behind or not running, is due at once.
    pub fn note_age(&mut self, appended: Timestamp, now: Timestamp, now_at: Instant, age: Duration) {
        if self.oldest.is_none() {
            self.oldest = Some(appended);
            let waited = Duration::from_millis(now.0.saturating_sub(appended.0).max(0).unsigned_abs());
            self.due = Some(now_at + age.saturating_sub(waited));
        }
    }
}

/// Whether a file ends now: it is full, or all that a flush or the roll age asked for has been scanned.
pub fn rolls(open: &Open, roll_bytes: u64, flush_to: Offset) -> bool {
    !open.is_empty() && (open.is_full(roll_bytes) || (flush_to > open.first && open.next >= flush_to))
}

/// Which partitions roll by age: once one is due, those too that have waited at least half as long, so that their
/// files share a schema and their ages run together from then on.
pub fn due(opens: &[&Open], now: Instant, age: Duration) -> Vec<bool> {
    let is_due = |open: &&Open, ahead: Duration| open.due.is_some_and(|due| due <= now + ahead);
    if opens.iter().any(|open| is_due(open, Duration::ZERO)) {
        opens.iter().map(|open| is_due(open, age / 2)).collect()
    } else {
        vec![false; opens.len()]
    }
}

/// The name of the file that holds `first..=last`: a function of the range alone.
pub fn file_name(partition: PartitionId, first: Offset, last: Offset, format: LakeFormat) -> String {
    let extension = match format {
        LakeFormat::Parquet => "parquet",
        LakeFormat::Ndjson => "ndjson",
    };
    format!("{:05}-{:020}-{:020}.{extension}", partition.0, first.0, last.0)
}

/// The name, under `errors/`, of what of that file could not land.
pub fn error_file_name(file_name: &str) -> String {
    let stem = file_name.rsplit_once('.').map_or(file_name, |(stem, _)| stem);
    format!("{stem}.ndjson")
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

    fn open(first: u64, next: u64, bytes: u64) -> Open {
        Open { next: Offset(next), records: next - first, bytes, ..Open::at(Offset(first)) }
    }

    #[test]
    fn a_file_ends_when_it_is_full_or_flushed_and_never_empty() {
        assert!(!rolls(&open(5, 9, 99), 100, Offset(0)));
        assert!(rolls(&open(5, 9, 100), 100, Offset(0)));
        assert!(rolls(&Open { records: RECORDS_MAX, ..open(5, 9, 1) }, 100, Offset(0)));
        assert!(!rolls(&open(5, 9, 1), 100, Offset(10)), "the flush's target is not scanned yet");
        assert!(rolls(&open(5, 10, 1), 100, Offset(10)));
        assert!(!rolls(&open(10, 12, 1), 100, Offset(10)), "the flush is done");
        assert!(!rolls(&open(5, 5, 0), 100, Offset(5)));
    }

    #[test]
    fn the_age_counts_from_the_append_and_ages_run_together() {
        let start = Instant::now();
        let (mut a, mut b, mut c) = (open(0, 1, 1), open(0, 1, 1), open(0, 1, 1));
        a.note_age(Timestamp(1_000), Timestamp(4_000), start, AGE);
        b.note_age(Timestamp(1_000), Timestamp(60_000), start, AGE);
        c.note_age(Timestamp(9_000), Timestamp(4_000), start, AGE);
        assert_eq!(a.due, Some(start + Duration::from_secs(7)));
        assert_eq!(b.due, Some(start), "it waited while the lake did not run");
        assert_eq!(c.due, Some(start + AGE), "a clock that differs makes nobody wait longer than the age");
        let idle = Open::at(Offset(3));
        assert_eq!(due(&[&a, &c, &idle], start, AGE), [false, false, false]);
        assert_eq!(due(&[&a, &c, &idle], start + Duration::from_secs(7), AGE), [true, true, false]);
        assert_eq!(due(&[&a, &b, &c], start, AGE), [false, true, false]);
    }

    #[test]
    fn names_sort_as_their_ranges() {
        let name = file_name(PartitionId(3), Offset(17), Offset(4_000), LakeFormat::Parquet);
        assert_eq!(name, "00003-00000000000000000017-00000000000000004000.parquet");
        assert_eq!(error_file_name(&name), "00003-00000000000000000017-00000000000000004000.ndjson");
    }

    #[test]
    fn waiting_grows_to_thirty_seconds_and_no_further() {
        let seconds: Vec<f64> = [1, 2, 3, 8, 9, 10, 1_000].map(|n| backoff(n).as_secs_f64()).into();
        assert_eq!(seconds, [0.1, 0.2, 0.4, 12.8, 25.6, 30.0, 30.0]);
    }
}
