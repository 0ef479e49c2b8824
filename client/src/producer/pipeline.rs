//! Batches on their way: what may be sent next, what an answer means, what is sent again. Pure.
//!
//! ```text
//! push ─► unsent ─► next ─► sent ─► ack ─► Finished
//!           ▲                │
//!           └── retry ◄──────┴── refused, or the stream was lost
//! ```
//! Order per partition is kept through every failure:
//! - After the first refusal of a partition nothing of it is sent until all its batches in flight are answered. The
//!   server refuses those too, so all come back; they go to the front again in their order, and the first one sent
//!   carries the resume flag, which tells the server that the client knows.
//! - A refusal that a retry can help holds the partition for a backoff; another one fails its own batch only.
//! - A lost stream puts all that was in flight back to the front. A new stream is unfettered: no flag.
//!
//! Partitions take turns, a batch each, so that a busy one does not keep the others waiting.
//! Not here: the stream (`sender`), which records share a batch (`accumulator`).

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use millstream_protocol::frame::Refusal;
use millstream_protocol::frame::produce::{ProduceAck, Produced, Stored};
use millstream_protocol::{Code, Epoch, PartitionId};

use super::delivery::Ticket;
use crate::backoff::Backoff;
use crate::error::Error;

/// Batches kept ready beside those in flight: the network never waits for a checksum.
const READY_BATCHES: usize = 4;

/// A batch as it will be sent, as often as it takes.
#[derive(Debug)]
pub(super) struct Batch {
    pub partition: PartitionId,
    pub bytes: Bytes,
    pub record_count: u32,
    /// What it takes of the buffer.
    pub buffered: usize,
    pub ticket: Arc<Ticket>,
    pub opened: Instant,
    pub sequence: u64,
    /// How often it was sent.
    pub sends: u32,
    /// It was in flight when its stream was lost: a copy may be stored.
    pub in_doubt: bool,
    /// Why it is still here.
    pub last_error: Option<Error>,
}

/// What is to be written now.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub correlation: u64,
    pub partition: PartitionId,
    pub epoch: Epoch,
    pub resume: bool,
    pub bytes: Bytes,
}

/// What to do now.
#[derive(Debug)]
pub(super) enum Next {
    Send(Outgoing),
    /// Nothing, until then or until something changes.
    Wait(Option<Instant>),
}

/// A batch that is through.
#[derive(Debug)]
pub(super) struct Finished {
    pub batch: Batch,
    pub epoch: Epoch,
    pub result: Result<Stored, Error>,
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counts {
    pub sent: u64,
    pub resent: u64,
    pub bytes_sent: u64,
}

#[derive(Debug)]
pub(super) struct Pipeline {
    lanes: Vec<Lane>,
    /// Lanes that can send, in turn; each at most once.
    ready: VecDeque<usize>,
    /// Lanes that wait for their backoff.
    held: Vec<usize>,
    lane_of: HashMap<u64, usize>,
    depth: usize,
    next_correlation: u64,
    counts: Counts,
}

/// One partition.
#[derive(Debug, Default)]
struct Lane {
    unsent: VecDeque<Batch>,
    sent: VecDeque<(u64, Batch)>,
    /// Refused, to be sent again once `sent` is empty.
    retry: VecDeque<Batch>,
    /// A refusal was seen and `sent` is not empty yet.
    draining: bool,
    resume: bool,
    hold_until: Option<Instant>,
    in_ready: bool,
    backoff: Backoff,
    epoch: Epoch,
}

impl Pipeline {
    pub fn new(partitions: u32, depth: u32) -> Self {
        Self {
            lanes: (0..partitions).map(|_| Lane::default()).collect(),
            ready: VecDeque::new(),
            held: Vec::new(),
            lane_of: HashMap::new(),
            depth: depth as usize,
            next_correlation: 1,
            counts: Counts::default(),
        }
    }

    /// A new stream is open: this many batches may be in flight, and these are the partitions' epochs.
    pub fn opened(&mut self, depth: u32, epochs: impl Iterator<Item = (PartitionId, Epoch)>) {
        self.depth = depth.max(1) as usize;
        for (partition, epoch) in epochs {
            if let Some(lane) = self.lanes.get_mut(partition.0 as usize) {
                lane.epoch = epoch;
            }
        }
    }

    /// Takes a batch. Batches of a partition come in order.
    pub fn push(&mut self, batch: Batch) {
        let index = batch.partition.0 as usize;
        self.lanes[index].unsent.push_back(batch);
        self.make_ready(index);
    }

    /// Whether another batch could soon be sent: until then records had better wait in larger batches.
    pub fn wants_more(&self) -> bool {
        let mut ready = 0;
        let few = self.ready.iter().all(|index| {
            ready += self.lanes[*index].unsent.len();
            ready < READY_BATCHES
        });
        few && self.in_flight() < self.depth
    }

    pub fn in_flight(&self) -> usize {
        self.lane_of.len()
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What to write next.
    pub fn next(&mut self, now: Instant) -> Next {
        self.release(now);
        if self.in_flight() >= self.depth {
            return Next::Wait(None);
        }
        let Some(index) = self.ready.pop_front() else {
            return Next::Wait(self.held.iter().filter_map(|index| self.lanes[*index].hold_until).min());
        };
        let lane = &mut self.lanes[index];
        lane.in_ready = false;
        let Some(mut batch) = lane.unsent.pop_front() else { return self.next(now) };
        let correlation = self.next_correlation;
        self.next_correlation += 1;
        self.counts.sent += 1;
        self.counts.resent += u64::from(batch.sends > 0);
        self.counts.bytes_sent += batch.bytes.len() as u64;
        batch.sends += 1;
        let outgoing = Outgoing {
            correlation,
            partition: batch.partition,
            epoch: lane.epoch,
            resume: std::mem::take(&mut lane.resume),
            bytes: batch.bytes.clone(),
        };
        lane.sent.push_back((correlation, batch));
        self.lane_of.insert(correlation, index);
        self.make_ready(index);
        Next::Send(outgoing)
    }

    /// Takes an answer; gives the batch if it is through.
    ///
    /// # Errors
    /// The answer is to no batch in flight, or out of its partition's order: the server is at fault.
    pub fn ack(&mut self, ack: ProduceAck, now: Instant) -> Result<Option<Finished>, Error> {
        let Some(index) = self.lane_of.remove(&ack.correlation) else {
            return Err(Error::protocol(format_args!("an ack of batch {}, which is not in flight", ack.correlation)));
        };
        let lane = &mut self.lanes[index];
        if lane.sent.front().is_none_or(|(first, _)| *first != ack.correlation) {
            // It stays in `sent`, so that the loss of the stream finds it there.
            self.lane_of.insert(ack.correlation, index);
            return Err(Error::protocol(format_args!("acks of partition {index} out of order")));
        }
        let Some((_, mut batch)) = lane.sent.pop_front() else { return Ok(None) };
        let epoch = lane.epoch;
        let finished = match ack.result {
            Ok(Produced::Duplicates(_)) => return Err(Error::protocol("duplicates of records without dedup ids")),
            Ok(Produced::Stored(stored)) => {
                lane.backoff.reset();
                Some(Finished { batch, epoch, result: Ok(stored) })
            }
            // Pipelined behind the refused one: whatever was said of it, it was not tried.
            Err(refusal) if lane.draining => {
                batch.last_error = Some(refusal.into());
                lane.retry.push_back(batch);
                None
            }
            Err(refusal) => {
                lane.draining = true;
                lane.refused(batch, refusal, now).map(|(batch, error)| Finished { batch, epoch, result: Err(error) })
            }
        };
        if lane.draining && lane.sent.is_empty() {
            lane.start_again();
            if lane.hold_until.is_some() && !self.held.contains(&index) {
                self.held.push(index);
            }
        }
        self.make_ready(index);
        Ok(finished)
    }

    /// The batches of which a copy may be stored, by sequence: in flight now, or when a stream was lost.
    pub fn in_doubt(&self) -> HashSet<u64> {
        let of_lane = |lane: &Lane| {
            let in_flight: Vec<u64> = lane.sent.iter().map(|(_, batch)| batch.sequence).collect();
            let waiting = lane.unsent.iter().chain(&lane.retry).filter(|batch| batch.in_doubt);
            in_flight.into_iter().chain(waiting.map(|batch| batch.sequence)).collect::<Vec<_>>()
        };
        self.lanes.iter().flat_map(of_lane).collect()
    }

    /// Whether nothing is in flight and nothing could be sent.
    pub fn is_idle(&self) -> bool {
        self.lane_of.is_empty() && self.ready.is_empty()
    }

    /// The stream is gone: all that was in flight will be sent again, in order, on the next one.
    pub fn lost(&mut self, why: &Error) {
        self.lane_of.clear();
        self.held.clear();
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            let in_flight = lane.sent.drain(..).map(|(_, mut batch)| {
                (batch.last_error, batch.in_doubt) = (Some(why.clone()), true);
                batch
            });
            lane.retry.extend(in_flight);
            lane.start_again();
            lane.resume = false;
            lane.hold_until = None;
            self.make_ready(index);
        }
    }

    /// Takes out what was opened at or before that time and is not in flight; says whether something in flight is
    /// as old: only the end of its stream gets it back.
    pub fn expire(&mut self, opened_before: Instant) -> (Vec<Batch>, bool) {
        let mut expired = Vec::new();
        let mut in_flight = false;
        let is_old = |batch: &Batch| batch.opened <= opened_before;
        for lane in &mut self.lanes {
            in_flight |= lane.sent.front().is_some_and(|(_, batch)| is_old(batch));
            for queue in [&mut lane.retry, &mut lane.unsent] {
                while queue.front().is_some_and(is_old) {
                    expired.extend(queue.pop_front());
                }
            }
        }
        (expired, in_flight)
    }

    /// Ends the holds that are over.
    fn release(&mut self, now: Instant) {
        for at in (0..self.held.len()).rev() {
            let index = self.held[at];
            if self.lanes[index].hold_until.is_none_or(|until| until <= now) {
                self.held.swap_remove(at);
                self.lanes[index].hold_until = None;
                self.make_ready(index);
            }
        }
    }

    fn make_ready(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        if !lane.in_ready && lane.can_send() {
            lane.in_ready = true;
            self.ready.push_back(index);
        } else if lane.in_ready && !lane.can_send() {
            lane.in_ready = false;
            self.ready.retain(|ready| *ready != index);
        }
    }
}

impl Lane {
    fn can_send(&self) -> bool {
        !self.draining && self.hold_until.is_none() && !self.unsent.is_empty()
    }

    /// The first refusal: a retry may help, or the batch is given back with its error.
    fn refused(&mut self, mut batch: Batch, refusal: Refusal, now: Instant) -> Option<(Batch, Error)> {
        let error = Error::from(refusal);
        if !error.is_retryable() {
            return Some((batch, error));
        }
        self.hold_until = Some(now + self.backoff.next(error.retry_after()));
        batch.last_error = Some(error);
        self.retry.push_back(batch);
        None
    }

    /// Everything is answered or lost: what is to be sent again goes to the front, in its order.
    fn start_again(&mut self) {
        while let Some(batch) = self.retry.pop_back() {
            self.unsent.push_front(batch);
        }
        self.draining = false;
        self.resume = true;
    }
}

/// Whether an error of one batch is the end of all of them: its stream is no more.
pub(super) fn is_final(error: &Error) -> bool {
    matches!(error.code(), Code::StreamDeleted | Code::UnknownStream)
}

#[cfg(test)]
mod tests;
