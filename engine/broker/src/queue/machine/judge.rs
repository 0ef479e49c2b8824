//! What the log holds, and what of it is for this queue.

use super::*;

impl PartitionQueue {
    /// The offset from which the log is to be read on: all before it were looked at, or are settled.
    pub fn scan_from(&self) -> u64 {
        self.scanned.max(self.ledger.floor())
    }

    /// Messages that were looked at and are not settled: what bounds how far ahead a FIFO queue reads.
    pub fn backlog(&self) -> u64 {
        let looked_at = self.ledger.floor()..self.scanned.max(self.ledger.floor());
        looked_at.end - looked_at.start - self.ledger.settled.count(&looked_at)
    }

    /// All records of `range` are for this queue and may be delivered from `due_ms` on. Only for unordered queues.
    pub fn judge_all(&mut self, range: Range<u64>, due_ms: u64) {
        let range = range.start.max(self.scan_from())..range.end;
        if range.is_empty() {
            return;
        }
        self.skip_to(range.start);
        let new = range.start.max(self.ledger.judged)..range.end;
        let gaps: Vec<Range<u64>> = self.ledger.settled.gaps(range.clone()).collect();
        for gap in gaps {
            for offset in gap.start..gap.end.min(new.start) {
                if self.ledger.known(offset) == Known::Fresh {
                    self.fresh.push(offset..offset + 1, due_ms);
                }
            }
            let unknown = gap.start.max(new.start)..gap.end;
            if !unknown.is_empty() {
                self.fresh.push(unknown, due_ms);
            }
        }
        self.scanned = range.end;
        self.judged(range.end);
    }

    /// What each record below `next`, from [`scan_from`](Self::scan_from) on, is to this queue, in order of their offsets;
    /// offsets that are not named hold no record any more. Below [`Ledger::judged`] it was said before, and is not to be said
    /// otherwise: what is still open there matches, whatever the filter has become.
    pub fn judge(&mut self, next: u64, records: impl IntoIterator<Item = (u64, Verdict)>, now: Now) {
        for (offset, verdict) in records {
            if offset < self.scan_from() || offset >= next {
                continue;
            }
            self.skip_to(offset);
            self.file_adopted(now);
            self.scanned = offset + 1;
            // What a redrive has brought back is in the letter, and has its place already.
            if self.ledger.settled.contains(offset) {
                continue;
            }
            self.judge_one(offset, verdict, now);
        }
        self.skip_to(next);
        self.file_adopted(now);
        self.judged(next);
    }

    /// Nothing lies between what was looked at and `offset`.
    pub(super) fn skip_to(&mut self, offset: u64) {
        let gap = self.scan_from()..offset;
        if !gap.is_empty() && self.ledger.settled.count(&gap) < gap.end - gap.start {
            self.settle_but_adopted(How::Removed, gap);
        }
        self.scanned = self.scanned.max(offset);
    }

    pub(super) fn judged(&mut self, below: u64) {
        if below <= self.ledger.judged {
            return;
        }
        self.ledger.apply(&Event::Judged { below });
        self.pending.judged(below);
    }

    pub(super) fn judge_one(&mut self, offset: u64, verdict: Verdict, now: Now) {
        match verdict {
            _ if self.ledger.is_dying(offset) && !matches!(verdict, Verdict::Matches { .. }) => {}
            Verdict::Filtered => self.settle(How::Filtered, offset..offset + 1),
            Verdict::Dead(reason) => self.die(offset, reason, ""),
            Verdict::Matches { due_ms, is_own_delay, group } => self.file(offset, due_ms, is_own_delay, group, now),
        }
    }

    /// A message takes its place.
    pub(super) fn file(&mut self, offset: u64, due_ms: u64, is_own_delay: bool, group: u64, now: Now) {
        let known = self.ledger.known(offset);
        let is_new = known == Known::Fresh;
        if self.is_fifo() {
            self.groups.push(group, offset);
            if !is_new || due_ms > now.wall_ms {
                self.groups.remember(group, offset);
            }
        }
        let is_dying = self.ledger.is_dying(offset);
        match known {
            _ if is_dying => {}
            // A delay of the queue's is in the order of the log: nothing need be kept of it.
            Known::Fresh if due_ms > now.wall_ms && (is_own_delay || self.is_fifo()) => {
                let mark = Mark { due_ms, ..Mark::default() };
                self.propose(Event::Marked { offset, mark });
                self.waits.push(tick_after(due_ms), offset);
            }
            Known::Fresh if self.is_fifo() => self.list(group, now),
            Known::Fresh => self.fresh.push(offset..offset + 1, due_ms),
            known if self.is_fifo() => self.back(offset, known.mark(), now),
            // An unordered queue sorted it when it recovered.
            _ => {}
        }
    }

    /// Retention deleted what lies below `start`: what was not settled there is counted as expired.
    pub fn deleted_below(&mut self, start: u64, now: Now) {
        let floor = self.ledger.floor();
        if start <= floor {
            return;
        }
        self.leases.remove_if(|offset| offset < start && !self.ledger.adopted.contains_key(&offset));
        self.fresh.remove_below(start);
        // A range that is settled whatever is in it keeps its place between what came before and what comes after.
        self.pending.barrier(self.ledger.epoch);
        self.settle_but_adopted(How::Retention, floor..start);
        self.pending.barrier(self.ledger.epoch);
        let ledger = &self.ledger;
        let changed = self.groups.remove_below(start, |offset| ledger.adopted.contains_key(&offset));
        changed.into_iter().for_each(|group| self.list(group, now));
        self.scanned = self.scanned.max(start);
        self.file_adopted(now);
        self.judged(start);
    }

    /// The log holds none of a range any more; what a redrive has brought back lies elsewhere.
    fn settle_but_adopted(&mut self, how: How, range: Range<u64>) {
        let adopted: Vec<u64> = self.ledger.adopted.range(range.clone()).map(|(offset, _)| *offset).collect();
        let mut next = range.start;
        for stays in adopted.into_iter().chain([range.end]) {
            if next < stays {
                self.settle(how, next..stays);
            }
            next = stays + 1;
        }
    }
}
