//! Choices out of a seed: the same seed makes the same choices, in every version.
//!
//! SplitMix64 (Steele, Lea, Flood 2014; <https://prng.di.unimi.it/splitmix64.c>). Not for secrets.

use std::ops::RangeInclusive;

/// A source of choices. Give each worker its own with [`fork`](Seeded::fork), so that what one does changes nothing
/// for the others.
#[derive(Debug, Clone)]
pub struct Seeded {
    state: u64,
}

impl Seeded {
    /// The choices of that seed.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The choices of worker `number`: of their own, whatever is chosen here before or after.
    #[must_use]
    pub fn fork(&self, number: u64) -> Self {
        Self { state: Self::new(self.state ^ number.wrapping_mul(0xd134_2543_de82_ef95)).any() }
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number of the range, each as likely as the others (to one part in 2³² for ranges below 2³²).
    ///
    /// # Panics
    /// An empty range.
    pub fn of(&mut self, range: RangeInclusive<u64>) -> u64 {
        assert!(!range.is_empty(), "a choice of nothing");
        let span = u128::from(range.end() - range.start()) + 1;
        range.start() + ((u128::from(self.any()) * span) >> 64) as u64
    }

    /// An index into `count` things.
    ///
    /// # Panics
    /// There is nothing to choose from.
    pub fn index(&mut self, count: usize) -> usize {
        assert!(count > 0, "a choice of nothing");
        self.of(0..=count as u64 - 1) as usize
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.of(0..=99) < percent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_published_generator() {
        // The first outputs for seed 1234567, as the reference implementation gives them.
        let mut seeded = Seeded::new(1_234_567);
        assert_eq!(
            [(); 3].map(|()| seeded.any()),
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn choices_stay_in_their_range_and_reach_both_ends() {
        let mut seeded = Seeded::new(7);
        let chosen: Vec<u64> = (0..1_000).map(|_| seeded.of(3..=5)).collect();
        assert!([3, 4, 5].iter().all(|n| chosen.contains(n)) && chosen.iter().all(|n| (3..=5).contains(n)));
        assert_eq!(seeded.of(9..=9), 9);
        let hits = (0..10_000).filter(|_| seeded.percent(20)).count();
        assert!((1_700..2_300).contains(&hits), "{hits} of 10,000 are not 20 %");
    }

    #[test]
    fn a_fork_does_not_depend_on_what_was_chosen_before() {
        let whole = Seeded::new(7);
        let mut used = whole.fork(2);
        used.any();
        assert_eq!(whole.fork(1).any(), whole.fork(1).any());
        assert_ne!(whole.fork(1).any(), whole.fork(2).any());
    }
}
