//! The run's time: nanoseconds since the Unix epoch that never go back, so that what one process stamps another can read.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A second.
pub const SECOND_NS: u64 = 1_000_000_000;

/// Reads the wall clock once, and goes on with the monotonic one.
#[derive(Debug, Clone, Copy)]
pub struct RunClock {
    origin: Instant,
    origin_ns: u64,
}

impl RunClock {
    /// Starts it.
    #[expect(clippy::disallowed_methods, reason = "the tool's one door to the wall clock")]
    pub fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { origin: Instant::now(), origin_ns: nanos(since_epoch) }
    }

    /// When it was started.
    pub fn origin_ns(self) -> u64 {
        self.origin_ns
    }

    /// Now.
    pub fn now(self) -> u64 {
        self.at(Instant::now())
    }

    /// That moment.
    pub fn at(self, instant: Instant) -> u64 {
        self.origin_ns + nanos(instant.saturating_duration_since(self.origin))
    }

    /// The moment of that time.
    pub fn instant(self, ns: u64) -> Instant {
        self.origin + Duration::from_nanos(ns.saturating_sub(self.origin_ns))
    }
}

/// A duration in nanoseconds.
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
