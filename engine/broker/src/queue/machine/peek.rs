//! What operators see of messages, without a delivery.

use super::*;

/// Marks that are looked through for parked messages at one time.
const MARKS_AT_ONCE: usize = 1 << 20;

/// Where an unsettled message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It may be delivered, in its turn (in a FIFO queue: once those before it in its group are settled).
    Available,
    /// Not before that time, Unix ms.
    Delayed(u64),
    /// A receiver has it.
    InFlight,
    /// On its way to the dead letters.
    Dying,
    /// It stands still with its group, until an operator decides.
    Parked,
    /// The queue has not looked at it yet.
    Waiting,
}

/// What is known of an unsettled message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance {
    /// Its offset.
    pub offset: u64,
    /// Where it stands.
    pub standing: Standing,
    /// Its deliveries, less those released.
    pub receives: u16,
    /// Its first delivery, Unix ms; 0: there was none.
    pub first_ms: u64,
    /// The letter that brought it back, if it was redriven.
    pub adopted: Option<Adopted>,
}

impl PartitionQueue {
    /// The first unsettled messages from `from` on that were looked at, up to `max`, in order; only parked ones if asked. Changes
    /// nothing. A queue's delay for all is not in it: what was never delivered counts as available.
    pub fn peek(&self, from: u64, max: usize, only_parked: bool, now: Now) -> Vec<Glance> {
        if !only_parked {
            return self.ledger.unsettled_from(from).take(max).map(|offset| self.glance(offset, now)).collect();
        }
        let marks = self.ledger.marks.range(from..).take(MARKS_AT_ONCE);
        let parked = marks.filter(|(offset, mark)| mark.is_parked && !self.ledger.is_settled(**offset));
        parked.take(max).map(|(offset, _)| self.glance(*offset, now)).collect()
    }

    /// The parked messages of a FIFO group.
    pub fn parked_of(&self, group: u64) -> Vec<u64> {
        let waiting = self.groups.waiting(group);
        waiting.filter(|offset| self.ledger.marks.get(offset).is_some_and(|mark| mark.is_parked)).collect()
    }

    fn glance(&self, offset: u64, now: Now) -> Glance {
        let mark = self.ledger.known(offset).mark();
        let standing = match () {
            () if self.ledger.is_dying(offset) => Standing::Dying,
            () if self.leases.contains(offset) => Standing::InFlight,
            () if mark.is_parked => Standing::Parked,
            () if mark.due_ms > now.wall_ms => Standing::Delayed(mark.due_ms),
            () => Standing::Available,
        };
        let (receives, first_ms, adopted) = (mark.receives, mark.first_ms, self.ledger.adopted(offset));
        Glance { offset, standing, receives, first_ms, adopted }
    }
}
