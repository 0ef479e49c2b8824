//! Messages that come back from the dead letters, by reference: their records stay there.
//!
//! A letter brings its message back once, ever ([`Ledger`] remembers which did): the same adoption again, after a crash or by
//! another task, changes nothing. A message that dies again has another letter, and comes back by that.

use super::*;

/// What became of an adoption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adoption {
    /// The message is back.
    Done,
    /// The letter brought its message back before.
    Repeated,
    /// The message is not settled: a seek, or another letter of it, has brought it back.
    Open,
    /// The letter lies there, but this queue does not know so yet: ask again soon.
    Later,
}

impl PartitionQueue {
    /// A dead message is back, under its offset, as if it had never been delivered; in a FIFO queue before all that is younger
    /// in its group.
    pub fn adopt(&mut self, offset: u64, letter: Adopted, now: Now) -> Adoption {
        match self.ledger.may_adopt(offset, letter) {
            MayAdopt::Used => return Adoption::Repeated,
            MayAdopt::Open => return Adoption::Open,
            MayAdopt::Later => return Adoption::Later,
            MayAdopt::Yes => {}
        }
        self.pending.barrier_if_settled(self.ledger.epoch);
        self.propose(Event::Adopted { offset, adopted: letter });
        if self.is_fifo() {
            if offset < self.filed_below {
                self.file_one_adopted(offset, letter.group, now);
            } else {
                self.file_adopted(now);
            }
        } else {
            self.make_available(offset, Mark::default(), 0, now);
        }
        Adoption::Done
    }

    /// Adopted messages that the log was read past take their places in their groups.
    pub(super) fn file_adopted(&mut self, now: Now) {
        let end = self.scan_from();
        if self.filed_below >= end || !self.is_fifo() {
            return;
        }
        let range = std::mem::replace(&mut self.filed_below, end)..end;
        let adopted: Vec<(u64, u64)> =
            self.ledger.adopted.range(range).map(|(at, letter)| (*at, letter.group)).collect();
        adopted.into_iter().for_each(|(offset, group)| self.file_one_adopted(offset, group, now));
    }

    fn file_one_adopted(&mut self, offset: u64, group: u64, now: Now) {
        self.groups.insert(group, offset);
        if !self.ledger.is_dying(offset) {
            let mark = self.ledger.known(offset).mark();
            self.back(offset, mark, now);
        }
    }
}
