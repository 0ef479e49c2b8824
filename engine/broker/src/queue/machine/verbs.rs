//! What receivers say of a delivery.

use super::*;

impl PartitionQueue {
    /// Whether the log is to be read up to a message before its ack can be judged: a FIFO queue that has begun anew does not
    /// know its group yet.
    pub fn must_look_up_to(&self, offset: u64) -> bool {
        self.is_fifo() && offset >= self.scan_from()
    }

    /// Settles a message for ever: right if it is not settled and no later delivery has begun, even after its deadline.
    ///
    /// # Errors
    /// [`Refusal::ReceiptExpired`], also where it [must look](Self::must_look_up_to) first; [`Refusal::AlreadySettled`],
    /// [`Refusal::OutOfGroupOrder`].
    pub fn ack(&mut self, receipt: Receipt, now: Now) -> Result<(), Refusal> {
        let Receipt { offset, fence, .. } = receipt;
        self.check_epoch(receipt)?;
        if self.ledger.is_settled(offset) {
            return match self.recent.get(offset) {
                Some(settled_by) if settled_by == fence => Ok(()),
                Some(_) => Err(Refusal::ReceiptExpired),
                None => Err(Refusal::AlreadySettled),
            };
        }
        self.check_redriven(receipt)?;
        match self.leases.get(offset) {
            Some(lease) if lease.fence != fence => return Err(Refusal::ReceiptExpired),
            Some(_) => {}
            None => {
                let mark = self.ledger.known(offset).mark();
                let is_last = mark.fence == fence && fence != 0 && !mark.is_void;
                let is_current = (is_last || self.is_untold(offset, fence, mark)) && !mark.is_parked;
                if !is_current || self.ledger.is_dying(offset) || self.must_look_up_to(offset) {
                    return Err(Refusal::ReceiptExpired);
                }
            }
        }
        let group = self.groups.group_of(offset);
        if let Some(group) = group {
            let first = self.groups.first_out(group).or_else(|| self.groups.head(group));
            if first != Some(offset) {
                return Err(Refusal::OutOfGroupOrder);
            }
        }
        self.leases.remove(offset);
        self.recent.insert(offset, fence);
        self.settle(How::Acked, offset..offset + 1);
        self.leave_group(offset, now);
        Ok(())
    }

    /// The delivery failed: the message comes back after `delay_ms`, or the queue's backoff.
    ///
    /// # Errors
    /// [`Refusal::ReceiptExpired`], [`Refusal::AlreadySettled`]: it has no live lease;
    /// [`Refusal::VisibilityOutOfRange`]: a delay above 12 hours.
    pub fn nack(&mut self, receipt: Receipt, delay_ms: Option<u64>, error: &str, now: Now) -> Result<(), Refusal> {
        self.check_live(receipt)?;
        if delay_ms.is_some_and(|delay| delay > NACK_DELAY_MS_MAX) {
            return Err(Refusal::VisibilityOutOfRange);
        }
        let receives = self.ledger.known(receipt.offset).mark().receives;
        let delay_ms = delay_ms.unwrap_or_else(|| self.settings.backoff.wait_ms(receipt.offset, receives));
        let due_ms = if delay_ms == 0 { 0 } else { now.wall_ms + delay_ms };
        self.end(receipt.offset, End::Nack { due_ms, error }, now);
        Ok(())
    }

    /// The message was not tried: it is available again at once, in its place, and the delivery does not count.
    ///
    /// # Errors
    /// [`Refusal::ReceiptExpired`], [`Refusal::AlreadySettled`]: it has no live lease.
    pub fn release(&mut self, receipt: Receipt, now: Now) -> Result<(), Refusal> {
        self.check_live(receipt)?;
        self.end(receipt.offset, End::Release, now);
        Ok(())
    }

    /// The message is hopeless: to the dead letters.
    ///
    /// # Errors
    /// [`Refusal::ReceiptExpired`], [`Refusal::AlreadySettled`]: it has no live lease; [`Refusal::NoDeadLetter`].
    pub fn reject(&mut self, receipt: Receipt, error: &str, now: Now) -> Result<(), Refusal> {
        self.check_live(receipt)?;
        if self.settings.dead_letter.is_none() {
            return Err(Refusal::NoDeadLetter);
        }
        self.end(receipt.offset, End::Reject { error }, now);
        Ok(())
    }

    /// The lease ends `visibility_ms` from now; in a FIFO queue that of all of its run.
    ///
    /// # Errors
    /// [`Refusal::ReceiptExpired`], [`Refusal::AlreadySettled`]: it has no live lease; [`Refusal::VisibilityOutOfRange`]:
    /// the delivery would last longer than 12 hours.
    pub fn extend(&mut self, receipt: Receipt, visibility_ms: u64, now: Now) -> Result<(), Refusal> {
        let offset = receipt.offset;
        self.check_live(receipt)?;
        let deadline = tick_after(now.mono_ms.saturating_add(visibility_ms));
        let minutes = self.leases.get(offset).map_or(0, |lease| minute(now).wrapping_sub(lease.began));
        // Whole minutes: a delivery may last up to one more than it should.
        let lasts_ms = u64::from(minutes.saturating_sub(1)) * 60_000 + visibility_ms.min(VISIBILITY_MS_MAX);
        if visibility_ms > VISIBILITY_MS_MAX || lasts_ms > VISIBILITY_MS_MAX {
            return Err(Refusal::VisibilityOutOfRange);
        }
        let run = match self.groups.group_of(offset) {
            Some(group) => self.groups.run(group),
            None => vec![offset],
        };
        for offset in run {
            if self.leases.set_deadline(offset, deadline as u32) {
                self.deadlines.push(deadline, offset);
            }
        }
        Ok(())
    }

    /// Whether it is a delivery of before the start that no event tells of, and the last one of its message: the next one
    /// would have waited until this one was durable. A FIFO queue keeps no group of messages that, as far as it knows, were
    /// never delivered: those are delivered again.
    fn is_untold(&self, offset: u64, fence: u64, mark: Mark) -> bool {
        let is_last = offset < self.untold_below && self.untold.contains(&fence) && mark.fence < self.untold.start;
        is_last && (!self.is_fifo() || self.groups.group_of(offset).is_some())
    }

    pub(super) fn check_epoch(&self, receipt: Receipt) -> Result<(), Refusal> {
        if receipt.epoch == self.ledger.epoch { Ok(()) } else { Err(Refusal::ReceiptExpired) }
    }

    pub(super) fn check_redriven(&self, receipt: Receipt) -> Result<(), Refusal> {
        let redriven = self.ledger.adopted.get(&receipt.offset).map_or(0, |adopted| adopted.redriven);
        if receipt.redriven == redriven { Ok(()) } else { Err(Refusal::ReceiptExpired) }
    }

    pub(super) fn check_live(&self, receipt: Receipt) -> Result<(), Refusal> {
        self.check_epoch(receipt)?;
        self.check_redriven(receipt)?;
        match self.leases.get(receipt.offset) {
            Some(lease) if lease.fence == receipt.fence => Ok(()),
            None if self.ledger.is_settled(receipt.offset) && self.recent.get(receipt.offset).is_none() => {
                Err(Refusal::AlreadySettled)
            }
            _ => Err(Refusal::ReceiptExpired),
        }
    }
}
