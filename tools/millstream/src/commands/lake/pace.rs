//! How fast a lake lands, and when it will have caught up: from what it said the last few times. Pure.
//!
//! Files land in lumps, so rates are taken over a window. Caught up is who has read all that is in the stream: what has been
//! read and has not landed is in open files, and waits for its time.

use std::collections::VecDeque;
use std::time::Duration;

/// How many looks a rate is taken over.
const LOOKS: usize = 10;

/// What a lake said, and when.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Duration,
    landed: u64,
    read: u64,
    produced: u64,
}

/// The last few looks.
#[derive(Debug, Default)]
pub(super) struct Pace {
    looks: VecDeque<Look>,
}

/// When all that is in the stream will have been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outlook {
    /// It has been.
    CaughtUp,
    /// In that time, at this pace.
    In(Duration),
    /// Not at this pace.
    Never,
    /// One look is no pace.
    Unknown,
}

/// What follows from them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Progress {
    /// Offsets landed in a second.
    pub landed_per_second: f64,
    /// Offsets read in a second.
    pub read_per_second: f64,
    /// Offsets added to the stream in a second.
    pub produced_per_second: f64,
    /// Offsets that have not been read.
    pub unread: u64,
    /// When all will have been.
    pub outlook: Outlook,
}

impl Pace {
    /// Takes the sums over all partitions at a time since the beginning.
    pub fn step(&mut self, at: Duration, landed: u64, read: u64, produced: u64) -> Progress {
        // What is behind what was read cannot be before what has landed.
        let look = Look { at, landed, read: read.max(landed), produced };
        self.looks.push_back(look);
        if self.looks.len() > LOOKS {
            self.looks.pop_front();
        }
        let first = self.looks.front().copied().unwrap_or(look);
        let seconds = at.saturating_sub(first.at).as_secs_f64();
        let rate = |from: u64, to: u64| if seconds > 0.0 { to.saturating_sub(from) as f64 / seconds } else { 0.0 };
        let produced_per_second = rate(first.produced, look.produced);
        let unread = look.produced.saturating_sub(look.read);
        let read_per_second = rate(first.read, look.read);
        let gains = read_per_second - produced_per_second;
        let outlook = match unread {
            0 => Outlook::CaughtUp,
            _ if seconds == 0.0 => Outlook::Unknown,
            // A rounding error above nothing would be a time beyond all clocks.
            _ if gains > 1e-6 => Duration::try_from_secs_f64(unread as f64 / gains).map_or(Outlook::Never, Outlook::In),
            _ => Outlook::Never,
        };
        let landed_per_second = rate(first.landed, look.landed);
        Progress { landed_per_second, read_per_second, produced_per_second, unread, outlook }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_says_when_a_lake_has_caught_up_with_a_stream_that_grows() {
        let mut pace = Pace::default();
        let first = pace.step(at(0), 0, 0, 10_000);
        assert_eq!((first.unread, first.outlook), (10_000, Outlook::Unknown), "one look is no pace");
        let next = pace.step(at(10), 2_000, 3_000, 11_000);
        assert_eq!((next.landed_per_second, next.produced_per_second), (200.0, 100.0));
        assert_eq!((next.unread, next.outlook), (8_000, Outlook::In(at(40))), "it gains 200 a second");
    }

    #[test]
    fn a_lake_that_has_read_all_has_caught_up_and_one_that_falls_behind_never_does() {
        let mut pace = Pace::default();
        assert_eq!(pace.step(at(0), 50, 100, 100).outlook, Outlook::CaughtUp);
        assert_eq!(pace.step(at(1), 50, 110, 200).outlook, Outlook::Never);
        assert_eq!(pace.step(at(2), 50, 300, 300).outlook, Outlook::CaughtUp);
    }

    #[test]
    fn only_the_last_looks_count() {
        let mut pace = Pace::default();
        pace.step(at(0), 0, 0, 1_000_000);
        for n in 1..=20 {
            let landed = if n < 10 { 0 } else { (n - 10) * 100 };
            let progress = pace.step(at(n), landed, landed, 1_000_000);
            if n == 20 {
                assert!((progress.landed_per_second - 100.0).abs() < 1.0, "{progress:?}");
            }
        }
    }
}
