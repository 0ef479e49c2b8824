//! What each receive got, so that one that is made again (its answer was lost) gets the same. In memory, as leases are.

use std::collections::{HashMap, VecDeque};

use super::Delivery;

/// Deliveries remembered; the oldest attempts go first.
const DELIVERIES_MAX: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct Attempts {
    by_id: HashMap<u128, Vec<(usize, Delivery)>>,
    order: VecDeque<u128>,
    deliveries: usize,
}

impl Attempts {
    /// An attempt got messages of a partition.
    pub fn got(&mut self, attempt: u128, partition: usize, deliveries: &[Delivery]) {
        if !self.by_id.contains_key(&attempt) {
            self.order.push_back(attempt);
        }
        self.by_id.entry(attempt).or_default().extend(deliveries.iter().map(|delivery| (partition, *delivery)));
        self.deliveries += deliveries.len();
        while self.deliveries > DELIVERIES_MAX
            && self.order.len() > 1
            && let Some(oldest) = self.order.pop_front()
        {
            self.deliveries -= self.by_id.remove(&oldest).map_or(0, |gone| gone.len());
        }
    }

    /// What an attempt got.
    pub fn of(&self, attempt: u128) -> &[(usize, Delivery)] {
        self.by_id.get(&attempt).map_or(&[], Vec::as_slice)
    }

    /// An attempt whose messages are not out any more begins anew.
    pub fn forget(&mut self, attempt: u128) {
        if let Some(gone) = self.by_id.remove(&attempt) {
            self.deliveries -= gone.len();
            self.order.retain(|other| *other != attempt);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Receipt;
    use super::*;

    #[test]
    fn the_oldest_attempts_are_forgotten_first_and_the_newest_never() {
        let delivery = |offset| Delivery {
            receipt: Receipt { epoch: 0, offset, redriven: 0, fence: offset },
            receives: 1,
            first_ms: 0,
        };
        let many: Vec<Delivery> = (0..DELIVERIES_MAX as u64 / 2).map(delivery).collect();
        let mut attempts = Attempts::default();
        (1..=3).for_each(|attempt| attempts.got(attempt, 0, &many));
        assert_eq!([1, 2, 3].map(|attempt| attempts.of(attempt).len()), [0, many.len(), many.len()]);
        attempts.got(3, 1, &[delivery(1)]);
        attempts.got(3, 2, &many);
        assert_eq!([2, 3].map(|attempt| attempts.of(attempt).len()), [0, 2 * many.len() + 1]);
        attempts.forget(3);
        assert_eq!((attempts.of(3).len(), attempts.deliveries, attempts.order.len()), (0, 0, 0));
    }
}
