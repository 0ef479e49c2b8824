//! One partition's batches: their order, their numbers, and what a gap in the numbers costs.
//!
//! A numbered batch that is given up leaves a *gap*: the server would refuse all that follows. What follows is numbered
//! anew then, once nothing of the partition is in flight, and only where no copy under an old number can still be stored:
//! - *certain*: every copy of every batch that is concerned was answered. They go on from `head`, the sequence after the
//!   last record that is known to be stored.
//! - *doubtful*: a copy went out on a stream that was lost, and its session may still store it. The producer's epoch must
//!   be raised first (a *bump*): that fences the copies, and the server then says what it has.
//!
//! Invariants
//! - A sequence below the server's next one belongs to one batch for ever.
//! - Batches in doubt are in front of all others, under the numbers of their copies.

use std::collections::VecDeque;
use std::time::Instant;

use millstream_protocol::limits::PRODUCER_BATCHES_MAX;
use millstream_protocol::{Code, Epoch, Outcome};

use super::batch::{Batch, Finished};
use crate::backoff::Backoff;
use crate::error::Error;

/// Whether the numbers have a gap.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Gap {
    #[default]
    None,
    Certain,
    Doubtful,
}

/// One partition.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub unsent: VecDeque<Batch>,
    pub sent: VecDeque<(u64, Batch)>,
    /// Refused, to be sent again once `sent` is empty.
    pub retry: VecDeque<Batch>,
    /// A refusal was seen and `sent` is not empty yet.
    pub draining: bool,
    pub resume: bool,
    pub hold_until: Option<Instant>,
    pub in_ready: bool,
    pub backoff: Backoff,
    pub epoch: Epoch,
    /// Batches are numbered.
    pub numbered: bool,
    /// The sequence that the next batch gets.
    pub tail: u64,
    /// The sequence after the last record that is known to be stored.
    pub head: u64,
    pub gap: Gap,
    /// The server could not say where it goes on: its log is not open, and will not be while this stream lasts.
    pub offline: bool,
}

impl Lane {
    pub fn can_send(&self) -> bool {
        let full = self.numbered && self.sent.len() >= PRODUCER_BATCHES_MAX;
        !self.draining && !full && self.gap == Gap::None && self.hold_until.is_none() && !self.unsent.is_empty()
    }

    pub fn push(&mut self, mut batch: Batch) {
        batch.base = self.tail;
        self.tail = batch.end();
        self.unsent.push_back(batch);
    }

    /// Its batch is stored, or all of it was known.
    pub fn passed(&mut self, end: u64) {
        self.backoff.reset();
        self.head = self.head.max(end);
    }

    /// The first refusal: a retry may help, or the batch is given back with its error.
    pub fn refused(&mut self, mut batch: Batch, error: Error, now: Instant) -> Option<(Batch, Error)> {
        self.draining = true;
        let goes_on = match error.code() {
            _ if error.is_retryable() => {
                self.hold_until = Some(now + self.backoff.next(error.retry_after()));
                true
            }
            // The numbers are wrong, or an epoch was raised by a request that was thought lost: the server must say.
            Code::OutOfOrderSequence | Code::Fenced if self.numbered => {
                self.gap = Gap::Doubtful;
                true
            }
            // Once fenced, a copy that is not stored will not be; if one is, only its place can be unknown.
            Code::UnknownProducer if self.numbered => {
                self.gap = Gap::Doubtful;
                !batch.in_doubt || !std::mem::replace(&mut batch.was_unknown, true)
            }
            _ => false,
        };
        if goes_on {
            // What is known from its class alone: a time-out, say, leaves open whether it was stored.
            batch.in_doubt |= error.outcome() == Outcome::Indefinite && error.code() != Code::UnknownProducer;
            batch.last_error = Some(error);
            self.retry.push_back(batch);
            return None;
        }
        self.gave_up(&batch, error.outcome());
        let error = batch.failure(error);
        Some((batch, error))
    }

    /// Refused behind another one: whatever was said of it, it goes again.
    pub fn refused_behind(&mut self, mut batch: Batch, error: Error) {
        // Those that share a sync with the refused one share its fate.
        let refused_by_number = matches!(error.code(), Code::UnknownProducer);
        batch.in_doubt |= error.outcome() == Outcome::Indefinite && !refused_by_number;
        batch.last_error = Some(error);
        self.retry.push_back(batch);
    }

    /// Some of its records are out: the rest goes first, under the same sequence, and what follows moves up.
    pub fn cut(&mut self, batch: Batch) {
        self.draining = true;
        self.backoff.reset();
        self.open_gap(Gap::Certain);
        self.retry.push_back(batch);
    }

    /// A numbered batch will not be sent any more.
    pub fn gave_up(&mut self, batch: &Batch, outcome: Outcome) {
        let doubtful = batch.in_doubt || outcome == Outcome::Indefinite;
        self.open_gap(if doubtful { Gap::Doubtful } else { Gap::Certain });
    }

    fn open_gap(&mut self, gap: Gap) {
        if self.numbered {
            self.gap = self.gap.max(gap);
        }
    }

    /// Everything is answered or lost: what is to be sent again goes to the front, in its order.
    pub fn start_again(&mut self) {
        while let Some(batch) = self.retry.pop_back() {
            self.unsent.push_front(batch);
        }
        self.draining = false;
        self.resume = true;
    }

    /// Closes a gap where that is safe without the server; says whether it is not.
    pub fn settle(&mut self) -> bool {
        if self.gap == Gap::None || self.draining || !self.sent.is_empty() {
            return false;
        }
        if self.offline {
            // The numbers stay as they are, gap and all: once the log is open the server finds it.
            self.gap = Gap::None;
            return false;
        }
        if self.gap == Gap::Doubtful || self.unsent.iter().any(|batch| batch.in_doubt) {
            self.gap = Gap::Doubtful;
            return true;
        }
        self.renumber(self.head);
        false
    }

    /// The epoch was raised, so no other copy of anything here will be stored, and the server goes on at `next`. Gives
    /// the batches of which nothing can be known any more.
    pub fn bumped(&mut self, next: Option<u64>) -> Vec<Finished> {
        let mut unknown = Vec::new();
        let mut kept = VecDeque::with_capacity(self.unsent.len());
        for mut batch in self.unsent.drain(..) {
            if batch.in_doubt {
                match next {
                    // A copy is stored. It goes again, to be answered with that one's place.
                    Some(next) if batch.end() <= next && !batch.is_cut_copy => {}
                    Some(next) if batch.base >= next => {
                        (batch.in_doubt, batch.is_cut_copy, batch.was_unknown) = (false, false, false);
                    }
                    _ => {
                        let epoch = self.epoch;
                        let result = Err(not_known(&batch));
                        unknown.push(Finished { batch, epoch, result });
                        continue;
                    }
                }
            }
            kept.push_back(batch);
        }
        self.unsent = kept;
        self.head = next.unwrap_or(0);
        self.renumber(self.head);
        unknown
    }

    /// The epoch was raised, and the server could not say where this partition goes on.
    pub fn bumped_offline(&mut self) {
        self.offline = true;
        self.gap = Gap::None;
    }

    /// Numbers what is not stored from `next` on.
    fn renumber(&mut self, mut next: u64) {
        for batch in self.unsent.iter_mut().filter(|batch| !batch.in_doubt) {
            batch.base = next;
            next = batch.end();
        }
        self.tail = next;
        self.gap = Gap::None;
    }
}

fn not_known(batch: &Batch) -> Error {
    let why = batch.last_error.as_ref().map_or_else(|| "its stream was lost".to_owned(), Error::to_string);
    Error::of_unknown_producer(format!(
        "the server does not remember this producer, or not as far back as this batch, which may or may not be stored \
         (sent before: {why}): look for its records before sending them again"
    ))
}
