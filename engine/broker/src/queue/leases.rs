//! Who has which message, until when.

use std::collections::HashMap;

/// A receiver, as the shell numbers it.
pub type ReceiverId = u32;

/// One message with one receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease {
    pub fence: u64,
    /// In ticks since the machine's clock began.
    pub deadline: u32,
    /// In minutes, of which 65,536 are told apart.
    pub began: u16,
    pub receiver: ReceiverId,
}

/// The same in 16 bytes: there may be millions.
#[derive(Debug, Clone, Copy)]
struct Packed {
    /// Of the fence, what is above the first one: 48 bits.
    fence_low: u32,
    fence_high: u16,
    began: u16,
    deadline: u32,
    receiver: ReceiverId,
}

#[derive(Debug, Default)]
pub(super) struct Leases {
    by_offset: HashMap<u64, Packed>,
    /// No fence given out is below.
    first_fence: u64,
    /// Whose leases have ended since it was last asked.
    ended: Vec<ReceiverId>,
}

impl Leases {
    /// None, with all fences from here on up.
    pub fn starting(first_fence: u64) -> Self {
        Self { first_fence, ..Self::default() }
    }

    fn unpack(&self, packed: &Packed) -> Lease {
        let Packed { fence_low, fence_high, began, deadline, receiver } = *packed;
        let fence = self.first_fence + (u64::from(fence_high) << 32 | u64::from(fence_low));
        Lease { fence, deadline, began, receiver }
    }

    pub fn len(&self) -> usize {
        self.by_offset.len()
    }

    pub fn get(&self, offset: u64) -> Option<Lease> {
        self.by_offset.get(&offset).map(|packed| self.unpack(packed))
    }

    pub fn contains(&self, offset: u64) -> bool {
        self.by_offset.contains_key(&offset)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, Lease)> + '_ {
        self.by_offset.iter().map(|(offset, packed)| (*offset, self.unpack(packed)))
    }

    pub fn insert(&mut self, offset: u64, lease: Lease) {
        let Lease { fence, deadline, began, receiver } = lease;
        let above = fence - self.first_fence;
        let (fence_low, fence_high) = (above as u32, (above >> 32) as u16);
        let packed = Packed { fence_low, fence_high, began, deadline, receiver };
        if let Some(before) = self.by_offset.insert(offset, packed) {
            self.ended.push(before.receiver);
        }
    }

    /// A lease goes over to another receiver; gives the one that had it.
    pub fn hand_over(&mut self, offset: u64, receiver: ReceiverId) -> Option<ReceiverId> {
        let lease = self.by_offset.get_mut(&offset)?;
        Some(std::mem::replace(&mut lease.receiver, receiver))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_comes_back_as_it_was_and_is_24_bytes_with_its_offset() {
        let first_fence = (7 << 40) + 1;
        let mut leases = Leases::starting(first_fence);
        for fence in [first_fence, first_fence + 1, first_fence + (1 << 33) + 5, first_fence + (1 << 40) - 2] {
            let lease = Lease { fence, deadline: u32::MAX, began: 65_535, receiver: u32::MAX };
            leases.insert(fence, lease);
            assert_eq!(leases.get(fence), Some(lease));
        }
        assert_eq!(size_of::<(u64, Packed)>(), 24);
        assert_eq!((leases.len(), leases.take_ended()), (4, vec![]));
    }
}
