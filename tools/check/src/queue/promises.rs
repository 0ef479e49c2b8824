//! The settings that may have been in force: all that were asked for up to a time, because a change applies from an offset
//! on and does not act back.

use crate::history::queue::{Retry, Settings};

/// In nanoseconds.
const MS: u64 = 1_000_000;

/// One clock tick: the server counts milliseconds.
pub(super) const TICK_NS: u64 = MS;

/// Milliseconds as nanoseconds.
pub(super) fn ms(ms: u64) -> u64 {
    ms.saturating_mul(MS)
}

#[derive(Debug, Default)]
pub(super) struct Promises(Vec<(u64, Settings)>);

impl Promises {
    pub fn add(&mut self, from_ns: u64, settings: Settings) {
        self.0.push((from_ns, settings));
        self.0.sort_by_key(|(from_ns, _)| *from_ns);
    }

    pub fn until(&self, at_ns: u64) -> impl Iterator<Item = &Settings> {
        self.0.iter().take_while(move |(from_ns, _)| *from_ns <= at_ns).map(|(_, settings)| settings)
    }

    pub fn all(&self) -> impl Iterator<Item = &Settings> {
        self.0.iter().map(|(_, settings)| settings)
    }

    /// Least and most of something of the settings up to a time.
    pub fn bounds(&self, at_ns: u64, of: impl Fn(&Settings) -> u64) -> (u64, u64) {
        // What happened before the first was known happened under it.
        let first = self.0.first().map(|(from_ns, _)| *from_ns).unwrap_or(0);
        self.until(at_ns.max(first)).map(of).fold((u64::MAX, 0), |(least, most), one| (least.min(one), most.max(one)))
    }

    /// The most receives that may have been the limit; none: there may have been no limit.
    pub fn max_receives(&self, at_ns: u64) -> Option<u32> {
        let (_, most) =
            self.bounds(at_ns, |settings| settings.dead_letter.map_or(u64::MAX, |to| u64::from(to.max_receives)));
        u32::try_from(most).ok()
    }

    /// The fewest receives that may have been the limit, ever; none: there was never a limit.
    pub fn min_receives(&self) -> Option<u32> {
        self.all().filter_map(|settings| settings.dead_letter).map(|to| to.max_receives).min()
    }

    /// How long a message waits after a nack of its `receives`-th delivery that named no delay.
    pub fn backoff_ns(&self, at_ns: u64, receives: u32) -> (u64, u64) {
        let (least, most) = self.bounds(at_ns, |settings| backoff_ms(settings.retry, receives));
        // A tenth less or more, and what rounding takes.
        (ms(least) / 10 * 9, ms(most).saturating_add(ms(most) / 10).saturating_add(TICK_NS))
    }
}

fn backoff_ms(Retry { min_ms, max_ms, factor_percent }: Retry, receives: u32) -> u64 {
    let mut wait_ms = min_ms.min(max_ms);
    for _ in 1..receives {
        let longer = (wait_ms.saturating_mul(u64::from(factor_percent)) / 100).min(max_ms);
        if longer <= wait_ms {
            break;
        }
        wait_ms = longer;
    }
    wait_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backoff_doubles_up_to_its_maximum() {
        let retry = Settings::default().retry;
        assert_eq!(
            [1, 2, 3, 9, 10, 4_000_000].map(|n| backoff_ms(retry, n)),
            [1_000, 2_000, 4_000, 256_000, 300_000, 300_000]
        );
        assert_eq!(backoff_ms(Retry { min_ms: 0, ..retry }, 7), 0);
    }
}
