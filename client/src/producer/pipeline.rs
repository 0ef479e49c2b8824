//! Batches on their way: what may be sent next, what an answer means, what is sent again. Pure.
//!
//! ```text
//! push ─► unsent ─► next ─► sent ─► ack ─► Answered
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
//! Each batch is stored once: it carries its producer's id and epoch and a sequence, and goes again under the same one,
//! flagged as sent before. A gap in the sequence, left by a batch that is given up, is closed by numbering anew what
//! follows it (`lane`); where an old copy could still be stored, nothing at all is sent until the producer's epoch is
//! raised: [`Next::Bump`], once nothing is in flight, then [`Pipeline::bumped`].
//!
//! Partitions take turns, a batch each, so that a busy one does not keep the others waiting.
//! Not here: the stream (`sender`), which records share a batch (`accumulator`).

mod batch;
mod lane;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use millstream_protocol::batch::renumber;
use millstream_protocol::frame::control::NextSequence;
use millstream_protocol::{Code, Epoch, Outcome, PartitionId, ProducerId};

use crate::error::{Error, Result};
use lane::Lane;

pub(super) use batch::{Answer, Answered, Batch, Finished, Known, Numbers, without};

/// Batches kept ready beside those in flight: the network never waits for a checksum.
const READY_BATCHES: usize = 4;

/// What is to be written now.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub correlation: u64,
    pub partition: PartitionId,
    pub epoch: Epoch,
    pub resume: bool,
    /// A copy may be stored.
    pub resend: bool,
    pub bytes: Bytes,
}

/// What to do now.
#[derive(Debug)]
pub(super) enum Next {
    Send(Outgoing),
    /// Have the producer's epoch raised above this one, then call [`Pipeline::bumped`]. Until then it is asked again.
    Bump(ProducerId, u32),
    /// Nothing, until then or until something changes.
    Wait(Option<Instant>),
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counts {
    pub sent: u64,
    pub resent: u64,
    pub bytes_sent: u64,
    pub bumps: u64,
}

#[derive(Debug)]
pub(super) struct Pipeline {
    /// Id 0: nothing is numbered.
    producer: (ProducerId, u32),
    lanes: Vec<Lane>,
    /// Lanes that can send, in turn; each at most once.
    ready: VecDeque<usize>,
    /// Lanes that wait for their backoff.
    held: Vec<usize>,
    lane_of: HashMap<u64, usize>,
    /// A gap that only a higher epoch closes.
    must_bump: bool,
    depth: usize,
    next_correlation: u64,
    counts: Counts,
}

impl Pipeline {
    /// `producer`: its id and epoch; id 0 is not idempotent.
    pub fn new(partitions: u32, depth: u32, producer: (ProducerId, u32)) -> Self {
        let numbered = producer.0 != ProducerId(0);
        Self {
            producer,
            lanes: (0..partitions).map(|_| Lane { numbered, ..Lane::default() }).collect(),
            ready: VecDeque::new(),
            held: Vec::new(),
            lane_of: HashMap::new(),
            must_bump: false,
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
                (lane.epoch, lane.offline) = (epoch, false);
            }
        }
    }

    /// What the next batch of that partition is best encoded with. [`push`](Self::push) takes it with other numbers too:
    /// it is copied then.
    pub fn numbers(&self, partition: PartitionId) -> Numbers {
        let (producer, epoch) = self.producer;
        match producer {
            ProducerId(0) => Numbers::default(),
            _ => Numbers { producer, epoch, base: self.lanes[partition.0 as usize].tail },
        }
    }

    /// Takes a batch. Batches of a partition come in order.
    pub fn push(&mut self, batch: Batch) {
        let index = batch.partition.0 as usize;
        self.lanes[index].push(batch);
        self.make_ready(index);
    }

    /// Whether another batch could soon be sent: until then records had better wait in larger batches.
    pub fn wants_more(&self) -> bool {
        let mut ready = 0;
        let few = self.ready.iter().all(|index| {
            ready += self.lanes[*index].unsent.len();
            ready < READY_BATCHES
        });
        few && !self.must_bump && self.in_flight() < self.depth
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
        if self.must_bump {
            let (producer, epoch) = self.producer;
            return if self.lane_of.is_empty() { Next::Bump(producer, epoch) } else { Next::Wait(None) };
        }
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
        let (producer, epoch) = self.producer;
        let numbers = Numbers { producer, epoch, base: batch.base };
        if lane.numbered && batch.encoded != numbers {
            batch.bytes = renumber(&batch.bytes, producer, epoch, batch.base);
            batch.encoded = numbers;
        }
        let outgoing = Outgoing {
            correlation,
            partition: batch.partition,
            epoch: lane.epoch,
            resume: std::mem::take(&mut lane.resume),
            resend: lane.numbered && batch.in_doubt,
            bytes: batch.bytes.clone(),
        };
        lane.sent.push_back((correlation, batch));
        self.lane_of.insert(correlation, index);
        self.make_ready(index);
        Next::Send(outgoing)
    }

    /// The bytes and the record count of a batch in flight.
    pub fn sent(&self, correlation: u64) -> Option<(Bytes, u32)> {
        let lane = &self.lanes[*self.lane_of.get(&correlation)?];
        let (_, batch) = lane.sent.iter().find(|(sent, _)| *sent == correlation)?;
        Some((batch.bytes.clone(), batch.record_count))
    }

    /// Takes an answer, and gives what follows.
    ///
    /// # Errors
    /// The answer is to no batch in flight, or out of its partition's order: the server is at fault.
    pub fn ack(&mut self, correlation: u64, answer: Answer, now: Instant) -> Result<Answered> {
        let Some(index) = self.lane_of.remove(&correlation) else {
            return Err(Error::protocol(format_args!("an ack of batch {correlation}, which is not in flight")));
        };
        let lane = &mut self.lanes[index];
        let (batch, epoch) = match lane.sent.front() {
            Some((first, _)) if *first == correlation => (lane.sent.pop_front(), lane.epoch),
            _ => (None, lane.epoch),
        };
        let Some((_, mut batch)) = batch else {
            // It stays in `sent`, so that the loss of the stream finds it there.
            self.lane_of.insert(correlation, index);
            return Err(Error::protocol(format_args!("acks of partition {index} out of order")));
        };
        let mut answered = Answered::default();
        match answer {
            Answer::Stored(stored) => {
                lane.passed(batch.end());
                answered.finished = Some(Finished { batch, epoch, result: Ok(Some(stored)) });
            }
            Answer::Duplicates { duplicates, rest } => {
                let (end, is_all, ticket) = (batch.end(), rest.is_none(), batch.ticket.clone());
                let duplicates = batch.cut(duplicates, rest);
                answered.known = Some(Known { ticket, duplicates, epoch });
                if is_all {
                    lane.passed(end);
                    answered.finished = Some(Finished { batch, epoch, result: Ok(None) });
                } else {
                    lane.cut(batch);
                }
            }
            // Pipelined behind the refused one.
            Answer::Refused(refusal) if lane.draining => lane.refused_behind(batch, refusal.into()),
            Answer::Refused(refusal) => {
                let given_up = lane.refused(batch, refusal.into(), now);
                answered.finished = given_up.map(|(batch, error)| Finished { batch, epoch, result: Err(error) });
            }
        }
        if lane.draining && lane.sent.is_empty() {
            lane.start_again();
            if lane.hold_until.is_some() && !self.held.contains(&index) {
                self.held.push(index);
            }
        }
        self.settle(index);
        Ok(answered)
    }

    /// The producer's epoch was raised, and this is where it goes on, in each partition whose log is open. Gives the
    /// batches of which nothing can be known any more.
    pub fn bumped(&mut self, epoch: u32, partitions: &[NextSequence]) -> Vec<Finished> {
        assert!(self.lane_of.is_empty(), "a bump waits until nothing is in flight");
        self.counts.bumps += 1;
        self.producer.1 = epoch;
        self.must_bump = false;
        let next: HashMap<u32, Option<u64>> = partitions.iter().map(|next| (next.partition, next.next)).collect();
        let mut unknown = Vec::new();
        for (index, lane) in (0..).zip(&mut self.lanes) {
            match next.get(&index) {
                Some(next) => unknown.extend(lane.bumped(*next)),
                None => lane.bumped_offline(),
            }
        }
        (0..self.lanes.len()).for_each(|index| self.make_ready(index));
        unknown
    }

    /// The batches of which a copy may be stored, by serial: in flight now, or when a stream was lost.
    pub fn in_doubt(&self) -> HashSet<u64> {
        let of_lane = |lane: &Lane| {
            let in_flight: Vec<u64> = lane.sent.iter().map(|(_, batch)| batch.serial).collect();
            let waiting = lane.unsent.iter().chain(&lane.retry).filter(|batch| batch.in_doubt);
            in_flight.into_iter().chain(waiting.map(|batch| batch.serial)).collect::<Vec<_>>()
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
            self.settle(index);
        }
    }

    /// Takes out what was opened at or before that time and is not in flight; says whether something in flight is
    /// as old: only the end of its stream gets it back.
    pub fn expire(&mut self, opened_before: Instant) -> (Vec<Batch>, bool) {
        let mut expired = Vec::new();
        let mut in_flight = false;
        let is_old = |batch: &Batch| batch.opened <= opened_before;
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            in_flight |= lane.sent.front().is_some_and(|(_, batch)| is_old(batch));
            while let Some(batch) = lane.retry.pop_front_if(|batch| is_old(batch)) {
                lane.gave_up(&batch, Outcome::Definite);
                expired.push(batch);
            }
            while let Some(batch) = lane.unsent.pop_front_if(|batch| is_old(batch)) {
                lane.gave_up(&batch, Outcome::Definite);
                expired.push(batch);
            }
            self.settle(index);
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

    fn settle(&mut self, index: usize) {
        self.must_bump |= self.lanes[index].settle();
        self.make_ready(index);
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

/// Whether an error of one batch is the end of all of them: its stream is no more.
pub(super) fn is_final(error: &Error) -> bool {
    matches!(error.code(), Code::StreamDeleted | Code::UnknownStream)
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod plain_model;
#[cfg(test)]
mod tests;
