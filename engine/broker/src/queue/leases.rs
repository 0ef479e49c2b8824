//! Who has which message, until when.

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
    /// Whose leases have ended since it was last asked.
    ended: Vec<ReceiverId>,
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

    pub fn insert(&mut self, offset: u64, lease: Lease) {
        if let Some(before) = self.by_offset.insert(offset, lease) {
            self.ended.push(before.receiver);
        }
    }

    pub fn set_deadline(&mut self, offset: u64, deadline: u32) -> bool {
        let lease = self.by_offset.get_mut(&offset);
        lease.map(|lease| lease.deadline = deadline).is_some()
    }

    pub fn remove(&mut self, offset: u64) {
        if let Some(lease) = self.by_offset.remove(&offset) {
            self.ended.push(lease.receiver);
        }
    }

    pub fn remove_if(&mut self, goes: impl Fn(u64) -> bool) {
        let offsets: Vec<u64> = self.by_offset.keys().copied().filter(|offset| goes(*offset)).collect();
        offsets.into_iter().for_each(|offset| self.remove(offset));
    }

    /// Whose leases have ended since the last call, once for each.
    pub fn take_ended(&mut self) -> Vec<ReceiverId> {
        std::mem::take(&mut self.ended)
    }

    /// Leases that ended before.
    pub fn note_ended(&mut self, ended: Vec<ReceiverId>) {
        self.ended.extend(ended);
    }

    /// Ends all.
    pub fn clear(&mut self) {
        self.ended.extend(self.by_offset.drain().map(|(_, lease)| lease.receiver));
    }
}
