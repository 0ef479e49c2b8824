//! The engine's only door to the time.
//!
//! Append times come from a [`Clock`]: the wall clock at the start plus monotonic time, *slewed* towards the wall
//! clock by at most 1 % (a step would make age retention delete too early). A step above a minute is reported
//! and not followed until it has stood for an hour. The decision is [`WallClock`], a pure machine.

use std::time::{Duration, Instant};

use millstream_protocol::Timestamp;
use parking_lot::Mutex;

const STEP_MS: i64 = 60_000;
const STEP_STANDS: Duration = Duration::from_secs(3_600);

/// Where the log reads the time.
pub trait Clock: Send + Sync + 'static {
    /// The time to stamp appends with: Unix ms, never stepping.
    fn append_time(&self) -> Timestamp;
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
    wall: Mutex<WallClock>,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { started: Instant::now(), wall: Mutex::new(WallClock::new(unix_ms())) }
    }
}

impl Clock for SystemClock {
    fn append_time(&self) -> Timestamp {
        let (time, step) = self.wall.lock().read(self.started.elapsed(), unix_ms());
        if let Some(step_ms) = step {
            tracing::warn!(step_ms, "the wall clock stepped: append times follow only if it stands for an hour");
        }
        Timestamp(time)
    }
}

/// How long something takes, for a report.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

#[expect(clippy::disallowed_methods, reason = "the engine's one door to the wall clock")]
fn unix_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

/// Start time plus monotonic time, slewed.
#[derive(Debug)]
pub struct WallClock {
    /// The time handed out at `at`.
    time_ms: i64,
    at: Duration,
    step_since: Option<Duration>,
}

impl WallClock {
    /// A clock that begins at `wall_ms` when monotonic time is zero.
    pub fn new(wall_ms: i64) -> Self {
        Self { time_ms: wall_ms, at: Duration::ZERO, step_since: None }
    }

    /// The time at monotonic `now` where the wall clock shows `wall_ms`; and how far it stepped, once, when it did.
    pub fn read(&mut self, now: Duration, wall_ms: i64) -> (i64, Option<i64>) {
        let elapsed_ms = now.saturating_sub(self.at).as_millis() as i64;
        let expected = self.time_ms.saturating_add(elapsed_ms);
        let ahead = wall_ms.saturating_sub(expected);
        let mut report = None;
        if ahead.abs() <= STEP_MS {
            self.step_since = None;
        } else if self.step_since.is_none() {
            self.step_since = Some(now);
            report = Some(ahead);
        }
        let stood = self.step_since.is_some_and(|since| now.saturating_sub(since) >= STEP_STANDS);
        if elapsed_ms > 0 || stood {
            let slew_max = elapsed_ms / 100;
            let correction = match self.step_since {
                _ if stood => ahead,
                Some(_) => 0,
                None => ahead.clamp(-slew_max, slew_max),
            };
            if stood {
                self.step_since = None;
            }
            // Less than 100 ms of elapsed time slews by nothing: keep the anchor until it can.
            if slew_max > 0 || stood {
                self.time_ms = expected.saturating_add(correction);
                self.at = now;
                return (self.time_ms, report);
            }
        }
        (expected, report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_small_drift_is_slewed_and_a_step_is_reported_once_and_waits_an_hour() {
        let mut clock = WallClock::new(1_000_000);
        assert_eq!(clock.read(SECOND, 1_001_000), (1_001_000, None));
        // 500 ms ahead: followed by 1 % of the elapsed second.
        assert_eq!(clock.read(2 * SECOND, 1_002_500), (1_002_010, None));
        // A day ahead: reported once, not followed.
        let day = 86_400_000;
        let (time, step) = clock.read(3 * SECOND, 1_003_000 + day);
        assert_eq!((time, step.is_some()), (1_003_010, true));
        assert_eq!(clock.read(4 * SECOND, 1_004_000 + day), (1_004_010, None));
        // It has stood for an hour: followed.
        let hour = 3_604 * SECOND;
        assert_eq!(clock.read(hour, 4_604_000 + day), (4_604_000 + day, None));
    }

    #[test]
    fn reading_often_does_not_stop_the_slewing() {
        let mut clock = WallClock::new(0);
        for ms in 1..=10_000i64 {
            clock.read(Duration::from_millis(ms as u64), ms + 50);
        }
        assert_eq!(clock.read(10 * SECOND, 10_050).0, 10_050);
    }
}
