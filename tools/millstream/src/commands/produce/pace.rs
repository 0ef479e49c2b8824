//! Pacing: when the next record may go. Pure; the caller sleeps.

use std::time::{Duration, Instant};

/// How much of a delay is made up for afterwards.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Spaces records evenly.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    next: Instant,
}

impl Pace {
    /// So many in a second, from `now` on.
    pub fn new(per_second: f64, now: Instant) -> Self {
        // A rate below one in some centuries is as good as none.
        let interval = Duration::try_from_secs_f64(1.0 / per_second).unwrap_or(Duration::from_secs(1 << 32));
        Self { interval, next: now }
    }

    /// Takes the next record's turn; `Some` is when it comes, if that is later than `now`.
    pub fn next(&mut self, now: Instant) -> Option<Instant> {
        let turn = self.next.max(now.checked_sub(CATCH_UP).unwrap_or(self.next));
        self.next = turn.checked_add(self.interval).unwrap_or(turn);
        (turn > now).then_some(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_go_evenly_and_a_long_delay_is_not_made_up_for() {
        let start = Instant::now();
        let ms = |ms: u64| start + Duration::from_millis(ms);
        let mut pace = Pace::new(1_000.0, start);
        assert_eq!(pace.next(start), None);
        assert_eq!(pace.next(start), Some(ms(1)));
        assert_eq!(pace.next(ms(1)), Some(ms(2)));
        // 500 ms late: 500 turns are made up for at once.
        let made_up = (0..).take_while(|_| pace.next(ms(502)).is_none()).count();
        assert_eq!(made_up, 500);
        // A minute late: a second's worth, and no more.
        let burst = (0..).take_while(|_| pace.next(ms(60_000)).is_none()).count();
        assert!((1_000..=1_001).contains(&burst), "{burst}");
    }
}
