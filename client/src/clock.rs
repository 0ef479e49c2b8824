//! The client's one door to the wall clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millstream_protocol::Timestamp;

/// How long a reading of the wall clock is carried forward by the monotonic one.
const ANCHOR_AGE_MAX: Duration = Duration::from_secs(1);

/// Wall-clock time out of an `Instant` that the caller has read anyway: one clock read per record, not two.
#[derive(Debug)]
pub(crate) struct WallClock {
    anchor: Instant,
    anchor_ms: i64,
}

impl WallClock {
    pub fn new(now: Instant) -> Self {
        Self { anchor: now, anchor_ms: wall_ms() }
    }

    /// The wall-clock time at `now`, which is the present.
    pub fn at(&mut self, now: Instant) -> Timestamp {
        let mut age = now.saturating_duration_since(self.anchor);
        if age > ANCHOR_AGE_MAX {
            *self = Self::new(now);
            age = Duration::ZERO;
        }
        Timestamp(self.anchor_ms + age.as_millis() as i64)
    }
}

#[expect(clippy::disallowed_methods, reason = "the client's one door to the wall clock")]
fn wall_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
