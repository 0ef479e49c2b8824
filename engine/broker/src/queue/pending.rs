//! What was decided since the last flush, gathered: one event for all deliveries, one for each way of being settled.
//!
//! Events were applied in the order of the decisions, and are stored in another: what was settled comes last. That is the
//! same to the ledger, since nothing happens to a message after it was settled; where something does (a purge, a redrive, a
//! log that was cut), a [`barrier`](Pending::barrier) comes between.

use super::event::{Event, How, Pass};

#[derive(Debug, Default)]
pub(super) struct Pending {
    passes: Vec<Pass>,
    events: Vec<Event>,
    /// Which of the events is about first deliveries, and the fence that would follow.
    delivered: Option<(usize, u64)>,
    settled: Vec<(How, Vec<(u64, u64)>)>,
    judged: Option<u64>,
}

impl Pending {
    pub fn is_empty(&self) -> bool {
        self.passes.is_empty() && self.is_open_empty()
    }

    fn is_open_empty(&self) -> bool {
        self.events.is_empty() && self.settled.is_empty() && self.judged.is_none()
    }

    pub fn push(&mut self, event: Event) {
        self.events.push(event);
    }

    pub fn judged(&mut self, below: u64) {
        self.judged = Some(below);
    }

    pub fn settled(&mut self, how: How, base: u64, len: u64) {
        let at = self.settled.iter().position(|(one, _)| *one == how).unwrap_or_else(|| {
            self.settled.push((how, Vec::new()));
            self.settled.len() - 1
        });
        let runs = &mut self.settled[at].1;
        match runs.last_mut() {
            Some((last, count)) if *last + *count == base => *count += len,
            _ => runs.push((base, len)),
        }
    }

    pub fn delivered(&mut self, offset: u64, fence: u64, now_ms: u64) {
        if let Some((at, next_fence)) = &mut self.delivered
            && *next_fence == fence
            && let Some(Event::Delivered { at_ms, runs, .. }) = self.events.get_mut(*at)
            && *at_ms == now_ms
        {
            *next_fence += 1;
            match runs.last_mut() {
                Some((base, len)) if *base + u64::from(*len) == offset && *len < u32::MAX => *len += 1,
                _ => runs.push((offset, 1)),
            }
            return;
        }
        self.delivered = Some((self.events.len(), fence + 1));
        self.events.push(Event::Delivered { fence, at_ms: now_ms, runs: vec![(offset, 1)] });
    }

    /// A message that may have been settled since comes back: that is stored first.
    pub fn barrier_if_settled(&mut self, epoch: u32) {
        if !self.settled.is_empty() {
            self.barrier(epoch);
        }
    }

    /// What comes after is stored after what was before, which was decided under `epoch`.
    pub fn barrier(&mut self, epoch: u32) {
        if self.is_open_empty() {
            return;
        }
        let mut events = std::mem::take(&mut self.events);
        self.delivered = None;
        events.extend(self.judged.take().map(|below| Event::Judged { below }));
        events.extend(self.settled.drain(..).map(|(how, runs)| Event::Settled { how, runs }));
        self.passes.push(Pass { epoch, events });
    }

    pub fn take(&mut self, epoch: u32) -> Vec<Pass> {
        self.barrier(epoch);
        std::mem::take(&mut self.passes)
    }
}
