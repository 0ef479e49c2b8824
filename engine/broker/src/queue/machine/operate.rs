//! Dead letters, and what operators do.

use super::*;

impl PartitionQueue {
    /// The next message to be appended to the dead-letter stream, in the order of their sequences. Each is given once.
    pub fn next_move(&mut self) -> Option<Dying> {
        let way = self.moves.pop_front()?;
        self.ledger.dying.get(&way).cloned()
    }

    /// A message lies in the dead-letter stream, durably.
    pub fn moved(&mut self, dying: &Dying, now: Now) {
        let way = (dying.target, dying.sequence);
        if !self.ledger.dying.contains_key(&way) {
            return;
        }
        let is_open = self.ledger.dying_at.get(&dying.offset) == Some(&way);
        self.propose(Event::Moved { target: way.0, sequence: way.1 });
        if is_open {
            self.leave_group(dying.offset, now);
        }
    }

    /// A parked message is tried again from the first, or goes to the dead letters. Answers whether it was parked.
    pub fn unpark(&mut self, offset: u64, retry: bool, now: Now) -> bool {
        let mark = self.ledger.known(offset).mark();
        if self.ledger.is_settled(offset) || !mark.is_parked {
            return false;
        }
        let mark = Mark { is_parked: false, receives: if retry { 0 } else { mark.receives }, ..mark };
        self.propose(Event::Marked { offset, mark });
        match retry {
            true => self.make_available(offset, mark, 0, now),
            false => self.condemn(offset, Reason::MaxReceives, "skipped by an operator"),
        }
        true
    }

    /// The queue begins anew at `floor`: by a purge (what was open is counted) or a seek. All leases end.
    pub fn reset(&mut self, epoch: u32, floor: u64, is_purge: bool, now: Now) {
        if epoch <= self.ledger.epoch {
            return;
        }
        self.pending.barrier(self.ledger.epoch);
        self.propose(Event::Reset { epoch, floor, is_purge });
        self.begin_again(now);
    }

    /// The log lost its tail: nothing is known from `end` on.
    pub fn cut(&mut self, end: u64, now: Now) {
        if self.ledger.reaches_beyond(end) {
            self.pending.barrier(self.ledger.epoch);
            self.propose(Event::Cut { end });
            self.begin_again(now);
        }
    }

    pub(super) fn begin_again(&mut self, now: Now) {
        (self.scanned, self.filed_below) = (self.ledger.judged, 0);
        (self.fresh, self.ready, self.groups) = Default::default();
        self.leases.clear();
        (self.deadlines, self.waits) = Default::default();
        self.unsynced.clear();
        // Ways to the dead letters are gone to their end: `resume` lists them all, and those that are not durable yet wait.
        let waiting: BTreeSet<(u32, u64)> = self.condemned.iter().map(|(_, way)| *way).collect();
        self.moves.clear();
        self.recent = Recent::default();
        self.resume(now);
        self.moves.retain(|way| !waiting.contains(way));
    }
}
