//! Deliveries: what is next, and to whom it goes.

use super::*;

impl PartitionQueue {
    /// Takes up to `max` messages for a receiver, each with a lease of `visibility_ms`. In a FIFO queue those that follow
    /// one another in a group form a run.
    ///
    /// # Errors
    /// [`Refusal::VisibilityOutOfRange`].
    pub fn receive(
        &mut self,
        receiver: ReceiverId,
        max: usize,
        visibility_ms: u64,
        now: Now,
    ) -> Result<Vec<Delivery>, Refusal> {
        if visibility_ms > VISIBILITY_MS_MAX {
            return Err(Refusal::VisibilityOutOfRange);
        }
        let mut deliveries = Vec::new();
        while deliveries.len() < max {
            let room = max - deliveries.len();
            let taken = if self.is_fifo() { self.next_run(room, now) } else { self.next_one(now) };
            if taken.is_empty() {
                break;
            }
            deliveries.extend(taken.into_iter().map(|offset| self.lease(offset, receiver, visibility_ms, now)));
        }
        Ok(deliveries)
    }

    /// Whether a receive would find something.
    pub fn has_available(&self, now: Now) -> bool {
        let has_fresh = self.fresh.is_due(now.wall_ms);
        has_fresh || !self.ready.is_empty() || self.groups.has_listed()
    }

    pub(super) fn next_one(&mut self, now: Now) -> Vec<u64> {
        self.turn = (self.turn + 1) % NEW_EVERY;
        let is_news_turn = self.turn == 0 && self.fresh.is_due(now.wall_ms);
        let next = if is_news_turn { self.next_fresh(now).or_else(|| self.next_ready()) } else { self.next_ready() };
        next.or_else(|| self.next_fresh(now)).into_iter().collect()
    }

    fn next_ready(&mut self) -> Option<u64> {
        let (ledger, leases) = (&self.ledger, &self.leases);
        let is_open =
            |offset: &u64| !ledger.is_settled(*offset) && !ledger.is_dying(*offset) && !leases.contains(*offset);
        std::iter::from_fn(|| self.ready.pop_first()).map(|(_, offset)| offset).find(is_open)
    }

    /// One may be settled by the ack of a delivery of before the start that no event tells of.
    fn next_fresh(&mut self, now: Now) -> Option<u64> {
        std::iter::from_fn(|| self.fresh.pop(now.wall_ms)).find(|offset| !self.ledger.is_settled(*offset))
    }

    pub(super) fn next_run(&mut self, room: usize, now: Now) -> Vec<u64> {
        let Ordering::Fifo { group_batch, .. } = self.settings.ordering else { return Vec::new() };
        while let Some(group) = self.groups.next_listed() {
            let Some(_) = self.groups.head(group) else { continue };
            let most = room.min(usize::from(group_batch.max(1)));
            let run: Vec<u64> =
                self.groups.waiting(group).take(most).take_while(|offset| self.is_deliverable(*offset, now)).collect();
            run.iter().for_each(|_| self.groups.send(group));
            if !run.is_empty() {
                return run;
            }
        }
        Vec::new()
    }

    /// Whether a message that is not out may go out.
    pub(super) fn is_deliverable(&self, offset: u64, now: Now) -> bool {
        let mark = self.ledger.known(offset).mark();
        let stands = mark.is_parked || self.ledger.is_dying(offset);
        !stands && mark.due_ms <= now.wall_ms && mark.fence <= self.durable_fence
    }

    pub(super) fn lease(&mut self, offset: u64, receiver: ReceiverId, visibility_ms: u64, now: Now) -> Delivery {
        let fence = self.next_fence;
        self.next_fence += 1;
        let known = self.ledger.known(offset);
        let mark = known.mark();
        let first_ms = if mark.first_ms == 0 { now.wall_ms } else { mark.first_ms };
        let receives = mark.receives.saturating_add(1);
        if known == Known::Fresh {
            self.delivered_first(offset, fence, now);
        } else {
            let mark = Mark { fence, first_ms, receives, due_ms: 0, is_void: false, ..mark };
            self.propose(Event::Marked { offset, mark });
        }
        let deadline = tick_after(now.mono_ms + visibility_ms);
        self.leases.insert(offset, Lease { fence, deadline: deadline as u32, began: minute(now), receiver });
        self.deadlines.push(deadline, offset);
        let redriven = self.ledger.adopted.get(&offset).map_or(0, |adopted| adopted.redriven);
        let receipt = Receipt { epoch: self.ledger.epoch, offset, redriven, fence };
        Delivery { receipt, receives, first_ms }
    }

    /// A first delivery: one event for all that follow one another in a pass.
    pub(super) fn delivered_first(&mut self, offset: u64, fence: u64, now: Now) {
        self.ledger.apply(&Event::Delivered { fence, at_ms: now.wall_ms, runs: vec![(offset, 1)] });
        self.pending.delivered(offset, fence, now.wall_ms);
    }
}
