//! What a producer's handle and its background task share: the books of every record between enqueue and outcome.
//!
//! Invariants
//! - `outstanding` holds the ticket of every batch that has no outcome yet; `buffered` is the sum of their bytes.
//! - Lock order: pipeline, then books. Neither is held across an await.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use millstream_protocol::batch::BatchError;
use millstream_protocol::batch::record::{asked_delay_ms, control_number};
use millstream_protocol::limits::TIMESTAMP_AHEAD_MS_MAX;
use millstream_protocol::{ByteSize, Code, Record, Timestamp};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::accumulator::{Accumulator, Pushed};
use super::deliveries::Deliveries;
use super::delivery::{Delivery, Ticket};
use super::pipeline::{Answered, Batch, Finished, Pipeline, is_final};
use super::{ProducerStats, Settings, Target};
use crate::client::Client;
use crate::clock::WallClock;
use crate::error::{Error, Result};

pub(super) struct Shared {
    pub client: Client,
    pub target: Target,
    pub settings: Settings,
    pub pipeline: Mutex<Pipeline>,
    pub books: Mutex<Books>,
    /// There may be a batch to pack.
    pub pack: Notify,
    /// There may be a batch to write.
    pub write: Notify,
    /// The produce stream is to be given up.
    pub reset: Notify,
    /// The producer was dropped or closed.
    pub end: Notify,
    /// Room in the buffer.
    pub room: Notify,
}

pub(super) struct Books {
    pub accumulator: Accumulator,
    clock: WallClock,
    buffered: usize,
    outstanding: BTreeMap<u64, Outstanding>,
    /// Why nothing is accepted any more.
    dead: Option<Error>,
    /// The first failure since the last flush.
    failure: Option<Error>,
    stats: ProducerStats,
}

struct Outstanding {
    ticket: Arc<Ticket>,
    opened: Instant,
}

/// What to do after a record was taken.
pub(super) struct Enqueued {
    pub delivery: Delivery,
    pub closed_batch: bool,
}

impl Books {
    pub fn new(accumulator: Accumulator) -> Self {
        Self {
            accumulator,
            clock: WallClock::new(Instant::now()),
            buffered: 0,
            outstanding: BTreeMap::new(),
            dead: None,
            failure: None,
            stats: ProducerStats::default(),
        }
    }

    /// Whether the record may come in. Full is full only for the next one: a large record is never starved by small ones. A
    /// batch is opened only if there is room for all of it: whoever waits for room would leave one behind with next to
    /// nothing in it, for each full one.
    fn has_room(&mut self, record: &Record, buffer_bytes: usize) -> bool {
        let with_one_more = self.buffered + self.accumulator.batch_bytes_target();
        if self.buffered == 0 || with_one_more <= buffer_bytes {
            return true;
        }
        self.buffered < buffer_bytes && !self.accumulator.opens(record)
    }

    /// When the oldest batch without an outcome was opened.
    pub fn oldest(&self) -> Option<Instant> {
        self.outstanding.first_key_value().map(|(_, batch)| batch.opened)
    }

    fn settle(&mut self, serial: u64, buffered: usize) {
        // Absent if everything was failed meanwhile.
        if self.outstanding.remove(&serial).is_some() {
            self.buffered -= buffered;
        }
    }

    fn failed(&mut self, error: &Error, records: u64) {
        self.failure.get_or_insert_with(|| error.clone());
        self.stats.batches_failed += 1;
        self.stats.records_failed += records;
    }
}

impl Shared {
    /// Takes a record if there is room. Fills in its timestamp.
    pub fn try_enqueue(&self, record: &mut Record) -> Result<Option<Enqueued>> {
        let now = Instant::now();
        let mut books = self.books.lock();
        let Some(pushed) = self.admit(&mut books, record, now)? else { return Ok(None) };
        let ticket = books.accumulator.ticket(&pushed);
        drop(books);
        if pushed.opened || pushed.closed {
            self.pack.notify_one();
        }
        Ok(Some(Enqueued { delivery: Delivery::new(ticket, pushed.index, now), closed_batch: pushed.closed }))
    }

    /// Takes records off the front as long as there is room, until a batch is closed: the next one is not opened before it
    /// can be filled. Says how many of them have their place, or their refusal, in `deliveries` now, and whether one was.
    pub fn try_enqueue_all(&self, records: &mut [Record], deliveries: &mut Deliveries) -> (usize, bool) {
        let now = Instant::now();
        let (mut taken, mut has_opened, mut has_closed) = (0, false, false);
        let mut books = self.books.lock();
        for record in records {
            match self.admit(&mut books, record, now) {
                Ok(Some(pushed)) => {
                    has_opened |= pushed.opened;
                    has_closed |= pushed.closed;
                    deliveries.taken(pushed.serial, pushed.index, now, || books.accumulator.ticket(&pushed));
                }
                Ok(None) => break,
                Err(error) => deliveries.one(Err(error)),
            }
            taken += 1;
            if has_closed {
                break;
            }
        }
        drop(books);
        if has_opened || has_closed {
            self.pack.notify_one();
        }
        (taken, has_closed)
    }

    fn admit(&self, books: &mut Books, record: &mut Record, now: Instant) -> Result<Option<Pushed>> {
        let size = record.size();
        self.check_size(size)?;
        if let Some(error) = &books.dead {
            return Err(error.clone());
        }
        if !books.has_room(record, self.settings.buffer_bytes) {
            return Ok(None);
        }
        let wall = books.clock.at(now);
        match record.timestamp {
            Timestamp(0) => record.timestamp = wall,
            timestamp => check_timestamp(timestamp, wall)?,
        }
        if !record.headers.is_empty() {
            let delay_ms = asked_delay_ms(wall, |name| control_number(&record.headers, name));
            self.target.config.check_delay(delay_ms).map_err(|refusal| Error::local(refusal.code, refusal.text))?;
        }
        let pushed = books.accumulator.push(record, now).map_err(illegal)?;
        books.buffered += pushed.bytes;
        books.stats.records += 1;
        books.stats.bytes += size as u64;
        if pushed.opened {
            let batch = Outstanding { ticket: books.accumulator.ticket(&pushed), opened: now };
            books.outstanding.insert(pushed.serial, batch);
        }
        Ok(Some(pushed))
    }

    /// The buffer is full. If that is all of open batches, none is under way to make room: they go out at once.
    pub fn relieve(&self) {
        let pipeline = self.pipeline.lock();
        let mut books = self.books.lock();
        if pipeline.is_idle() && !books.accumulator.has_closed() {
            books.accumulator.close_all();
        }
        drop(books);
        // The record that waits may have closed a batch, too.
        self.pack.notify_one();
    }

    fn check_size(&self, size: usize) -> Result<()> {
        let limit = self.target.config.record_bytes_max as usize;
        if size <= limit {
            return Ok(());
        }
        let text = format!(
            "record of {size} bytes ({}) is above this stream's limit of {limit} bytes ({}): split it, or raise \
             record_bytes_max",
            ByteSize(size as u64),
            ByteSize(limit as u64)
        );
        Err(Error::local(Code::RecordTooLarge, text))
    }

    /// Closes all batches and gives the tickets to wait for.
    pub fn start_flush(&self) -> Vec<Arc<Ticket>> {
        let mut books = self.books.lock();
        books.accumulator.close_all();
        let tickets = books.outstanding.values().map(|batch| Arc::clone(&batch.ticket)).collect();
        drop(books);
        self.pack.notify_one();
        tickets
    }

    /// The first failure since the last call.
    pub fn take_failure(&self) -> Option<Error> {
        self.books.lock().failure.take()
    }

    pub fn stats(&self) -> ProducerStats {
        let pipeline = self.pipeline.lock();
        let books = self.books.lock();
        ProducerStats {
            batches_sent: pipeline.counts().sent,
            batches_resent: pipeline.counts().resent,
            bytes_sent: pipeline.counts().bytes_sent,
            batches_in_flight: pipeline.in_flight() as u64,
            buffered_bytes: books.buffered as u64,
            ..books.stats
        }
    }

    /// Books what the server answered and tells who waits.
    pub fn take(&self, answered: Vec<Answered>) {
        if answered.iter().all(|answered| answered.known.is_none() && answered.finished.is_none()) {
            return;
        }
        let at = Instant::now();
        let mut books = self.books.lock();
        for Answered { known, finished } in &answered {
            if let Some(known) = known {
                let records = known.duplicates.len() as u64;
                books.stats.records_acked += records;
                books.stats.records_duplicate += records;
            }
            let Some(Finished { batch, result, .. }) = finished else { continue };
            books.settle(batch.serial, batch.buffered);
            match result {
                Ok(_) => {
                    books.stats.batches_acked += 1;
                    books.stats.records_acked += u64::from(batch.record_count);
                }
                Err(error) => books.failed(error, u64::from(batch.record_count)),
            }
        }
        drop(books);
        self.room.notify_waiters();
        answered.into_iter().for_each(|answered| answered.tell(at));
    }

    /// Gives up what is older than the delivery timeout. Says whether something as old is in flight.
    pub fn expire(&self, now: Instant) -> bool {
        let Some(opened_before) = now.checked_sub(self.settings.delivery_timeout) else { return false };
        let (batches, in_flight) = self.pipeline.lock().expire(opened_before);
        let mut books = self.books.lock();
        let unsent = books.accumulator.expire(opened_before);
        let mut tickets = Vec::new();
        let within = self.settings.delivery_timeout;
        for batch in batches {
            let error = expired(&batch, within);
            books.settle(batch.serial, batch.buffered);
            books.failed(&error, u64::from(batch.record_count));
            tickets.push((batch.ticket, error));
        }
        for closed in unsent {
            let error = Error::local(Code::TimedOut, format!("not sent within {within:?}: {UNSENT}"));
            books.settle(closed.serial, closed.builder.len());
            books.failed(&error, u64::from(closed.builder.record_count()));
            tickets.push((closed.ticket, error));
        }
        drop(books);
        if !tickets.is_empty() {
            self.room.notify_waiters();
        }
        tickets.into_iter().for_each(|(ticket, error)| ticket.complete(Err(error)));
        in_flight
    }

    /// The end of everything: what has no outcome yet gets this one, and nothing more is accepted.
    pub fn die(&self, error: &Error) {
        let in_doubt = self.pipeline.lock().in_doubt();
        let mut books = self.books.lock();
        books.dead.get_or_insert_with(|| error.clone());
        let outstanding = std::mem::take(&mut books.outstanding);
        books.buffered = 0;
        if !outstanding.is_empty() {
            let records = books.stats.records - books.stats.records_acked - books.stats.records_failed;
            books.failed(error, records);
            books.stats.batches_failed += outstanding.len() as u64 - 1;
        }
        drop(books);
        self.room.notify_waiters();
        let doubt = Error::lost(format!("not acknowledged, it may or may not be stored: {error}"), error.clone());
        for (serial, batch) in outstanding {
            // With its stream deleted, a copy is no more.
            let unknown = in_doubt.contains(&serial) && !is_final(error);
            batch.ticket.complete(Err(if unknown { doubt.clone() } else { error.clone() }));
        }
    }
}

const UNSENT: &str = "the server was not reachable or not fast enough; nothing of it was stored, send it again";

fn expired(batch: &Batch, within: std::time::Duration) -> Error {
    let reason = batch.last_error.as_ref().map_or_else(|| UNSENT.to_owned(), Error::to_string);
    match &batch.last_error {
        Some(error) if batch.in_doubt => {
            let text = format!("not acknowledged within {within:?}, it may or may not be stored: {reason}");
            Error::lost(text, error.clone())
        }
        // Every copy was refused, and the last refusal names what is wrong.
        Some(error) if batch.sends > 0 => error.clone(),
        _ => Error::local(Code::TimedOut, format!("not sent within {within:?}: {reason}")),
    }
}

fn check_timestamp(timestamp: Timestamp, now: Timestamp) -> Result<()> {
    if timestamp.0 <= now.0.saturating_add(TIMESTAMP_AHEAD_MS_MAX) {
        return Ok(());
    }
    let text = format!(
        "the timestamp {timestamp} ms is more than an hour ahead of the clock ({now} ms): correct it, or leave it 0 for now",
        timestamp = timestamp.0,
        now = now.0
    );
    Err(Error::local(Code::TimestampTooFarAhead, text))
}

fn illegal(error: BatchError) -> Error {
    let text = format!("the record cannot be sent: {error}");
    Error::local_from(Code::IllegalRecord, text, error)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millstream_protocol::batch::Codec;

    use super::*;
    use crate::producer::accumulator::{self, Closed};

    #[test]
    fn a_batch_is_opened_only_where_there_is_room_for_all_of_it() {
        let linger = Duration::from_secs(5);
        let settings = accumulator::Settings { codec: Codec::None, batch_bytes_target: 1 << 10, linger };
        let mut books = Books::new(Accumulator::new(settings, 3, 0));
        let (record, now) = (Record::new(vec![0; 300]), Instant::now());
        let mut counts = Vec::new();
        for _ in 0..3 {
            let mut count = 0;
            while books.has_room(&record, 2 << 10) {
                books.buffered += books.accumulator.push(&record, now).expect("a record").bytes;
                count += 1;
            }
            counts.push(count);
            let mut closed: Vec<Closed> = std::iter::from_fn(|| books.accumulator.take()).collect();
            assert!(closed.iter().all(|batch| batch.builder.record_count() == 2), "{closed:?}");
            // One of those under way is stored.
            books.buffered -= closed.swap_remove(0).builder.len();
        }
        assert_eq!(counts, [4, 2, 2]);
        books.buffered = 0;
        assert!(books.has_room(&record, 100), "a small buffer takes one at a time");
        books.buffered = 100;
        assert!(!books.has_room(&record, 100));
    }
}
