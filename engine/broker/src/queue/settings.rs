//! What the machine needs to know of a queue's settings, and the times it is told.

/// A moment, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock in milliseconds: leases and graces run on it.
    pub mono_ms: u64,
    /// The wall clock, Unix ms: what is durable (delays, times of delivery) is said in it.
    pub wall_ms: u64,
}

/// The longest delay of a nack, in milliseconds: 12 hours.
pub const NACK_DELAY_MS_MAX: u64 = 12 * 60 * 60 * 1_000;
/// How often a message may be released uncounted; beyond it a release counts as an attempt.
pub const RELEASES_MAX: u16 = 1_000;
/// The longest run of one FIFO group that is delivered at once.
pub const GROUP_BATCH_MAX: u16 = 100;

/// How the messages of a partition are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordering {
    /// Each message by itself.
    Unordered,
    /// One delivery, or run, of a group at a time, strictly in order.
    Fifo {
        /// How many of a group one receive may take in order, 1 to [`GROUP_BATCH_MAX`].
        group_batch: u16,
        /// A message that would die stands still with its group instead, until an operator decides.
        parks: bool,
    },
}

/// How long a message that was nacked without a delay waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After its first delivery, in milliseconds; 0: not at all.
    pub min_ms: u64,
    /// At most, in milliseconds.
    pub max_ms: u64,
    /// How many times longer after each further one, in hundredths: 200 doubles.
    pub factor_percent: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { min_ms: 1_000, max_ms: 5 * 60 * 1_000, factor_percent: 200 }
    }
}

impl Backoff {
    /// The wait after the `receives`th delivery: up to 10 % more or less, by the offset, so that what failed together does
    /// not come back together.
    pub fn wait_ms(&self, offset: u64, receives: u16) -> u64 {
        let mut wait = self.min_ms.min(self.max_ms);
        for _ in 1..receives {
            if wait >= self.max_ms || wait == 0 || self.factor_percent <= 100 {
                break;
            }
            wait = (wait.saturating_mul(u64::from(self.factor_percent)) / 100).min(self.max_ms);
        }
        // SplitMix64's finalizer spreads neighbouring offsets.
        let mut hash = offset.wrapping_add(u64::from(receives)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        hash ^= hash >> 27;
        let span = wait / 10;
        (wait - span).saturating_add(if span == 0 { 0 } else { hash % (2 * span + 1) })
    }
}

/// The settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How messages are ordered.
    pub ordering: Ordering,
    /// Deliveries after which a message dies, 1 to 1,000; `None`: it never does.
    pub max_receives: Option<u16>,
    /// The partition of the dead-letter stream that this partition's dead go to; `None`: there is no such stream.
    pub dead_letter: Option<u32>,
    /// How long a message waits after a nack that names no delay.
    pub backoff: Backoff,
    /// How long a lost receiver keeps its deliveries, in milliseconds; `None`: until their deadlines.
    pub disconnect_grace_ms: Option<u64>,
    /// The queue has a delay for all messages, or had one: what was never delivered before a restart is judged anew.
    pub is_delayed: bool,
    /// Messages whose time has passed go to the dead letters.
    pub keeps_expired: bool,
}

impl Settings {
    /// Deliveries after which a message goes somewhere else, if there is a place for it.
    pub(super) fn limit(&self) -> Option<u16> {
        let parks = matches!(self.ordering, Ordering::Fifo { parks: true, .. });
        self.max_receives.filter(|_| parks || self.dead_letter.is_some())
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ordering: Ordering::Unordered,
            max_receives: None,
            dead_letter: None,
            backoff: Backoff::default(),
            disconnect_grace_ms: Some(5_000),
            is_delayed: false,
            keeps_expired: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_doubles_up_to_its_maximum_within_a_tenth() {
        let backoff = Backoff::default();
        for offset in 0..1_000 {
            for (receives, wait) in [(1, 1_000), (2, 2_000), (5, 16_000), (9, 256_000), (10, 300_000), (900, 300_000)] {
                let found = backoff.wait_ms(offset, receives);
                assert!(found.abs_diff(wait) <= wait / 10, "{receives}: {found}");
            }
        }
        assert_ne!(backoff.wait_ms(1, 3), backoff.wait_ms(2, 3));
        assert_eq!(Backoff { min_ms: 0, ..backoff }.wait_ms(7, 100), 0);
        assert_eq!(Backoff { max_ms: 5, ..backoff }.wait_ms(7, 100), 5);
        assert!(Backoff { min_ms: u64::MAX, max_ms: u64::MAX, ..backoff }.wait_ms(0, 3) > 0);
    }
}
