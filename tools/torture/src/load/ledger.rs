//! One producer's records between their sending and their outcome, and the history of both.
//!
//! Times err to the safe side: an invocation's is taken before the burst, an answer's is the time behind the enqueue plus the
//! receipt's latency.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::FutureExt;
use millstream_check::history::{Place, Recorder, What};
use millstream_check::value::ValueId;
use millstream_client::{Code, Delivery, Error, Outcome, Producer, Receipt, Record};

use super::books::{Answer, Books};
use crate::failure::Failure;

pub struct Ledger {
    pub recorder: Recorder,
    stream: u32,
    books: Arc<Books>,
    pending: VecDeque<Pending>,
    /// What was not acknowledged in the end.
    given_up: BTreeSet<ValueId>,
    /// Outcomes that are not written yet.
    settled: Settled,
}

/// A record without an outcome.
struct Pending {
    value: ValueId,
    at: Place,
    entered_ns: u64,
    /// Batches that its producer had sent again before.
    resent_before: u64,
    delivery: Delivery,
}

/// Records with an outcome, not written yet: those of one partition together.
#[derive(Default)]
struct Settled {
    acked: BTreeMap<Place, Vec<Acked>>,
    failed: BTreeMap<(Place, u16, Outcomes), Vec<(ValueId, u64)>>,
    /// The last error.
    error: Option<Error>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcomes {
    Definite,
    Unknown,
}

/// Acknowledged one offset after the other.
struct Acked {
    base_offset: u64,
    values: Vec<ValueId>,
    resent_before: u64,
    at_ns: u64,
}

impl Ledger {
    pub fn new(recorder: Recorder, stream: u32, books: Arc<Books>) -> Self {
        let (pending, given_up, settled) = Default::default();
        Self { recorder, stream, books, pending, given_up, settled }
    }

    /// Values of that producer stand once.
    pub fn stands_once(&mut self, producer: u32) {
        self.recorder.record(What::Once { producer });
    }

    /// Sends records, as far as it goes: an error says that the next one was not enqueued.
    pub async fn send(
        &mut self,
        producer: &Producer,
        records: impl Iterator<Item = (ValueId, Record)>,
    ) -> Result<(), Error> {
        let invoked_ns = self.recorder.clock().now_ns();
        let resent_before = producer.stats().batches_resent;
        let mut invoked: BTreeMap<Place, Vec<ValueId>> = BTreeMap::new();
        let mut done = Ok(());
        for (value, record) in records {
            match producer.enqueue(record).await {
                Ok(delivery) => {
                    let at = Place { stream: self.stream, partition: delivery.partition().0 };
                    invoked.entry(at).or_default().push(value);
                    let entered_ns = self.recorder.clock().now_ns();
                    self.pending.push_back(Pending { value, at, entered_ns, resent_before, delivery });
                }
                Err(error) => {
                    done = Err(error);
                    break;
                }
            }
        }
        for (at, values) in invoked {
            self.recorder.record_at(invoked_ns, What::Invoke { at, values });
        }
        done
    }

    /// Waits until so many at most have no outcome, and takes what else has one by now, as far as it comes first.
    pub async fn settle(&mut self, open_max: usize) {
        while self.pending.len() > open_max {
            if let Some(front) = self.pending.front_mut() {
                let outcome = (&mut front.delivery).await;
                self.take(outcome);
            }
        }
        while let Some(outcome) = self.pending.front_mut().and_then(|front| (&mut front.delivery).now_or_never()) {
            self.take(outcome);
        }
    }

    /// Writes down the outcomes that were taken. `resent`: batches that the producer has sent again by now.
    ///
    /// # Errors
    /// The client got an answer that it must not get.
    pub fn write(&mut self, resent: u64) -> Result<(), Failure> {
        let Settled { acked, failed, .. } = std::mem::take(&mut self.settled);
        for (at, runs) in acked {
            for Acked { base_offset, values, resent_before, at_ns } in runs {
                let count = values.len() as u64;
                let resends = since(resent, resent_before);
                self.recorder.record_at(at_ns, What::Ok { at, base_offset, values, resends });
                self.books.acked.send_modify(|acked| *acked += count);
            }
        }
        for ((at, code, outcome), of) in failed {
            let earliest = of.iter().map(|(_, resent_before)| *resent_before).min().unwrap_or(resent);
            let values: Vec<ValueId> = of.into_iter().map(|(value, _)| value).collect();
            let (count, first) = (values.len(), values[0]);
            self.recorder.record(match outcome {
                Outcomes::Unknown => What::Info { at, values, code, resends: since(resent, earliest) },
                Outcomes::Definite => What::Fail { at, values, code },
            });
            // Nothing here is so old that the server may have forgotten it, and no client leaves a gap.
            let code = Code::from_number(code);
            if matches!(code, Code::UnknownProducer | Code::OutOfOrderSequence) {
                return Err(Failure::run(format!("{count} records from {first} on ended with {code}")));
            }
        }
        Ok(())
    }

    /// What was not acknowledged since this was asked for last.
    pub fn take_given_up(&mut self) -> BTreeSet<ValueId> {
        std::mem::take(&mut self.given_up)
    }

    /// The last error of a record that is not written yet.
    pub fn error(&self) -> Option<&Error> {
        self.settled.error.as_ref()
    }

    fn take(&mut self, outcome: Result<Receipt, Error>) {
        let Some(Pending { value, at, entered_ns, resent_before, .. }) = self.pending.pop_front() else { return };
        match outcome {
            Ok(receipt) => {
                let latency_ns = u64::try_from(receipt.latency.as_nanos()).unwrap_or(u64::MAX);
                let at_ns = entered_ns.saturating_add(latency_ns);
                let books = &self.books;
                let counter = match books.lives.answer(at_ns, receipt.append_time.0) {
                    _ if receipt.duplicate => Some(&books.known_ids),
                    Answer::FromLog => Some(&books.from_log),
                    Answer::FromMemory => Some(&books.from_memory),
                    Answer::First => None,
                };
                if let Some(counter) = counter {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                self.settled.take_acked(at, value, receipt.offset.0, resent_before, at_ns);
            }
            Err(error) => {
                let outcome = match error.outcome() {
                    Outcome::Definite => Outcomes::Definite,
                    Outcome::Indefinite => Outcomes::Unknown,
                };
                let of = self.settled.failed.entry((at, error.code().number(), outcome)).or_default();
                of.push((value, resent_before));
                self.settled.error = Some(error);
                self.given_up.insert(value);
            }
        }
    }
}

impl Settled {
    fn take_acked(&mut self, at: Place, value: ValueId, offset: u64, resent_before: u64, at_ns: u64) {
        let runs = self.acked.entry(at).or_default();
        let continues = |run: &&mut Acked| {
            run.base_offset + run.values.len() as u64 == offset && run.resent_before == resent_before
        };
        match runs.last_mut().filter(continues) {
            Some(run) => {
                run.values.push(value);
                run.at_ns = run.at_ns.max(at_ns);
            }
            None => runs.push(Acked { base_offset: offset, values: vec![value], resent_before, at_ns }),
        }
    }
}

/// Batches sent again meanwhile: at least as many times as any one of them was.
fn since(now: u64, before: u64) -> u16 {
    u16::try_from(now.saturating_sub(before)).unwrap_or(u16::MAX)
}
