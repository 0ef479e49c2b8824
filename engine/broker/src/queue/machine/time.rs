//! What happens by itself: deadlines, delays, graces.

use super::*;

impl PartitionQueue {
    /// What is due by now happens.
    pub fn tick(&mut self, now: Now) {
        let tick = tick_at(now.mono_ms);
        let mut over: Vec<u64> = Vec::new();
        let deadline = |offset| self.leases.get(offset).map(|lease| u64::from(lease.deadline));
        for offset in self.deadlines.fire(tick, deadline) {
            if self.leases.get(offset).is_some_and(|lease| u64::from(lease.deadline) <= tick) {
                over.push(offset);
            }
        }
        let lost: BTreeSet<ReceiverId> =
            self.gone.extract_if(.., |_, ends| *ends <= tick).map(|(receiver, _)| receiver).collect();
        if !lost.is_empty() {
            over.extend(self.leases.iter().filter(|(_, lease)| lost.contains(&lease.receiver)).map(|(at, _)| at));
        }
        // In order, so that the first of a run takes those after it along.
        over.sort_unstable();
        over.dedup();
        for offset in over {
            if self.leases.contains(offset) {
                self.end(offset, End::Over, now);
            }
        }
        let due = |offset| self.ledger.due_ms(offset).map(tick_after);
        for offset in self.waits.fire(tick_at(now.wall_ms), due) {
            if self.ledger.is_settled(offset) || self.leases.contains(offset) {
                continue;
            }
            let mark = self.ledger.known(offset).mark();
            if mark.due_ms != 0 && !self.ledger.is_dying(offset) {
                self.make_available(offset, mark, mark.due_ms, now);
            }
        }
        self.sweep_timers();
    }

    /// Timers of deliveries that were acknowledged are forgotten together, before they outnumber the others.
    pub(super) fn sweep_timers(&mut self) {
        if self.deadlines.len() > 2 * self.leases.len() + 65_536 {
            self.deadlines = Timers::default();
            self.leases.iter().for_each(|(offset, lease)| self.deadlines.push(u64::from(lease.deadline), offset));
        }
    }

    /// When [`tick`](Self::tick) is next wanted, in milliseconds from `now`; early at most.
    pub fn wake_in_ms(&self, now: Now) -> Option<u64> {
        let ms = |tick: u64, now_ms: u64| (tick * TICK_MS).saturating_sub(now_ms);
        let lease = self.deadlines.next().into_iter().chain(self.gone.values().copied()).min();
        let fresh = self.fresh.next_due().filter(|due| *due > now.wall_ms).map(|due| due - now.wall_ms);
        let times =
            [lease.map(|tick| ms(tick, now.mono_ms)), self.waits.next().map(|tick| ms(tick, now.wall_ms)), fresh];
        times.into_iter().flatten().min()
    }

    /// A receiver's connection ended: what it has comes back when its grace is over, unless it returns.
    pub fn receiver_lost(&mut self, receiver: ReceiverId, now: Now) {
        if let Some(grace) = self.settings.disconnect_grace_ms {
            self.gone.insert(receiver, tick_after(now.mono_ms + grace));
        }
    }

    /// A lost receiver is back, and keeps what it has.
    pub fn receiver_back(&mut self, receiver: ReceiverId) {
        self.gone.remove(&receiver);
    }

    /// A receiver that came back has only the deliveries with these fences: the others never reached it.
    pub fn keep_only(&mut self, receiver: ReceiverId, fences: &BTreeSet<u64>, now: Now) {
        let is_lost = |lease: &Lease| lease.receiver == receiver && !fences.contains(&lease.fence);
        let mut lost: Vec<u64> = self.leases.iter().filter(|(_, lease)| is_lost(lease)).map(|(at, _)| at).collect();
        lost.sort_unstable();
        for offset in lost {
            if self.leases.contains(offset) {
                self.end(offset, End::Release, now);
            }
        }
    }

    /// A delivery that is still out goes over to another receiver; gives the one that had it.
    pub fn hand_over(&mut self, receipt: Receipt, receiver: ReceiverId) -> Option<ReceiverId> {
        self.check_live(receipt).ok()?;
        self.leases.hand_over(receipt.offset, receiver)
    }

    /// A message's record is not there any more: it was leased, and never was delivered.
    pub fn removed(&mut self, receipt: Receipt, now: Now) {
        if self.check_live(receipt).is_ok() {
            self.leases.remove(receipt.offset);
            self.settle(How::Removed, receipt.offset..receipt.offset + 1);
            self.leave_group(receipt.offset, now);
        }
    }

    /// A message's time passed before it could be sent out: it was leased, and never was delivered.
    pub fn expired(&mut self, receipt: Receipt, now: Now) {
        if self.check_live(receipt).is_err() {
            return;
        }
        let offset = receipt.offset;
        if self.settings.keeps_expired && self.settings.dead_letter.is_some() {
            self.end(offset, End::Follows, now);
            self.condemn(offset, Reason::Expired, "");
            return;
        }
        self.leases.remove(offset);
        self.settle(How::Expired, offset..offset + 1);
        self.leave_group(offset, now);
    }
}
