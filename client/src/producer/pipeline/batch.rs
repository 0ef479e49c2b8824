//! A batch on its way, and what became of it.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use millstream_protocol::batch::{BatchBuilder, BatchError, BatchView, Codec};
use millstream_protocol::frame::Refusal;
use millstream_protocol::frame::produce::{Duplicate, Stored};
use millstream_protocol::{Code, Epoch, Outcome, PartitionId, ProducerId};

use crate::error::Error;
use crate::producer::delivery::{Acked, Ticket};

/// What a producer's batches carry in their headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::producer) struct Numbers {
    /// 0: it is not idempotent, and nothing is numbered.
    pub producer: ProducerId,
    pub epoch: u32,
    /// The sequence of the first record.
    pub base: u64,
}

/// A batch as it will be sent, as often as it takes.
#[derive(Debug)]
pub(in crate::producer) struct Batch {
    pub partition: PartitionId,
    pub bytes: Bytes,
    pub record_count: u32,
    /// What it takes of the buffer.
    pub buffered: usize,
    pub ticket: Arc<Ticket>,
    pub opened: Instant,
    /// Rises by opening.
    pub serial: u64,
    /// What stands in `bytes`.
    pub encoded: Numbers,
    /// The sequence under which it is to be sent next; `encoded` follows when it is.
    pub base: u64,
    /// Records of it that are answered already, by rising index as they were enqueued: `bytes` are the others.
    pub known: Vec<u32>,
    /// How often it was sent.
    pub sends: u32,
    /// A copy may be stored, or may yet be: it was in flight when its stream was lost, or the answer says so.
    pub in_doubt: bool,
    /// That copy is of the batch as it was before records were taken out of it.
    pub is_cut_copy: bool,
    /// The server did not know what to say of it, once.
    pub was_unknown: bool,
    /// Why it is still here.
    pub last_error: Option<Error>,
}

impl Batch {
    /// The sequence after its last record.
    pub fn end(&self) -> u64 {
        self.base + u64::from(self.record_count)
    }

    /// The records that the server names are out: they are answered, `rest` are the others. Gives them by the indices
    /// under which they were enqueued.
    pub(super) fn cut(&mut self, duplicates: Vec<Duplicate>, rest: Option<Bytes>) -> Vec<Duplicate> {
        let total = self.record_count + self.known.len() as u32;
        let mut answered = self.known.iter().copied().peekable();
        // Where each record of `bytes` was when it was enqueued.
        let mut places = (0..total).filter(|index| answered.next_if_eq(index).is_none());
        let mut next = 0;
        let named: Vec<Duplicate> = duplicates
            .into_iter()
            .filter_map(|duplicate| {
                let place = places.nth((duplicate.index - next) as usize)?;
                next = duplicate.index + 1;
                Some(Duplicate { index: place, ..duplicate })
            })
            .collect();
        self.record_count -= named.len() as u32;
        self.known.extend(named.iter().map(|duplicate| duplicate.index));
        self.known.sort_unstable();
        if let Some(rest) = rest {
            self.bytes = rest;
            self.is_cut_copy = self.in_doubt;
        }
        named
    }

    /// What its end is called, if that is this error. A copy that was in flight on a lost stream may be stored, unless
    /// the error lies in its bytes.
    pub(super) fn failure(&self, error: Error) -> Error {
        if !self.in_doubt || error.outcome() == Outcome::Indefinite || lies_in_the_bytes(error.code()) {
            return error;
        }
        Error::lost(format!("not acknowledged, an earlier copy may be stored: {error}"), error)
    }
}

/// Whether every copy of a batch is refused with this.
fn lies_in_the_bytes(code: Code) -> bool {
    matches!(
        code,
        Code::RecordTooLarge
            | Code::BatchTooLarge
            | Code::CorruptBatch
            | Code::IllegalRecord
            | Code::KeyRequired
            | Code::Unsupported
            | Code::UnknownStream
            | Code::StreamDeleted
    )
}

/// The same batch without some of its records, named by rising index; `None` if nothing stays.
pub(in crate::producer) fn without(
    bytes: &Bytes,
    duplicates: &[Duplicate],
    codec: Codec,
) -> Result<Option<Bytes>, BatchError> {
    let view = BatchView::parse(bytes)?;
    let header = view.header();
    let mut out = duplicates.iter().map(|duplicate| duplicate.index).peekable();
    let mut builder = BatchBuilder::with_capacity(codec, header.uncompressed_len as usize);
    builder.producer(header.producer_id, header.producer_epoch, header.base_sequence);
    for (index, record) in (0..).zip(view.records()?) {
        let record = record?;
        if out.next_if_eq(&index).is_none() {
            builder.push(&record)?;
        }
    }
    if builder.is_empty() { Ok(None) } else { builder.finish().map(Some) }
}

/// What the server said of a batch in flight.
#[derive(Debug)]
pub(in crate::producer) enum Answer {
    Stored(Stored),
    /// These records are duplicates, by rising index; `rest` is the batch without them, `None` if they are all of it.
    Duplicates {
        duplicates: Vec<Duplicate>,
        rest: Option<Bytes>,
    },
    Refused(Refusal),
}

/// What follows from an answer.
#[derive(Debug, Default)]
pub(in crate::producer) struct Answered {
    /// Records with an outcome of their own.
    pub known: Option<Known>,
    /// The batch is through.
    pub finished: Option<Finished>,
}

impl Answered {
    /// Tells who waits for the records.
    pub fn tell(self, at: Instant) {
        if let Some(Known { ticket, duplicates, epoch }) = self.known {
            ticket.know(&duplicates, epoch, at);
        }
        if let Some(Finished { batch, epoch, result }) = self.finished {
            let acked = |Stored { base_offset, append_time }| Acked { base_offset, append_time, epoch, at };
            batch.ticket.complete(result.map(|stored| stored.map(acked)));
        }
    }
}

impl From<Finished> for Answered {
    fn from(finished: Finished) -> Self {
        Self { known: None, finished: Some(finished) }
    }
}

/// Records of a batch that the server has from elsewhere.
#[derive(Debug)]
pub(in crate::producer) struct Known {
    pub ticket: Arc<Ticket>,
    /// By the indices under which they were enqueued, rising.
    pub duplicates: Vec<Duplicate>,
    pub epoch: Epoch,
}

/// A batch that is through.
#[derive(Debug)]
pub(in crate::producer) struct Finished {
    pub batch: Batch,
    pub epoch: Epoch,
    /// `None`: all of it was known.
    pub result: Result<Option<Stored>, Error>,
}
