//! Who has which message, until when; and how many each receiver has.

use std::collections::HashMap;

/// A receiver, as the shell numbers it.
pub type ReceiverId = u32;

/// 24 bytes, times in ticks since the machine's clock began: there may be a million.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    pub fence: u64,
    pub deadline: u32,
    pub began: u32,
    pub receiver: ReceiverId,
}

#[derive(Debug, Default)]
pub(super) struct Leases {
    by_offset: HashMap<u64, Lease>,
    /// How many each receiver has; those that have none are not here.
    out: HashMap<ReceiverId, u32>,
}

impl Leases {
    pub fn len(&self) -> usize {
        self.by_offset.len()
    }

    pub fn get(&self, offset: u64) -> Option<&Lease> {
        self.by_offset.get(&offset)
    }

    pub fn contains(&self, offset: u64) -> bool {
        self.by_offset.contains_key(&offset)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, &Lease)> {
        self.by_offset.iter().map(|(offset, lease)| (*offset, lease))
    }

    /// How many messages a receiver has.
    pub fn out(&self, receiver: ReceiverId) -> u32 {
        self.out.get(&receiver).copied().unwrap_or(0)
    }

    pub fn insert(&mut self, offset: u64, lease: Lease) {
        *self.out.entry(lease.receiver).or_default() += 1;
        if let Some(before) = self.by_offset.insert(offset, lease) {
            self.give_back(before.receiver);
        }
    }

    pub fn set_deadline(&mut self, offset: u64, deadline: u32) -> bool {
        let lease = self.by_offset.get_mut(&offset);
        lease.map(|lease| lease.deadline = deadline).is_some()
    }

    pub fn remove(&mut self, offset: u64) {
        if let Some(lease) = self.by_offset.remove(&offset) {
            self.give_back(lease.receiver);
        }
    }

    pub fn remove_if(&mut self, goes: impl Fn(u64) -> bool) {
        let offsets: Vec<u64> = self.by_offset.keys().copied().filter(|offset| goes(*offset)).collect();
        offsets.into_iter().for_each(|offset| self.remove(offset));
    }

    fn give_back(&mut self, receiver: ReceiverId) {
        if let Some(out) = self.out.get_mut(&receiver) {
            *out -= 1;
            if *out == 0 {
                self.out.remove(&receiver);
            }
        }
    }
}
