//! The way to the dead letters: an idempotent produce for each message, so that it arrives once whatever crashes in between.
//!
//! The producer is the queue on its partition, the sequence the message's own, decided durably before. Sequences go out in
//! order, a few in flight; after a failure all that had not arrived goes again.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::Sender;
use millstream_log::{AppendSink, Appended, LogError, NewBatch};
use millstream_protocol::batch::DEDUP_ID;
use millstream_protocol::batch::record::{DELAY, EXPIRES_AT, NOT_BEFORE};
use millstream_protocol::batch::{BatchBuilder, BatchView, Codec};
use millstream_protocol::limits::RECORD_HEADERS_MAX;
use millstream_protocol::{Header, PartitionId, QueueId, Record, Timestamp};

use super::event::{Dying, Reason};
use super::letters::{ADDED, DEAD_DEDUP_ID, producer};
use super::part::Part;
use super::settings::Now;
use super::worker::{Command, Lot};
use crate::catalog::QueueEntry;
use crate::error::BrokerError;
use crate::stream::Stream;

/// Dead letters on their way at one time.
const IN_FLIGHT_MAX: usize = 8;
/// How long a failed way is left alone, in milliseconds.
const PAUSE_MS: u64 = 500;

/// The stream that dead messages go to.
pub(super) struct DeadLetters {
    pub stream: Arc<Stream>,
    /// The queue's own stream, by name.
    pub source: String,
}

impl DeadLetters {
    pub fn partitions(&self) -> u32 {
        self.stream.partitions().len() as u32
    }
}

/// What one partition's dead are doing.
pub(super) struct Mover {
    queue: QueueId,
    partition: u32,
    sink: Arc<dyn AppendSink>,
    in_flight: VecDeque<Dying>,
    again: VecDeque<Dying>,
    is_resend: bool,
    rests_until_ms: u64,
}

impl Mover {
    pub fn new(queue: QueueId, partition: u32, commands: Sender<Command>) -> Self {
        Self {
            queue,
            partition,
            sink: Arc::new(Arrived { queue, partition, commands }),
            in_flight: VecDeque::new(),
            again: VecDeque::new(),
            // Whatever an earlier process has sent may be there.
            is_resend: true,
            rests_until_ms: 0,
        }
    }

    /// Sends what may go.
    pub fn go_on(&mut self, queue: &QueueEntry, part: &mut Part, dead_letters: &DeadLetters, now: Now) {
        if self.rests_until_ms > now.mono_ms || (!self.again.is_empty() && !self.in_flight.is_empty()) {
            return;
        }
        while self.in_flight.len() < IN_FLIGHT_MAX {
            let Some(dying) = self.again.pop_front().or_else(|| part.machine.next_move()) else { return };
            let sent = self.letter(queue, part, dead_letters, &dying, now).and_then(|batch| {
                let target = dead_letters.stream.partition(PartitionId(dying.target))?;
                Ok(target.append(batch, dying.sequence, &self.sink)?)
            });
            match sent {
                Ok(()) => self.in_flight.push_back(dying),
                Err(error) => {
                    tracing::warn!(queue = queue.name, offset = dying.offset, %error, "a dead letter cannot be moved: it waits");
                    self.again.push_front(dying);
                    self.rests_until_ms = now.mono_ms + PAUSE_MS;
                    return;
                }
            }
        }
    }

    /// One has arrived, or has not. Gives it if it has.
    pub fn moved(&mut self, sequence: u64, result: Result<Appended, LogError>, now: Now) -> Option<Dying> {
        let at = self.in_flight.iter().position(|dying| dying.sequence == sequence)?;
        let dying = self.in_flight.remove(at)?;
        match result {
            Ok(_) => Some(dying),
            Err(error) => {
                tracing::warn!(queue = %self.queue, partition = self.partition, offset = dying.offset, %error,
                    "a dead letter was not stored: it goes again");
                let behind = self.again.iter().position(|other| other.sequence > sequence).unwrap_or(self.again.len());
                self.again.insert(behind, dying);
                self.is_resend = true;
                self.rests_until_ms = now.mono_ms + PAUSE_MS;
                None
            }
        }
    }

    pub fn wake_in_ms(&self, now: Now) -> Option<u64> {
        (!self.again.is_empty()).then(|| self.rests_until_ms.saturating_sub(now.mono_ms))
    }

    fn letter(
        &self,
        queue: &QueueEntry,
        part: &mut Part,
        dead_letters: &DeadLetters,
        dying: &Dying,
        now: Now,
    ) -> Result<NewBatch, BrokerError> {
        let gone = || (Timestamp(0), 0, Record { value: None, ..Record::new(Bytes::new()) });
        let (appended, redriven, mut record) = match dying.adopted {
            Some(letter) => {
                part.letters.read(letter)?.map_or_else(gone, |found| (found.appended, letter.redriven, found.record))
            }
            None => match part.feed.record(&part.partition, dying.offset) {
                Ok(found) => found.map_or_else(gone, |(appended, record)| (appended, 0, record)),
                // Deleted since: the letter still says which message it was.
                Err(LogError::OffsetOutOfRange { .. }) => gone(),
                Err(error) => return Err(error.into()),
            },
        };
        // The move's number decides, not the id: two messages of one id must not become one here.
        record.headers.retain(|header| {
            !header.name.starts_with(ADDED) && ![DELAY, NOT_BEFORE, EXPIRES_AT].contains(&&*header.name)
        });
        for header in &mut record.headers {
            if header.name == DEDUP_ID {
                header.name = DEAD_DEDUP_ID.into();
            }
        }
        let reason = match dying.reason {
            Reason::MaxReceives => "max_receives",
            Reason::Rejected => "rejected",
            Reason::NoGroup => "no_group",
            Reason::Expired => "expired",
            Reason::FilterError => "filter_error",
        };
        let added = [
            ("ms-dl-stream", dead_letters.source.clone()),
            ("ms-dl-partition", self.partition.to_string()),
            ("ms-dl-offset", dying.offset.to_string()),
            ("ms-dl-queue", queue.name.clone()),
            ("ms-dl-reason", reason.to_owned()),
            ("ms-dl-error", dying.error.clone()),
            ("ms-dl-receives", dying.receives.to_string()),
            ("ms-dl-first", dying.first_ms.to_string()),
            ("ms-dl-last", if dying.receives == 0 { 0 } else { now.wall_ms }.to_string()),
            ("ms-dl-appended", appended.0.to_string()),
            ("ms-dl-redriven", if redriven == 0 { String::new() } else { redriven.to_string() }),
        ];
        // A letter that is too long for a record would never arrive. What is left out is said.
        let room = RECORD_HEADERS_MAX - added.len() - 1;
        let left_out = record.headers.len().saturating_sub(room);
        record.headers.truncate(room);
        let left_out = ("ms-dl-headers-left-out", if left_out == 0 { String::new() } else { left_out.to_string() });
        for (name, value) in added.into_iter().chain([left_out]) {
            if !value.is_empty() {
                record.headers.push(Header { name: name.into(), value: Some(value.into_bytes().into()) });
            }
        }
        let mut builder = BatchBuilder::new(Codec::None);
        builder.producer(producer(self.queue.0, self.partition), 0, dying.sequence);
        let batch =
            builder.push_own(&record).and_then(|()| builder.finish()).and_then(|bytes| BatchView::parse(&bytes));
        let batch = NewBatch::from(batch.map_err(LogError::from)?);
        Ok(if self.is_resend { batch.resent() } else { batch })
    }
}

struct Arrived {
    queue: QueueId,
    partition: u32,
    commands: Sender<Command>,
}

impl AppendSink for Arrived {
    fn complete(&self, results: Lot) {
        // The worker is gone when the broker closes: the next start sends it again, to no effect.
        let _ = self.commands.send(Command::Moved { queue: self.queue, partition: self.partition, results });
    }
}
