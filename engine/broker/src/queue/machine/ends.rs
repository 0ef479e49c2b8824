//! Ends of deliveries, and of messages.

use super::*;

impl PartitionQueue {
    /// A delivery ends without an ack, and with it those after it in its run.
    pub(super) fn end(&mut self, offset: u64, end: End<'_>, now: Now) {
        self.leases.remove(offset);
        let group = self.groups.group_of(offset);
        let followers = group.map(|group| self.groups.take_back(group, offset)).unwrap_or_default();
        self.end_one(offset, end, now);
        for follower in followers {
            self.leases.remove(follower);
            self.end_one(follower, End::Follows, now);
        }
        if let Some(group) = group {
            self.list(group, now);
        }
    }

    pub(super) fn end_one(&mut self, offset: u64, end: End<'_>, now: Now) {
        let known = self.ledger.known(offset);
        let mut mark = known.mark();
        let is_last = self.settings.limit().is_some_and(|max| mark.receives >= max);
        match end {
            End::Reject { error } => return self.die(offset, Reason::Rejected, error),
            End::Nack { error, .. } if is_last => return self.die(offset, Reason::MaxReceives, error),
            End::Over if is_last => return self.die(offset, Reason::MaxReceives, ""),
            End::Release if mark.releases >= RELEASES_MAX && is_last => {
                return self.die(offset, Reason::MaxReceives, "released too often");
            }
            End::Nack { due_ms, .. } => (mark.is_void, mark.due_ms) = (true, due_ms),
            End::Release => {
                mark.is_void = true;
                if mark.releases < RELEASES_MAX {
                    (mark.receives, mark.releases) = (mark.receives.saturating_sub(1), mark.releases + 1);
                }
            }
            End::Follows => mark.receives = mark.receives.saturating_sub(1),
            End::Over => {}
        }
        if known != Known::Marked(mark) && !matches!(end, End::Over) {
            self.propose(Event::Marked { offset, mark });
        }
        // A deadline has waited already; what was not tried goes back into its place.
        let due_ms = if matches!(end, End::Over) { now.wall_ms } else { mark.due_ms };
        self.make_available(offset, mark, due_ms, now);
    }

    /// A message that was delivered, or held back, may be delivered: once it is due, and its last delivery durable.
    pub(super) fn make_available(&mut self, offset: u64, mark: Mark, due_ms: u64, now: Now) {
        if mark.is_parked {
            return;
        }
        if due_ms > now.wall_ms {
            self.waits.push(tick_after(due_ms), offset);
        } else if mark.fence > self.durable_fence {
            self.unsynced.push_back((mark.fence, offset));
        } else if let Some(group) = self.groups.group_of(offset) {
            self.list(group, now);
        } else if !self.is_fifo() {
            self.ready.insert((due_ms, offset));
        }
    }

    /// A message leaves for the dead letters, or stands still where the queue parks.
    pub(super) fn die(&mut self, offset: u64, reason: Reason, error: &str) {
        let mark = self.ledger.known(offset).mark();
        let parks = matches!(self.settings.ordering, Ordering::Fifo { parks: true, .. });
        if parks && matches!(reason, Reason::MaxReceives | Reason::Rejected) {
            let mark = Mark { is_parked: true, is_void: true, due_ms: 0, ..mark };
            return self.propose(Event::Marked { offset, mark });
        }
        self.condemn(offset, reason, error);
    }

    pub(super) fn condemn(&mut self, offset: u64, reason: Reason, error: &str) {
        // A queue whose messages can die has a dead-letter stream: checked where it is made.
        let target = self.settings.dead_letter.unwrap_or_default();
        let sequence = self.ledger.sequences.get(&target).copied().unwrap_or_default();
        let Mark { receives, first_ms, .. } = self.ledger.known(offset).mark();
        let (epoch, adopted) = (self.ledger.epoch, self.ledger.adopted.get(&offset).copied());
        let error = cut_text(error);
        self.propose(Event::Dying(Dying {
            offset,
            epoch,
            receives,
            first_ms,
            adopted,
            target,
            sequence,
            reason,
            error,
        }));
        self.condemned.push_back((self.flushes + 1, (target, sequence)));
    }

    /// The group's head may go out, if it is not locked and nothing holds it back.
    pub(super) fn list(&mut self, group: u64, now: Now) {
        if self.groups.head(group).is_some_and(|head| self.is_deliverable(head, now)) {
            self.groups.list(group);
        }
    }

    pub(super) fn settle(&mut self, how: How, range: Range<u64>) {
        let (base, len) = (range.start, range.end - range.start);
        self.ledger.apply(&Event::Settled { how, runs: vec![(base, len)] });
        self.pending.settled(how, base, len);
    }

    pub(super) fn leave_group(&mut self, offset: u64, now: Now) {
        if let Some(group) = self.groups.group_of(offset) {
            self.groups.remove(group, offset);
            self.list(group, now);
        }
        // The floor may have risen over some.
        self.file_adopted(now);
    }
}
