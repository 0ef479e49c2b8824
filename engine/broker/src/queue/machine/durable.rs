//! What is handed to the state log, and what rests on it.

use super::*;

impl PartitionQueue {
    /// All that was decided since the last flush, and its number; nothing if nothing was.
    pub fn flush(&mut self) -> Option<(u64, Vec<Pass>)> {
        let passes = self.pending.take(self.ledger.epoch);
        if passes.is_empty() {
            return None;
        }
        self.flushes += 1;
        self.flushed.push_back((self.flushes, self.next_fence - 1));
        Some((self.flushes, passes))
    }

    /// The number that the next flush will have: an answer that rests on what was decided waits for it.
    pub fn next_flush(&self) -> u64 {
        self.flushes + u64::from(self.has_pending())
    }

    /// The number of the last flush.
    pub fn last_flush(&self) -> u64 {
        self.flushes
    }

    /// Whether anything was decided since the last flush.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// All flushes up to that number are durable.
    pub fn durable(&mut self, flush: u64, now: Now) {
        while let Some(&(number, fence)) = self.flushed.front()
            && number <= flush
        {
            self.flushed.pop_front();
            self.durable_fence = fence;
        }
        while let Some(&(number, way)) = self.condemned.front()
            && number <= flush
        {
            self.condemned.pop_front();
            self.moves.push_back(way);
        }
        // Fences rise in the order of deliveries, not in that of their ends.
        let (durable, waiting) =
            std::mem::take(&mut self.unsynced).into_iter().partition(|(fence, _)| *fence <= self.durable_fence);
        self.unsynced = waiting;
        let durable: VecDeque<(u64, u64)> = durable;
        for (_, offset) in durable {
            if !self.ledger.is_settled(offset) && !self.leases.contains(offset) {
                let mark = self.ledger.known(offset).mark();
                self.make_available(offset, mark, mark.due_ms, now);
            }
        }
    }

    /// Whose leases have ended since the last call, one entry for each.
    pub fn take_ended(&mut self) -> Vec<ReceiverId> {
        self.leases.take_ended()
    }

    /// How many messages are out.
    pub fn in_flight(&self) -> usize {
        self.leases.len()
    }

    /// How many messages are in which state. Costs time in proportion to those that were delivered more than once.
    pub fn counts(&self, now: Now) -> Counts {
        let open = self.ledger.floor()..self.ledger.judged.max(self.ledger.floor());
        let unsettled = open.end - open.start - self.ledger.settled.count(&open) + self.ledger.adopted.len() as u64;
        let in_flight = self.leases.len() as u64;
        let dying = self.ledger.dying_at.len() as u64;
        let waits = |(offset, mark): &(u64, Mark)| {
            mark.due_ms > now.wall_ms && !self.leases.contains(*offset) && !self.ledger.is_dying(*offset)
        };
        let delayed = self.ledger.marks().filter(waits).count() as u64 + self.fresh.later(now.wall_ms);
        let parked = self.ledger.marks.values().filter(|mark| mark.is_parked).count() as u64;
        let available = unsettled.saturating_sub(in_flight + dying + delayed + parked);
        Counts { available, in_flight, delayed, dying, parked }
    }
}
