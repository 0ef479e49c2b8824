//! A producer: sends what is due, or as fast as it is taken, and has each ack looked at beside it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use millstream_client::Timestamp;
use tokio::sync::mpsc;

use super::{Sender, Sent, Shared, unstamped_time};
use crate::clock::SECOND_NS;
use crate::failure::Failure;
use crate::load::keys::KeySource;
use crate::load::pace::{Metronome, Schedule};
use crate::load::payload::Values;
use crate::record::Probe;
use crate::stamp::Stamp;

/// Records handed to the counter at once.
const HAND_OVER_RECORDS: usize = 512;
/// Records sent between two looks at the clock's end and the room.
const LOT_RECORDS: u64 = 64;
/// At a rate, what was due within the window is sent so long after its end.
const LATE_NS: u64 = 2 * SECOND_NS;

/// What a producer is to do.
pub struct Plan {
    /// Its number.
    pub producer: u32,
    pub values: Values,
    pub keys: KeySource,
    pub pace: Pace,
    /// So many records; all of them, or those within the window.
    pub limit: Limit,
    /// Wait for each ack.
    pub one_at_a_time: bool,
    /// How many readers each record waits for, where there is a bound.
    pub readers: u32,
}

/// When records are sent.
pub enum Pace {
    /// As fast as they are taken.
    FlatOut,
    /// When they are due.
    Open(Schedule, Metronome),
}

/// When it ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// With the window.
    Window,
    /// After so many within the window.
    Counted(u64),
    /// After so many.
    All(u64),
}

/// What a producer did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Produced {
    /// Its number.
    pub producer: u32,
    /// Records acknowledged: all that it sent.
    pub records: u64,
    /// By batches.
    pub sent: Sent,
}

struct Pending<T> {
    intended_ns: u64,
    bytes: u32,
    ticket: T,
}

/// Runs it.
pub async fn run<S: Sender>(mut sender: S, plan: Plan, probe: Probe, shared: Arc<Shared>) -> Result<Produced, Failure> {
    let (lots, counting) = mpsc::unbounded_channel();
    let alone = Some(probe.twin());
    let counter = tokio::spawn(count::<S>(counting, probe, Arc::clone(&shared)));
    let (pending, alone) = (Vec::with_capacity(HAND_OVER_RECORDS), alone.filter(|_| plan.one_at_a_time));
    let mut task = Task { pending, lots, alone, sequence: 0, counted: 0, plan };
    while !task.is_over(&shared) && !counter.is_finished() {
        if let Some(room) = &shared.room {
            let lot = LOT_RECORDS as u32 * task.plan.readers;
            tokio::select! {
                taken = room.acquire_many(lot) => taken.expect("the room is never closed").forget(),
                () = shared.stop.cancelled() => break,
            }
        }
        let sent = task.lot(&mut sender, &shared).await?;
        if let Some(room) = &shared.room {
            room.add_permits((LOT_RECORDS - sent) as usize * task.plan.readers as usize);
        }
    }
    task.hand_over();
    let Task { sequence, plan, lots, .. } = task;
    drop(lots);
    let sent = sender.finish().await;
    // What the counter has to say is nearer to the cause.
    counter.await.expect("the counter does not panic")?;
    Ok(Produced { producer: plan.producer, records: sequence, sent: sent? })
}

struct Task<T> {
    plan: Plan,
    lots: mpsc::UnboundedSender<Vec<Pending<T>>>,
    pending: Vec<Pending<T>>,
    /// Counts acks that are waited for one by one.
    alone: Option<Probe>,
    sequence: u64,
    counted: u64,
}

impl<T> Task<T> {
    fn is_over(&self, shared: &Shared) -> bool {
        let is_enough = match self.plan.limit {
            Limit::Window => false,
            Limit::Counted(limit) => self.counted >= limit,
            Limit::All(limit) => self.sequence >= limit,
        };
        is_enough || shared.stop.is_cancelled()
    }

    /// Sends a lot at most: how many?
    async fn lot<S: Sender<Ticket = T>>(&mut self, sender: &mut S, shared: &Shared) -> Result<u64, Failure> {
        let mut sent = 0;
        while sent < LOT_RECORDS && !self.is_over(shared) {
            let now = shared.clock.now();
            let intended_ns = match &self.plan.pace {
                Pace::FlatOut => now,
                Pace::Open(schedule, metronome) => {
                    let intended_ns = schedule.intended(self.sequence);
                    if intended_ns < shared.window.end() && intended_ns > now {
                        if sent > 0 {
                            return Ok(sent);
                        }
                        let (at, metronome) = (shared.clock.instant(intended_ns), metronome.clone());
                        self.hand_over();
                        sender.idle().await?;
                        tokio::select! {
                            () = metronome.wait(at) => {}
                            () = shared.stop.cancelled() => {}
                        }
                        continue;
                    }
                    intended_ns
                }
            };
            let end_ns = shared.window.end();
            let late_ns = if matches!(self.plan.pace, Pace::FlatOut) { 0 } else { LATE_NS };
            if intended_ns >= end_ns || now >= end_ns.saturating_add(late_ns) {
                if let Pace::Open(schedule, _) = &self.plan.pace {
                    let late = schedule.due(end_ns - 1).saturating_sub(self.sequence);
                    shared.unsent.fetch_add(late, Ordering::Relaxed);
                }
                self.plan.limit = Limit::All(0);
                break;
            }
            self.send_one(sender, shared, intended_ns).await?;
            sent += 1;
        }
        Ok(sent)
    }

    async fn send_one<S: Sender<Ticket = T>>(
        &mut self,
        sender: &mut S,
        shared: &Shared,
        intended_ns: u64,
    ) -> Result<(), Failure> {
        let stamp = Stamp { run: shared.run, producer: self.plan.producer, sequence: self.sequence, intended_ns };
        let mut record = self.plan.values.next(&stamp);
        let bytes = record.value.as_ref().map_or(0, |value| value.len() as u32);
        record.key = self.plan.keys.next();
        if !shared.is_stamped {
            record.timestamp = Timestamp(unstamped_time(shared.clock, intended_ns));
        }
        let ticket = sender.send(record).await?;
        self.sequence += 1;
        self.counted += u64::from(shared.window.holds(intended_ns));
        if let Some(probe) = &mut self.alone {
            sender.idle().await?;
            let at = S::acked(ticket, shared.clock).await?;
            probe.count(at, 1, u64::from(bytes));
            probe.latency(at, intended_ns);
            return Ok(());
        }
        self.pending.push(Pending { intended_ns, bytes, ticket });
        if self.pending.len() >= HAND_OVER_RECORDS {
            self.hand_over();
        }
        Ok(())
    }

    fn hand_over(&mut self) {
        if !self.pending.is_empty() {
            // A counter that has ended has an error to tell.
            let _ = self.lots.send(std::mem::replace(&mut self.pending, Vec::with_capacity(HAND_OVER_RECORDS)));
        }
    }
}

/// Waits for each ack, beside the sending.
async fn count<S: Sender>(
    mut lots: mpsc::UnboundedReceiver<Vec<Pending<S::Ticket>>>,
    mut probe: Probe,
    shared: Arc<Shared>,
) -> Result<(), Failure> {
    while let Some(lot) = lots.recv().await {
        for Pending { intended_ns, bytes, ticket } in lot {
            let at = S::acked(ticket, shared.clock).await.inspect_err(|_| shared.stop.cancel())?;
            probe.count(at, 1, u64::from(bytes));
            probe.latency(at, intended_ns);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
