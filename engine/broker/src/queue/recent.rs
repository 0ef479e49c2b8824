//! Which delivery settled which message, for the newest of them.

use std::collections::{HashMap, VecDeque};

/// The acks that are remembered.
const ACKS_MAX: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct Recent {
    fences: HashMap<u64, u64>,
    order: VecDeque<(u64, u64)>,
}

impl Recent {
    pub fn insert(&mut self, offset: u64, fence: u64) {
        self.fences.insert(offset, fence);
        self.order.push_back((offset, fence));
        if self.order.len() > ACKS_MAX
            && let Some((oldest, fence)) = self.order.pop_front()
            // A redriven message may have been settled again since.
            && self.fences.get(&oldest) == Some(&fence)
        {
            self.fences.remove(&oldest);
        }
    }

    /// The fence of the delivery that settled the message.
    pub fn get(&self, offset: u64) -> Option<u64> {
        self.fences.get(&offset).copied()
    }
}
