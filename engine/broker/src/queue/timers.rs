//! Timers for millions of messages: when which offset is to be looked at again.
//!
//! Time is in ticks of [`TICK_MS`]. What is due within about four minutes lies in the bucket of its tick, what is due later
//! in a bucket of 4,096 ticks that is sorted into fine ones when it comes near: O(1) amortised for each timer, 8 bytes each,
//! since its owner knows when it is due. A timer is never cancelled: who owns it asks, when it fires, whether it still means
//! anything.

use std::collections::BTreeMap;

/// The length of a tick in milliseconds: a timer fires at most that much late, and never early.
pub(super) const TICK_MS: u64 = 64;
const NEAR_TICKS: u64 = 1 << 12;

/// The tick at which `ms` has surely passed.
pub(super) fn tick_after(ms: u64) -> u64 {
    ms.div_ceil(TICK_MS)
}

/// The newest tick that has passed at `ms`.
pub(super) fn tick_at(ms: u64) -> u64 {
    ms / TICK_MS
}

/// Offsets by the tick at which they are due.
#[derive(Debug, Default)]
pub(super) struct Timers {
    near: BTreeMap<u64, Vec<u64>>,
    /// By tick ÷ 4,096.
    far: BTreeMap<u64, Vec<u64>>,
    /// Ticks at or above it are far.
    horizon: u64,
    len: usize,
}

impl Timers {
    /// Timers, those that mean nothing any more included.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn push(&mut self, tick: u64, offset: u64) {
        self.len += 1;
        if tick < self.horizon {
            self.near.entry(tick).or_default().push(offset);
        } else {
            self.far.entry(tick / NEAR_TICKS).or_default().push(offset);
        }
    }

    /// Takes the offsets that are due, in order of their ticks. `due` says at which tick an offset is; `None`: not any more.
    pub fn fire(&mut self, now: u64, due: impl Fn(u64) -> Option<u64>) -> Vec<u64> {
        self.approach(now, due);
        let later = self.near.split_off(&(now + 1));
        let due = std::mem::replace(&mut self.near, later);
        let due: Vec<u64> = due.into_values().flatten().collect();
        self.len -= due.len();
        due
    }

    /// The next tick at which something may be due: exact if it is near, early if not.
    pub fn next(&self) -> Option<u64> {
        let near = self.near.keys().next().copied();
        near.or_else(|| self.far.keys().next().map(|bucket| (bucket * NEAR_TICKS).saturating_sub(1)))
    }

    /// Sorts the far buckets that have come near.
    fn approach(&mut self, now: u64, due: impl Fn(u64) -> Option<u64>) {
        let first_far = now / NEAR_TICKS + 2;
        if first_far * NEAR_TICKS <= self.horizon {
            return;
        }
        self.horizon = first_far * NEAR_TICKS;
        let still_far = self.far.split_off(&first_far);
        for offset in std::mem::replace(&mut self.far, still_far).into_values().flatten() {
            self.len -= 1;
            // It may have been put off since, or mean nothing any more.
            if let Some(tick) = due(offset) {
                self.push(tick, offset);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_fires_once_when_it_is_due(steps in prop::collection::vec((0..40_000_u64, 0..3_000_u64), 1..60)) {
            let (mut timers, mut waiting, mut now) = (Timers::default(), Vec::new(), 1_000_000);
            for (offset, (delay, pass)) in steps.into_iter().enumerate() {
                timers.push(now + delay, offset as u64);
                waiting.push((now + delay, offset as u64));
                now += pass;
                let mut fired = timers.fire(now, |offset| {
                    waiting.iter().find(|(_, one)| *one == offset).map(|(tick, _)| *tick)
                });
                fired.sort_unstable();
                let mut due: Vec<u64> =
                    waiting.extract_if(.., |(tick, _)| *tick <= now).map(|(_, offset)| offset).collect();
                due.sort_unstable();
                prop_assert_eq!(fired, due);
                prop_assert_eq!(timers.len(), waiting.len());
                let first = waiting.iter().map(|(tick, _)| *tick).min();
                prop_assert!(timers.next() <= first && timers.next().is_some() == first.is_some());
                prop_assert!(timers.next().is_none_or(|next| next > now));
            }
        }
    }
}
